"""The judge of classifiers, on logits whose ranks can be read off."""

from __future__ import annotations

import pytest
import torch

from safetybench import registry
from safetybench.judges.label import Label

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    ("top_k", "wrong"),
    [(1, [False, True, True]), (2, [False, True, False]), (3, [False] * 3), (9, [False] * 3)],
)
def test_a_label_is_wrong_below_the_k_highest(top_k: int, wrong: list[bool]) -> None:
    assert Label(top_k=top_k).wrong(LOGITS, LABELS).tolist() == wrong


def test_it_agrees_with_topk_where_no_two_logits_are_equal() -> None:
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 7
    for k in (1, 3, 5):
        among = (logits.topk(k).indices == labels[:, None]).any(1)
        assert torch.equal(Label(top_k=k).wrong(logits, labels), ~among)


def test_what_tells_nothing_is_wrong() -> None:
    for row in (torch.zeros(1, 4), torch.full((1, 4), torch.nan)):
        assert Label().wrong(row, torch.tensor([0])).item()


def test_its_options_and_card() -> None:
    with pytest.raises(ValueError, match="top_k must be 1 or more, got 0"):
        Label(top_k=0)
    assert Label().card["decides"] == "the true class is not the highest logit"
    made = registry.create("judges/label", {"top_k": 5})
    assert made.card["decides"] == "the true class is not among the 5 highest logits"
