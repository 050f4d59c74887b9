"""Attacks on classifiers: ours against ART's of the same name, at the same steps and searches.

The classifier is small and trained here on scikit-learn's digits, drawn in grey from 0.2 to 0.8:
ART's Carlini-Wagner descends in the pixels' inverse tanh, and cannot leave 0 or 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from safetybench.contracts import Budget, Labelled
from safetybench.registry import create

EPSILON, SEARCHES, FIRST_C = 0.05, 9, 0.1


class EvasionRow(NamedTuple):
    """One attack both ways, in seconds of this process.

    success: share of images misread; l2: mean size of their changes.
    """

    name: str
    images: int
    ours_s: float
    art_s: float
    ours_success: float
    art_success: float
    ours_l2: float
    art_l2: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.art_s / self.ours_s

    @property
    def same(self) -> bool:
        """Tell whether ours is no weaker: as many images, and in Carlini-Wagner as near."""
        is_near = not self.name.startswith("CW") or self.ours_l2 <= 1.05 * self.art_l2
        return self.ours_success >= self.art_success - 0.02 and is_near


class Reader:
    """A classifier of (1, 8, 8) digits, trained for a second or two."""

    name, classes, shape = "digits", 10, (1, 8, 8)

    def __init__(self, data: Labelled, updates: int = 300) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
            )  # fmt: skip
        optimiser = torch.optim.Adam(self.net.parameters(), lr=0.005)
        for _ in range(updates):
            chosen = torch.randint(len(data.images), (64,), generator=generator)
            loss = nn.functional.cross_entropy(self.net(data.images[chosen]), data.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.net.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return torch.device("cpu")

    def logits(self, images: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        found: Tensor = self.net(images)
        return found

    def for_art(self) -> Any:
        """Return ART's view of the network; ART hands over doubles."""
        from art.estimators.classification import PyTorchClassifier

        return PyTorchClassifier(
            nn.Sequential(_Single(), self.net), nn.CrossEntropyLoss(), self.shape, self.classes,
            clip_values=(0, 1), device_type="cpu",
        )  # fmt: skip


class _Single(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float()


def digits() -> Labelled:
    """Return scikit-learn's digits in grey, (1797, 1, 8, 8), in a fixed random order."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(0.2 + 0.6 * found.images / 16, dtype=torch.float32)[:, None]
    return Labelled(images[order], torch.tensor(found.target, dtype=torch.int64)[order])


def rows(count: int, steps: int) -> list[EvasionRow]:
    """Compare Carlini-Wagner with ART's in one batch and in its default of 1, and PGD."""
    from art.attacks.evasion import CarliniL2Method, ProjectedGradientDescentPyTorch

    data = digits()
    target = Reader(data)
    images = data.images[-count:]
    given = Labelled(images, target.logits(images).argmax(1))
    estimator = target.for_art()

    def by_art(method: Any, **options: Any) -> Callable[[], Tensor]:
        made = method(estimator, verbose=False, **options)
        return lambda: torch.tensor(made.generate(images.numpy(), y=given.labels.numpy()))

    def by_us(name: str, budget: Budget, **options: Any) -> Callable[[], Tensor]:
        made = create(f"attacks/evasion/{name}", options)
        return lambda: made.perturb(target, *given, budget)

    cw = by_us("carlini_wagner_l2", Budget(steps=steps, norm="l2"), first_c=FIRST_C)
    work = {"binary_search_steps": SEARCHES, "max_iter": steps, "initial_const": FIRST_C}
    pgd = by_us("pgd", Budget(steps=40, epsilon=EPSILON), random_start=False)
    theirs = by_art(
        ProjectedGradientDescentPyTorch, eps=EPSILON, eps_step=2.5 * EPSILON / 40, max_iter=40,
        batch_size=count,
    )  # fmt: skip
    return [
        _compared(f"CW-L2, ART in batches of {size}", target, given, cw, way)
        for size, way in (
            (count, by_art(CarliniL2Method, batch_size=count, **work)),
            (1, by_art(CarliniL2Method, batch_size=1, **work)),
        )
    ] + [_compared("PGD-40", target, given, pgd, theirs)]


def _compared(
    name: str, target: Reader, given: Labelled, ours: Callable[[], Tensor],
    art: Callable[[], Tensor],
) -> EvasionRow:  # fmt: skip
    ours()  # the first call pays for what torch sets up
    seconds, success, sizes = [], [], []
    for way in (ours, art):
        begun = time.process_time()
        found = way()
        seconds.append(time.process_time() - begun)
        is_wrong = target.logits(found).argmax(1) != given.labels
        success.append(float(is_wrong.float().mean()))
        change = (found - given.images)[is_wrong].flatten(1)
        sizes.append(float(change.square().sum(1).sqrt().mean()) if len(change) else 0.0)
    return EvasionRow(name, len(given.images), *seconds, *success, *sizes)


def table(found: Sequence[EvasionRow]) -> str:
    """Return the rows as text."""
    lines = [f"{'attack':28}{'ART':>11}{'ours':>11}{'ratio':>8}   success, mean L2: ART; ours"]
    for row in found:
        agree = "no weaker" if row.same else "WEAKER"
        lines.append(
            f"{row.name:28}{row.art_s:>9.2f} s{row.ours_s:>9.2f} s{row.ratio:>7.1f}x   "
            f"{row.art_success:.2f}, {row.art_l2:.4f}; {row.ours_success:.2f}, {row.ours_l2:.4f}"
            f"   {agree}"
        )
    return "\n".join(lines)


def record(found: Sequence[EvasionRow]) -> list[dict[str, Any]]:
    """Return the rows for JSON."""
    return [{**row._asdict(), "ratio": row.ratio, "same": row.same} for row in found]
