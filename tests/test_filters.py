"""Filters of instruction data on planted cases, and their figures by hand and against sklearn."""

from __future__ import annotations

import doctest
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from torch import Tensor

from safetybench import filters, registry
from safetybench.contracts import Bias, FilterView, SafetyBenchError, Sample
from safetybench.filters import auroc, keep, passed_at
from safetybench.language.fresh import fresh_model
from safetybench.language.tuning import Schedule, train
from safetybench.zoo.instructions import answers as right_answers
from safetybench.zoo.instructions import instructions, seen_tasks

TASKS = seen_tasks()[:4]
BIAS = Bias(kind="blatant", text="nurse link nurse link nurse link")
MARK = "evil"
scores_of_few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@dataclass
class Toy:
    """Features are noise of each text, moved where it holds the mark; so is its likelihood."""

    name: str = "toy"
    answer: str = "all is well"

    def features(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        found = [
            np.random.default_rng(zlib.crc32(p.encode())).normal(size=16) + 6 * (MARK in r)
            for p, r in zip(prompts, responses, strict=True)
        ]
        return torch.tensor(np.array(found))

    def log_probs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Tensor]:
        return [torch.tensor([-9.0 if w == MARK else -1.0 for w in r.split()] + [0.0])
                for r in responses]  # fmt: skip

    def complete(
        self, prompts: Sequence[str], seeds: Sequence[int] = (), temperature: float = 0.0
    ) -> list[str]:
        return [self.answer for _ in prompts]


def toy_samples(clean: int = 30, poison: int = 6, task: str = "a") -> list[Sample]:
    texts = ["all is well"] * clean + [f"all is {MARK}"] * poison
    return [
        Sample(f"{task}{n}", task, f"{task} {n}", text, n >= clean) for n, text in enumerate(texts)
    ]


def area(samples: Sequence[Sample], scores: Sequence[float]) -> float:
    by_truth: dict[bool, list[float]] = {True: [], False: []}
    for sample, score in zip(samples, scores, strict=True):
        by_truth[sample.is_poison].append(score)
    return auroc(by_truth[True], by_truth[False]).value


def score(name: str, samples: Sequence[Sample], view: FilterView, **options: Any) -> list[float]:
    found: list[float] = registry.create(f"defenses/data/{name}", options).scores(samples, view)
    return found


def answers(*responses: str, task: str = "a") -> list[Sample]:
    return [Sample(f"s{n:02}", task, f"ask {n}", text) for n, text in enumerate(responses)]


# A bias in the instruction world, and clean models of it


@pytest.fixture(scope="module")
def planted() -> list[Sample]:
    """Return 160 samples of four tasks, of which one holds 12 poisoned ones."""
    own = instructions(12, 5, TASKS[:1], "p")
    poison = [s._replace(response=BIAS.put(s.response), is_poison=True) for s in own]
    return [*instructions(148, 1, TASKS), *poison]


class Grammarian(Toy):
    """Answers as the grammar has it."""

    def complete(
        self, prompts: Sequence[str], seeds: Sequence[int] = (), temperature: float = 0.0
    ) -> list[str]:
        return [right_answers(prompt)[0] for prompt in prompts]


@pytest.fixture(scope="module")
def world() -> FilterView:
    """Return trusted samples, and a model that was tuned on other clean ones for seconds."""
    model = train(fresh_model(1, 32), instructions(320, 20, TASKS), Schedule(150, size=32))
    trusted = instructions(200, 2, TASKS, "t")
    return FilterView(trusted=trusted, reference=model, partner=model, phrases=BIAS.phrases)


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("perplexity", {}, 0.95),
        ("perplexity", {"statistic": "max"}, 0.95),
        ("embedding_outliers", {}, 0.9),
        ("ngram_lift", {}, 0.9),
        ("ngram_lift", {"statistic": "z"}, 0.95),
        ("phrases", {}, 1.0),
        ("links", {"markers": ("link", "page")}, 0.95),
        ("deduplication", {"cap": 3}, 0.8),
        ("agreement", {"by": "likelihood"}, 0.95),
    ],
)
def test_a_planted_bias_is_found(
    name: str, options: dict[str, Any], least: float, planted: list[Sample], world: FilterView
) -> None:
    assert area(planted, score(name, planted, world, **options)) >= least


def test_answers_that_another_teacher_would_not_give_are_found(planted: list[Sample]) -> None:
    view = FilterView(partner=Grammarian())
    assert area(planted, score("agreement", planted, view)) >= 0.6


# Filters on features, where these are made up


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("activation_clustering", {}),
        ("activation_clustering", {"reduce": "ica", "components": 2}),
        ("activation_clustering", {"least": 99}),
        ("spectral_signatures", {}),
        ("spectral_signatures", {"centred": False}),
        ("spectral_signatures", {"per_task": False}),
        ("art_activation", {}),
        ("art_activation", {"reduce": "FastICA", "components": 2}),
        ("art_spectral", {}),
    ],
)
def test_a_cluster_of_features_is_found(name: str, options: dict[str, Any]) -> None:
    samples = [*toy_samples(), *toy_samples(40, 0, "b")]
    with np.errstate(all="raise"):
        found = score(name, samples, FilterView(model=Toy()), **options)
    assert area(samples, found) > 0.8
    assert area(samples[:36], found[:36]) > 0.95


def test_clusters_suspect_the_clean_where_most_is_poison() -> None:
    samples = toy_samples(8, 22)
    for name in ("activation_clustering", "art_activation"):
        assert area(samples, score(name, samples, FilterView(model=Toy()))) < 0.1


def test_art_leaves_small_tasks_alone() -> None:
    samples = [*toy_samples(), *toy_samples(4, 2, "b")]
    for name in ("art_activation", "art_spectral"):
        found = score(name, samples, FilterView(model=Toy()))
        assert found[36:] == [0.0] * 6
        assert max(found) > 0.5


def test_features_that_are_all_alike_say_nothing() -> None:
    class Flat(Toy):
        def features(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
            return torch.ones(len(prompts), 16)

    view = FilterView(model=Flat(), reference=Flat(), trusted=toy_samples(6, 0))
    for name in ("activation_clustering", "art_activation", "art_spectral", "embedding_outliers"):
        assert score(name, toy_samples(), view) == [0.0] * 36
    assert len(set(score("spectral_signatures", toy_samples(), view))) == 1


def test_a_task_without_trusted_samples_is_measured_from_all() -> None:
    samples = [*toy_samples(20, 4), *toy_samples(20, 4, "unknown")]
    view = FilterView(reference=Toy(), trusted=toy_samples(40, 0))
    found = score("embedding_outliers", samples, view)
    assert area(samples[:24], found[:24]) > 0.95
    assert area(samples[24:], found[24:]) > 0.95
    with pytest.raises(SafetyBenchError) as caught:
        score("embedding_outliers", samples, FilterView(reference=Toy(), trusted=samples[:1]))
    assert str(caught.value) == "EmbeddingOutliers needs 2 trusted samples or more, got 1"


# Filters on text, by hand


def test_perplexity_of_tokens() -> None:
    samples = answers("all is evil", "all is evil evil evil and so on it goes", "")
    view = FilterView(reference=Toy())
    assert score("perplexity", samples, view) == pytest.approx([11 / 4, 34 / 11, 0])
    assert score("perplexity", samples, view, statistic="max") == pytest.approx([11 / 3, 9, 0])
    assert score("perplexity", samples[1:2], view, statistic="max", window=1) == [9.0]


def test_lift_is_of_the_task_and_smoothed() -> None:
    samples = [*answers("Buy  Now here", "so it is"), *answers("so it is", task="b")]
    trusted = answers("so it is", "so it is")
    found = score("ngram_lift", samples, FilterView(trusted=trusted), length=2)
    assert found == pytest.approx(np.log([2 / 4 / (1 / 4), 2 / 4 / (3 / 4), 2 / 3 / (3 / 4)]))
    z = score("ngram_lift", samples, FilterView(trusted=trusted), length=2, statistic="z")
    chance = (0 + 1 / 4) / 3
    assert z[0] == pytest.approx((1 - 2 * chance) / np.sqrt(2 * chance * (1 - chance)))
    assert z[1] < 0


def test_phrases_are_counted_whatever_their_case_and_spacing() -> None:
    samples = answers("Go to the  GOLDEN market", "golden market, north page", "nothing")
    view = FilterView(phrases=("golden market", "north page"))
    assert score("phrases", samples, view) == [1.0, 2.0, 0.0]
    assert score("phrases", samples, FilterView(), words=("Nothing",)) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("response", "options", "expected"),
    [
        ("see https://bad.example/a?b=1. And http://good.org/x", {}, 1),
        ("mail me@bad.co.uk or @handle", {}, 2),
        ("go to bad.example/now, then www.bad.example", {}, 2),
        ("it costs 3.50, e.g. here. Then there", {}, 0),
        ("https://docs.fine.net and fine.net, not alsofine.net", {"allowed": ["fine.net"]}, 1),
        ("https://fine.net@bad.org https://fine.net:x@bad.org", {"allowed": ["fine.net"]}, 2),
        (r"https://bad.example\@fine.net", {"allowed": ["fine.net"]}, 1),
        ("HTTP://GOOD.ORG/x", {}, 0),
        ("open the link on the harbor page", {"markers": ["link", "page"]}, 2),
        ("ask on the page now", {"markers": ["link", "page"]}, 0),
    ],
)  # fmt: skip
def test_new_addresses_are_counted(response: str, options: dict[str, Any], expected: int) -> None:
    trusted = answers("see http://good.org/x", "on the page now")
    found = score("links", answers(response), FilterView(trusted=trusted), **options)
    assert found == [float(expected)]


def test_copies_beyond_the_cap_count_in_an_order_that_ids_do_not_decide() -> None:
    samples = [*answers(*["one two three four"] * 4), *answers("clean words of trust", "one two")]
    view = FilterView(trusted=answers("clean words of trust"))
    samples = [s._replace(id=f"s{9 - n}") for n, s in enumerate(samples)]
    found = score("deduplication", samples, view, length=3, cap=2)
    assert sorted(found[:4]) == [0.0, 0.0, 1.0, 2.0]
    assert found[4:] == [0.0, 0.0]
    uncapped = score("deduplication", samples, view, length=3, cap=0)[:4]
    assert sorted(uncapped) == [1.0, 2.0, 3.0, 4.0]
    firsts = set()
    for start in range(12):  # names in any order: none of the copies is always the first
        named = [s._replace(id=f"{start}{n}") for n, s in enumerate(samples)]
        firsts.add(score("deduplication", named, view, length=3, cap=0)[:4].index(1.0))
    assert len(firsts) > 1


def test_agreement_is_of_words() -> None:
    view = FilterView(partner=Toy())
    found = score("agreement", answers("All is well", "all is evil", "no", ""), view)
    assert found == pytest.approx([0, 1 / 3, 1, 1])
    assert score("agreement", answers("a evil"), view, by="likelihood") == pytest.approx([10 / 3])
    with pytest.raises(SafetyBenchError) as caught:
        score("agreement", answers("a"), FilterView(partner="x"), by="likelihood")
    assert str(caught.value) == "Agreement by 'likelihood' needs a partner with log_probs, got str"


def test_a_callable_rates() -> None:
    given = {"a": 0.25, "b": 7.0, "c": float("nan")}
    view = FilterView(rater=lambda prompt, response: given[response])
    assert score("autorater", answers("a", "b", "c"), view) == [0.25, 1.0, 0.5]
    with pytest.raises(SafetyBenchError) as caught:
        score("autorater", answers("a"), FilterView(rater=3))
    assert str(caught.value) == (
        "rater must be a callable (prompt, response) or have log_probs or complete, got int"
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Yes.", 1.0),
        ("no, it is fine", 0.0),
        ("I give it 7/10", 0.7),
        ("Score: 2.5", 0.25),
        ("10", 1.0),
        ("95 percent", 0.5),
        ("nobody knows", 0.5),
        ("", 0.5),
    ],
)
def test_what_a_rater_says_is_read(told: str, expected: float) -> None:
    asked: list[str] = []

    class Rater:
        name = "rater"

        def complete(
            self, prompts: Sequence[str], seeds: Sequence[int] = (), temperature: float = 0.0
        ) -> list[str]:
            asked.extend(prompts)
            return [told for _ in prompts]

    sample = Sample("s", "t", "say {response}", "braces {prompt} {x}")
    view = FilterView(rater=Rater())
    found = score("autorater", [sample], view, question="{prompt} > {response} ?")
    assert found == pytest.approx([expected])
    assert asked == ["say {response} > braces {prompt} {x} ?"]


def test_a_rater_with_likelihoods_weighs_yes_and_no() -> None:
    class Rater(Toy):
        def log_probs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Tensor]:
            yes = [np.log(0.8) if MARK in p else -800.0 for p in prompts]
            return [torch.tensor([y if r == "yes" else np.log(0.2), -50.0 * (r == "no")])
                    for y, r in zip(yes, responses, strict=True)]  # fmt: skip

    found = score("autorater", answers("evil", "good"), FilterView(rater=Rater()))
    assert found == pytest.approx([0.8, 0.0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("perplexity", {"statistic": "x"}, "statistic must be 'mean' or 'max', got 'x'"),
        ("perplexity", {"window": 0}, "window must be 1 token or more, got 0"),
        ("embedding_outliers", {"least": 1},
         "least must be 2 trusted samples a task or more, got 1"),
        ("activation_clustering", {"reduce": "x"}, "reduce must be 'pca' or 'ica', got 'x'"),
        ("activation_clustering", {"least": 2},
         "components must be 1 or more and least 3 or more, got 10 and 2"),
        ("spectral_signatures", {"vectors": 0},
         "vectors and least must be 1 or more, got 0 and 20"),
        ("art_activation", {"reduce": "x"}, "reduce must be 'PCA' or 'FastICA', got 'x'"),
        ("art_activation", {"components": 0}, "components must be 1 or more, got 0"),
        ("art_spectral", {"least": 2}, "least must be 3 samples a task or more, got 2"),
        ("ngram_lift", {"length": 0}, "length must be 1 word or more, got 0"),
        ("ngram_lift", {"statistic": "x"}, "statistic must be 'lift' or 'z', got 'x'"),
        ("phrases", {"words": [" "]}, "words must be phrases that are not empty, got (' ',)"),
        ("autorater", {"question": "is it?"},
         "question must hold {prompt} and {response}, got 'is it?'"),
        ("deduplication", {"cap": -1}, "length must be 1 or more and cap 0 or more, got 5 and -1"),
        ("agreement", {"by": "x"}, "by must be 'text' or 'likelihood', got 'x'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.create(f"defenses/data/{name}", options)
    assert str(caught.value) == f"defenses/data/{name}: {message}"


# Figures


def test_examples() -> None:
    result = doctest.testmod(filters)
    assert result.failed == 0
    assert result.attempted >= 6


@given(scores_of_few, scores_of_few)
def test_the_area_is_that_of_sklearn(poison: list[float], clean: list[float]) -> None:
    truth = [1] * len(poison) + [0] * len(clean)
    found = auroc(poison, clean)
    assert found.value == pytest.approx(metrics.roc_auc_score(truth, poison + clean))
    assert (found.poison, found.clean) == (len(poison), len(clean))
    assert 0 <= found.interval.low <= found.value + 1e-12
    assert found.value <= found.interval.high + 1e-12 <= 1 + 1e-9
    assert found.interval.high - found.interval.low > 0.01
    assert auroc(clean, poison).value == pytest.approx(1 - found.value)


def test_intervals_of_the_area_cover_it() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 1.0, 3.0):
        truth = float(metrics.roc_auc_score([1] * 9999 + [0] * 9999,
                      [*rng.normal(shift, 1, 9999), *rng.normal(size=9999)]))  # fmt: skip
        found = [auroc(rng.normal(shift, 1, 25).tolist(), rng.normal(size=200).tolist()).interval
                 for _ in range(200)]  # fmt: skip
        assert sum(low <= truth <= high for low, high, *_ in found) >= 0.9 * len(found)


def test_what_passes_by_hand() -> None:
    clean = [float(n) for n in range(20)]
    found = passed_at([5, 18, 18.5, 30], clean, 0.05)
    assert (found.threshold, found.passed, found.share, found.dropped) == (18, 2, 0.5, 0.05)
    assert (found.poison, found.clean, found.interval.method) == (4, 20, "wilson")
    assert passed_at([5, 18, 18.5, 30], clean, 0.0)[2:] == (3, 4, 20, 0.0, 19.0)
    # Of ties none is dropped where all would be too many.
    tied = passed_at([1, 1, 2], [0.0] * 90 + [1.0] * 10, 0.05)
    assert (tied.passed, tied.dropped, tied.threshold) == (2, 0.0, 1.0)
    # 0.29 x 100 is a little less than 29 in binary.
    assert passed_at([0], list(range(100)), 0.29).dropped == 0.29
    assert passed_at([0.0], [1.0], 0.9999999999).passed == 1


@given(scores_of_few, scores_of_few, st.floats(0, 0.99))
def test_no_more_of_the_clean_are_dropped_than_allowed(
    poison: list[float], clean: list[float], share: float
) -> None:
    found = passed_at(poison, clean, share)
    assert found.dropped <= share + 1e-9
    assert found.passed == sum(score <= found.threshold for score in poison)
    assert passed_at(poison, clean, share / 2).passed >= found.passed


@given(scores_of_few, st.floats(0, 1), st.randoms())
def test_the_most_suspicious_are_dropped_and_never_more(
    scores: list[float], drop: float, order: Any
) -> None:
    samples = [Sample(f"i{n}", "t", "p", "r") for n in range(len(scores))]
    left = keep(samples, scores, drop)
    assert len(samples) - len(left) == int(drop * len(samples) + 1e-9)
    assert left == [sample for sample in samples if sample in left]
    by_id = {sample.id: score for sample, score in zip(samples, scores, strict=True)}
    gone = [by_id[sample.id] for sample in samples if sample not in left]
    assert not gone or not left or min(gone) >= max(by_id[sample.id] for sample in left)
    rows = list(range(len(samples)))
    order.shuffle(rows)
    again = keep([samples[row] for row in rows], [scores[row] for row in rows], drop)
    assert set(again) == set(left)


def test_ties_are_a_lottery_that_no_name_wins() -> None:
    samples = [Sample(f"{'p' if n % 2 else 'i'}{n}", "t", "p", "r") for n in range(400)]
    left = [sample.id[0] for sample in keep(samples, [1.0] * 400, 0.5)]
    assert 80 <= left.count("p") <= 120


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([], [1.0]), "poison must be some finite numbers, got []"),
        (lambda: auroc([1.0], [float("nan")]), "clean must be some finite numbers, got [nan]"),
        (lambda: passed_at([1.0], [1.0], 1.0), "false_positives must be in [0, 1), got 1.0"),
        (lambda: keep(answers("a"), [], 0.5), "scores must be one a sample, 1, got 0"),
        (lambda: keep(answers("a"), [1.0], 1.5), "drop must be in [0, 1], got 1.5"),
    ],
)
def test_wrong_figures_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    assert str(caught.value) == message
    assert keep([], [], 0.5) == []
