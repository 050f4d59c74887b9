"""PGD, APGD and Carlini-Wagner against closed forms of a linear classifier and against ART."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Evasion, Labelled, SafetyBenchError
from safetybench.registry import create
from safetybench.vision.ball import sizes
from safetybench.vision.evading import evade
from tests.toys_classifier import Toy, digits, linear, rightly, trained

gradient: Any = import_module("safetybench.attacks.evasion._gradient")
IN_BALL = [
    ("pgd", {}), ("pgd", {"loss": "dlr", "restarts": 2}), ("pgd", {"temperature": 0.0}),
    ("apgd", {}), ("apgd", {"loss": "dlr-targeted"}), ("apgd", {"loss": "margin", "restarts": 2}),
]  # fmt: skip


def attack(name: str, **options: Any) -> Evasion:
    component = create(f"attacks/evasion/{name}", options)
    assert isinstance(component, Evasion)
    return component


def gaps(toy: Toy, data: Labelled) -> tuple[Tensor, Tensor]:
    """Return by how far each other class is behind, and the normals of these borders."""
    weight: Tensor = toy.net.get_parameter("1.weight")
    logits = toy.logits(data.images)
    others = torch.stack([
        torch.tensor([k for k in range(toy.classes) if k != label])
        for label in data.labels.tolist()
    ])  # fmt: skip
    behind = logits.gather(1, data.labels[:, None]) - logits.gather(1, others)
    return behind.detach(), (weight[others] - weight[data.labels][:, None]).detach()


def distances(toy: Toy, data: Labelled, norm: Norm) -> Tensor:
    """Return the distance to the nearest border, were there no box."""
    behind, normals = gaps(toy, data)
    dual = normals.abs().sum(2) if norm == "linf" else normals.square().sum(2).sqrt()
    return (behind / dual).amin(1)


def free(toy: Toy, count: int = 60) -> Labelled:
    """Return images whose nearest misread image in l2 lies inside the box."""
    data = rightly(toy, count)
    behind, normals = gaps(toy, data)
    away = behind / normals.norm(dim=2)
    nearest = away.argmin(1)
    rows = torch.arange(count)
    change = normals[rows, nearest] / normals[rows, nearest].norm(dim=1, keepdim=True)
    moved = data.images.flatten(1) + 1.1 * away[rows, nearest][:, None] * change
    inside = ((moved > 0) & (moved < 1)).all(1)
    assert inside.sum() > 5
    return Labelled(data.images[inside], data.labels[inside])


def test_losses_are_those_of_the_papers() -> None:
    logits, labels = torch.tensor([[5.0, 3.0, 2.0, 0.0]]), torch.tensor([0])
    assert gradient.margins(logits, labels).item() == -2
    assert gradient.dlr(logits, labels).item() == pytest.approx(-2 / 3)
    goal = torch.tensor([2])
    assert gradient.targeted_dlr(logits, labels, goal).item() == pytest.approx(-3 / 4)
    assert gradient.ranked_others(logits, labels, 2).tolist() == [[1, 2]]
    assert gradient.temperatures(logits, 0).item() == 2
    assert gradient.temperatures(logits, 3).item() == 3


def test_a_tie_is_no_success_and_gives_no_endless_temperature() -> None:
    logits, labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 0.0]]), torch.tensor([0, 0])
    assert gradient.fooled(logits, labels).tolist() == [False, True]
    assert gradient.temperatures(logits, 0)[0].item() == pytest.approx(0.01)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_two_classes_fall_exactly_where_the_border_is_in_the_linf_ball(
    name: str, share: float
) -> None:
    toy = linear(classes=2)
    data = rightly(toy, 60)
    away = distances(toy, data, "linf")
    epsilon = float(away.quantile(share))
    found = evade(attack(name), toy, *data, Budget(epsilon=epsilon))
    clear = (away - epsilon).abs() > 1e-4
    assert torch.equal(found.is_wrong[clear], away[clear] < epsilon)
    assert 0 < found.is_wrong.sum() < 60


def test_two_classes_fall_exactly_where_the_border_is_in_the_l2_ball() -> None:
    toy = linear(classes=2)
    data = free(toy)
    away = distances(toy, data, "l2")
    epsilon = float(away.median())
    for name in ("pgd", "apgd"):
        found = evade(attack(name), toy, *data, Budget(epsilon=epsilon, norm="l2", steps=100))
        clear = (away / epsilon - 1).abs() > 0.01
        assert torch.equal(found.is_wrong[clear], away[clear] < epsilon)


def test_targeted_apgd_finds_the_nearest_of_four_classes() -> None:
    toy = linear()
    data = rightly(toy, 60)
    away = distances(toy, data, "linf")
    epsilon = float(away.median())
    found = evade(attack("apgd", loss="dlr-targeted"), toy, *data, Budget(epsilon=epsilon))
    clear = (away / epsilon - 1).abs() > 0.02
    assert torch.equal(found.is_wrong[clear], away[clear] < epsilon)


def test_carlini_wagner_finds_the_distance_to_the_border() -> None:
    toy = linear()
    data = free(toy)
    found = evade(attack("carlini_wagner_l2"), toy, *data, Budget(norm="l2", steps=200))
    assert found.is_wrong.all()
    ratio = found.l2 / distances(toy, data, "l2")
    assert ratio.min() > 0.999
    assert ratio.max() < 1.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("name", "options"), IN_BALL)
def test_changes_stay_in_ball_and_box_and_images_as_they_were(
    name: str, options: dict[str, Any], norm: Norm
) -> None:
    toy, images, labels = trained(), *(part[:12] for part in digits()[1])
    kept = images.clone()
    budget = Budget(epsilon=0.05 if norm == "linf" else 0.5, norm=norm, steps=10, seed=3)
    state = torch.get_rng_state()
    found = attack(name, **options).perturb(toy, images, labels, budget)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    assert sizes(found - images, norm).max() <= budget.epsilon + 1e-6
    assert not torch.equal(found, images)
    torch.manual_seed(9)
    assert torch.equal(attack(name, **options).perturb(toy, images, labels, budget), found)


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_another_seed_starts_elsewhere(name: str) -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    ends = [
        attack(name).perturb(toy, images[:8], labels[:8], Budget(epsilon=0.05, steps=3, seed=seed))
        for seed in (0, 1)
    ]
    assert not torch.equal(*ends)


def test_a_ball_without_extent_changes_nothing() -> None:
    toy, (images, labels) = trained(), digits()[1]
    for name in ("pgd", "apgd"):
        found = attack(name).perturb(toy, images[:8], labels[:8], Budget(steps=3))
        assert torch.allclose(found, images[:8], atol=1e-7)


@pytest.mark.parametrize(("name", "options"), IN_BALL)
def test_who_else_is_fooled_changes_nothing(name: str, options: dict[str, Any]) -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    images, labels = images[:16], labels[:16].clone()
    budget = Budget(epsilon=0.05, steps=10)
    first = attack(name, **options).perturb(toy, images, labels, budget)
    labels[::2] = (labels[::2] + 1) % 10  # misread from the start: these leave at once
    other = attack(name, **options).perturb(toy, images, labels, budget)
    assert torch.allclose(other[1::2], first[1::2], atol=1e-6)


def test_without_a_random_start_a_batch_is_as_its_halves() -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    for component, budget in (
        (attack("pgd", random_start=False), Budget(epsilon=0.05, steps=20)),
        (attack("carlini_wagner_l2", first_c=0.1), Budget(norm="l2", steps=20)),
    ):
        whole = component.perturb(toy, images[:8], labels[:8], budget)
        halves = [
            component.perturb(toy, images[part], labels[part], budget)
            for part in (slice(0, 4), slice(4, 8))
        ]
        assert torch.allclose(torch.cat(halves), whole, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_more_steps_fool_no_less_of_a_linear_classifier(name: str, norm: Norm) -> None:
    toy = linear(classes=3)
    data = rightly(toy, 60)
    epsilon = float(distances(toy, data, norm).median())
    wins = [
        int(evade(attack(name), toy, *data, Budget(epsilon=epsilon, norm=norm, steps=steps))
            .is_wrong.sum())
        for steps in (2, 8, 32, 128)
    ]  # fmt: skip
    assert wins == sorted(wins)
    assert wins[-1] >= 25


def test_apgd_ends_at_the_greatest_loss_it_saw_which_is_no_less_than_that_of_pgd() -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    budget = Budget(epsilon=0.05, steps=100)
    pgd, apgd = (evade(attack(name), toy, images[:100], labels[:100], budget)
                 for name in ("pgd", "apgd"))  # fmt: skip
    both = ~pgd.is_wrong & ~apgd.is_wrong
    assert both.sum() > 50
    lost = [gradient.cross_entropy(e.logits[both], labels[:100][both]) for e in (pgd, apgd)]
    assert (lost[1] >= lost[0] - 0.01).float().mean() > 0.95


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_a_temperature_finds_gradients_behind_a_saturated_softmax(name: str) -> None:
    inner, (images, labels) = trained(), digits()[1]
    saturated = Toy(nn.Sequential(inner.net, _Times(1e4)), 10, inner.shape)
    budget = Budget(epsilon=0.1, steps=20)

    def success(toy: Toy, **options: Any) -> float:
        found = evade(attack(name, **options), toy, images[:60], labels[:60], budget)
        return float(found.is_wrong.float().mean())

    plain = success(inner)
    assert success(saturated) < plain - 0.3
    assert success(saturated, temperature=1e4) == pytest.approx(plain, abs=0.04)
    assert success(saturated, temperature=0.0) >= plain - 0.05
    assert success(saturated, loss="dlr") >= plain - 0.05


def test_carlini_wagner_with_a_temperature_breaks_huge_logits() -> None:
    inner, (images, labels) = trained(), digits()[1]
    saturated = Toy(nn.Sequential(inner.net, _Times(1e4)), 10, inner.shape)
    budget = Budget(norm="l2", steps=200)
    plain, scaled = (
        evade(attack("carlini_wagner_l2", temperature=t, first_c=0.1), toy, images[:4], labels[:4],
              budget)
        for toy, t in ((inner, 1.0), (saturated, 1e4))
    )  # fmt: skip
    assert torch.allclose(plain.l2, scaled.l2, rtol=1e-2)
    own = evade(attack("carlini_wagner_l2", temperature=0.0), saturated, images[:4], labels[:4],
                budget)  # fmt: skip
    assert own.is_wrong.all()


def test_confidence_is_a_margin_of_logits() -> None:
    toy, (images, labels) = trained(), digits()[1]
    budget = Budget(norm="l2", steps=200)
    plain, sure = (
        evade(attack("carlini_wagner_l2", confidence=k, first_c=0.1), toy, images[:4], labels[:4],
              budget)
        for k in (0.0, 2.0)
    )  # fmt: skip
    assert sure.is_wrong.all()
    assert gradient.margins(sure.logits, labels[:4]).min() > 2 - 1e-4
    assert sure.l2.mean() > plain.l2.mean()


def test_what_is_misread_already_is_as_near_as_can_be() -> None:
    toy, (images, labels) = trained(), digits()[1]
    wrong = (labels[:4] + 1) % 10
    found = attack("carlini_wagner_l2").perturb(toy, images[:4], wrong, Budget(steps=5))
    assert torch.equal(found, images[:4])


def test_an_empty_batch_comes_back_empty() -> None:
    toy, (images, labels) = trained(), digits()[1]
    for name in ("pgd", "carlini_wagner_l2"):
        found = attack(name).perturb(toy, images[:0], labels[:0], Budget(steps=2))
        assert found.shape == (0, 1, 8, 8)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class _NoNumber(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits + (0 * images).sqrt().flatten(1).sum(1, keepdim=True)


class _Cut(_NoNumber):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.detach())
        return logits


class _Flips(_NoNumber):
    """Answers in turn with the net's logits and with three times them."""

    turn = 0

    def forward(self, images: Tensor) -> Tensor:
        self.turn += 1
        logits: Tensor = self.net(images)
        return logits * (1 + 2 * (self.turn % 2))


@pytest.mark.parametrize("name", ["pgd", "apgd", "carlini_wagner_l2", "fab"])
def test_gradients_that_are_no_numbers_are_named(name: str) -> None:
    inner = linear()
    toy, data = Toy(_NoNumber(inner.net), 4, inner.shape), rightly(inner, 3)
    with pytest.raises(SafetyBenchError) as caught:
        attack(name).perturb(toy, *data, Budget(epsilon=0.1, norm="l2"))
    assert str(caught.value) == (
        "the gradient of toy is no number on 3 of 3 images; "
        "attack it by scores or decisions instead"
    )


def test_a_network_without_gradients_is_named() -> None:
    inner = linear()
    toy = Toy(_Cut(inner.net).requires_grad_(False), 4, inner.shape)
    with pytest.raises(SafetyBenchError) as caught:
        attack("pgd").perturb(toy, *rightly(inner, 3), Budget(epsilon=0.1))
    assert str(caught.value) == (
        "the logits of toy have no gradient; attack it by scores or decisions instead"
    )


def test_gradients_of_a_randomised_model_are_means() -> None:
    inner = linear()
    toy, data = Toy(_Flips(inner.net), 4, inner.shape), rightly(inner, 3)
    one = gradient.slope(inner, data.images, lambda z: gradient.margins(z, data.labels))
    mean = gradient.slope(toy, data.images, lambda z: gradient.margins(z, data.labels), 4)
    assert torch.allclose(mean.gradient, 2 * one.gradient)
    assert torch.allclose(mean.logits, 2 * one.logits)
    assert toy.asked == 12


@pytest.mark.parametrize(
    ("name", "loss", "classes", "least"),
    [("pgd", "dlr", 2, 3), ("apgd", "dlr", 2, 3), ("apgd", "dlr-targeted", 3, 4)],
)
def test_dlr_is_refused_for_few_classes(name: str, loss: str, classes: int, least: int) -> None:
    toy = linear(classes=classes)
    with pytest.raises(SafetyBenchError) as caught:
        attack(name, loss=loss).perturb(toy, *rightly(toy, 2), Budget(epsilon=0.1))
    assert str(caught.value) == (
        f"loss {loss} needs {least} classes or more, toy has {classes}; use loss margin"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pgd", {"loss": "x"}, "loss must be one of ce, dlr, margin, got 'x'"),
        ("apgd", {"loss": "x"}, "loss must be one of ce, dlr, dlr-targeted, margin, got 'x'"),
        ("pgd", {"rel_step": 3.0}, "rel_step is a fraction of epsilon in (0, 2], or 0, got 3.0"),
        ("pgd", {"restarts": 0}, "restarts must be 1 or more, got 0"),
        ("pgd", {"temperature": -1.0},
         "temperature must be positive, or 0 for each image's, got -1.0"),
        ("apgd", {"rho": 1.0}, "rho is a share of steps in (0, 1), got 1.0"),
        ("carlini_wagner_l2", {"confidence": -1.0}, "confidence must be 0 or more, got -1.0"),
        ("carlini_wagner_l2", {"lr": 0.0}, "lr and first_c must be positive, got 0.0, 0.001"),
        ("carlini_wagner_l2", {"searches": 0}, "searches must be 1 or more, got 0"),
    ],
)  # fmt: skip
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    component = type(attack(name))
    with pytest.raises(ValueError, match=r".") as caught:
        component(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["pgd", "apgd", "carlini_wagner_l2"])
def test_default_construction_repr_and_pickle(name: str) -> None:
    component = attack(name)
    assert eval(repr(component), {type(component).__name__: type(component)}) == component
    assert pickle.loads(pickle.dumps(component)) == component


class _Float(nn.Module):
    """ART hands over doubles."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.float())
        return logits


def by_art(toy: Toy, data: Labelled) -> Tensor:
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        _Float(toy.net), nn.CrossEntropyLoss(), toy.shape, toy.classes, clip_values=(0, 1),
        device_type="cpu",
    )  # fmt: skip
    method = CarliniL2Method(
        estimator, binary_search_steps=9, max_iter=10, initial_const=1.0, batch_size=len(data[0]),
        verbose=False,
    )  # fmt: skip
    return torch.tensor(method.generate(data.images.numpy(), y=data.labels.numpy()))


@pytest.mark.parametrize("which", ["linear", "trained"])
def test_carlini_wagner_agrees_with_art(which: str) -> None:
    if which == "linear":
        toy = linear()
        data = free(toy, 30)
    else:
        # ART's plain descent cannot leave pixels of exactly 0 or 1, where tanh is flat.
        toy, images = trained(0.1), 0.2 + 0.6 * digits()[1].images[:10]
        data = Labelled(images, toy.logits(images).argmax(1))
    ours = evade(attack("carlini_wagner_l2", first_c=0.1), toy, *data, Budget(norm="l2", steps=100))
    theirs = by_art(toy, data)
    assert ours.is_wrong.all()
    assert (toy.logits(theirs).argmax(1) != data.labels).all()
    ratio = float(sizes(theirs - data.images, "l2").mean() / ours.l2.mean())
    assert 0.99 < ratio < (1.05 if which == "linear" else 1.15), ratio
