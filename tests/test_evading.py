"""What `evade` owns: who is attacked, ball and box, and what a target must answer with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Classifies, Evasion, SafetyBenchError
from safetybench.vision.ball import clip, sizes, start, steepest
from safetybench.vision.evading import evade, is_probabilities, predict
from tests.toys_classifier import Toy, linear, rightly


@dataclass(frozen=True, kw_only=True)
class Does(Evasion):
    """What a test says it does."""

    act: Callable[[Tensor], Tensor]
    source: ClassVar[str] = "https://example.org"
    steps: ClassVar[int] = 1

    def perturb(
        self,
        target: Classifies,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        surrogate: Classifies | None = None,
    ) -> Tensor:
        return self.act(images)


class Minimal(Does):
    is_minimal: ClassVar[bool] = True


class Natural(Does):
    is_natural: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)


class Borrows(Does):
    uses_surrogate: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)


BALL = Budget(epsilon=0.1, steps=1)
L2 = Budget(epsilon=0.5, steps=1, norm="l2")


def same(images: Tensor) -> Tensor:
    return images


def answering(logits: Tensor, classes: int = 4) -> Toy:
    """Return a target that gives every image the same answer."""

    class Says(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return logits.expand(len(images), -1)

    return Toy(Says(), classes, (1, 4, 4))


def message(act: Callable[[], Any]) -> str:
    with pytest.raises(SafetyBenchError) as caught:
        act()
    return str(caught.value)


def test_images_and_labels_that_are_none_are_refused() -> None:
    toy = linear()
    images, labels = rightly(toy, 3)
    attack = Does(act=same)

    def told(images: Tensor = images, labels: Tensor = labels) -> str:
        return message(lambda: evade(attack, toy, images, labels, BALL))

    assert told(torch.full((3, 1, 4, 4), 1.5)) == (
        "images must lie in [0, 1], got 1.5 to 1.5; "
        "what a network subtracts or scales belongs inside the target"
    )
    assert told(torch.full((3, 1, 4, 4), -1.0)).startswith("images must lie in [0, 1], got -1 to")
    assert told(images * math.nan).startswith("images must lie in [0, 1], got nan")
    assert told((255 * images).to(torch.uint8)) == (
        "images must be float in [0, 1], got torch.uint8"
    )
    assert told(images[:, :, :2]) == "images must be (batch, 1, 4, 4), got (3, 1, 2, 4)"
    assert told(images[0]) == "images must be (batch, 1, 4, 4), got (1, 4, 4)"
    assert told(labels=labels.float()) == "labels must be (3,) int64, got (3,) torch.float32"
    assert told(labels=labels[:2]) == "labels must be (3,) int64, got (2,) torch.int64"
    assert told(labels=torch.tensor([0, 1, 4])) == (
        "labels must be below 4, the classes of toy, got 0 to 4"
    )
    assert told(labels=torch.tensor([0, -1, 3])) == (
        "labels must be below 4, the classes of toy, got -1 to 3"
    )


def test_answers_that_are_no_logits_are_refused() -> None:
    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)

    def told(toy: Toy) -> str:
        return message(lambda: evade(Does(act=same), toy, images, labels, BALL))

    assert told(answering(torch.tensor([0.7, 0.1, 0.1, 0.1]))) == (
        "toy answers with probabilities, and attacks need logits; "
        "leave the softmax out of the network"
    )
    nan = torch.tensor([math.nan, 0, 0, 0])
    assert told(answering(nan)) == "toy answers with values that are no numbers"
    infinite = torch.tensor([math.inf, 0, 0, 0])
    assert told(answering(infinite)) == "toy answers with values that are no numbers"
    assert told(answering(torch.zeros(3))) == "toy must answer (3, 4) logits, got (3, 3)"


def test_probabilities_are_told_from_logits() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert is_probabilities(logits.softmax(1))
    assert not is_probabilities(logits)
    assert not is_probabilities(logits.sigmoid())


def test_a_wrong_answer_of_an_attack_is_told() -> None:
    toy = linear()
    images, labels = rightly(toy, 3)

    def told(attack: Evasion, budget: Budget = BALL) -> str:
        return message(lambda: evade(attack, toy, images, labels, budget))

    assert told(Does(act=lambda given: given[:, :, :2])) == (
        "Does must return images of shape (3, 1, 4, 4), got (3, 1, 2, 4)"
    )
    assert told(Does(act=lambda given: given * math.nan)) == (
        "Does returned values that are no numbers"
    )
    assert told(Borrows(act=same)) == "Borrows is held to l2, got linf"
    assert told(Borrows(act=same), L2) == "Borrows needs a surrogate, got none"
    assert evade(Natural(act=same), toy, images, labels, BALL).was_right.all()


def test_images_already_misread_are_not_attacked() -> None:
    toy = linear()
    images, labels = rightly(toy, 8)
    labels = labels.clone()
    labels[2] = (labels[2] + 1) % 4
    seen: list[Tensor] = []

    def act(given: Tensor) -> Tensor:
        seen.append(given.clone())
        return given.add_(0.05)  # in place: what evade hands out is a copy

    kept = images.clone()
    found = evade(Does(act=act), toy, images, labels, BALL)
    rest = [row for row in range(8) if row != 2]
    assert torch.equal(seen[0], kept[rest])
    assert torch.equal(images, kept)
    assert torch.equal(found.images[2], kept[2])
    assert found.was_right.tolist() == [row != 2 for row in range(8)]
    assert found.is_wrong[2]
    assert found.linf[2] == 0
    assert torch.allclose(found.linf[rest], torch.tensor(0.05), atol=1e-6)
    assert torch.equal(found.is_wrong, found.logits.argmax(1) != labels)
    none = evade(Does(act=act), toy, images, (toy.logits(images).argmax(1) + 1) % 4, BALL)
    assert len(seen) == 1
    assert not none.was_right.any()


def test_a_change_is_cut_to_ball_and_box() -> None:
    toy = linear()
    images, labels = rightly(toy, 8)
    far = Does(act=lambda given: given + 0.4)
    assert torch.allclose(evade(far, toy, images, labels, BALL).linf, torch.tensor(0.1))
    assert torch.allclose(evade(far, toy, images, labels, L2).l2, torch.tensor(0.5))
    away = Does(act=lambda given: given + 9)
    whole = Budget(epsilon=1.0, steps=1)
    assert evade(away, toy, images, labels, whole).images.max() == 1
    natural = evade(Natural(act=lambda given: given + 9), toy, images, labels, BALL)
    assert torch.equal(natural.images, torch.ones_like(images))


def test_a_minimal_change_is_kept_within_epsilon_and_undone_outside() -> None:
    toy = linear()
    images, labels = rightly(toy, 4)
    steps = torch.tensor([0.05, 0.1, 0.15, 0.2])[:, None, None, None]
    attack = Minimal(act=lambda given: given + steps)
    found = evade(attack, toy, images, labels, BALL)
    assert torch.allclose(found.linf, torch.tensor([0.05, 0.1, 0, 0]), atol=1e-6)
    assert torch.equal(found.images[2:], images[2:])
    free = evade(attack, toy, images, labels, Budget(steps=1))
    assert torch.allclose(free.linf, steps.flatten(), atol=1e-6)


def test_predict_is_the_same_in_parts_and_keeps_no_graph() -> None:
    toy = linear()
    images = rightly(toy, 9).images
    found = predict(toy, images, size=4)
    assert torch.allclose(found, toy.logits(images).detach(), atol=1e-5)
    assert not found.requires_grad
    assert predict(toy, images[:0]).shape == (0, 4)


def test_clip_in_l2_by_hand() -> None:
    images = torch.full((1, 1, 1, 2), 0.5)
    changed = images + torch.tensor([0.3, -0.4])
    cut = clip(changed, images, 0.25, "l2")
    assert torch.allclose(cut - images, torch.tensor([[[[0.15, -0.2]]]]), atol=1e-6)
    assert torch.allclose(clip(changed, images, 0.6, "l2"), changed)
    assert torch.equal(clip(images, images, 0.0, "l2"), images)
    boxed = clip(images + 2, images, 9.0, "l2")
    assert torch.equal(boxed, torch.ones_like(images))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_and_steps_have_the_ball_s_size(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.full((50, 3, 4, 4), 0.5)
    begun = sizes(start(images, 0.2, norm, generator) - images, norm)
    assert begun.max() <= 0.2 + 1e-6
    assert begun.max() > 0.19
    slope = torch.randn(50, 3, 4, 4, generator=generator)
    assert torch.allclose(sizes(steepest(slope, norm), norm), torch.ones(50))
    assert not steepest(torch.zeros_like(slope), norm).any()
