"""`safetybench run SUITE --plan`: what a run would do, before anything is loaded or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetybench.commands.console import clean, print_json, print_table

if TYPE_CHECKING:
    from safetybench.contracts import Cell
    from safetybench.harness.plan import Plan


def _row(cell: Cell) -> tuple[str, ...]:
    n, budget = len(cell.items), cell.budget
    spent = f"{budget.steps} steps, {budget.images} images"
    return (cell.label, cell.target, cell.kind, cell.attack or "-", str(cell.seed), str(n), spent)


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan on stdout; images are an upper bound, as an item stops at its first success."""
    if as_json:
        print_json(plan.to_json())
        return
    from safetybench.harness.training import planned, training_steps

    items = sum(len(cell.items) for cell in plan.cells)
    images = sum(len(cell.items) * cell.budget.images for cell in plan.cells)
    place = f"{plan.place.device}, {plan.place.dtype}"
    trainings = planned(plan.targets)
    made = "answers" if plan.suite.biases else "images"
    print(clean(f"{plan.suite.name}: {plan.suite.title}"))
    print(
        f"{len(plan.cells)} cells, {items} items, at most {images} {made}, "
        f"{len(plan.targets)} targets, on {place}; plan {plan.hash[:12]}"
    )
    if trainings:
        steps = sum(map(training_steps, trainings))
        some = "1 model" if len(trainings) == 1 else f"{len(trainings)} models"
        print(f"{some} to train, {steps} steps in all")
    print()
    columns = ("cell", "target", "kind", "attack", "seed", "items", "budget of an item")
    print_table(columns, map(_row, plan.cells))
