"""Model cards as RobustBench keeps them: one JSON file a classifier, under data set and threat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetybench import __version__, store
from safetybench.contracts import Reporter, SafetyBenchError
from safetybench.model_cards import card_of, place_of
from safetybench.registry import register


@register
@dataclass(frozen=True, kw_only=True)
class ModelInfo(Reporter):
    """Write model_info/DATA/THREAT/MODEL.json, after RobustBench (Croce et al. 2021).

    A masked model is unreliable, and its headline is the worst case. Every value is text, as in
    that format.
    """

    filename: ClassVar[str] = "model_info"
    source: ClassVar[str] = "https://arxiv.org/abs/2010.09670"

    def write(self, run: Path) -> Path:
        """Write the cards of an evasion run below it and return their folder.

        Raises: SafetyBenchError if results.json cannot be read, or is of another scenario.
        """
        results = store.read_results(run)
        if "robustness" not in results:
            raise SafetyBenchError("model cards are of classifiers, and this run has none")
        home = run / self.filename
        for row in results["robustness"]:
            card = card_of(row, version=__version__)
            if card is not None:
                file = home / place_of(row)
                file.parent.mkdir(parents=True, exist_ok=True)
                store.write_whole(file, (json.dumps(card, indent=2) + "\n").encode("utf-8"))
        return home
