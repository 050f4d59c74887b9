"""The loop: who learns when, from which draws, and that a killed training ends the same."""

from __future__ import annotations

import ast
import errno
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safetybench.contracts import SafetyBenchError
from safetybench.distill import training
from safetybench.distill.schedule import Average, Group, Stage, Step
from safetybench.distill.terms import together
from safetybench.distill.training import train, tune


class Killed(Exception):
    """What a test ends a training with."""


@dataclass
class Toy:
    """Two players, a target network that trails one of them, and all that happened."""

    kill_at: int | None = None
    calls: list[tuple[str, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.warmed = nn.Parameter(torch.tensor([0.5]))
        self.student = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.fake = nn.Parameter(torch.tensor([0.3, 0.4, 0.5]))
        self.target = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.target.weight.zero_()
        self.average = Average([self.student], 0.9)

    def loss(self, name: str) -> Callable[[Step], Tensor]:
        def loss(step: Step) -> Tensor:
            if len(self.calls) == self.kill_at:
                raise Killed
            self.calls.append((name, step.stage, step.index, step.turn))
            noise = torch.randn(2, generator=step.rng("noise"))
            mine = (self.student - self.fake[:2] + 0.1 * noise - self.target.weight[0]).square()
            return (mine * self.warmed).sum() + 0.1 * self.fake.square().sum()

        return loss

    def trail(self, step: Step) -> None:
        with torch.no_grad():
            self.target.weight.lerp_(self.student[None], 0.3)

    def group(self, name: str, **options: Any) -> Group:
        weights = {"fake": self.fake, "warmed": self.warmed}.get(name, self.student)
        return Group(name=name, weights=[weights], loss=self.loss(name), lr=0.05, **options)

    def stages(self) -> list[Stage]:
        return [
            Stage(steps=3, groups=[self.group("warmed"), self.group("student")]),
            Stage(
                steps=5,
                groups=[self.group("fake", repeats=2), self.group("student", every=2)],
                after=[self.trail],
                keeps=[self.target],
            ),
            Stage(steps=4, groups=[self.group("student", betas=(0.9, 0.99))]),
        ]

    def state(self) -> list[Tensor]:
        weights = [self.warmed, self.student, self.fake, self.target.weight]
        return [w.detach().clone() for w in [*weights, *self.average.values]]

    def run(self, **options: Any) -> list[Tensor]:
        train(self.stages(), seed=7, average=self.average, **options)
        return self.state()


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Turns


def test_groups_take_their_turns_in_order() -> None:
    toy = Toy()
    toy.run()
    assert toy.calls[:4] == [
        ("warmed", 0, 0, 0), ("student", 0, 0, 0), ("warmed", 0, 1, 0), ("student", 0, 1, 0),
    ]  # fmt: skip
    assert [call for call in toy.calls if call[1] == 1] == [
        ("fake", 1, 0, 0), ("fake", 1, 0, 1), ("student", 1, 0, 0),
        ("fake", 1, 1, 0), ("fake", 1, 1, 1),
        ("fake", 1, 2, 0), ("fake", 1, 2, 1), ("student", 1, 2, 0),
        ("fake", 1, 3, 0), ("fake", 1, 3, 1),
        ("fake", 1, 4, 0), ("fake", 1, 4, 1), ("student", 1, 4, 0),
    ]  # fmt: skip
    assert [call[0] for call in toy.calls if call[1] == 2] == ["student"] * 4


@pytest.mark.parametrize("name", ["warmed", "student", "fake"])
def test_a_turn_leaves_every_other_group_bit_identical(name: str) -> None:
    toy = Toy()
    before = toy.state()
    train([Stage(steps=3, groups=[toy.group(name)])], seed=1)
    moved = [not torch.equal(a, b) for a, b in zip(before, toy.state(), strict=True)]
    assert moved == [name == each for each in ("warmed", "student", "fake", "target", "average")]
    weights = (toy.warmed, toy.student, toy.fake, toy.target.weight)
    assert all(w.grad is None for w in weights)


def test_the_rate_anneals_to_zero_over_the_last_half_of_each_stage() -> None:
    weight = nn.Parameter(torch.zeros(()))
    places = [0.0]

    def note(step: Step) -> None:
        places.append(weight.item())

    # A constant gradient moves Adam by exactly the rate.
    group = Group(name="w", weights=[weight], loss=lambda step: -weight, lr=0.1)
    train([Stage(steps=8, groups=[group], after=[note])] * 2, seed=0)
    moves = [round((b - a) / 0.1, 4) for a, b in pairwise(places)]
    assert moves == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25] * 2


def test_steps_and_losses_are_reported_across_stages() -> None:
    told: list[tuple[int, float]] = []
    weight = nn.Parameter(torch.tensor(3.0))
    group = Group(name="w", weights=[weight], loss=lambda step: weight.square(), lr=0.1)
    train([Stage(steps=15, groups=[group])] * 2, seed=0, report=lambda *line: told.append(line))
    assert [step for step, _ in told] == [0, 10, 15, 25]
    assert told[0][1] == 9.0
    assert told[-1][1] < told[1][1] < 9.0


# Averages


def test_the_average_is_its_formula_and_is_applied_at_the_end() -> None:
    weight = nn.Parameter(torch.zeros(()))
    average = Average([weight], 0.5)
    places: list[float] = []
    group = Group(name="w", weights=[weight], loss=lambda step: -weight, lr=0.1)
    warm = Stage(steps=2, groups=[group])
    last = Stage(steps=8, groups=[group], after=[lambda step: places.append(weight.item())])
    train([warm, last], seed=0, average=average)
    kept = places[0] - 0.1  # what the last stage starts from
    for index, place in enumerate(places):
        decay = min(0.5, (1 + index) / (10 + index))
        kept = decay * kept + (1 - decay) * place
    assert weight.item() == pytest.approx(kept, abs=1e-6)
    assert weight.item() < places[-1]


# Draws


def drawn(step: Step, purpose: str = "noise") -> list[float]:
    found: list[float] = torch.randn(4, generator=step.rng(purpose)).tolist()
    return found


def test_every_seed_stage_step_turn_and_purpose_has_its_own_draws() -> None:
    steps = [
        Step(index=index, total=9, seed=seed, stage=stage, turn=turn)
        for seed in (0, 1, 2, 2**31, 2**32, 2**40, -1)
        for stage in (0, 1)
        for index in (0, 1, 11)
        for turn in (0, 1)
    ]
    draws = {tuple(drawn(step, purpose)) for step in steps for purpose in ("noise", "times")}
    assert len(draws) == 2 * len(steps)
    assert drawn(steps[0]) == drawn(steps[0])
    assert drawn(steps[0]) == drawn(Step(index=0, total=99, seed=0))


def test_a_term_that_draws_does_not_change_the_draws_of_others() -> None:
    seen: dict[str, list[list[float]]] = {"alone": [], "together": []}

    def term(name: str) -> Callable[[Step], Tensor]:
        def loss(step: Step) -> Tensor:
            seen[name].append(drawn(step))
            return weight.square()

        return loss

    def other(step: Step) -> Tensor:
        return weight * torch.randn(3, generator=step.rng("other noise")).sum()

    for name in ("alone", "together"):
        weight = nn.Parameter(torch.ones(()))
        loss = together(other, term(name)) if name == "together" else term(name)
        groups = [Group(name="w", weights=[weight], loss=loss, lr=0.1)]
        train([Stage(steps=4, groups=groups)], seed=3)
    assert seen["alone"] == seen["together"]


def test_training_is_seeded_and_leaves_the_global_stream_alone() -> None:
    toy = Toy()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = toy.run()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(first, Toy().run())
    other = Toy()
    train(other.stages(), seed=8, average=other.average)
    assert not same(first, other.state())


# Checkpoints

CALLS = 3 * 2 + 5 * 2 + 3 + 4


@pytest.mark.parametrize("save_every", [1, 2, 100])
@pytest.mark.parametrize("kill_at", range(CALLS))
def test_a_killed_training_ends_with_the_same_weights(
    kill_at: int, save_every: int, tmp_path: Path
) -> None:
    whole = Toy().run()
    file = tmp_path / "below" / "state.pt"
    with pytest.raises(Killed):
        Toy(kill_at).run(checkpoint=file, save_every=save_every)
    again = Toy()
    assert same(again.run(checkpoint=file, save_every=save_every), whole)
    if save_every == 1 and kill_at > 2:
        assert len(again.calls) < CALLS  # it went on and did not start anew
    assert not list(file.parent.glob("*.partial"))


def test_it_can_be_killed_twice(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    for kill_at in (9, 4):
        with pytest.raises(Killed):
            Toy(kill_at).run(checkpoint=file, save_every=1)
    assert same(Toy().run(checkpoint=file), Toy().run())


def test_a_write_that_is_cut_short_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, save, calls = tmp_path / "state.pt", torch.save, 0

    def cut(content: Any, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls < 4:
            return save(content, path)
        path.write_bytes(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", cut)
        with pytest.raises(SafetyBenchError) as error:
            Toy().run(checkpoint=file, save_every=1)
    assert str(error.value) == (
        f"could not write the checkpoint {file}: [Errno 28] No space left on device"
    )
    again = Toy()
    assert same(again.run(checkpoint=file, save_every=1), Toy().run())
    assert len(again.calls) == CALLS - 6  # three saved steps of two turns


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = tmp_path / "file" / "state.pt"
    with pytest.raises(SafetyBenchError, match=rf"^could not write the checkpoint {file}: "):
        Toy().run(checkpoint=file, save_every=1)


def killed(file: Path, at: int = 9) -> bytes:
    with pytest.raises(Killed):
        Toy(at).run(checkpoint=file, save_every=1)
    return file.read_bytes()


@pytest.mark.parametrize("how", ["cut", "junk", "empty", "a pickle"])
def test_a_damaged_checkpoint_is_refused(how: str, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    content = killed(file)
    if how == "a pickle":
        torch.save({"weights": Killed()}, file)
    else:
        file.write_bytes({"cut": content[:-100], "junk": b"junk", "empty": b""}[how])
    with pytest.raises(SafetyBenchError) as error:
        Toy().run(checkpoint=file)
    assert str(error.value) == f"{file} cannot be read; remove it to start anew"


def other_training(what: str, toy: Toy) -> list[Stage]:
    stages = toy.stages()
    if what == "other steps":
        return [Stage(steps=2, groups=stages[0].groups), *stages[1:]]
    if what == "fewer stages":
        return stages[:1]
    if what == "other groups":
        return [Stage(steps=3, groups=[toy.group("fake"), toy.group("student")]), *stages[1:]]
    if what == "other weights":
        toy.fake = nn.Parameter(torch.zeros(4))
        return toy.stages()
    if what == "other repeats":
        group = toy.group("fake", repeats=3)
        return [stages[0], Stage(steps=5, groups=[group, stages[1].groups[1]]), *stages[2:]]
    return stages


@pytest.mark.parametrize(
    "what",
    ["other seed", "other steps", "fewer stages", "other groups", "other weights",
     "other repeats", "foreign"],
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused(what: str, tmp_path: Path) -> None:
    file, toy = tmp_path / "state.pt", Toy()
    killed(file)
    if what == "foreign":
        torch.save({"state_dict": torch.zeros(3)}, file)
    stages = other_training(what, toy)
    with pytest.raises(SafetyBenchError) as error:
        train(stages, seed=8 if what == "other seed" else 7, average=toy.average, checkpoint=file)
    message = rf"^{re.escape(str(file))} is the checkpoint of another training \(.*\); remove it "
    assert re.match(message + "to start anew$", str(error.value)), str(error.value)
    assert file.exists()


# Losses


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_loss_that_is_not_finite_ends_the_training(value: float, steps: int) -> None:
    weight = nn.Parameter(torch.zeros(()))

    def loss(step: Step) -> Tensor:
        return weight * value if step.index >= min(steps - 1, 13) else weight.square()

    with pytest.raises(SafetyBenchError, match=r"the loss is (nan|-?inf) at step \d+: a lower"):
        train([Stage(steps=steps, groups=[Group(name="w", weights=[weight], loss=loss, lr=0.1)])],
              seed=0)  # fmt: skip


# Size


def lines_of_code(source: str) -> int:
    """Return the lines that are neither blank, comment nor docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(node) is not None:
            first = node.body[0]
            documented |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(re.match(r"\s*[^#\s]", text)) for n, text in lines if n not in documented)


def test_the_loop_is_short_enough_to_read() -> None:
    assert 80 < lines_of_code(inspect.getsource(training)) <= 150


# One group without stages, as unlearning has it


def trained(steps: int, seed: int) -> tuple[Tensor, list[tuple[int, float]]]:
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    told: list[tuple[int, float]] = []

    def loss_at(step: int, rng: torch.Generator) -> Tensor:
        return (weight - 0.1 * torch.randn(2, generator=rng)).square().sum()

    tune([weight], loss_at, steps=steps, lr=0.1, seed=seed, report=lambda *line: told.append(line))
    assert not weight.requires_grad
    return weight.detach(), told


def test_training_lowers_the_loss_freezes_the_weights_and_is_seeded() -> None:
    weight, told = trained(80, seed=1)
    assert [step for step, _ in told] == list(range(0, 80, 10))
    assert told[-1][1] < 0.1 * told[0][1]
    assert torch.equal(weight, trained(80, seed=1)[0])
    assert not torch.equal(weight, trained(80, seed=2)[0])


def test_training_for_no_steps_changes_nothing() -> None:
    weight, told = trained(0, seed=1)
    assert weight.tolist() == [2.0, -1.0]
    assert told == []
