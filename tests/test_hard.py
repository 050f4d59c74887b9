"""HARD: what its movements do, and that it looks for disagreement where its control does not."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, ClassLesson, Labelled
from safetybench.vision.nets import build
from tests.toys_classifier import Toy, digits, trained

augment: Any = importlib.import_module("safetybench.defenses.evasion._augment")
hard: Any = importlib.import_module("safetybench.defenses.evasion.hard")
RANGES = augment.Ranges(90.0, 0.25, 0.2, 0.3, 0.5)


def moved(images: Tensor, **moves: float) -> Tensor:
    names = ("turn", "right", "down", "scale", "bright", "contrast")
    row = torch.tensor([[moves.get(name, 0.0) for name in names]]).expand(len(images), -1)
    found: Tensor = augment.changed(images, row, RANGES)
    return found


def picture() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_no_move_is_no_change() -> None:
    torch.testing.assert_close(moved(picture()), picture(), atol=1e-6, rtol=0)


def test_a_quarter_turn_and_shifts_by_whole_pixels_are_exact() -> None:
    image = picture()
    turned = moved(image, turn=1.0)
    matches = [
        torch.allclose(turned, torch.rot90(image, way, (2, 3)), atol=1e-5) for way in (1, -1)
    ]
    assert sum(matches) == 1
    right = moved(image, right=1.0)  # a quarter of 8 pixels
    torch.testing.assert_close(right[..., 2:], image[..., :-2], atol=1e-5, rtol=0)
    assert not right[..., :2].any()  # black enters
    down = moved(image, down=0.5)
    torch.testing.assert_close(down[..., 1:, :], image[..., :-1, :], atol=1e-5, rtol=0)


def test_a_turn_keeps_shapes_of_images_that_are_not_square() -> None:
    image = torch.zeros(1, 1, 9, 17)
    image[..., 4, 6:11] = 1  # a short bar through the middle
    turned = moved(image, turn=1.0)
    expected = torch.zeros(1, 1, 9, 17)
    expected[..., 2:7, 8] = 1
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


def test_colours_move_around_the_middle_grey_inside_the_box() -> None:
    grey = torch.full((1, 1, 4, 4), 0.5)
    torch.testing.assert_close(moved(grey, bright=1.0), grey + 0.3)
    torch.testing.assert_close(moved(grey, contrast=1.0), grey)
    light = torch.full((1, 1, 4, 4), 0.7)
    torch.testing.assert_close(moved(light, contrast=1.0), torch.full_like(light, 0.8))
    assert moved(light, bright=1.0, contrast=1.0).max() == 1


def test_the_mover_starts_as_uniform_draws_and_moves_alone() -> None:
    mover = hard._Mover(1)
    images = digits()[0].images[:16]
    draws = 2 * torch.rand(16, augment.MOVES, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(mover(images, draws), 0.999 * draws)
    student = build({"net": "cnn", "width": 4}, classes=10, shape=(1, 8, 8), seed=0)
    made, teacher = hard.Hard(), Toy(trained(seed=1).net, 10, (1, 8, 8))
    before = [weight.detach().clone() for weight in student.parameters()]
    ascent = torch.optim.Adam(mover.parameters(), lr=1e-2)
    apart = [gap(made, mover, student, teacher, images, draws)]
    for _ in range(20):
        made._ascend(mover, ascent, student.train(), teacher, images, draws)
        assert student.training
    apart.append(gap(made, mover, student, teacher, images, draws))
    assert apart[1] > 1.05 * apart[0]
    assert all(weight.grad is None for weight in student.parameters())
    assert all(torch.equal(w, was) for w, was in zip(student.parameters(), before, strict=True))
    assert mover(images, draws).abs().max() <= 1


@torch.no_grad()
def gap(
    made: Any, mover: nn.Module, net: nn.Module, teacher: Toy, images: Tensor, draws: Tensor
) -> float:
    seen = augment.changed(images, mover(images, draws), made.ranges)
    goal = (teacher.logits(seen) / 4).softmax(1)
    return float((goal * (goal.log() - (net(seen) / 4).log_softmax(1))).sum(1).mean())


def one_step(name: str, **options: Any) -> tuple[float, nn.Module]:
    """Return the loss that is told of one step on eight images, and the student."""
    net = build({"net": "mlp"}, classes=10, shape=(1, 8, 8), seed=3)
    data = Labelled(*(part[:8] for part in digits()[0]))
    told: list[float] = []
    made: Any = registry.create(f"defenses/evasion/{name}", {"size": 8, **options})
    made.run(
        net, ClassLesson(data=data, teacher=trained()), Budget(steps=1),
        lambda step, loss: told.append(loss),
    )  # fmt: skip
    return told[0], net


def test_without_a_push_it_is_the_random_control() -> None:
    still, _ = one_step("hard", push_rate=0.0)
    control, _ = one_step("random_augmentation")
    pushed, _ = one_step("hard", push_rate=0.3)
    assert still == pytest.approx(control, rel=1e-3)  # draws are a thousandth shorter
    assert pushed > control


@pytest.mark.parametrize("name", ["hard", "random_augmentation"])
def test_the_loss_is_half_on_the_images_and_half_on_the_moved_ones(name: str) -> None:
    nothing = {"rotate": 0.0, "shift": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 1e-6}
    loss, _ = one_step(name, temperature=2.0, **nothing)
    net = build({"net": "mlp"}, classes=10, shape=(1, 8, 8), seed=3)
    images = digits()[0].images[:8]
    with torch.no_grad():
        goal = (trained().logits(images) / 2).softmax(1)
        by_hand = 4 * (goal * (goal.log() - (net(images) / 2).log_softmax(1))).sum(1).mean()
    assert loss == pytest.approx(by_hand.item(), rel=1e-3)


def test_ranges_of_nothing_are_refused() -> None:
    nothing = dict.fromkeys(("rotate", "shift", "scale", "contrast", "brightness"), 0.0)
    with pytest.raises(ValueError, match=r"or contrast must be above 0, got 0$"):
        hard.Hard(**nothing)


def test_movements_teach_what_unmoved_images_do_not() -> None:
    train, test = digits()
    generator = torch.Generator().manual_seed(0)

    def shifted(images: Tensor) -> Tensor:
        draws = 2 * torch.rand(len(images), augment.MOVES, generator=generator) - 1
        found: Tensor = augment.changed(images, draws, ranges)
        return found

    ranges = augment.Ranges(20.0, 0.15, 0.0, 0.0, 0.0)
    told = {"net": "cnn", "width": 8}
    teacher = build({"net": "cnn", "hidden": 64}, classes=10, shape=(1, 8, 8), seed=1)
    seen = torch.cat([train.images, *(shifted(train.images) for _ in range(3))])
    plain: Any = registry.create("defenses/evasion/standard", {"size": 64, "rate": 1e-2})
    plain.run(teacher, ClassLesson(data=Labelled(seen, train.labels.repeat(4))), Budget(steps=300))
    lesson = ClassLesson(data=train, teacher=Toy(teacher, 10, (1, 8, 8)))
    far = shifted(test.images)
    scores = {}
    for name in ("kd", "random_augmentation", "hard"):
        options = {} if name == "kd" else {"rotate": 20.0, "shift": 0.15}
        net = build(told, classes=10, shape=(1, 8, 8), seed=2)
        made: Any = registry.create(
            f"defenses/evasion/{name}", {"size": 64, "rate": 1e-2, **options}
        )
        made.run(net, lesson, Budget(steps=200))
        with torch.no_grad():
            scores[name] = float((net(far).argmax(1) == test.labels).float().mean())
    assert scores["hard"] > scores["kd"] + 0.1
    assert scores["random_augmentation"] > scores["kd"] + 0.1
