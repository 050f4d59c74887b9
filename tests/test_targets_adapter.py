"""The guidance adapter: nothing at first, one pass, trained, copied, saved and plugged."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safetybench.contracts import TargetFailed, Unavailable
from safetybench.targets.adapter import FILE, GuidanceAdapter, load_adapter, save_adapter
from safetybench.targets.loading import check_target, load_target, target_digest
from safetybench.targets.overlay import save_overlay
from safetybench.targets.text_to_image import TextToImage
from tests.targets import tiny_pipeline, tiny_target

PROMPTS, SEEDS = ["a red fish", "blue star"], [3, 4]


def perturbed(unet: nn.Module, width: int = 8, seed: int = 0) -> GuidanceAdapter:
    """Return an adapter as training might leave it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = GuidanceAdapter(unet, width)
        with torch.no_grad():
            for weight in adapter.parameters():
                weight.add_(0.3 * torch.randn(weight.shape))
    return adapter.half().float()


def guided(seed: int = 0) -> TextToImage:
    target = tiny_target("teacher")
    return target.with_adapter(perturbed(target.unet, seed=seed))


def asked(target: TextToImage, guidance: float | Tensor | None = None) -> Tensor:
    text = target.embed(target.tokenize(PROMPTS))
    t = torch.tensor([900, 300])
    return target.x0(target.start_noise(SEEDS), t, text, guidance)


def plain(target: TextToImage) -> Tensor:
    """Return what the denoiser alone answers."""
    return asked(target.with_adapter(None))


# What it does


def test_a_new_adapter_is_the_conditional_prediction_in_one_pass() -> None:
    target = tiny_target("teacher")
    fresh = target.with_adapter(GuidanceAdapter(target.unet, 8))
    assert torch.equal(asked(fresh, guidance=6.0), asked(target))
    assert fresh.nfe == 2
    text, noise = target.embed(target.tokenize(PROMPTS)), target.start_noise(SEEDS)
    expected = target.sample_latents(text, noise, guidance=1.0)
    torch.testing.assert_close(fresh.sample_latents(text, noise, guidance=6.0), expected)
    assert fresh.nfe == 2 + 2 * 4


def test_the_scale_is_an_input() -> None:
    target = guided()
    assert target.takes_guidance
    assert torch.equal(asked(target), asked(target, guidance=7.5))  # the sampler's own
    assert not torch.allclose(asked(target, guidance=2.0), asked(target, guidance=7.5), atol=1e-3)
    low, high = (target.generate(PROMPTS, SEEDS, guidance=w) for w in (2.0, 7.5))
    assert not torch.allclose(low, high, atol=1e-3)
    both = asked(target, torch.tensor([2.0, 7.5]))
    torch.testing.assert_close(both[:1], asked(target, guidance=2.0)[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], asked(target, guidance=7.5)[1:], rtol=1e-4, atol=1e-4)


def test_the_traits_tell() -> None:
    target = guided()
    assert not target.traits.negative_prompt_works
    assert target.traits.guidance == 7.5
    assert target.with_adapter(None).traits == tiny_target("teacher").traits


def test_gradients_reach_the_adapter_and_the_inputs_and_no_other_weight() -> None:
    base = tiny_target("teacher")
    target = base.with_adapter(GuidanceAdapter(base.unet, 8).requires_grad_(True))
    latents = target.start_noise(SEEDS).requires_grad_()
    text = target.embed(target.tokenize(PROMPTS)).requires_grad_()
    target.x0(latents, torch.tensor([900, 300]), text, 3.0).square().sum().backward()
    assert target.adapter is not None
    moved = {n for n, w in target.adapter.named_parameters() if w.grad is not None and w.grad.any()}
    # Behind zeros nothing moves in the first step.
    assert moved == {n for n, _ in target.adapter.named_parameters() if ".up." in n}
    assert latents.grad is not None
    assert text.grad is not None
    assert latents.grad.any()
    assert text.grad.any()
    assert not any(weight.requires_grad for weight in target.unet.parameters())


def test_all_of_a_trained_adapter_learns_also_under_checkpointing() -> None:
    grads: list[list[Tensor]] = []
    for recompute in (False, True):
        target = guided()
        assert target.adapter is not None
        target.adapter.requires_grad_(True)
        if recompute:
            target.unet.train()
            target.unet.enable_gradient_checkpointing()
        asked(target, guidance=3.0).square().mean().backward()
        found = [weight.grad for weight in target.adapter.parameters()]
        grads.append([grad for grad in found if grad is not None])
    assert len(grads[0]) == len(list(guided().adapter.parameters()))  # type: ignore[union-attr] # it has one
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_installing_and_removing() -> None:
    unet = tiny_pipeline().unet
    adapter, inputs = perturbed(unet), (torch.ones(1, 4, 8, 8), 500, torch.ones(1, 12, 16))
    before = unet(*inputs).sample
    assert adapter.install(unet) is adapter
    assert torch.equal(unet(*inputs).sample, before)  # no scale, no change
    adapter.guidance = torch.tensor([4.0])
    assert not torch.allclose(unet(*inputs).sample, before, atol=1e-3)
    adapter.install(unet)  # again: not twice
    adapter.remove()
    assert torch.equal(unet(*inputs).sample, before)
    assert not unet._forward_pre_hooks


def test_a_denoiser_of_another_shape_is_refused() -> None:
    unet = tiny_pipeline().unet
    other = type(unet).from_config(unet.config, block_out_channels=(12, 16))
    with pytest.raises(ValueError, match="sizes") as caught:
        GuidanceAdapter(unet, 8).install(other)
    assert str(caught.value).startswith("the adapter is for cross-attentions of sizes [8, ")
    with pytest.raises(ValueError, match="has none"):
        GuidanceAdapter(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="width must be 1 or more, got 0"):
        GuidanceAdapter(unet, 0)


# Copies


def test_a_clone_has_an_adapter_of_its_own() -> None:
    target = guided()
    before = asked(target, guidance=3.0)
    for twin in (target.clone(), target.trainable_copy()):
        assert torch.equal(asked(twin, guidance=3.0), before)
        assert twin.adapter is not None
        assert twin.adapter is not target.adapter
        assert not any(weight.requires_grad for weight in twin.adapter.parameters())
        with torch.no_grad():
            for weight in (*twin.adapter.parameters(), *twin.unet.parameters()):
                weight.zero_()
        assert torch.equal(asked(target, guidance=3.0), before)
    assert not torch.equal(asked(target, guidance=9.0), before)


def test_the_target_it_was_added_to_stays_as_it_was() -> None:
    target = tiny_target("teacher")
    before = asked(target)
    twin = target.with_adapter(perturbed(target.unet))
    asked(twin, guidance=9.0)
    assert target.adapter is None
    assert torch.equal(asked(target), before)
    other = twin.with_adapter(perturbed(target.unet, seed=1))
    expected = target.with_adapter(perturbed(target.unet, seed=1))
    assert torch.equal(asked(other, guidance=3.0), asked(expected, guidance=3.0))


def test_a_deep_copy_is_bound_to_no_denoiser() -> None:
    target = guided()
    asked(target, guidance=3.0)
    twin: Any = copy.deepcopy(target.adapter)
    assert twin.guidance is None
    twin.install(copy.deepcopy(tiny_pipeline().unet))
    assert target.adapter is not None
    assert target.adapter.guidance is not None


# Files


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo: a teacher, an overlay on it, and the teacher with an adapter."""
    root = tmp_path_factory.mktemp("zoo")
    tiny_target("teacher").save(root / "teacher", {"lineage": ["teacher"]}, half=True)
    teacher = load_target("zoo:teacher", device="cpu", zoo_root=root)
    forgetful = teacher.trainable_copy()
    with torch.no_grad():
        forgetful.unet.conv_out.bias.add_(1)
    told: dict[str, Any] = {"sampler": {"steps": 4, "guidance": 7.5}, "base": "teacher"}
    parts, overlay = save_overlay(forgetful.unet, teacher.unet, root / "ca")
    card = {**told, "parts": parts, "overlay": overlay, "lineage": ["teacher", "ca"]}
    (root / "ca/card.json").write_text(json.dumps(card), encoding="utf-8")
    config = save_adapter(perturbed(teacher.unet), root / "agd")
    assert config == {"kind": "agd", "width": 8}
    card = {**told, "parts": [], "adapter": config, "lineage": ["teacher", "agd"]}
    card["sampler"] = {"steps": 3, "guidance": 4.0}
    (root / "agd/card.json").write_text(json.dumps(card), encoding="utf-8")
    return root


def loaded(zoo: Path, spec: Any, **options: Any) -> TextToImage:
    return load_target(spec, device="cpu", zoo_root=zoo, **options)


def test_a_model_with_an_adapter_loads_and_saves(zoo: Path, tmp_path: Path) -> None:
    target, teacher = loaded(zoo, "zoo:agd"), loaded(zoo, "zoo:teacher")
    expected = teacher.with_adapter(perturbed(teacher.unet))
    assert torch.equal(asked(target, guidance=3.0), asked(expected, guidance=3.0))
    assert (target.traits.guidance, target.traits.steps) == (4.0, 3)
    target.save(tmp_path / "whole")
    back = load_target(tmp_path / "whole", device="cpu")
    assert torch.equal(asked(back, guidance=3.0), asked(target, guidance=3.0))
    assert {weight.dtype for weight in load_file(tmp_path / "whole" / FILE).values()} == {
        torch.float16
    }
    target.with_adapter(None).save(tmp_path / "without")
    assert load_target(tmp_path / "without", device="cpu").adapter is None
    half = loaded(zoo, "zoo:agd", dtype="bfloat16")
    torch.testing.assert_close(
        asked(half, guidance=3.0), asked(target, guidance=3.0), rtol=0.1, atol=0.2
    )


def test_an_adapter_is_plugged_on_another_base(zoo: Path) -> None:
    spec = {"path": "zoo:ca", "adapter": "zoo:agd"}
    assert check_target(spec, zoo_root=zoo) == ()
    target, ca = loaded(zoo, spec), loaded(zoo, "zoo:ca")
    expected = ca.with_adapter(perturbed(ca.unet))
    assert torch.equal(asked(target, guidance=3.0), asked(expected, guidance=3.0))
    assert (target.name, target.lineage) == ("zoo:ca+agd", ("teacher", "ca", "agd"))
    assert target.sampler.steps == 3
    digests = {target_digest(each, zoo_root=zoo) for each in (spec, "zoo:ca", "zoo:agd")}
    assert len(digests) == 3


def derive(root: Path, name: str, base: str, **card: Any) -> Path:
    (root / name).mkdir(exist_ok=True)
    text = json.dumps({"base": base, "parts": [], "sampler": {"steps": 4}, **card})
    (root / name / "card.json").write_text(text, encoding="utf-8")
    return root


def test_an_adapter_goes_with_its_denoiser(zoo: Path) -> None:
    assert loaded(derive(zoo, "heir", "agd"), "zoo:heir").adapter is not None
    assert loaded(derive(zoo, "free", "agd", adapter=None), "zoo:free").adapter is None
    own = derive(zoo, "own", "agd", parts=["unet"])
    loaded(zoo, "zoo:teacher").unet.save_pretrained(own / "own/unet")
    assert loaded(own, "zoo:own").adapter is None


def test_what_is_no_adapter_is_refused(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as missing:
        check_target({"path": "zoo:ca", "adapter": "zoo:teacher"}, zoo_root=zoo)
    assert str(missing.value) == "'zoo:teacher' has no guidance adapter: its card names none"
    derive(zoo, "odd", "teacher", adapter="agd")
    with pytest.raises(TargetFailed) as told:
        check_target("zoo:odd", zoo_root=zoo)
    assert str(told.value) == "the adapter of 'zoo:odd' must be a mapping, got 'agd'"
    derive(zoo, "lost", "teacher", adapter={"kind": "agd"})
    with pytest.raises(TargetFailed, match=r"^unet/adapter.safetensors of 'zoo:lost'|^cannot read"):
        check_target("zoo:lost", zoo_root=zoo)


@pytest.mark.parametrize("fault", ["kind", "missing", "foreign", "shape", "width"])
def test_an_adapter_that_does_not_fit_is_refused(zoo: Path, tmp_path: Path, fault: str) -> None:
    tensors, config = load_file(zoo / "agd" / FILE), {"kind": "agd", "width": 8}
    name = "branches.0.down.weight"
    shown = f"adapter.safetensors holds {name!r}, which does not fit the denoiser"
    if fault == "kind":
        config["kind"], shown = "x", "an adapter is of the kind 'agd', got 'x'"
    elif fault == "missing":
        shown = f"adapter.safetensors lacks {name!r}"
        del tensors[name]
    elif fault == "foreign":
        shown = "adapter.safetensors holds 'extra', which does not fit the denoiser"
        tensors["extra"] = torch.ones(1)
    elif fault == "shape":
        tensors[name] = torch.ones(8, 3)
    else:
        config["width"] = 4
        shown = "adapter.safetensors holds 'branches.0.down.bias', which does not fit the denoiser"
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="adapter") as caught:
        load_adapter(tiny_pipeline().unet, tmp_path / "adapter.safetensors", config)
    assert str(caught.value) == shown
