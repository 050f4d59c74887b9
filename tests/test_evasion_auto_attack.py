"""FAB, Square and AutoAttack: closed forms of a linear classifier, and who wins which image."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from safetybench.class_contracts import Norm
from safetybench.contracts import Budget, Evasion
from safetybench.registry import create
from safetybench.vision.ball import sizes
from safetybench.vision.evading import evade
from tests.toys_classifier import Toy, digits, linear, rightly, trained

plane: Any = import_module("safetybench.attacks.evasion._plane")
proposals: Any = import_module("safetybench.attacks.evasion._square")
NORMS: tuple[Norm, ...] = ("linf", "l2")


def attack(name: str, **options: Any) -> Evasion:
    component = create(f"attacks/evasion/{name}", options)
    assert isinstance(component, Evasion)
    return component


def border(toy: Toy, image: Tensor, label: int, other: int, norm: Norm) -> float:
    """Return the distance from an image to a border of a linear classifier, inside [0, 1]."""
    weight, bias = (toy.net.get_parameter(f"1.{part}").detach() for part in ("weight", "bias"))
    normal = (weight[other] - weight[label]).double().numpy()
    missing = float((bias[label] - bias[other]).double()) - float(normal @ image.flatten().numpy())
    return by_scipy(image.flatten().double().numpy(), normal, missing, norm)


def by_scipy(point: np.ndarray, normal: np.ndarray, missing: float, norm: Norm) -> float:
    """Return the size of the smallest change, by a linear program or by the dual's one root."""
    if norm == "linf":
        size, ones = len(point), np.ones((len(point), 1))
        sides = np.block([[np.eye(size), -ones], [-np.eye(size), -ones]])
        bounds = [(-x, 1 - x) for x in point] + [(0, None)]
        found = linprog(
            [*[0] * size, 1], A_ub=sides, b_ub=np.zeros(2 * size), A_eq=[[*normal, 0]],
            b_eq=[missing], bounds=bounds,
        )  # fmt: skip
        return float(found.fun)

    def change(pace: float) -> np.ndarray:
        moved: np.ndarray = np.clip(point + pace * normal, 0, 1) - point
        return moved

    pace: Any = brentq(lambda p: float(normal @ change(p)) - missing, -1e6, 1e6, xtol=1e-14)
    return float(np.linalg.norm(change(pace)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.95), norm=st.sampled_from(NORMS))
def test_the_change_onto_a_plane_is_the_smallest(seed: int, share: float, norm: Norm) -> None:
    generator = torch.Generator().manual_seed(seed)
    point, normal = torch.rand(1, 7, generator=generator), torch.randn(1, 7, generator=generator)
    normal[0, seed % 7] = 0
    point[0, (seed + 1) % 7] = float(seed % 2)
    reachable = torch.where(normal > 0, normal * (1 - point), -normal * point).sum()
    sign = 1 if seed % 3 else -1
    if sign < 0:
        reachable = torch.where(normal < 0, -normal * (1 - point), normal * point).sum()
    missing = sign * share * reachable
    change = plane.reach(point, normal, missing[None], norm)
    assert (point + change).min() >= -1e-6
    assert (point + change).max() <= 1 + 1e-6
    assert float((normal * change).sum()) == pytest.approx(float(missing), abs=1e-4)
    size = float(change.abs().max() if norm == "linf" else change.norm())
    wanted = by_scipy(point[0].double().numpy(), normal[0].double().numpy(), float(missing), norm)
    assert size == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_reach_is_met_at_the_nearest_corner(norm: Norm) -> None:
    point, normal = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, -2.0]])
    change = plane.reach(point, normal, torch.tensor([9.0]), norm)
    assert torch.allclose(point + change, torch.tensor([[1.0, 0.0]]))
    assert not plane.reach(point, 0 * normal, torch.tensor([9.0]), norm).any()
    assert not plane.reach(point, normal, torch.tensor([0.0]), norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_distance_to_the_nearest_border(norm: Norm) -> None:
    toy = linear()
    data = rightly(toy, 8)
    found = evade(attack("fab"), toy, *data, Budget(norm=norm))
    assert found.is_wrong.all()
    for image, label, size in zip(*data, getattr(found, norm).tolist(), strict=True):
        label = int(label)
        away = min(border(toy, image, label, k, norm) for k in range(4) if k != label)
        assert away * 0.999 <= size <= away * 1.02


@pytest.mark.parametrize("norm", NORMS)
def test_fab_held_to_a_ball_stops_where_it_fits(norm: Norm) -> None:
    toy = linear()
    data = rightly(toy, 40)
    free = evade(attack("fab"), toy, *data, Budget(norm=norm))
    size: Tensor = getattr(free, norm)
    epsilon = float(size.median())
    held = evade(attack("fab", restarts=2), toy, *data, Budget(norm=norm, epsilon=epsilon))
    clear = (size / epsilon - 1).abs() > 0.02
    assert torch.equal(held.is_wrong[clear], size[clear] < epsilon)


def test_fab_is_the_same_in_parts_and_leaves_what_is_misread() -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    budget = Budget(norm="l2", steps=10)
    whole = attack("fab").perturb(toy, images[:8], labels[:8], budget)
    halves = [
        attack("fab").perturb(toy, images[part], labels[part], budget)
        for part in (slice(0, 4), slice(4, 8))
    ]
    assert torch.allclose(torch.cat(halves), whole, atol=1e-4)
    wrong = (labels[:4] + 1) % 10
    assert torch.equal(attack("fab").perturb(toy, images[:4], wrong, budget), images[:4])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "options"), [("fab", {"restarts": 2}), ("square", {}), ("auto_attack", {})]
)
def test_changes_stay_in_ball_and_box_and_images_as_they_were(
    name: str, options: dict[str, Any], norm: Norm
) -> None:
    toy, images, labels = trained(), *(part[:12] for part in digits()[1])
    kept, epsilon = images.clone(), 0.2 if norm == "linf" else 1.0
    budget = Budget(epsilon=epsilon, norm=norm, steps=5, queries=40, seed=3)
    state = torch.get_rng_state()
    found = evade(attack(name, **options), toy, images, labels, budget)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert sizes(found.images - images, norm).max() <= epsilon + 1e-5
    assert found.is_wrong.any()
    torch.manual_seed(9)
    again = evade(attack(name, **options), toy, images, labels, budget)
    assert torch.equal(again.images, found.images)


@pytest.mark.parametrize("norm", NORMS)
def test_square_stays_in_the_ball_without_being_held_to_it(norm: Norm) -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    budget = Budget(epsilon=0.05 if norm == "linf" else 0.3, norm=norm, queries=60)
    found = attack("square").perturb(toy, images[:20], labels[:20], budget)
    assert sizes(found - images[:20], norm).max() <= budget.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_square_asks_as_often_as_it_may_and_no_more_once_all_are_fooled() -> None:
    toy = linear()
    data = rightly(toy, 5)
    before = toy.asked
    attack("square").perturb(toy, *data, Budget(queries=30))  # epsilon 0: nobody can be fooled
    assert toy.asked == before + 30 * 5
    asked = toy.asked
    attack("square").perturb(toy, *data, Budget(epsilon=1.0, queries=300))
    assert toy.asked - asked < 300 * 5


@pytest.mark.parametrize("norm", NORMS)
def test_square_finds_more_with_more_queries_and_most_of_what_a_gradient_finds(norm: Norm) -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    images, labels = images[:60], labels[:60]
    epsilon = 0.15 if norm == "linf" else 1.0
    wins = [
        int(evade(attack("square"), toy, images, labels,
                  Budget(epsilon=epsilon, norm=norm, queries=queries)).is_wrong.sum())
        for queries in (1, 20, 600)
    ]  # fmt: skip
    assert wins[0] < wins[1] < wins[2]
    seen = evade(attack("apgd"), toy, images, labels, Budget(epsilon=epsilon, norm=norm))
    assert wins[2] >= 0.75 * seen.is_wrong.sum()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 3), (1, 7, 5), (3, 28, 32)])
def test_square_proposes_for_every_shape(shape: tuple[int, int, int]) -> None:
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for norm in NORMS:
        first, propose = proposals.stripes, proposals.recoloured
        if norm == "l2":
            first, propose = proposals.pyramids, proposals.moved
        best = first(images, 0.1, generator)
        for part in (0.8, 0.1, 0.001):
            best = propose(images, best, part, 0.1, generator)
            assert torch.isfinite(best).all()
            assert sizes(best - images, norm).max() <= 0.1 + 1e-6


def test_windows_shrink_on_the_published_schedule() -> None:
    turns = (0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    halved = [0.8 / proposals.share(turn, 10_000, 0.8) for turn in turns]
    assert halved == [1, 1, 2, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert proposals.share(6, 1000, 0.8) == 0.2


def test_pyramids_are_as_wide_as_published_and_of_size_one() -> None:
    found = proposals._pyramid(3, 3)
    assert torch.allclose(found / found[0, 0], torch.tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1.0]]))
    pair = proposals._pair(5, found, torch.Generator().manual_seed(0))
    assert pair.shape == (5, 5)
    assert float(pair.square().sum()) == pytest.approx(1)
    assert pair.min() < 0 < pair.max()


def test_auto_attack_is_no_weaker_than_any_part_and_says_who_won() -> None:
    toy, (images, labels) = trained(0.1), digits()[1]
    images, labels = images[:30], labels[:30]
    budget = Budget(epsilon=0.1, steps=40, queries=100)
    parts = create("attacks/evasion/auto_attack").parts(toy, images, labels, budget)
    is_wrong = toy.logits(parts.images).argmax(1) != labels
    was_right = toy.logits(images).argmax(1) == labels
    assert [bool(name) for name in parts.won_by] == (is_wrong & was_right).tolist()
    assert set(parts.won_by) <= {"", "apgd-ce", "apgd-t", "fab-t", "square"}
    robust = torch.tensor([not name for name in parts.won_by])
    assert torch.equal(parts.images[robust], images[robust])
    for name, options in (("apgd", {}), ("apgd", {"loss": "dlr-targeted"}), ("fab", {})):
        alone = evade(attack(name, **options), toy, images, labels, budget)
        assert not (alone.is_wrong & ~is_wrong).any()


class _Steps(nn.Module):
    """Rounds what it gets, so that gradients are exactly 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net((images * 50).round() / 50)
        return logits + 0 * images.sum()


def test_square_wins_where_gradients_are_masked() -> None:
    inner, (images, labels) = trained(), digits()[1]
    toy = Toy(_Steps(inner.net), 10, inner.shape)
    budget = Budget(epsilon=0.15, steps=5, queries=300)
    parts = create("attacks/evasion/auto_attack").parts(toy, images[:30], labels[:30], budget)
    assert parts.won_by.count("square") > 10
    assert parts.won_by.count("fab-t") == 0


@pytest.mark.parametrize("version", ["standard", "rand", "plus"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_auto_attack_takes_few_classes(classes: int, version: str) -> None:
    toy = linear(classes=classes)
    data = rightly(toy, 20)
    budget = Budget(epsilon=0.1, steps=10, queries=30)
    found = evade(attack("auto_attack", version=version), toy, *data, budget)
    exact = evade(attack("fab", restarts=2), toy, *data, Budget(epsilon=0.1))
    assert int(found.is_wrong.sum()) >= int(exact.is_wrong.sum())
    assert found.is_wrong.any()


def test_the_randomised_version_averages_over_answers() -> None:
    toy = linear()
    data = rightly(toy, 4)
    before, budget = (
        toy.asked,
        Budget(epsilon=0.001, steps=3),
    )  # too small to fool: both parts take all their steps
    component = create("attacks/evasion/auto_attack", {"version": "rand"})
    assert set(component.parts(toy, *data, budget).won_by) == {""}
    own = 2 * 2 * 4  # each part's images are read before and after
    # 20 draws of 4 images at the start, at each of 3 steps, and at the best point.
    assert toy.asked == before + own + 2 * (4 + 1) * 20 * 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("auto_attack", {"version": "x"}, "version must be one of standard, rand, plus, got 'x'"),
        ("fab", {"restarts": 0}, "restarts must be 1 or more, got 0"),
        ("fab", {"n_targets": 0}, "n_targets must be 1 or more, got 0"),
        ("square", {"p_init": 0.0}, "p_init is a share of the image in (0, 1], got 0.0"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    component = type(attack(name))
    with pytest.raises(ValueError, match=r".") as caught:
        component(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["fab", "square", "auto_attack"])
def test_default_construction_repr_and_pickle(name: str) -> None:
    component = attack(name)
    assert eval(repr(component), {type(component).__name__: type(component)}) == component
    assert pickle.loads(pickle.dumps(component)) == component
