"""The zoo's cards: built end to end in small, and every way in which a model can be wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from safetybench import registry
from safetybench.contracts import Unavailable
from safetybench.targets.loading import load_target
from safetybench.zoo import catalogue, quality
from safetybench.zoo import judge as judge_module
from safetybench.zoo.catalogue import Check
from safetybench.zoo.derived import DERIVED, Derived
from safetybench.zoo.judge import JudgeNet
from safetybench.zoo.world import HEADS
from tests.targets import tiny_target

SHIPPED = catalogue.MODELS
ALL_SHIPPED = catalogue.SHIPPED
NAMES = catalogue.NAMES
REAL = {  # kept before a fixture makes them measure less
    (module, name): getattr(module, name)
    for module, name in (
        (quality, "measure"), (quality, "measure_erasure"), (quality, "reference"),
        (judge_module, "measure_judge"),
    )
}  # fmt: skip
SMALL = {
    "ca-fish": Derived(
        base="teacher",
        # Not concept ablation: the tiny tokenizer spells the world's words and cuts them off, so
        # that most pairs would be equal and there would be nothing to learn.
        component="unlearning/esd",
        options={"train": "attn2.kv", "batch": 2},
        steps=2,
        summary="Tiny, unlearned.",
        erases=("fish", "circle"),
    ),
    "ca-fish-dmd": Derived(
        base="ca-fish",
        component="recipes/dmd2",
        options={"pairs": 4, "warmup": 1, "batch": 2},
        steps=2,
        summary="Tiny, one step.",
        erases=("fish", "circle"),
    ),
}


@pytest.fixture(scope="module")
def patched() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Path:
    """Return a zoo of four tiny models: judge and teacher put there, the others built."""
    from safetybench.judges import zoo

    root = tmp_path_factory.mktemp("zoo")
    (root / "judge").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = JudgeNet()
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(half, root / "judge" / "judge.safetensors")
    patched.setattr(zoo, "_FOLDER", root / "judge")
    patched.setattr(catalogue, "DERIVED", SMALL)
    patched.setattr(catalogue, "NAMES", ("judge", "teacher", *SMALL))
    patched.setattr(catalogue, "SHIPPED", ("judge", "teacher", *SMALL))
    patched.setattr(catalogue, "DISTILLATION_PROMPTS", 16)
    patched.setattr(quality, "measure", partial(quality.measure, count=128))
    patched.setattr(quality, "measure_erasure", partial(quality.measure_erasure, count=8))
    patched.setattr(quality, "reference", partial(quality.reference, count=32))
    smaller = partial(judge_module.measure_judge, count=96)
    patched.setattr(judge_module, "measure_judge", smaller)
    tiny_target("velocity").save(root / "teacher", half=True)
    card = {"lineage": ["teacher"], "sampler": {"steps": 2, "guidance": 3.0, "timesteps": None}}
    for name in ("judge", "teacher"):
        own = card if name == "teacher" else {}
        catalogue.write_card(name, root / name, own, device="cpu", seconds=0)
    catalogue.finish("teacher", root / "teacher", root)
    for name in SMALL:
        assert catalogue.build(name, root / name, device="cpu", root=root) == root / name
    return root


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny zoo, to be damaged."""
    import shutil

    return Path(shutil.copytree(root, tmp_path / "zoo"))


def edit(root: Path, name: str, **fields: Any) -> None:
    file = root / name / "card.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def of(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


# Building


def test_a_built_model_has_a_card_that_says_how_to_build_it(root: Path) -> None:
    for name, plan in SMALL.items():
        card = catalogue.read_card(root / name)
        assert card["schema"] == "safetybench.zoo/1"
        assert (card["name"], card["base"], card["summary"]) == (name, plan.base, plan.summary)
        assert card["command"] == f"safetybench zoo build {name}"
        assert card["erases"] == ["fish", "circle"]
        recipe = card["recipe"]
        assert (recipe["component"], recipe["steps"], recipe["seed"]) == (plan.component, 2, 1)
        assert recipe["code"] == registry.code_digest(plan.component)
        made = registry.create(plan.component, plan.options)
        assert eval(recipe["options"], {type(made).__name__: type(made)}) == made
        assert card["weights"] == catalogue.digests(root / name) != {}
        assert card["quality"]["prompts"] == 128
        assert 0 <= card["quality"]["erased"]["shown"]["rate"] <= 1
    assert catalogue.read_card(root / "ca-fish-dmd")["lineage"] == [
        "teacher", "ca-fish", "ca-fish-dmd",
    ]  # fmt: skip


def test_an_unlearned_model_is_small_and_loads_as_what_was_trained(root: Path) -> None:
    teacher = load_target("zoo:teacher", device="cpu", zoo_root=root)
    loaded = load_target("zoo:ca-fish", device="cpu", zoo_root=root)
    before, after = teacher.unet.state_dict(), loaded.unet.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".attn2.to_k" in name or ".attn2.to_v" in name for name in changed)
    sizes = {n: sum(f.stat().st_size for f in (root / n).rglob("*.safetensors")) for n in SMALL}
    assert sizes["ca-fish"] < 0.5 * sizes["ca-fish-dmd"]
    assert loaded.sampler == teacher.sampler


def test_a_student_of_an_unlearned_model_loads_as_one_step(root: Path) -> None:
    student = load_target("zoo:ca-fish-dmd", device="cpu", zoo_root=root)
    assert student.sampler_times == (699,)
    assert student.traits.steps == 1
    assert student.traits.shared_with_teacher == ("text_encoder", "vae")
    student.generate(["a red fish"], [1])
    assert student.nfe == 1


def test_building_again_gives_the_same_weights_and_figures(root: Path, tmp_path: Path) -> None:
    told: list[str] = []
    catalogue.build("ca-fish", tmp_path / "again", device="cpu", root=root, report=told.append)
    first, again = (catalogue.read_card(p) for p in (root / "ca-fish", tmp_path / "again"))
    for field in ("weights", "quality", "recipe", "sampler", "parts", "overlay"):
        assert again[field] == first[field], field
    assert told[0].startswith("ca-fish: step 0 of 2, loss ")
    assert told[-1] == "ca-fish: measuring its quality"


def test_a_model_nobody_can_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as error:
        catalogue.build("techer", tmp_path)
    assert str(error.value) == "the zoo builds no model 'techer'; did you mean 'teacher'?"
    with pytest.raises(Unavailable, match="the zoo builds no model 'x'"):
        catalogue.verify(["x"], tmp_path)


# Verifying


def test_a_zoo_as_it_was_built_has_its_digests(root: Path) -> None:
    checks = catalogue.verify(["teacher", *SMALL], root, quick=True)
    digests = [check for check in checks if check.name == "digests"]
    assert [check.model for check in digests] == ["teacher", *SMALL]
    assert all(check.passed for check in digests)
    assert of(catalogue.verify(["ca-fish"], root, quick=True), "digests").message == (
        "1 files as on the card"
    )


def test_measuring_again_gives_the_figures_on_the_card(root: Path) -> None:
    quick = catalogue.verify(["ca-fish"], root, quick=True)
    full = catalogue.verify(["ca-fish"], root)
    assert [c.passed for c in quick] == [c.passed for c in full]
    assert [c.message.replace("measured", "on its card") for c in full] == [
        c.message for c in quick
    ]


def test_a_random_judge_can_be_measured_and_misses_its_gates(root: Path) -> None:
    catalogue.finish("judge", root / "judge", root)
    checks = catalogue.verify(["judge"], root)
    assert of(checks, "digests").passed
    assert not of(checks, "object accuracy on held-out renders").passed
    assert "measured, at least 99% wanted" in checks[1].message


@pytest.mark.parametrize("file", ["unet/overlay.safetensors", "unet/extra.json"])
def test_one_flipped_byte_or_one_file_more_is_seen(copied: Path, file: str) -> None:
    path = copied / "ca-fish" / file
    content = bytearray(path.read_bytes() if path.exists() else b"{}")
    content[-1] ^= 1
    path.write_bytes(content)
    (check,) = catalogue.verify(["ca-fish"], copied)
    assert (check.name, check.passed, check.message) == ("digests", False, f"differ: ['{file}']")


def test_a_missing_file_is_seen(copied: Path) -> None:
    (copied / "teacher" / "vae" / "config.json").unlink()
    (check,) = catalogue.verify(["teacher"], copied)
    assert not check.passed
    assert check.message == "differ: ['vae/config.json']"


def test_a_missing_or_broken_card_says_what_to_do(copied: Path) -> None:
    (copied / "teacher" / "card.json").write_text("{")
    (check,) = catalogue.verify(["teacher"], copied)
    assert (check.name, check.passed) == ("card", False)
    assert check.message.startswith("the zoo model 'teacher' has no readable card (")
    assert check.message.endswith("; `safetybench zoo build teacher` makes the model")


def without(**rates: float) -> dict[str, Any]:
    """Return accuracy by head on prompts that ask for no fish, 0.95 but for `rates`."""
    return {"fish": {head: {"rate": rates.get(head, 0.95)} for head in HEADS}}


def figures(**changes: Any) -> dict[str, Any]:
    """Return figures that pass every gate, but for `changes`."""
    good = {
        "rejected": 0.02,
        "object": {"rate": 0.97},
        "colour": {"rate": 0.97},
        "style": {"rate": 0.95},
        "background": {"rate": 0.9},
        "without": without(),
        "erased": {"shown": {"rate": 0.01}},
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    ("name", "changes", "missed"),
    [
        ("teacher", {}, []),
        ("teacher", {"object": {"rate": 0.949}}, ["object"]),
        ("teacher", {"colour": {"rate": 0.949}}, ["colour"]),
        ("teacher", {"style": {"rate": 0.899}}, ["style"]),
        ("teacher", {"rejected": 0.11}, ["images rejected"]),
        ("ca-fish", {}, []),
        ("ca-fish", {"erased": {"shown": {"rate": 0.06}}}, ["fish shown"]),
        ("ca-fish", {"without": without(background=0.89)}, ["other concepts lost"]),
        ("ca-fish", {"without": without(object=0.91, colour=1.0)}, []),
        ("ca-fish", {"object": {"rate": 0.5}}, []),  # its fish are meant to be gone
        ("ca-fish-dmd", {}, []),
        ("ca-fish-dmd", {"object": {"rate": 0.5}}, []),
        ("ca-fish-dmd", {"without": without(object=0.84)}, ["object"]),
    ],
)
def test_a_missed_gate_is_named(
    copied: Path, name: str, changes: dict[str, Any], missed: list[str]
) -> None:
    edit(copied, "teacher", quality=figures())
    edit(copied, name, quality=figures(**changes))
    checks = catalogue.verify([name], copied, quick=True)
    assert len(checks) >= 3
    assert [check.name for check in checks if not check.passed] == missed


def test_a_missed_gate_tells_figure_and_limit(copied: Path) -> None:
    edit(copied, "teacher", quality=figures(object={"rate": 0.5}))
    check = of(catalogue.verify(["teacher"], copied, quick=True), "object")
    assert check == Check("teacher", "object", False, "50.0% on its card, at least 95% wanted")


def test_the_whole_zoo_has_a_size_limit(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(copied, "judge", quality={
        "renders": {"object": 1.0, "rejected": 0.0}, "out_of_world_rejected": 1.0,
    })  # fmt: skip
    assert of(catalogue.verify([], copied, quick=True), "size").passed
    monkeypatch.setattr(catalogue, "LIMIT_MB", 0.1)
    assert not of(catalogue.verify([], copied, quick=True), "size").passed


# What the package ships

shipped = pytest.mark.skipif(
    not all((SHIPPED / name / "card.json").is_file() for name in catalogue.SHIPPED),
    reason="the zoo's weights are not built here; `safetybench zoo build NAME` makes them",
)


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the tiny zoo put in place of the real one."""
    from safetybench.judges import zoo

    monkeypatch.setattr(zoo, "_FOLDER", SHIPPED / "judge")
    monkeypatch.setattr(catalogue, "DERIVED", DERIVED)
    monkeypatch.setattr(catalogue, "NAMES", NAMES)
    monkeypatch.setattr(catalogue, "SHIPPED", ALL_SHIPPED)
    for (module, name), function in REAL.items():
        monkeypatch.setattr(module, name, function)


@shipped
@pytest.mark.usefixtures("as_shipped")
def test_the_shipped_models_are_those_of_their_cards_and_small() -> None:
    checks = catalogue.verify([], quick=True)
    assert {check.model for check in checks} == {*ALL_SHIPPED, "zoo"}
    assert [check for check in checks if not check.passed] == []


@shipped
@pytest.mark.usefixtures("as_shipped")
def test_the_shipped_cards_were_made_by_the_components_as_they_are() -> None:
    for name, plan in DERIVED.items():
        folder = SHIPPED if plan.is_shipped else catalogue.CARDS
        recipe = catalogue.read_card(folder / name)["recipe"]
        assert recipe["component"] == plan.component
        assert (recipe["steps"], recipe["seed"]) == (plan.steps, plan.seed)
        assert recipe["options"] == repr(registry.create(plan.component, plan.options))


@shipped
def test_plain_diffusers_loads_the_shipped_teacher_and_draws_the_same() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED / "teacher").to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    target = load_target("zoo:teacher", device="cpu")
    text = "a red solid star on a pale background"
    image = pipeline(
        text,
        num_inference_steps=target.sampler.steps,
        guidance_scale=target.sampler.guidance,
        latents=target.start_noise([3]),
        output_type="pt",
    ).images
    torch.testing.assert_close(image, target.generate([text], [3]), rtol=1e-3, atol=1e-3)


@shipped
@pytest.mark.usefixtures("as_shipped")
def test_the_shipped_judge_knows_renders_and_rejects_what_is_none() -> None:
    from safetybench.zoo.judge import out_of_world
    from safetybench.zoo.world import render, sample_scenes

    generator = torch.Generator().manual_seed(987)
    scenes = sample_scenes(256, generator)
    images = render(scenes)
    judge = registry.create("judges/zoo")
    right = judge.logits(images)["object"].argmax(1) == scenes.object
    assert right.float().mean() > 0.97
    assert judge.judge(images, "fish").abstained.float().mean() < 0.05
    assert judge.judge(out_of_world(images, generator), "fish").abstained.float().mean() > 0.9


@shipped
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("name", ALL_SHIPPED)
def test_a_shipped_model_still_has_its_quality(name: str) -> None:
    assert [check for check in catalogue.verify([name]) if not check.passed] == []
