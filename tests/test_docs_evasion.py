"""The page of answers on evasion: each sentence follows from the results by its rule."""

from __future__ import annotations

import copy
import doctest
from collections.abc import Mapping
from typing import Any

import pytest

from docs import evasion_answers as answers
from docs import evasion_rules as rules
from docs import generate
from tests.report_evasion_fixture import BLIND, FALLING, SMALL, WEAK, Rates, results

ROBUST = {"plain": 0.02, "kd": 0.15, "pgd-at": 0.4, "ard": 0.5, "rslad": 0.65, "iad": 0.645}


def run_of(models: Mapping[str, Rates], **more: Any) -> dict[str, Any]:
    roles = {role: SMALL.models[role] for role in ("original", "teacher")}
    size = SMALL._replace(models={**roles, **models}, students=tuple(models), probed=0)
    return results(size._replace(**{"seeds": (1, 2), **more}))


def part(found: Mapping[str, Any], title: str) -> str:
    page = answers.page(found)
    return page[page.index(f"## {title}") :].partition("\n## ")[0]


@pytest.fixture(scope="module")
def distilled() -> dict[str, Any]:
    """A run in which only FGSM and PGD are stopped; the way of each student is put in."""
    open_teacher = Rates(0.95, 0.05, 0.9, SMALL.models["original"].probes)
    models = {
        "teacher": open_teacher,
        "distilled-1": open_teacher._replace(clean=0.94),
        "distilled-100": Rates(0.95, 0.0, 0.9, {**FALLING, **BLIND}, zero=True),
        "art": open_teacher,
    }
    size = SMALL._replace(models={**SMALL.models, **models}, seeds=(1, 2),
                          students=("distilled-1", "distilled-100", "art"))  # fmt: skip
    found = results(size)
    for row in found["robustness"]:
        name, _, heat = row["model"].partition("-")
        if heat:
            row["way"] = "defenses/evasion/defensive_distillation"
            row["options"] = {"temperature": float(heat)}
        elif name == "art":
            row["way"] = "defenses/evasion/art_defensive_distillation"
    return found


def test_questions_without_a_kept_run_are_left_out() -> None:
    page = answers.page({})
    assert "\n## " not in page
    assert all(f"`{name}`" in page for name in answers.RUNS)


def test_each_question_has_its_claim_and_its_command(distilled: dict[str, Any]) -> None:
    page = answers.page({"evasion": distilled, "evasion-digits": distilled})
    (question, *_) = answers.QUESTIONS
    text = part({"evasion": distilled, "evasion-digits": distilled}, question.title)
    for run in ("evasion", "evasion-digits"):
        assert f"Read from [{run}]({run}.md), made by `safetybench run {run}`." in text
    assert f"Published: {question.published}" in text
    assert page.rpartition("Not here yet")[2].startswith(": no run is kept of `evasion-autoattack`")


def test_distillation_stops_fgsm_and_not_the_rest(distilled: dict[str, Any]) -> None:
    text = part({"evasion": distilled}, "Does defensive distillation")
    assert "more, with intervals that do not meet." in text
    assert "the distilled students are susceptible." in text
    assert "In the worst case 5.0 % (2.2 to 11.2 %) and 0.0 % (0.0 to 3.7 %) stay right" in text
    assert "beside a twin of 1 training." in text
    assert "FGSM alone would show 80.0 points more of them than is there." in text
    assert "it finds the gradients **masked** (G" in text
    assert "those of the twin **not robust**." in text
    assert "Masked gradients at: 100." in text
    assert "ART's class of that name, which has no temperature: FGSM leaves 10.0 %" in text
    assert "| `distilled-100` | 100 | 95.0 % " in text


def test_the_sentences_on_distillation_follow_the_figures(distilled: dict[str, Any]) -> None:
    found = copy.deepcopy(distilled)
    for row in found["robustness"]:
        for attack in row["attacks"]:
            attack["left"] = {"value": 0.6, "interval": {"low": 0.5, "high": 0.7}}
            attack["own"] = attack["left"]
    text = part({"evasion": found}, "Does defensive distillation")
    assert "more is not shown." in text
    assert "not shown to be susceptible." in text
    for row in found["robustness"]:
        row["masking"]["verdict"] = "stands"
    assert "Masked gradients at: none." in part({"evasion": found}, "Does defensive")


def test_students_stand_in_the_order_that_is_measured() -> None:
    models = {name: Rates(0.95, left, 0.9) for name, left in ROBUST.items()}
    models["pgd-at"] = Rates(0.95, 0.4, 0.9, {"pgd": 0.7})
    found = run_of(models, images=200, attacks=("auto_attack", "fgsm", "pgd"))
    text = part({"evasion-autoattack": found}, "Which students")
    assert "`rslad` ~ `iad` > `ard` > `pgd-at` > `kd` > `plain` (~: less than 2 points" in text
    assert "Of 14 couples that the published order ranks, 14 stand as published" in text
    assert "The other way: none." in text
    assert "most of `pgd-at`: +30.0 (" in text
    assert "More is shown of: `pgd-at`." in text
    turned = run_of({"kd": models["plain"], "plain": models["rslad"]},
                    attacks=("auto_attack", "pgd"))  # fmt: skip
    text = part({"evasion-autoattack": turned}, "Which students")
    assert "Of 1 couples that the published order ranks, 0 stand as published" in text
    assert "The other way: `plain` above `kd`." in text


def test_who_withstands_what_is_counted() -> None:
    text = part({"evasion-quick": results()}, "Who withstands what?")
    assert "not its teacher: `milder` 10 of 100." in text
    assert "| digits | `milder` | 20 (20.0 %) | 50 (50.0 %) | 10 (10.0 %) |" in text


@pytest.mark.parametrize(
    ("learnt", "drawn", "said"),
    [
        (0.84, 0.7, "is worth more on shifted"),
        (0.7, 0.69, "not shown to be worth more"),
        (0.69, 0.84, "not shown to be worth more"),
    ],
)
def test_learnt_augmentations_are_held_to_random_ones(
    learnt: float, drawn: float, said: str
) -> None:
    models = {"random-augmentation": Rates(drawn, 0.0, 0.9), "hard": Rates(learnt, 0.0, 0.9)}
    text = part({"evasion-shift": run_of(models)}, "Do augmentations")
    assert said in text
    sides = ({str(seed): (round(100 * share), 100) for seed in (1, 2)} for share in (learnt, drawn))
    often = answers._OFTEN[rules.word(rules.gap(*sides))]
    assert f"`hard` beside `random-augmentation`: on images as they are {often}" in text


def test_members_of_a_family_stand_beside_the_same_network_alone() -> None:
    ways = {"progressive": (0.9, 0.6), "random": (0.6, 0.3), "alone": (0.91, 0.65)}
    models = {
        f"{way}-{member}": Rates(clean, left, 0.9)
        for member in ("w50-d0", "w100-d2")
        for way, (clean, left) in ways.items()
    }
    text = part({"evasion-family": run_of(models)}, "Does one network")
    assert "Right, progressive: 2 of 2 members are at most 2 points below" in text
    assert "Right, random: 0 of 2 members" in text
    assert "Worst case, progressive: 0 of 2 members" in text
    assert "of 2 members: more 2, less 0, not shown 0." in text
    assert "| `w50-d0` | 91.0 % (83.8 to 95.2 %) | 90.0 % (" in text
    lonely = run_of({"alone-a": Rates(0.9, 0.5, 0.9), "progressive-a": Rates(0.9, 0.5, 0.9)})
    text = part({"evasion-family": lonely}, "Does one network")
    assert "random" not in text[text.index("Right, progressive") :]


def test_what_noise_beats_is_named() -> None:
    blind = {"milder": Rates(0.9, 0.0, 0.5, BLIND), "same": SMALL.models["same"]}
    text = part({"evasion-quick": run_of(blind)}, "Which attack finds")
    assert "than an attack does of: `milder` (fgsm, pgd)." in text
    assert "each is found first by: " in text
    assert "| digits | `same` | 93.0 % (86.3 to 96.6 %) | 90.0 % (82.6 to 94.5 %) |" in text


def test_a_run_that_does_not_count_gives_no_figures() -> None:
    found = results(WEAK)
    page = answers.page({name: found for name in answers.RUNS if name != "evasion-family"})
    assert "Measured, by what AutoAttack leaves" not in page
    assert page.count("**no figure**") >= 4
    # The undefended original is what shows that the attacks are too weak, and stands.
    noise = part({"evasion-quick": found}, "Which attack finds")
    assert "| digits | original |" in noise
    assert "| digits | teacher |" not in noise


def test_differences_of_two_students_span_seeds_and_images() -> None:
    same = {"1": (50, 100), "2": (50, 100)}
    steady = rules.gap({"1": (60, 100), "2": (60, 100)}, same)
    swaying = rules.gap({"1": (90, 100), "2": (30, 100)}, same)
    assert steady is not None
    assert swaying is not None
    assert steady.value == swaying.value == 0.1
    assert steady.interval["low"] < 0.01
    assert swaying.interval == {"low": -1.0, "high": 1.0}
    assert rules.gap(same, {"3": (1, 2)}) is None
    assert rules.told(None) == "-"
    assert rules.word(rules.Gap(-0.1, {"low": -0.2, "high": -0.05})) == "less"


def test_the_page_is_generated() -> None:
    assert generate.pages()["results/evasion-answers.md"] == answers.page(answers.known())


def test_doctests_of_the_rules() -> None:
    for module in (answers, rules):
        assert doctest.testmod(module).failed == 0
    assert doctest.testmod(rules).attempted
