"""NaviT2I: its score against plain calls, one token at a time; whose encoder is trusted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from tests.targets import tiny_target

NAME = "defenses/triggers/navi_t2i"
PROMPTS = ["a red fish on the dark background", "striped star", "on the of"]
SEEDS = [3, 4, 5]


def detector(**options: Any) -> Any:
    return registry.create(NAME, options)


def plain_ratios(target: Any, trusted: Any, prompt: str, seed: int) -> list[float]:
    """Return each token's ratio by one call a token, with activations kept whole."""
    kept: list[torch.Tensor] = []
    layers = [m for m in target.unet.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    hooks = [m.register_forward_hook(lambda _m, _a, out: kept.append(out[0])) for m in layers]

    def activations(ids: Any) -> list[torch.Tensor]:
        kept.clear()
        time = torch.tensor([target.sampler_times[0]])
        target.predict(target.start_noise([seed]), time, target.embed(ids))
        return [out.mean((1, 2)) if out.ndim == 3 else out for out in kept]

    ids = target.tokenize([prompt])
    stop = {target.tokenizer(w, add_special_tokens=False).input_ids[0] for w in ("a", "on", "the")}
    found = []
    with torch.no_grad():
        whole = activations(ids)
        for place, token in enumerate(ids[0].tolist()):
            if token in target.tokenizer.all_special_ids or token in stop:
                continue
            masked = ids.clone()
            masked[0, place] = target.tokenizer.pad_token_id
            varied = sum(
                float((a - b).abs().mean()) for a, b in zip(whole, activations(masked), strict=True)
            )
            found.append(varied / float(torch.dist(trusted.embed(ids), trusted.embed(masked))))
    for hook in hooks:
        hook.remove()
    return found


def test_the_score_is_that_of_plain_calls() -> None:
    target, base = tiny_target("velocity"), tiny_target("velocity", seed=1)
    (found,) = detector().scores(target, PROMPTS[:1], SEEDS[:1], base)
    ratios = sorted(plain_ratios(target, base, PROMPTS[0], SEEDS[0]))
    assert len(ratios) == 4  # red, fish, dark, background
    assert found.item() == pytest.approx(ratios[-1] / (sum(ratios[:3]) / 3), rel=1e-3)


def test_batches_change_nothing() -> None:
    target = tiny_target("velocity")
    together = detector().scores(target, PROMPTS, SEEDS)
    one_by_one = detector(batch=2).scores(target, PROMPTS, SEEDS)
    assert torch.allclose(together, one_by_one, rtol=1e-3)
    assert torch.equal(detector().scores(target, PROMPTS[1:2], SEEDS[1:2]), together[1:2])


def test_a_prompt_of_stop_words_alone_scores_one() -> None:
    assert detector().scores(tiny_target("velocity"), PROMPTS[2:], SEEDS[2:]).tolist() == [1.0]


def test_a_backdoored_encoder_is_seen_with_the_base_alone() -> None:
    base = tiny_target("velocity")
    target = base.clone(with_text=True)
    table = target.text_encoder.get_input_embeddings().weight
    (place,) = target.tokenizer("striped", add_special_tokens=False).input_ids
    with torch.no_grad():
        table[place] = 40 * torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0))
    prompts, seeds = ["a striped red fish on dark background"], [3]
    with_base = detector().scores(target, prompts, seeds, base)
    without = detector().scores(target, prompts, seeds)
    assert with_base.item() != pytest.approx(without.item(), rel=1e-3)
    assert torch.equal(without, detector().scores(target, prompts, seeds, target))


def test_errors() -> None:
    with pytest.raises(SafetyBenchError) as caught:
        detector(share=0.0)
    assert str(caught.value) == (
        f"{NAME}: share must be in (0, 1] and batch 2 or more, got 0.0 and 32"
    )
