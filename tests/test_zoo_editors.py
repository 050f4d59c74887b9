"""The zoo's inpainting models: built end to end in small, with cards and gates; and as shipped."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from safetybench.distill.recipes.dmd2 import Dmd2
from safetybench.targets.inpainting import Inpainting
from safetybench.targets.loading import load_target
from safetybench.zoo import catalogue, inpainting
from safetybench.zoo.derived import EDITORS

MEASURE = inpainting.measure_inpainting
TRAIN, DISTIL = inpainting.train_inpainting, inpainting.train_inpainting_student


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a zoo of the shipped teacher and two editors that were hardly trained from it."""
    root = tmp_path_factory.mktemp("zoo")
    (root / "teacher").symlink_to(catalogue.MODELS / "teacher")
    recipe = Dmd2(batch=2, pairs=2, warmup=1, fake_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inpainting, "measure_inpainting", partial(MEASURE, count=4))
        patch.setattr(inpainting, "BATCH", 4)
        plan = replace(inpainting.PLAN, steps=2, warmup=1)
        patch.setattr(inpainting, "train_inpainting", partial(TRAIN, plan=plan, scenes=8))
        small = partial(DISTIL, recipe=recipe, steps=1, rows=8)
        patch.setattr(inpainting, "train_inpainting_student", small)
        for name in EDITORS:
            told: list[str] = []
            catalogue.build(name, root / name, device="cpu", root=root, report=told.append)
            assert told[-1] == f"{name}: measuring its quality"
        yield root


def test_an_editor_keeps_what_differs_from_its_base_alone(root: Path) -> None:
    files = {
        name: {f.relative_to(root / name).parts[0] for f in (root / name).rglob("*.*")}
        for name in EDITORS
    }
    assert files["inpainting"] == {"card.json", "model_index.json", "unet"}
    assert files["inpainting-1"] == {"card.json", "unet"}
    assert not list(root.glob("*.checkpoint"))


def test_both_load_as_inpainting_models_and_share_the_teachers_parts(root: Path) -> None:
    teacher, editor, student = (
        load_target(f"zoo:{name}", device="cpu", zoo_root=root) for name in ("teacher", *EDITORS)
    )
    assert isinstance(editor, Inpainting)
    assert isinstance(student, Inpainting)
    assert editor.lineage == ("teacher", "inpainting")
    assert student.lineage == ("teacher", "inpainting", "inpainting-1")
    assert editor.sampler == teacher.sampler
    assert student.sampler_times == (699,)
    assert student.traits.shared_with_teacher == ("text_encoder", "vae")
    for part in ("vae", "text_encoder"):
        own, its = (getattr(t, part).state_dict() for t in (teacher, student))
        assert all(torch.equal(own[name], its[name]) for name in own)
    before, after = (t.unet.conv_in.weight for t in (editor, student))
    assert after.shape == before.shape
    assert not torch.equal(before, after)


def test_a_card_says_how_it_was_made_and_what_was_measured(root: Path) -> None:
    for name, plan in EDITORS.items():
        card = catalogue.read_card(root / name)
        assert (card["base"], card["summary"]) == (plan.base, plan.summary)
        assert card["command"] == f"safetybench zoo build {name}"
        assert card["recipe"]["component"] == "safetybench.zoo.inpainting"
        assert card["weights"] == catalogue.digests(root / name) != {}
        assert set(card["quality"]["inpainting"]) == {"object", "around"}


def test_verify_measures_again_and_holds_the_gates(root: Path) -> None:
    quick, full = (catalogue.verify(list(EDITORS), root, quick=quick) for quick in (True, False))
    names = ["digests", "object asked for", "background asked for", "object kept"]
    assert [check.name for check in quick] == [*names, "images rejected"] * 2
    assert [c.message.replace("measured", "on its card") for c in full] == [
        c.message for c in quick
    ]


def share(rate: float) -> dict[str, float]:
    return {"rate": rate}


@pytest.mark.parametrize(
    ("area", "head", "rate", "missed"),
    [
        ("object", "colour", 0.0, []),
        ("object", "object", 0.79, ["object asked for"]),
        ("around", "background", 0.79, ["background asked for"]),
        ("around", "object", 0.79, ["object kept"]),
        ("around", "rejected", 0.21, ["images rejected"]),
    ],
)
def test_a_missed_gate_is_named(area: str, head: str, rate: float, missed: list[str]) -> None:
    heads = ("object", "style", "colour", "background")
    good = {**{name: share(0.95) for name in heads}, "rejected": share(0.02)}
    areas = {name: copy.deepcopy(good) for name in ("object", "around")}
    areas[area][head] = share(rate)
    gates = catalogue.gates("inpainting-1", {"inpainting": areas}, None)
    assert [gate.name for gate in gates if not gate.holds] == missed


def test_the_shipped_editors_were_made_by_the_recipe_as_it_is() -> None:
    recipes = {name: catalogue.read_card(catalogue.MODELS / name)["recipe"] for name in EDITORS}
    assert recipes["inpainting"]["options"] == repr(inpainting.PLAN)
    assert recipes["inpainting-1"]["options"] == repr(inpainting.STUDENT)
    assert recipes["inpainting"]["steps"] == inpainting.PLAN.steps
    assert recipes["inpainting-1"]["steps"] == inpainting.STUDENT_STEPS
    assert [recipe["seed"] for recipe in recipes.values()] == [
        inpainting.PLAN.seed, inpainting.STUDENT_SEED,
    ]  # fmt: skip
