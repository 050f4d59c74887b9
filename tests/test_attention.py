"""Recorded cross-attention: the same answers as without, live maps, and no trace left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench.targets.attention import Maps, recorded, token_maps, unit_range
from tests.targets import LENGTH, Variant, tiny_target
from tests.test_targets_sdxl import tiny_target as tiny_xl

PROMPTS = ("a red fish on dark", "one moon")


def inputs(target: Any) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, *target.latent_shape, generator=rng)
    return x, torch.tensor([700, 20]), target.embed(target.tokenize(PROMPTS))


def worst(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max())


@pytest.mark.parametrize("make", [tiny_target, tiny_xl])
def test_the_answer_and_its_gradient_are_those_of_fused_attention(make: Any) -> None:
    target = make()
    x, t, text = inputs(target)
    gradients = []
    weight = next(w for n, w in target.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    weight.requires_grad_(True)
    plain = target.predict(x, t, text)
    gradients += torch.autograd.grad(plain.square().mean(), weight)
    with recorded(target.unet) as maps:
        found = target.predict(x, t, text)
        gradients += torch.autograd.grad(found.square().mean(), weight)
    assert worst(found, plain) < 1e-5
    assert worst(*gradients) < 1e-5
    assert float(gradients[0].abs().max()) > 0
    for layer in maps.of_pass():
        assert layer.shape[::3] == (2, LENGTH)
        assert float(layer.detach().min()) >= 0
        torch.testing.assert_close(layer.sum(3), torch.ones(layer.shape[:3]))


def test_a_mask_of_tokens_hides_them_as_in_fused_attention() -> None:
    target = tiny_target()
    x, t, text = inputs(target)
    seen = torch.ones(2, LENGTH, dtype=torch.bool)
    seen[:, 6:] = False
    options = {"encoder_hidden_states": text, "encoder_attention_mask": seen}
    plain = target.unet(x, t, **options).sample
    assert worst(plain, target.predict(x, t, text)) > 1e-3
    with recorded(target.unet) as maps:
        assert worst(target.unet(x, t, **options).sample, plain) < 1e-5
    assert all(float(layer[..., 6:].max()) == 0 for layer in maps.of_pass())


def test_gradients_reach_the_queries_and_keys_through_the_maps_alone() -> None:
    target = tiny_target()
    target.unet.requires_grad_(True)
    with recorded(target.unet) as maps:
        target.predict(*inputs(target))
    loss = torch.stack([layer[..., 1].square().sum() for layer in maps.of_pass()]).sum()
    names = [n for n, _ in target.unet.named_parameters() if n.endswith(("attn2.to_q.weight",
             "attn2.to_k.weight"))]  # fmt: skip
    found = torch.autograd.grad(loss, [target.unet.get_parameter(n) for n in names])
    assert len(names) == 2 * len(maps.layers)
    assert all(float(each.abs().max()) > 0 for each in found)


def test_passes_are_kept_apart_and_forgotten_when_told() -> None:
    target = tiny_target()
    x, t, text = inputs(target)
    with torch.no_grad(), recorded(target.unet) as maps:
        target.predict(x, t, text)
        target.predict(x, t, text.flip(0))
    first, second = maps.of_pass(0), maps.of_pass()
    assert len(first) == len(second) == len(maps.layers)
    assert all(".attn2." in name for name in maps.layers)
    assert any(worst(a, b) > 1e-3 for a, b in zip(first, second, strict=True))
    maps.clear()
    assert maps.of_pass() == []


@pytest.mark.parametrize("fails", [False, True])
def test_processors_are_restored_also_after_an_error(fails: bool) -> None:
    target = tiny_target()
    before = dict(target.unet.attn_processors)

    def use() -> Maps:
        with recorded(target.unet) as maps:
            assert target.unet.attn_processors != before
            if fails:
                raise KeyError("stop")
            return maps

    if fails:
        with pytest.raises(KeyError, match="stop"):
            use()
    else:
        assert use().layers == {}
    after = target.unet.attn_processors
    assert all(after[name] is each for name, each in before.items())
    assert after.keys() == before.keys()


def test_what_cannot_be_recorded_is_refused() -> None:
    class Plain(nn.Module):
        attn_processors: dict[str, object] = {"mid.attn1.processor": object()}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"^the denoiser has no cross-attention to record$"):
        with recorded(Plain()):
            raise AssertionError("entered")
    target = tiny_target()
    layer = next(m for n, m in target.unet.named_modules() if n.endswith(".attn2"))
    layer.norm_cross = nn.LayerNorm(16)
    with recorded(target.unet), pytest.raises(ValueError, match=r"maps of .* cannot be recorded"):
        target.predict(*inputs(target))


@pytest.mark.parametrize("variant", ["teacher", "velocity"])
def test_token_maps_are_means_over_heads_summed_over_layers(variant: Variant) -> None:
    target = tiny_target(variant)
    with torch.no_grad(), recorded(target.unet) as maps:
        target.predict(*inputs(target))
    layers = maps.of_pass()
    found = token_maps(layers, 16)
    assert found.shape == (2, LENGTH, 16, 16)
    assert len({layer.shape[2] for layer in layers}) >= 1
    wanted = torch.zeros(16, 16)
    for layer in layers:
        side = round(layer.shape[2] ** 0.5)
        one = layer[1, :, :, 3].mean(0).reshape(1, 1, side, side)
        wanted += nn.functional.interpolate(one, size=(16, 16), mode="bilinear")[0, 0]
    torch.testing.assert_close(found[1, 3], wanted)
    # A layer that has the side already is taken as it is.
    plain = torch.rand(1, 2, 4, 3)
    torch.testing.assert_close(token_maps([plain], 2)[0, 2].flatten(), plain[0, :, :, 2].mean(0))


def test_unit_range_stretches_each_map_by_itself() -> None:
    maps = torch.tensor([[[2.0, 4.0], [3.0, 2.0]], [[-1.0, 0.0], [0.0, 3.0]]])
    wanted = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.25], [0.25, 1.0]]])
    torch.testing.assert_close(unit_range(maps), wanted)
    flat = torch.full((1, 2, 2), 0.3, requires_grad=True)
    stretched = unit_range(flat)
    assert float(stretched.detach().abs().max()) == 0
    (gradient,) = torch.autograd.grad(stretched.sum(), flat)
    assert bool(gradient.isfinite().all())
