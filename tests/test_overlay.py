"""A derived denoiser stored as its changes comes back as it was, to fp16."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safetybench.targets.overlay import FILE, apply_overlay, save_overlay
from tests.targets import tiny_pipeline


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_pipeline().unet.half().float()  # as a zoo model is, loaded from its fp16 files


def changed(base: Any, part: str) -> Any:
    unet = copy.deepcopy(base)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if part in name:
                weight.add_(0.01 * torch.ones_like(weight))
    return unet


def test_only_what_changed_is_stored_and_it_comes_back(base: Any, tmp_path: Path) -> None:
    unet = changed(base, ".attn2.to_k")
    assert save_overlay(unet, base, tmp_path) == ([], ["unet"])
    stored = load_file(tmp_path / "unet" / FILE)
    assert set(stored) == {n for n, _ in unet.named_parameters() if ".attn2.to_k" in n}
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    fresh = copy.deepcopy(base)
    apply_overlay(fresh, tmp_path / "unet" / FILE)
    for name, weight in fresh.state_dict().items():
        wanted = unet.state_dict()[name].half().float()
        assert torch.equal(weight, wanted), name


def drifted(base: Any, size: float) -> Any:
    """Return a copy whose weights all moved, by this fraction of their own spread."""
    unet, rng = copy.deepcopy(base), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(size * weight.std(correction=0) * torch.randn(weight.shape, generator=rng))
    return unet


def test_a_denoiser_that_changed_throughout_is_stored_as_int8_differences(
    base: Any, tmp_path: Path
) -> None:
    unet = drifted(base, 0.05)
    with torch.no_grad():
        unet.conv_in.weight.copy_(base.conv_in.weight)
        unet.conv_out.weight[0] = base.conv_out.weight[0]  # one row without a change
    assert save_overlay(unet, base, tmp_path) == ([], ["unet"])
    assert [file.name for file in (tmp_path / "unet").iterdir()] == [FILE]
    stored, own = load_file(tmp_path / "unet" / FILE), base.state_dict()
    assert not any(name.startswith("conv_in.weight") for name in stored)
    for name, weight in own.items():
        if weight.ndim == 1 and name in stored:
            assert stored[name].dtype == torch.float16
        elif f"{name}.delta" in stored:
            assert stored[f"{name}.delta"].dtype == torch.int8
            assert stored[f"{name}.scale"].shape == (len(weight), *[1] * (weight.ndim - 1))
    fresh = copy.deepcopy(base)
    apply_overlay(fresh, tmp_path / "unet" / FILE)
    for name, weight in fresh.state_dict().items():
        change = (unet.state_dict()[name] - own[name]).abs().amax()
        torch.testing.assert_close(
            weight, unet.state_dict()[name], rtol=1e-3, atol=0.005 * float(change)
        )
    assert torch.equal(fresh.conv_out.weight[0], base.conv_out.weight[0])


@pytest.mark.parametrize(("size", "by"), [(0.02, "spread"), (0.05, "largest")])
def test_a_difference_is_nearer_than_fp16(tmp_path: Path, size: float, by: str) -> None:
    base = torch.nn.Linear(512, 256, bias=False).half().float()
    torch.nn.init.normal_(base.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    made = drifted(base, size)
    save_overlay(made, base, tmp_path)
    apply_overlay(base, tmp_path / "unet" / FILE)
    ours, half = base.weight - made.weight, made.weight.half().float() - made.weight
    if by == "spread":
        assert ours.square().mean() < half.square().mean()
    assert ours.abs().max() < half.abs().max()
    assert (tmp_path / "unet" / FILE).stat().st_size < 0.53 * 2 * made.weight.numel()


def test_differences_come_back_in_the_denoisers_own_format(base: Any, tmp_path: Path) -> None:
    unet = drifted(base, 0.05)
    save_overlay(unet, base, tmp_path)
    fresh = copy.deepcopy(base).bfloat16()
    apply_overlay(fresh, tmp_path / "unet" / FILE)
    assert fresh.conv_in.weight.dtype == torch.bfloat16
    torch.testing.assert_close(
        fresh.conv_in.weight.float(), unet.conv_in.weight, rtol=1e-2, atol=1e-2
    )


def test_a_denoiser_of_another_shape_is_stored_whole(base: Any, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(base.config, time_cond_proj_dim=8)
    before = copy.deepcopy(unet.state_dict())
    assert save_overlay(unet, base, tmp_path) == (["unet"], [])
    assert not (tmp_path / "unet" / FILE).exists()
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "unet", torch_dtype=torch.float32)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, before[name].half().float()), name
    # Saving in half precision left the network itself alone.
    assert all(torch.equal(w, before[n]) for n, w in unet.state_dict().items())
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["sample_size"] == 8


def test_a_copy_that_changed_nothing_is_an_empty_overlay(base: Any, tmp_path: Path) -> None:
    assert save_overlay(copy.deepcopy(base), base, tmp_path) == ([], ["unet"])
    fresh = copy.deepcopy(base)
    apply_overlay(fresh, tmp_path / "unet" / FILE)
    assert all(torch.equal(w, base.state_dict()[n]) for n, w in fresh.state_dict().items())


WEIGHT = "conv_in.weight"
STEPS, SCALE = torch.zeros(8, 4, 3, 3, dtype=torch.int8), torch.zeros(8, 1, 1, 1).half()
WRONG: dict[str, dict[str, torch.Tensor]] = {
    "name": {"conv_in.strength": torch.zeros(3)},
    "shape": {WEIGHT: torch.zeros(3)},
    "steps without a scale": {f"{WEIGHT}.delta": STEPS},
    "a scale without steps": {f"{WEIGHT}.scale": SCALE},
    "steps of another shape": {f"{WEIGHT}.delta": STEPS[:, :3], f"{WEIGHT}.scale": SCALE},
    "steps that are no int8": {f"{WEIGHT}.delta": STEPS.half(), f"{WEIGHT}.scale": SCALE},
    "a scale of another shape": {f"{WEIGHT}.delta": STEPS, f"{WEIGHT}.scale": SCALE[:1]},
    "a difference to another weight": {"x.delta": STEPS, "x.scale": SCALE},
}


@pytest.mark.parametrize("tensors", WRONG.values(), ids=WRONG)
def test_changes_of_another_denoiser_are_refused(
    base: Any, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file({n: tensor.contiguous() for n, tensor in tensors.items()}, tmp_path / FILE)
    with pytest.raises(ValueError, match="fit") as error:
        apply_overlay(copy.deepcopy(base), tmp_path / FILE)
    said = {f"{FILE} holds {name!r}, which does not fit the denoiser" for name in tensors}
    assert str(error.value) in said


def test_a_stored_denoiser_does_not_say_where_it_was_loaded_from(base: Any, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    base.save_pretrained(tmp_path / "first")
    config = UNet2DConditionModel.load_config(tmp_path / "first")
    unet = UNet2DConditionModel.from_config(config, time_cond_proj_dim=8)
    unet.register_to_config(_name_or_path=str(tmp_path / "first"))
    save_overlay(unet, base, tmp_path / "second")
    config_file = tmp_path / "second" / "unet" / "config.json"
    assert "first" not in config_file.read_text(encoding="utf-8")
