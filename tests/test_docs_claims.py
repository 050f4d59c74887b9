"""The page of claims: verdicts follow from the figures, and missing ones are never made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from docs import claims, claims_library, claims_measure, figures, generate
from docs.claims_table import CLAIMS, SYSTEMS
from docs.claims_verdict import (
    FIGURES,
    Claim,
    Comparison,
    Estimate,
    Verdict,
    difference,
    fingerprint,
    judge,
    settle,
)
from safetybench import registry
from safetybench.contracts import Unavailable
from safetybench.stats import rate_difference
from safetybench.zoo import catalogue
from safetybench.zoo.prompts import evaluation_prompts
from tests.targets import tiny_target

Expected = Literal["above", "below", "not below", "not above"]


def rate(value: float, half: float = 0.02) -> dict[str, float]:
    return {"rate": value, "low": value - half, "high": value + half, "n": 400}


def object_of(first: float | None, second: float | None) -> dict[str, Any]:
    named = {"a": first, "b": second}
    return {name: {"object": rate(value)} for name, value in named.items() if value is not None}


def outcome(first: float | None, second: float | None, expected: Expected = "above") -> Any:
    margin = 0.05 if expected.startswith("not") else 0.0
    asked = Comparison(figure="object", first="a", expected=expected, second="b", margin=margin)
    return settle(asked, object_of(first, second)).verdict


# Verdicts


@pytest.mark.parametrize(
    ("first", "second", "expected", "verdict"),
    [
        (0.9, 0.8, "above", Verdict.SAME),
        (0.9, 0.8, "below", Verdict.OPPOSITE),
        (0.8, 0.9, "above", Verdict.OPPOSITE),
        (0.8, 0.9, "below", Verdict.SAME),
        (0.81, 0.8, "above", Verdict.UNCLEAR),
        (0.81, 0.8, "below", Verdict.UNCLEAR),
        (0.8, 0.8, "not below", Verdict.SAME),
        (0.9, 0.8, "not below", Verdict.SAME),
        (0.77, 0.8, "not below", Verdict.UNCLEAR),
        (0.7, 0.8, "not below", Verdict.OPPOSITE),
        (0.9, 0.8, "not above", Verdict.OPPOSITE),
        (0.8, 0.8, "not above", Verdict.SAME),
        (None, 0.8, "above", Verdict.MISSING),
        (0.8, None, "not below", Verdict.MISSING),
    ],
)
def test_a_verdict_follows_from_the_interval_of_the_difference(
    first: float, second: float, expected: Expected, verdict: Verdict
) -> None:
    assert outcome(first, second, expected) is verdict


def test_the_difference_of_two_rates_is_newcombes() -> None:
    from safetybench.stats import wilson

    one, two = wilson(70, 100), wilson(55, 90)
    found = difference(Estimate(0.7, *one[:2]), Estimate(55 / 90, *two[:2]))
    low, high, *_ = rate_difference(55, 90, 70, 100)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)


def test_a_counted_figure_may_stand_at_the_limit_but_must_pass_zero() -> None:
    exact = Estimate(0.0, 0.0, 0.0)
    kept = Comparison(figure="nfe", first="a", expected="not below", second=1.0, margin=0.1)
    less = Comparison(figure="nfe", first="a", expected="below", second=1.0)
    assert judge(Estimate(-0.1, -0.1, -0.1), kept) is Verdict.SAME
    assert judge(exact, less) is Verdict.UNCLEAR
    assert judge(Estimate(-0.5, -0.5, -0.5), less) is Verdict.SAME


def test_a_figure_without_an_interval_has_no_verdict() -> None:
    bits = {"student": {"entropy_bits": {"style": {"student": 2.0}, "colour": {"student": 1.0}}}}
    asked = Comparison(figure="entropy", first="a", expected="above", second="b")
    found = settle(asked, {"a": bits, "b": bits})
    assert found.first == Estimate(3.0, None, None)
    assert found.verdict is None


def test_a_comparison_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^figure is one of object, .*, got 'fid'$"):
        Comparison(figure="fid", first="a", expected="above", second="b")
    with pytest.raises(
        ValueError, match=r"^margin must be positive for 'not below' and 'not above'"
    ):
        Comparison(figure="kid", first="a", expected="not below", second="b")


# Figures are read off cards as measure_student writes them


STUDENT: dict[str, Any] = {
    "prompts": 100,
    "alignment": {**rate(0.9), "teacher": 0.95},
    "kid_judge_features": {"value": 0.01, "low": 0.0, "high": 0.02, "floor": {}},
    "recall": {"value": 0.8, "ceiling": 0.97},
    "rare": {"student": rate(0.2), "teacher": rate(0.2), "ratio": 1.0, "low": 0.7, "high": None},
    "repeats": {"student": rate(0.1), "teacher": rate(0.1)},
    "modes": {"student": 90.0, "teacher": 100.0, "among": 200, "possible": 192},
    "entropy_bits": {"style": {"student": 2.0, "teacher": 2.2}},
    "cost": {"nfe": 12.0, "teacher_nfe": 24.0, "cpu_ms": 1.0, "cpu_ratio": 0.6},
}
COUNTS = {"nfe": 1.0, "teacher_nfe": 24.0}
CARD: dict[str, Any] = {
    "weights": {"unet/x.safetensors": "abc"},
    "sampler": {"steps": 1, "guidance": 1.0},
    "quality": {"object": rate(0.9), "style": rate(0.8), "student": STUDENT},
}


def test_every_figure_of_a_card_is_read() -> None:
    beside = {"shown": rate(0.1), "kept": rate(0.9), "nearer": rate(0.7), "distance": rate(0.5)}
    quality = {**CARD["quality"], **beside}
    found = {name: figure.read(quality) for name, figure in FIGURES.items()}
    values = {name: estimate.value for name, estimate in found.items() if estimate}
    assert set(values) == set(FIGURES)
    assert values["nfe"] == 0.5
    assert values["modes"] == 0.9
    assert found["time"] == pytest.approx((0.6, 0.51, 0.69))
    recall = found["recall"]
    assert recall
    assert recall.low == pytest.approx(0.711, abs=1e-3)
    assert all(figure.read({}) is None for figure in FIGURES.values())


def test_a_share_of_no_images_is_no_figure() -> None:
    rare = {**STUDENT["rare"], "student": {"rate": None, "low": 0.0, "high": 1.0, "n": 0}}
    assert FIGURES["rare"].read({"student": {**STUDENT, "rare": rare}}) is None


def test_a_measurement_of_other_weights_is_left_out() -> None:
    entry = {"of": {"fast": fingerprint(CARD)}, "quality": {"shown": rate(0.1)}}
    measured = {"entries": {"fast, NASA 0.5": entry}}
    assert "fast, NASA 0.5" in claims.known({"fast": CARD}, measured)
    rebuilt = {**CARD, "weights": {"unet/x.safetensors": "abd"}}
    assert set(claims.known({"fast": rebuilt}, measured)) == {"fast"}
    assert claims.known({}, measured) == {}


def test_a_measurement_adds_to_a_card_and_never_replaces_it() -> None:
    of = {"fast": fingerprint(CARD)}
    measured = {"entries": {"fast": {"of": of, "quality": {"object": rate(0.1), "new": 1}}}}
    found = claims.known({"fast": CARD}, measured)["fast"]
    assert found == {**CARD["quality"], "new": 1}


# The table and the page


def test_every_system_has_a_claim_with_a_source_and_a_first_comparison_that_can_decide() -> None:
    assert len(SYSTEMS) == 12
    recipes = {
        name.removeprefix("recipes/").replace("_", "-") for name in registry.names("recipes")
    }
    assert set(SYSTEMS) == {"sid-few-step", *SYSTEMS} & recipes
    full = {name: {**CARD["quality"], "shown": rate(0.1), "kept": rate(0.9), "nearer": rate(0.7)}
            for claim in CLAIMS for c in claim.comparisons for name in (c.first, c.second)
            if isinstance(name, str)}  # fmt: skip
    for claim in CLAIMS:
        assert claim.source.startswith("https://arxiv.org/abs/")
        assert settle(claim.comparisons[0], full).verdict in set(Verdict) - {Verdict.MISSING}


def test_every_name_in_the_table_is_a_zoo_model_or_a_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("measure", "measure_student", "reference", "shown", "drawn", "pairing"):
        monkeypatch.setattr(claims_measure, name, lambda *args, **options: {"cost": COUNTS})
    monkeypatch.setattr(claims_measure.Bench, "entry", lambda self, quality, *models: {})
    monkeypatch.setattr(claims_measure.Bench, "reference", SimpleNamespace(teacher=None))
    target = SimpleNamespace(generate=None, card={})
    some = claims_measure.Bench(lambda spec: target, None, 32, lambda line: None)
    measured = dict(claims_measure.run(some))
    for claim in CLAIMS:
        for comparison in claim.comparisons:
            for side in (comparison.first, comparison.second):
                known = side in measured or side in catalogue.NAMES
                assert known or not isinstance(side, str), side


@pytest.fixture
def both() -> tuple[Claim, ...]:
    asked = Comparison(figure="object", first="a", expected="above", second="b")
    lost = Comparison(figure="kid", first="a", expected="below", second="b")
    return (
        Claim(system="dmd2", title="one", published="Better.", source="https://arxiv.org/abs/1",
              compared="A and B.", comparisons=(asked, lost)),
    )  # fmt: skip


def test_the_page_has_a_row_and_its_verdict(both: tuple[Claim, ...]) -> None:
    text = claims.page(object_of(0.9, 0.8), both)
    assert "| dmd2 | one | **same direction** | 1 not measured yet |" in text
    assert (
        "| object accuracy | a: 90.0 % (88.0 to 92.0) | above | b: 80.0 % (78.0 to 82.0) | "
        "10.0 % (7.2 to 12.8) | same direction |"
    ) in text
    assert "| KID x 1000 | a: - | below | b: - | - | not measured yet |" in text
    assert "**not measured yet**" in claims.page({}, both).split("\n## dmd2\n")[1]


def test_the_whole_page_renders_without_any_card() -> None:
    text = claims.page({})
    rows = [line for line in text.split("## Verdicts")[1].split("\n## dmd2\n")[0].splitlines()
            if line.startswith("| ")]  # fmt: skip
    assert len(rows) == len(CLAIMS) + 2
    assert all("**not measured yet**" in row for row in rows[2:])
    for system in SYSTEMS:
        assert f"\n## {system}\n" in text


# Measurements on tiny targets


def bench(missing: str = "", count: int = 32) -> tuple[claims_measure.Bench, list[str]]:
    said: list[str] = []

    def load(spec: Any) -> Any:
        name = (spec["path"] if isinstance(spec, dict) else spec).removeprefix("zoo:")
        if name == missing:
            raise Unavailable(f"there is no model {name}")
        target = tiny_target("teacher" if name == "teacher" else "student")
        target.card.update(name=name, weights={})
        return target

    judge = registry.create("judges/zoo", {})
    return claims_measure.Bench(load, judge, count, said.append), said


def test_negatives_are_measured_and_a_missing_model_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims_measure, "UNWANTED", ("fish", "glowing"))
    monkeypatch.setattr(claims_measure, "ALPHAS", (0.5,))
    some, said = bench(missing="swiftbrush")
    found = dict(claims_measure.run(some, ["negatives"]))
    assert "not measured yet, swiftbrush: there is no model swiftbrush" in said
    assert {name.partition(",")[0] for name in found} == {"teacher", "dmd2-1"}
    entry = found["dmd2-1, NASA 0.5"]
    assert set(entry["of"]) == {"dmd2-1"}
    assert entry["quality"]["shown"]["n"] == 4
    assert set(entry["quality"]["by_word"]) == {"fish", "glowing"}
    json.dumps(found, allow_nan=False)


def test_a_part_whose_model_is_missing_leaves_the_others() -> None:
    some, said = bench(missing="agd")
    found = dict(claims_measure.run(some, ["agd", "noise"]))
    assert set(found) == {f"{name}, noise" for name in claims_measure.PAIRED}
    assert any(line.startswith("not measured yet, agd: ") for line in said)
    assert dict(claims_measure.run(bench()[0], ["noise"])) == found


def test_the_whole_measurement_has_the_form_of_a_card_without_times() -> None:
    some, _ = bench()
    entry = some.whole(some.load({"path": "zoo:sana-sprint", "guidance": 2.0}))
    assert set(entry["quality"]["student"]["cost"]) == set(COUNTS)
    assert set(entry["of"]) == {"sana-sprint", "teacher"}
    for name in ("object", "alignment", "kid", "recall", "nfe"):
        assert FIGURES[name].read(entry["quality"]) is not None


def test_pairing_tells_the_same_noise_from_other_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    same, other = (torch.rand(16, 3, 4, 4, generator=rng) for _ in range(2))
    near = claims_measure.pairing(same + 0.01, same, other)
    assert near["nearer"]["rate"] == 1.0
    assert near["distance"]["rate"] < 0.1
    far = claims_measure.pairing(other + 0.01, same, other)
    assert far["nearer"]["rate"] == 0.0
    chance = claims_measure.pairing(torch.rand(16, 3, 4, 4, generator=rng), same, other)
    assert chance["distance"]["low"] <= 0.5 <= chance["distance"]["high"]
    assert claims_measure.pairing(same, same, same)["distance"]["rate"] == 0.5


def test_guidance_away_from_nothing_is_the_targets_own() -> None:
    target = tiny_target("teacher")
    prompts = evaluation_prompts("fish", 2, seed=1)
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    own = target.generate(texts, seeds, guidance=3.0)
    assert torch.equal(claims_measure.against(target, "", 3.0)(texts, seeds), own)
    assert not torch.equal(claims_measure.against(target, "fish", 3.0)(texts, seeds), own)


def test_entries_are_kept_beside_those_of_before(tmp_path: Path) -> None:
    file = tmp_path / "claims.json"
    assert claims.read(file) == {}
    claims.keep({"a": {"of": {}, "quality": {}}}, file)
    claims.keep({"b": {"of": {}, "quality": {}}}, file)
    assert set(claims.read(file)["entries"]) == {"a", "b"}


def test_the_command_measures_into_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(spec: Any, **options: Any) -> Any:
        assert options == {"device": "cpu", "dtype": "float32", "zoo_root": None}
        return tiny_target("student")

    monkeypatch.setattr("safetybench.targets.loading.load_target", loaded)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    file = tmp_path / "claims.json"
    assert claims.main(["--measure", "--only", "noise", "--count", "32", "--out", str(file)]) == 0
    assert set(claims.read(file)["entries"]) == {f"{n}, noise" for n in claims_measure.PAIRED}
    assert "measured boot, noise" in capsys.readouterr().out


def test_the_command_says_every_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "CARDS", tmp_path / "none")
    assert claims.main(["--root", str(tmp_path), "--out", str(tmp_path / "claims.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CLAIMS)
    assert all(line.endswith("not measured yet") for line in lines)


# Cards of models that are not shipped


def test_a_card_alone_is_listed_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MODELS", tmp_path / "models")
    monkeypatch.setattr(catalogue, "CARDS", tmp_path / "cards")
    for place in ("models/whole", "cards/whole", "cards/alone"):
        (tmp_path / place).mkdir(parents=True)
        card = {"summary": "s", "quality": {"object": rate(0.9)}}
        (tmp_path / place / "card.json").write_text(json.dumps(card))
    folders = figures.card_folders()
    assert [f.relative_to(tmp_path).as_posix() for f in folders] == ["models/whole", "cards/alone"]
    models = figures.zoo_models(folders)
    assert "| `alone` (card only) | s | - | - | card only; `safetybench zoo build alone`" in models
    assert "| `whole` | s | - | - | 0.0 MB |" in models
    assert "| `alone` (card only) | 90.0 %" in figures.zoo_figures(folders)


# The page of the library


def test_the_example_is_verbatim_and_short() -> None:
    code = claims_library.example()
    assert f"```python\n{code}\n```" in claims_library.page()
    assert code in claims_library.EXAMPLE.read_text(encoding="utf-8")
    assert code.startswith("@register\n")
    assert len(code.splitlines()) < 40


def test_every_piece_has_its_line() -> None:
    rows = dict(claims_library.pieces())
    home = claims_library.EXAMPLE.parents[1]
    for file in home.glob("*.py"):
        if file.name != "__init__.py":
            assert rows[f"`safetybench/distill/{file.name}`"].endswith(".")


def test_doctests_of_the_claims() -> None:
    import doctest

    from docs import claims_verdict

    for module in (claims, claims_verdict):
        found = doctest.testmod(module)
        assert found.attempted
        assert found.failed == 0


def test_the_measurements_are_not_taken_for_a_run() -> None:
    assert claims.FILE == generate.DOCS / "results" / "claims.json"
    assert "results/claims.md" in generate.pages()
