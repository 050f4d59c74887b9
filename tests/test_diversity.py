"""Distances and variety of synthetic features and labels whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from safetybench.zoo import diversity, quality
from safetybench.zoo.world import HEADS

PROMPTS, WIDTH, CELLS = 256, 16, 48


def normal(seed: int, count: int = PROMPTS, draws: int = 2, spread: float = 0.0) -> Tensor:
    """Return features (draws, count, WIDTH); spread: how far apart prompts are, the same ones."""
    prompts = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(draws, count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return spread * prompts + noise


# KID


def test_kid_of_one_distribution_is_zero_within_its_interval() -> None:
    found = [diversity.kid(normal(2 * i + 1), normal(2 * i + 2)) for i in range(30)]
    mean = sum(f.value for f in found) / len(found)
    error = math.sqrt(sum((f.value - mean) ** 2 for f in found) / 29 / 30)
    assert abs(mean) < 3 * error
    assert sum(f.low <= 0 <= f.high for f in found) >= 27


def test_prompts_that_differ_from_one_another_leave_kid_unbiased() -> None:
    """With the pairs of one prompt in the cross term, this would be clearly below zero."""
    found = [
        diversity.kid(normal(2 * i + 1, 32, spread=3.0), normal(2 * i + 2, 32, spread=3.0)).value
        for i in range(60)
    ]
    mean = sum(found) / 60
    error = math.sqrt(sum((f - mean) ** 2 for f in found) / 59 / 60)
    assert abs(mean) < 3 * error


def test_kid_grows_with_a_shift() -> None:
    near, far = (diversity.kid(normal(1) + shift, normal(2)) for shift in (0.3, 0.6))
    assert 0 < near.low < near.high < far.low
    assert diversity.kid(normal(1), normal(2)).value < near.value


def test_kid_is_that_of_torchmetrics_but_for_the_pairs_of_one_prompt() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(1)[:1].double() + 0.4, normal(2)[:1].double()
    y = y / y.square().mean().sqrt()  # then nothing is scaled
    n = x.shape[1]
    same = ((x[0] * y[0]).sum(1) / WIDTH + 1).pow(3)
    every = ((x[0] @ y[0].T) / WIDTH + 1).pow(3)
    correction = 2 * every.mean() - 2 * (every.sum() - same.sum()) / (n * (n - 1))
    other = poly_mmd(x[0], y[0], degree=3, gamma=None, coef=1.0)
    assert diversity.kid(x, y).value == pytest.approx(float(other + correction), rel=1e-9)


def test_kid_needs_three_prompts() -> None:
    with pytest.raises(ValueError, match=r"^kid needs at least 3 prompts, got 2$"):
        diversity.kid(normal(1, 2), normal(2, 2))


# Precision and recall


def test_dropped_modes_cost_recall_and_noise_costs_precision() -> None:
    modes = 8 * torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(9))
    at = torch.arange(PROMPTS) % 8
    real = modes[at] + normal(1)[0]
    same = diversity.precision_recall(modes[at] + normal(2)[0], real)
    dropped = diversity.precision_recall(modes[at % 2] + normal(3)[0], real)
    noisy = diversity.precision_recall(modes[at] + 4 * normal(4)[0], real)
    assert min(same) > 0.7
    assert dropped.recall < 0.3 < same.recall
    assert dropped.precision > 0.7
    assert noisy.precision < 0.1


def test_precision_and_recall_of_four_points_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii of k = 1: 1, 1, 1, 8
    images = torch.tensor([[0.5], [3.5], [-4.0], [-5.0]])  # radii: 3, 3, 1, 1
    found = diversity.precision_recall(images, real, k=1)
    assert found == (0.5, 0.75)
    with pytest.raises(ValueError, match=r"^precision needs more than 4 images, got 4, 4$"):
        diversity.precision_recall(images, real, k=4)


# Rare combinations


def zipf(exponent: float = 1.0) -> Tensor:
    weights = torch.arange(1, CELLS + 1).double() ** -exponent
    return weights / weights.sum()


def labels(shares: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.multinomial(shares, 2 * PROMPTS, replacement=True, generator=generator)
    return drawn.reshape(2, PROMPTS)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_rare_ratio_of_one_distribution_is_one(
    exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where all cells are alike and "rare" is chance, which is where a naive count errs."""
    monkeypatch.setattr(diversity, "clustered_bootstrap", lambda *_, **__: diversity.Estimate(0, 0, 1))  # fmt: skip # noqa: E501
    shares, rng = zipf(exponent), torch.Generator().manual_seed(1)
    student, teacher, naive = 0.0, 0.0, 0.0
    for _ in range(150):
        real, images = labels(shares, rng), labels(shares, rng)
        found = diversity.rare_shares(images, real, CELLS)
        student += found["student"]["rate"] / 150
        teacher += found["teacher"]["rate"] / 150
        naive += diversity.rare_cells(real[0], CELLS)[real[0]].double().mean().item() / 150
    assert student / teacher == pytest.approx(1, abs=0.03)
    assert student / naive > 1.1  # regression to the mean, which another draw does not have


def test_a_model_without_the_rare_cells_has_a_ratio_of_zero() -> None:
    rng = torch.Generator().manual_seed(2)
    shares = torch.cat([torch.full((8,), 0.08125), torch.full((40,), 0.00875)]).double()
    real = labels(shares, rng)
    kept = torch.where(torch.arange(CELLS) < 8, shares, 0.0)
    found = diversity.rare_shares(labels(kept, rng), real, CELLS)
    assert found["ratio"] == found["low"] == found["student"]["rate"] == 0
    assert 0 < found["high"] < 0.2
    assert 0.2 < found["teacher"]["rate"] < 0.4
    halved = diversity.rare_shares(labels((shares + kept / kept.sum()) / 2, rng), real, CELLS)
    assert 0.3 < halved["ratio"] < 0.7
    assert halved["low"] < halved["ratio"] < halved["high"] < 1


def test_the_interval_of_the_ratio_holds_one_where_nothing_changed() -> None:
    rng, held = torch.Generator().manual_seed(3), 0
    for _ in range(20):
        found = diversity.rare_shares(labels(zipf(), rng), labels(zipf(), rng), CELLS)
        held += found["low"] <= 1 <= found["high"]
    assert held >= 17


def test_rare_cells_hold_at_most_the_mass_and_the_unseen_are_among_them() -> None:
    seen = torch.tensor([0] * 5 + [1] * 3 + [2, 3, -1, -1])
    assert diversity.rare_cells(seen, 5).tolist() == [False, False, True, True, True]
    assert diversity.rare_cells(torch.tensor([0, 1, 2]), 3).sum() == 0
    ties = diversity.rare_cells(torch.arange(8), 8)
    assert ties.sum() == 2
    assert ties.tolist() != [True, True, *[False] * 6]  # by lot, not by order


def test_ratios_at_the_edges_have_their_interval() -> None:
    def share(rate: float | None, low: float, high: float) -> dict[str, Any]:
        return {"rate": rate, "low": low, "high": high, "n": 9}

    none = {"ratio": None, "low": None, "high": None}
    half = share(0.5, 0.4, 0.6)
    assert diversity.ratio_of_shares(share(None, 0, 1), half) == none
    assert diversity.ratio_of_shares(half, share(0.0, 0.0, 0.1)) == none
    assert diversity.ratio_of_shares(half, share(0.2, 0.0, 0.4))["high"] is None
    low, high = (diversity.ratio_of_shares(half, half)[end] for end in ("low", "high"))
    assert low is not None
    assert high is not None
    assert low * high == pytest.approx(1)  # as a ratio and its inverse must be
    assert 0.7 < low < 1


def test_images_the_judge_rejects_are_left_out() -> None:
    real = labels(zipf(), torch.Generator().manual_seed(4))
    images = labels(zipf(), torch.Generator().manual_seed(5))
    images[0] = -1
    found = diversity.rare_shares(images, real, CELLS)
    assert (found["student"]["n"], found["teacher"]["n"]) == (PROMPTS, PROMPTS)
    nothing = diversity.rare_shares(torch.full_like(images, -1), real, CELLS)
    assert nothing["student"] == {"rate": None, "low": 0.0, "high": 1.0, "n": 0}
    assert nothing["ratio"] is None
    with pytest.raises(ValueError, match=r"^real must hold two draws of each prompt, got 1$"):
        diversity.rare_shares(images, real[:1], CELLS)


def test_entropy_and_distinct_labels_by_hand() -> None:
    assert diversity.entropy_bits(torch.tensor([0, 0, 1, 2, -1]), 4) == pytest.approx(1.5)
    assert diversity.entropy_bits(torch.tensor([3, 3, -1]), 4) == 0
    assert diversity.entropy_bits(torch.tensor([-1]), 4) == 0
    seen = torch.tensor([0, 0, 2, -1])
    assert diversity.distinct(seen, 3) == pytest.approx(2)
    assert diversity.distinct(seen, 2) == pytest.approx(5 / 3)  # of three pairs one is alike
    assert diversity.distinct(seen, 1) == pytest.approx(1)
    assert diversity.distinct(seen, 0) == 0
    with pytest.raises(ValueError, match=r"^among must be at most the 3 images with a label, got"):
        diversity.distinct(seen, 4)


# The whole measurement


class Painter:
    """A target whose image is its labels: one pixel for each head, drawn from the seed."""

    device = "cpu"

    def __init__(self, styles: int = 6, right: bool = True) -> None:
        self.styles, self.right, self.nfe, self.seeds = styles, right, 0, list[int]()

    def generate(self, prompts: list[str], seeds: list[int]) -> Tensor:
        from safetybench.zoo.captions import SYNONYMS

        self.nfe += 2 * len(prompts)
        self.seeds += seeds
        images = torch.zeros(len(prompts), 3, 2, 2)
        for image, text, seed in zip(images, prompts, seeds, strict=True):
            rng = torch.Generator().manual_seed(seed)
            for place, (head, classes) in enumerate(HEADS.items()):
                words = [i for i, c in enumerate(classes) if set(SYNONYMS[c]) & set(text.split())]
                limit = self.styles if head == "style" else len(classes)
                free = int(torch.randint(limit, (), generator=rng))
                image[0].view(-1)[place] = words[0] if words and self.right else free
            image[1:] = torch.rand(2, 2, 2, generator=rng)
        return images


class Reader:
    """A judge that reads what a Painter drew."""

    world = 0.1

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        found = {
            head: 9.0 * torch.nn.functional.one_hot(images[:, 0].flatten(1)[:, i].long(), len(c))
            for i, (head, c) in enumerate(HEADS.items())
        }
        return {**found, "world": torch.tensor([0.0, 9.0]).expand(len(images), 2)}


def without_times(figures: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in figures["cost"].items() if "cpu" not in k}
    return {**figures, "cost": kept}


def test_a_student_is_measured_against_the_teacher_on_other_seeds() -> None:
    import json

    teacher, student, judge = Painter(), Painter(styles=3), Reader()
    reference = quality.reference(teacher, judge, count=128)
    assert reference.named == 32
    assert len(reference.asked) == 128
    assert reference.drawn.features.shape == (2, 128, 12)
    assert reference.drawn.nfe == 2
    own = set(teacher.seeds)
    assert min(own) >= 1_000_000_000  # no training draws noise from these
    found = quality.measure_student(student, reference, judge)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert not own & set(student.seeds[:256])
    assert (found["prompts"], found["images"]) == (128, 256)
    assert found["rejected"]["student"]["free"]["rate"] == 0
    assert found["alignment"]["rate"] > 0.95
    assert found["modes"]["student"] < found["modes"]["teacher"]
    assert found["rare"]["ratio"] < 1
    style = found["entropy_bits"]["style"]
    assert style["student"] < math.log2(3) + 1e-9 < style["teacher"]
    kid = found["kid_judge_features"]
    assert kid["floor"]["low"] < 0 < kid["low"] < kid["value"] < kid["high"]
    cost = found["cost"]
    assert (cost["nfe"], cost["teacher_nfe"], cost["batch"], cost["threads"]) == (2, 2, 16, 1)
    assert cost["cpu_ms"] > 0
    again = quality.measure_student(student, quality.reference(teacher, judge, 128), judge)
    assert without_times(again) == without_times(found)


def test_a_teacher_against_itself_lost_nothing_and_a_deaf_model_its_alignment() -> None:
    judge = Reader()
    reference = quality.reference(Painter(), judge, count=256)
    found = quality.measure_student(Painter(), reference, judge)
    assert found["rare"]["low"] < 1 < found["rare"]["high"]
    assert found["kid_judge_features"]["low"] < 0 < found["kid_judge_features"]["high"]
    assert found["recall"]["value"] == pytest.approx(found["recall"]["ceiling"], abs=0.1)
    deaf = quality.measure_student(Painter(right=False), reference, judge)
    chance = sum(1 / len(classes) for classes in HEADS.values()) / 4
    assert deaf["alignment"]["low"] < chance < deaf["alignment"]["high"]
    assert deaf["alignment"]["teacher"] > 0.95


def test_a_model_that_draws_nothing_of_this_world_keeps_no_variety() -> None:
    class Blind(Reader):
        world = 1.1

    reference = quality.reference(Painter(), Reader(), count=64)
    found = quality.measure_student(Painter(), reference, Blind())
    assert found["rejected"]["student"]["named"]["rate"] == 1
    assert found["rejected"]["teacher"]["named"]["rate"] == 0
    assert found["rare"]["ratio"] is found["repeats"]["student"]["rate"] is None
    assert found["modes"]["student"] == 0


def test_a_reference_of_too_few_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^count must be at least 32, got 31$"):
        quality.reference(Painter(), Reader(), count=31)


def test_object_prompts_name_the_object_and_nothing_else() -> None:
    from safetybench.zoo.captions import SYNONYMS, is_evaluation

    asked = quality._object_prompts(40, seed=3)
    for each in asked:
        words = set(each.text.split())
        named = {c for c, synonyms in SYNONYMS.items() if words & set(synonyms)}
        assert named == set(each.names.values())
        assert is_evaluation(each.text)
