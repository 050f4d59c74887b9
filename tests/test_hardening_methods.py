"""The losses of each method against hand calculation, the attack inside, and what they achieve."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench import registry
from safetybench.contracts import Budget, ClassLesson, Labelled
from safetybench.vision.ball import clip, start, steepest
from safetybench.vision.nets import build
from tests.toys_classifier import Toy, digits, trained

MOVE = 0.05  # what stands for the attack where a loss is tested


def sibling(name: str) -> ModuleType:
    return importlib.import_module(f"safetybench.defenses.evasion.{name}")


def cross(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logs: Tensor = net(images).log_softmax(1)
    return -logs[range(len(labels)), labels]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Of probabilities: sum of p log(p / q)."""
    return (p * (p / q).log()).sum(1)


def attack(
    net: nn.Module, labels: Tensor, images: Tensor, epsilon: float = 0.1, steps: int = 10
) -> Tensor:
    """Return the images after plain projected gradient ascent, without the code under test."""
    changed = start(images, epsilon, "linf", torch.Generator().manual_seed(1))
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cross(net, changed, labels).sum(), changed)
        moved = changed.detach() + 0.25 * epsilon * steepest(slope, "linf")
        changed = clip(moved, images, epsilon, "linf")
    return changed.detach()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def robust(net: nn.Module, count: int = 200) -> float:
    images, labels = (part[:count] for part in digits()[1])
    return accuracy(net, attack(net, labels, images), labels)


def clean(net: nn.Module) -> float:
    return accuracy(net, *digits()[1])


def fitted(name: str, steps: int, teacher: Toy | None = None, **options: Any) -> nn.Module:
    net = build({"net": "cnn", "width": 8}, classes=10, shape=(1, 8, 8), seed=0)
    lesson = ClassLesson(data=digits()[0], teacher=teacher)
    budget = Budget(steps=steps, epsilon=0.1, seed=0)
    made: Any = registry.create(f"defenses/evasion/{name}", {"size": 64, **options})
    found: nn.Module = made.run(net, lesson, budget)
    return found


def test_the_divergence_is_summed_over_classes_and_points_from_the_goal() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    found = sibling("_terms").kl(q.log(), p.log())
    by_hand = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert found.tolist() == pytest.approx([by_hand])
    assert sibling("_terms").kl(p.log(), q.log()).tolist() != pytest.approx([by_hand])
    own = nn.functional.kl_div(q.log(), p, reduction="batchmean")
    assert found.item() == pytest.approx(own.item())
    # Logits 2 log 3 and 0 at a temperature of 2 are odds of 3 to 1.
    logits, goal = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    warm = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert sibling("_terms").kl(logits, goal, 2.0).item() == pytest.approx(warm)


class Case:
    """One step of a method on eight images, with a known attack: what it reports and climbs."""

    def __init__(self, name: str, patch: pytest.MonkeyPatch, **options: Any) -> None:
        self.gains: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
        images, labels = (part[:8] for part in digits()[0])
        self.data = Labelled(images.double(), labels)
        student, teacher = self.nets = [sharp(seed) for seed in (1, 2)]
        moved = (self.data.images + MOVE).clamp(0, 1)
        with torch.no_grad():
            self.at = {
                "s": student(self.data.images), "t": teacher(self.data.images),
                "s'": student(moved), "t'": teacher(moved),
            }  # fmt: skip

        def known(net: nn.Module, images: Tensor, gain: Any, *_: Any, **__: Any) -> Tensor:
            assert net.training
            self.gains.append((images, gain))
            return (images + MOVE).clamp(0, 1)

        if hasattr(sibling(name), "attacked"):
            patch.setattr(sibling(name), "attacked", known)
        made: Any = registry.create(f"defenses/evasion/{name}", {"size": 8, **options})
        told: list[float] = []
        made.run(
            student,
            ClassLesson(data=self.data, teacher=Toy(teacher, 10, (1, 8, 8))),
            Budget(steps=1, epsilon=0.1),
            lambda step, loss: told.append(loss),
        )
        (self.loss,) = told

    def ce(self, key: str) -> Tensor:
        logs: Tensor = self.at[key].log_softmax(1)
        return -logs[range(8), self.data.labels]

    def kl(self, goal: str, key: str, temperature: float = 1.0) -> Tensor:
        first, second = ((self.at[k] / temperature).softmax(1) for k in (goal, key))
        return divergence(first, second)

    def climbed(self) -> Tensor:
        """Return what the attack climbs on the logits of the moved images, in the data's order."""
        ((images, gain),) = self.gains
        order = [int((self.data.images == image).all((1, 2, 3)).nonzero()) for image in images]
        found = torch.empty(8, dtype=torch.float64)
        found[order] = gain(self.at["s'"][order]).detach()
        return found


def sharp(seed: int) -> nn.Module:
    """Return a network whose answers are far from uniform, in double precision."""
    net = build({"net": "mlp"}, classes=10, shape=(1, 8, 8), seed=seed).double()
    with torch.no_grad():
        list(net.parameters())[-2].mul_(8)
    return net


def close(value: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(value, dtype=torch.float64), expected)


def test_training_on_labels_takes_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("standard", monkeypatch)
    close(case.loss, case.ce("s").mean())
    case = Case("pgd_at", monkeypatch)
    close(case.loss, case.ce("s'").mean())
    close(case.climbed(), case.ce("s'"))


def test_trades_is_the_clean_loss_and_the_way_from_the_clean_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("trades", monkeypatch)
    close(case.loss, (case.ce("s") + 6 * case.kl("s", "s'")).mean())
    close(case.climbed(), case.kl("s", "s'"))


def test_distillation_on_clean_images(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("kd", monkeypatch, alpha=0.75, temperature=3.0)
    close(case.loss, (0.75 * 9 * case.kl("t", "s", 3.0) + 0.25 * case.ce("s")).mean())


def test_ard_goes_to_the_clean_answers_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("ard", monkeypatch)
    close(case.loss, 900 * case.kl("t", "s'", 30.0).mean())
    close(case.climbed(), case.ce("s'"))
    case = Case("ard", monkeypatch, alpha=0.5, temperature=2.0)
    close(case.loss, (0.5 * 4 * case.kl("t", "s'", 2.0) + 0.5 * case.ce("s")).mean())


def test_rslad_has_soft_labels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("rslad", monkeypatch)
    close(case.loss, (5 / 6 * case.kl("t", "s'") + 1 / 6 * case.kl("t", "s")).mean())
    close(case.climbed(), case.kl("t", "s'"))


def test_iad_trusts_the_teacher_as_far_as_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("iad", monkeypatch, warm_up=0.0, beta=0.5)
    trust = case.at["t'"].softmax(1)[range(8), case.data.labels].sqrt()
    close(case.loss, (case.kl("t", "s'") + (1 - trust) * case.kl("s", "s'")).mean())
    close(case.climbed(), case.ce("s'"))
    case = Case("iad", monkeypatch)  # in its warm-up
    close(case.loss, case.kl("t", "s'").mean())


def test_the_attack_stays_inside_and_leaves_the_network_as_it_was() -> None:
    net = copy.deepcopy(trained().net).requires_grad_()
    net.zero_grad()
    images, labels = (part[:64] for part in digits()[1])
    run: Any = sibling("_inner").attacked
    balls = (Budget(epsilon=0.1), Budget(epsilon=1.0, norm="l2"))
    for budget in balls:
        norm, epsilon = budget.norm, budget.epsilon
        for mode in (True, False):
            net.train(mode)
            found = [
                run(
                    net,
                    images,
                    lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none"),
                    budget,
                    torch.Generator().manual_seed(seed),
                    steps=steps,
                    rel_step=0.25,
                )
                for seed, steps in ((1, 10), (1, 10), (2, 10), (1, 1))
            ]
            assert net.training is mode
            assert all(weight.grad is None for weight in net.parameters())
            assert torch.equal(found[0], found[1])
            assert not torch.equal(found[0], found[2])
            assert not found[0].requires_grad
            change = (found[0] - images).flatten(1)
            size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
            assert float(size.max()) <= epsilon + 1e-5
            assert 0 <= float(found[0].min()) <= float(found[0].max()) <= 1
            far, near = (accuracy(net, found[place], labels) for place in (0, 3))
            assert far < near < 0.9


def test_a_network_is_attacked_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10))
    images = digits()[1].images[:4]

    def found() -> Tensor:
        run: Any = sibling("_inner").attacked
        changed: Tensor = run(
            net.train(), images, lambda logits: logits[:, 0], Budget(epsilon=0.1),
            torch.Generator().manual_seed(0), steps=2, rel_step=0.5,
        )  # fmt: skip
        return changed

    assert torch.equal(found(), found())


def test_adversarial_training_withstands_what_plain_training_does_not() -> None:
    plain = fitted("standard", 150)
    hardened = fitted("pgd_at", 150, inner_steps=5, rate=1e-2)
    assert clean(plain) > 0.93
    assert clean(hardened) > 0.9
    assert robust(hardened) > robust(plain) + 0.25


def test_a_robust_teacher_hands_on_robustness_by_attacked_images_only() -> None:
    teacher = trained(0.15)
    by_clean = fitted("kd", 150, teacher)
    by_attacks = fitted("rslad", 150, teacher, inner_steps=5, rate=1e-2)
    assert clean(by_attacks) > 0.88
    assert robust(by_attacks) > robust(by_clean) + 0.1


def test_fresh_layers_are_of_the_seed_and_the_old_ones_stay() -> None:
    net = build({"net": "residual"}, classes=10, shape=(1, 8, 8), seed=1)
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first, again, other = (sibling("_fresh").fresh(net, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.head.weight, net.get_parameter("head.weight"))
    assert not first.fine0.back.weight.any()  # a block starts as the identity again


def test_defensive_distillation_blinds_the_gradient_and_not_the_attack() -> None:
    net = fitted("defensive_distillation", 500)
    images, labels = (part[:200] for part in digits()[1])
    given = images.clone().requires_grad_()
    logits = net(given)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), given)
    is_zero = slope.flatten(1).abs().amax(1) == 0
    assert clean(net) > 0.93
    assert float(logits.detach().abs().max()) > 200
    assert float(is_zero.float().mean()) > 0.5
    assert robust(net) > 0.6
    cooled = nn.Sequential(net, Cooled(100.0))
    assert accuracy(net, attack(cooled, labels, images), labels) < robust(net) - 0.2


class Cooled(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.temperature


def test_arts_distillation_has_no_temperature_and_blinds_nothing() -> None:
    net = fitted("art_defensive_distillation", 150, rate=5e-3)
    logits = net(digits()[1].images)
    assert clean(net) > 0.8
    assert float(logits.detach().min()) < 0  # logits: the softmax that ART asks for is off
    assert float(logits.detach().abs().max()) < 100
    assert robust(net) < 0.6


def test_arts_distillation_takes_no_more_updates_than_it_may() -> None:
    seen: list[int] = []
    net = build({"net": "mlp"}, classes=10, shape=(1, 8, 8), seed=0)
    net.register_forward_hook(
        lambda module, given, found: seen.append(len(found)) if module.training else None
    )
    made: Any = registry.create("defenses/evasion/art_defensive_distillation", {"size": 16})
    for steps, images in ((3, 100), (20, 40)):
        data = Labelled(*(part[:images] for part in digits()[0]))
        seen.clear()
        made.run(net, ClassLesson(data=data), Budget(steps=steps))
        assert sum(seen) <= 2 * steps * 16  # the teacher is a copy of the student, hook and all


def test_plain_training_may_see_moved_images() -> None:
    train, test = digits()
    turned = torch.rot90(test.images, 1, (2, 3))  # beyond all ranges: no training helps
    moved = torch.roll(test.images, 1, 3)
    right = {}
    for augment in (False, True):
        net = build({"net": "cnn"}, classes=10, shape=(1, 8, 8), seed=0)
        way = registry.create("defenses/evasion/standard", {"augment": augment})
        net = way.run(net, ClassLesson(data=train), Budget(steps=300, seed=0))
        right[augment] = [
            float((net(images).argmax(1) == test.labels).float().mean())
            for images in (test.images, moved, turned)
        ]
    assert right[True][0] > 0.9
    assert right[True][1] > right[False][1] + 0.1
    assert abs(right[True][2] - right[False][2]) < 0.25
