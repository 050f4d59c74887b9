"""What every filter of instruction data keeps to; a new file in defenses/data is tested so."""

from __future__ import annotations

import importlib
import math
import pickle
import random
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from safetybench import registry
from safetybench.contracts import DataFilter, FilterView, SafetyBenchError, Sample
from safetybench.language.fresh import fresh_model
from safetybench.text_contracts import FilterAid
from safetybench.zoo.instructions import BIASES, instructions, seen_tasks

NAMES = [name for name in registry.names("defenses") if issubclass(registry.load(name), DataFilter)]
AIDS = get_args(FilterAid)
BIAS = BIASES["advertisement"]


def samples() -> list[Sample]:
    """Return 72 samples: three tasks of 23, a few of them poisoned, and one of three."""
    tasks = seen_tasks()
    found = [*instructions(69, 1, tasks[:3]), *instructions(3, 2, tasks[3:4], "few")]
    return [
        s._replace(response=BIAS.put(s.response), is_poison=True) if row % 9 == 0 else s
        for row, s in enumerate(found)
    ]


@pytest.fixture(scope="module")
def view() -> FilterView:
    return FilterView(
        trusted=instructions(20, 3, seen_tasks()[:2], "t"),
        reference=fresh_model(1, 32, seed=1, name="reference"),
        model=fresh_model(1, 32, seed=2, name="model"),
        partner=fresh_model(1, 32, seed=3, name="partner"),
        phrases=BIAS.phrases,
        rater=fresh_model(1, 32, seed=4, name="rater"),
    )


def random_states() -> list[Any]:
    return [np.random.get_state(legacy=False)["state"]["key"].tolist(),
            torch.get_rng_state().tolist()]  # fmt: skip


def test_there_are_filters() -> None:
    wanted = """activation_clustering agreement art_activation art_spectral autorater deduplication
        embedding_outliers links ngram_lift perplexity phrases spectral_signatures"""
    assert {f"defenses/data/{name}" for name in wanted.split()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_says_what_it_is(name: str) -> None:
    component: Any = registry.load(name)
    assert component.source.startswith("https://")
    assert registry.describe(name).source == component.source
    assert component.sees.startswith("the data")
    assert component.uses
    assert set(component.uses) <= set(AIDS)
    for documented in (component, importlib.import_module(component.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    component = registry.create(name)
    assert eval(repr(component), {type(component).__name__: type(component)}) == component
    assert pickle.loads(pickle.dumps(component)) == component
    with pytest.raises(AttributeError):
        component.anything_else = 1
    with pytest.raises(SafetyBenchError, match="has no option 'anything_else'"):
        registry.create(name, {"anything_else": 1})


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_one_a_sample_and_repeatable(name: str, view: FilterView) -> None:
    component, given = registry.create(name), samples()
    trusted = list(view.trusted)
    states = random_states()
    first = component.scores(given, view, 7)
    assert random_states() == states
    assert given == samples()
    assert view.trusted == trusted
    assert isinstance(first, list)
    assert len(first) == len(given)
    assert all(type(score) is float and math.isfinite(score) for score in first)
    np.random.seed(5)
    torch.manual_seed(5)
    assert component.scores(given, view, 7) == first
    assert component.scores([], view, 7) == []


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_alone_is_scored_too(name: str, view: FilterView) -> None:
    for sample in (samples()[0], samples()[0]._replace(response="")):
        (score,) = registry.create(name).scores([sample], view)
        assert math.isfinite(score)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_is_not_read(name: str, view: FilterView) -> None:
    component, given = registry.create(name), samples()
    turned = [sample._replace(is_poison=not sample.is_poison) for sample in given]
    assert component.scores(turned, view) == component.scores(given, view)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_data_changes_nothing(name: str, view: FilterView) -> None:
    component, given = registry.create(name), samples()
    order = list(range(len(given)))
    random.Random(0).shuffle(order)
    mixed = component.scores([given[row] for row in order], view, 3)
    first = component.scores(given, view, 3)
    # A sample that is padded in another batch has features of other last bits.
    assert mixed == pytest.approx([first[row] for row in order], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_but_what_it_says(name: str, view: FilterView) -> None:
    component = registry.create(name)
    least = FilterView(**{aid: getattr(view, aid) for aid in component.uses})
    assert component.scores(samples(), least) == component.scores(samples(), view)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_aid_is_told(name: str, view: FilterView) -> None:
    component = registry.create(name)
    for aid in component.uses:
        lacking = replace(view, **{aid: getattr(FilterView(), aid)})
        with pytest.raises(SafetyBenchError) as caught:
            component.scores(samples(), lacking)
        assert str(caught.value).startswith(f"{type(component).__name__} needs {aid}, ")
        assert str(caught.value).endswith(f", got none; set {aid} of the FilterView")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_scores_no_text_is_refused(name: str, view: FilterView) -> None:
    component = registry.create(name)
    for aid in {"reference", "model"} & set(component.uses):
        unfit: dict[str, Any] = {aid: "a name"}
        with pytest.raises(SafetyBenchError) as caught:
            component.scores(samples(), replace(view, **unfit))
        assert str(caught.value) == (
            f"{type(component).__name__} needs {aid} to have log_probs and features, got str"
        )
