"""NASA: each cross-attention gives Z(text) - alpha Z(negative), and the target stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench.distill.nasa import with_nasa
from tests.targets import tiny_target


def outputs(target: Any, text: str) -> list[Tensor]:
    """Return what the first cross-attention puts out before the others can change its input."""
    layer = next(m for n, m in target.unet.named_modules() if n.endswith("attn2"))
    found: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: found.append(output.detach()))
    states = target.embed(target.tokenize([text]))
    noise = target.start_noise([3])
    target.x0(noise, torch.tensor([500]), states)
    hook.remove()
    return found


def test_nothing_is_steered_at_zero() -> None:
    target = tiny_target("velocity")
    steered = with_nasa(target, "a dog", 0.0).generate(["a cat"], [1])
    torch.testing.assert_close(steered, target.generate(["a cat"], [1]))


def test_each_attention_is_the_difference_that_the_paper_writes() -> None:
    target, alpha = tiny_target("velocity"), 0.3
    (own,), (against,) = outputs(target, "a cat"), outputs(target, "a dog")
    layer = next(m for n, m in target.unet.named_modules() if n.endswith("attn2"))
    (got,) = outputs(with_nasa(target, "a dog", alpha), "a cat")
    torch.testing.assert_close(got, own - alpha * (against - layer.to_out[0].bias))


def test_the_other_sign_steers_the_other_way_and_the_target_stays() -> None:
    target = tiny_target("velocity")
    before = target.generate(["a cat"], [1])
    away = with_nasa(target, "a dog", 0.4).generate(["a cat"], [1]) - before
    towards = with_nasa(target, "a dog", -0.4).generate(["a cat"], [1]) - before
    assert away.abs().max() > 0
    assert float((away * towards).sum()) < 0
    assert torch.equal(target.generate(["a cat"], [1]), before)


def test_one_pass_stays_one_pass_and_shares_the_weights() -> None:
    target = tiny_target("student")
    view = with_nasa(target, "a dog")
    view.generate(["a cat", "a tree"], [1, 2])
    assert view.nfe == 2 * view.sampler.steps
    pairs = zip(view.unet.parameters(), target.unet.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)


def test_sdxl_keeps_the_pooled_row_out_of_attention() -> None:
    sdxl = pytest.importorskip("safetybench.targets.sdxl")
    text = torch.randn(1, 6, 8)
    assert sdxl.TextToImageXL.attended(None, text).shape == (1, 5, 8)
