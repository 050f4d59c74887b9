"""Edit transfer: exact arithmetic on weights, and what must correspond for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Means, Recipe, SafetyBenchError, Unavailable
from safetybench.distill.views import guidance_view, lora_view
from safetybench.targets.adapter import GuidanceAdapter
from safetybench.targets.saving import save_target
from safetybench.targets.spec import Sampler
from tests.targets import tiny_target

NAME = "recipes/edit_transfer"
GRID = Sampler(steps=2, guidance=1.0, timesteps=(799, 399))


class Models(NamedTuple):
    """Folders of the original and its student, and both in memory."""

    original: Path
    student: Path
    teacher: Any
    made: Any


def shifted(target: Any, seed: int, *, with_text: bool = False, part: str = "") -> Any:
    """Return a clone whose weights, those with `part` in their names, are moved at random."""
    twin = target.clone(with_text=with_text)
    rng = torch.Generator().manual_seed(seed)
    networks = [twin.unet, *([twin.text_encoder] if with_text else [])]
    with torch.no_grad():
        for network in networks:
            for name, weight in network.named_parameters():
                if part in name:
                    weight += 0.05 * torch.randn(weight.shape, generator=rng)
    return twin


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    home = tmp_path_factory.mktemp("models")
    teacher = tiny_target("velocity")
    student = shifted(teacher, 1).with_sampler(GRID)
    student.card = {"traits": {"data": "real", "prompts": "six prompts"}}
    return Models(
        save_target(teacher, home / "teacher"), save_target(student, home / "student"), teacher,
        student,
    )  # fmt: skip


@pytest.fixture
def transfer(models: Models) -> Callable[..., Any]:
    def run(target: Any, means: Means | None = None, **options: Any) -> Any:
        known = {"original": str(models.original), "student": str(models.student)}
        return registry.create(NAME, known | options).run(target, [], Budget(), means=means)

    return run


def weights(target: Any, part: str = "unet") -> dict[str, Tensor]:
    return dict(getattr(target, part).named_parameters())


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0, 0.0])
def test_the_edit_is_added_to_every_weight(
    models: Models, transfer: Callable[..., Any], scale: float
) -> None:
    target = shifted(models.teacher, 2, part="attn2")
    found = weights(transfer(target, scale=scale))
    after, before, own = (weights(m) for m in (target, models.teacher, models.made))
    assert found.keys() == own.keys()
    for name, weight in found.items():
        wanted = own[name] + scale * (after[name] - before[name])
        assert torch.equal(weight, wanted), name
        assert torch.equal(weight, own[name]) is (scale == 0 or "attn2" not in name)


def test_a_student_without_distillation_becomes_the_unlearned_teacher(
    models: Models, transfer: Callable[..., Any]
) -> None:
    target = shifted(models.teacher, 2)
    made = transfer(target, student=str(models.original))
    images = [model.generate(["a red fish"], [3]) for model in (made, target)]
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-4)


def test_the_student_keeps_its_sampler_and_traits_and_nothing_else_changes(
    models: Models, transfer: Callable[..., Any]
) -> None:
    target = shifted(models.teacher, 2)
    before = {n: w.clone() for n, w in weights(target).items()}
    made = transfer(target)
    assert made.sampler == GRID
    assert made.sampler_times == (799, 399)
    assert made.traits == models.made.with_sampler(GRID).traits
    assert (made.traits.data, made.traits.prompts) == ("real", "six prompts")
    assert made.digest == ""
    assert not any(w.requires_grad for w in made.unet.parameters())
    assert all(torch.equal(w, before[n]) for n, w in weights(target).items())
    own, its = weights(models.made, "text_encoder"), weights(made, "text_encoder")
    assert all(torch.equal(w, own[n]) for n, w in its.items())
    assert made.generate(["a red fish"], [1]).shape == (1, 3, 16, 16)


def test_an_edit_of_the_text_encoder_goes_along(
    models: Models, transfer: Callable[..., Any]
) -> None:
    target = shifted(models.teacher, 2, with_text=True)
    made = transfer(target)
    after, before, own, found = (
        weights(m, "text_encoder") for m in (target, models.teacher, models.made, made)
    )
    for name, weight in found.items():
        assert torch.equal(weight, own[name] + (after[name] - before[name])), name


def test_it_trains_nothing_and_tells_the_data_of_the_student(models: Models) -> None:
    recipe: Any = registry.create(NAME, {"original": "zoo:teacher", "student": "zoo:dmd2-1"})
    assert issubclass(type(recipe), Recipe)
    assert recipe.trains is False
    assert recipe.reads_images is False
    assert recipe.data == "real"
    assert registry.create(NAME, {"student": str(models.original)}).data == "unknown"
    assert registry.create(NAME).data == "unknown"


def test_weights_that_do_not_correspond_are_refused(
    models: Models, transfer: Callable[..., Any], tmp_path: Path
) -> None:
    wanted = r"^the unet of target, '.*' and '.*' must have the same weights; a LoRA must be fused"
    with pytest.raises(Unavailable, match=wanted):
        transfer(lora_view(models.teacher, 2)[0])
    taking = save_target(guidance_view(models.teacher, 8), tmp_path / "guided")
    with pytest.raises(Unavailable, match=wanted):
        transfer(models.teacher, student=str(taking))
    adapted = models.teacher.with_adapter(GuidanceAdapter(models.teacher.unet))
    with pytest.raises(Unavailable, match=r"^EditTransfer cannot move an edit where there is a"):
        transfer(adapted)
    with pytest.raises(Unavailable, match=r"^EditTransfer trains nothing, so it makes no LoRA$"):
        transfer(models.teacher, Means(lora=4))


def test_models_must_be_named_and_be_here(models: Models, transfer: Callable[..., Any]) -> None:
    with pytest.raises(Unavailable, match=r"needs the options original and student, got '', 'x'$"):
        transfer(models.teacher, original="", student="x")
    with pytest.raises(Unavailable, match="is a hub id and the network is off"):
        transfer(models.teacher, student="somebody/model")
    with pytest.raises(SafetyBenchError, match=r": scale must be a finite number, got nan$"):
        registry.create(NAME, {"scale": float("nan")})
