"""The check at a filter's door: what it reads of the `FilterView` must be there."""

from __future__ import annotations

from collections.abc import Sequence

from safetybench.contracts import DataFilter, FilterView, SafetyBenchError, ScoresText

_MEANING: dict[str, str] = {
    "trusted": "samples known to be clean",
    "reference": "a clean model that scores text",
    "model": "the model tuned on these data",
    "partner": "an independent teacher",
    "phrases": "what a detector looks for",
    "rater": "a model or a callable that rates answers",
}
_SCORED = ("reference", "model")  # aids of which log-probabilities or features are read


def check_aids(component: DataFilter, view: FilterView) -> None:
    """Refuse a view that lacks what the filter uses.

    Raises:
        SafetyBenchError: an aid of `component.uses` is not in the view, or does not score text.
    """
    name = type(component).__name__
    for aid in component.uses:
        given = getattr(view, aid)
        if given is None or (isinstance(given, Sequence) and not given):
            raise SafetyBenchError(
                f"{name} needs {aid}, {_MEANING[aid]}, got none; set {aid} of the FilterView"
            )
        if aid in _SCORED and not isinstance(given, ScoresText):
            raise SafetyBenchError(
                f"{name} needs {aid} to have log_probs and features, got {type(given).__name__}"
            )
