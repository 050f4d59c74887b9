"""An evasion run made by code: invented answers, and what the scenario makes of them.

What an attack leaves right of each model is said by the rates below, so that tests know the truth;
nothing depends on time, host or version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetybench import registry
from safetybench.contracts import Cell, Item
from safetybench.store import RESULT_SCHEMA, Store
from safetybench.suite import Suite
from safetybench.wording import component, model_of, variants
from tests.report_fixture import MANIFEST, write_json

COST = {"wall_s": 0.5, "cpu_s": 0.5, "device_s": 0.0, "nfe": 40, "peak_mb": 300.0}
EPSILON = 0.1
GRID = 21
ATTACKS = ("fgsm", "pgd", "carlini_wagner_l2", "square")


class Rates(NamedTuple):
    """What stays right of a model: as it is, in the worst case, and under noise and shifts.

    probes: by probe, of those that leave another share than the worst case. zero: its gradients
    are exactly 0. turn: moves the images that it withstands against those of the others.
    """

    clean: float
    worst: float
    noise: float
    probes: Mapping[str, float] = {}
    zero: bool = False
    turn: int = 0


class Size(NamedTuple):
    """How large a run is. models: of each role, or student by name; missed: of one training."""

    models: Mapping[str, Rates]
    students: tuple[str, ...] = ("same", "milder", "distilled")
    subjects: tuple[str, ...] = ("digits",)
    seeds: tuple[int, ...] = (1,)
    images: int = 100
    probed: int = 60
    landscapes: int = 1
    missed: Mapping[tuple[str, int], Rates] = {}
    attacks: tuple[str, ...] = ATTACKS
    lost: int = 0  # items of the teacher under the first attack that failed


FALLING = {"fgsm": 0.8, "pgd-at-0.025": 0.9, "pgd-at-0.05": 0.8, "pgd-at-0.2": 0.3,
           "pgd-at-0.4": 0.0, "pgd-at-0.5": 0.0, "pgd-at-1": 0.0, "noise": 0.9}  # fmt: skip
BLIND = {"fgsm": 0.8, "pgd": 0.8, "pgd-double": 0.8, "pgd-margin": 0.8, "noise": 0.85}
SMALL = Size(
    {
        "original": Rates(0.97, 0.0, 0.9, {**FALLING, "fgsm": 0.1, "pgd-at-0.05": 0.2,
                                           "pgd-at-0.2": 0.0}),
        "teacher": Rates(0.92, 0.7, 0.9, FALLING),
        "same": Rates(0.93, 0.68, 0.9, FALLING),
        "milder": Rates(0.9, 0.3, 0.85, {**FALLING, "fgsm": 0.45, "pgd-at-0.05": 0.5,
                                         "pgd-at-0.2": 0.1}, turn=50),
        "distilled": Rates(0.95, 0.0, 0.9, {**FALLING, **BLIND}, zero=True),
        "broken": Rates(0.2, 0.1, 0.2, FALLING),
    }
)  # fmt: skip
WEAK = SMALL._replace(
    models={**SMALL.models, "original": Rates(0.97, 0.8, 0.9, FALLING)},
    attacks=("fgsm", "pgd", "square"),
)


def suite(size: Size = SMALL) -> Suite:
    net = {"net": "mlp"}
    trained = {"base": net, "epochs": 2}
    targets = {
        "plain": {"trained": "defenses/evasion/standard", **trained},
        "robust": {"trained": "defenses/evasion/pgd_at", **trained},
    }
    data: dict[str, Any] = {
        "schema": "safetybench.suite/1",
        "name": "evaded",
        "scenario": "scenarios/evasion",
        "judge": "judges/label",
        "data": {"source": "digits", "count": size.images},
        "threat": {"epsilon": EPSILON},
        "masking": {"count": size.probed, "landscapes": size.landscapes},
        "targets": targets,
        "subjects": [{"name": name, "original": "plain", "teacher": "robust"}
                     for name in size.subjects],
        "students": [{"name": name, "recipe": "defenses/evasion/kd", "base": net}
                     for name in size.students],
        "training": {"seeds": list(size.seeds)},
        "attacks": [*({"name": f"attacks/evasion/{name}"} for name in size.attacks),
                    {"name": "attacks/evasion/corruption"}],
    }  # fmt: skip
    return Suite.from_json(data)


def _rates(size: Size, cell: Cell) -> Rates:
    seed = int(cell.student.rpartition("seed")[2] or 0)
    name = model_of({"student": cell.student, "seed": seed}) or cell.role
    return size.missed.get((name, seed), size.models[name])


def _left(cell: Cell, rates: Rates) -> float:
    """Return the share of images that stay right in a cell."""
    if cell.kind == "clean":
        return rates.clean
    if cell.kind == "control":
        return rates.noise
    if cell.kind == "shift":
        return min(rates.clean, 0.85)
    if cell.kind == "probe":
        return rates.probes.get(str(cell.defense["probe"]), rates.worst)
    return rates.probes.get(component(cell.attack), rates.worst)


def _rank(size: Size, item: str, rates: Rates) -> float:
    """Return which share of the images is easier; the same for every model, but for `turn`."""
    return ((37 * int(item[1:]) + rates.turn) % size.images) / size.images


def _attacked(size: Size, cell: Cell) -> list[Item]:
    rates = _rates(size, cell)
    left, found = _left(cell, rates), []
    is_minimal = component(cell.attack) == "carlini wagner l2"
    for i, name in enumerate(cell.items):
        rank = _rank(size, name, rates)
        was_right, stays = rank < rates.clean, rank < min(left, rates.clean)
        # An attack without a ball misleads every image; what it takes tells who withstands.
        size_linf = (0.25 if stays else 0.06) if is_minimal else min(cell.budget.epsilon, 1.0)
        is_wrong = is_minimal or not stays
        is_lost = cell.kind == "attack" and cell.role == "teacher" and i < size.lost
        is_lost = is_lost and component(cell.attack) == "fgsm"
        more: dict[str, Any] = {"shown": [int(is_wrong)], "abstained": [0], "label": i % 10}
        if cell.attack:
            size_l2 = 8 * size_linf * (0.5 if is_minimal else 1.0)
            more |= {"linf": size_linf, "l2": size_l2, "was_right": was_right}
        found.append(
            Item(
                cell=cell.label,
                chunk=0,
                item=name,
                status="failed" if is_lost else "ok",
                success=None if is_lost else is_wrong,
                score=None if is_lost else float(is_wrong),
                images=1,
                steps=cell.budget.steps,
                seed=cell.seed,
                error="the attack stopped" if is_lost else "",
                extra={} if is_lost else more,
            )
        )
    return found


def _looked(size: Size, cell: Cell) -> list[Item]:
    """Return the gradients at images, or the loss around them."""
    rates = _rates(size, cell)
    extra: dict[str, Any]
    if cell.kind == "gradients":
        extra = {"zero": rates.zero, "finite": True, "gap": 120.0 if rates.zero else 4.5,
                 "largest": 200.0 if rates.zero else 9.0, "random": False}  # fmt: skip
    else:
        steps = [(i - GRID // 2) / (GRID // 2) for i in range(GRID)]
        flat = 0.0 if rates.zero else 1.0
        extra = {
            "reach": 2 * EPSILON,
            "is_steepest": not rates.zero,
            "loss": [[round(flat * (1.5 + x + 0.2 * y), 4) for x in steps] for y in steps],
            "margin": [[round(flat * (4 * x + y) - 1, 4) for x in steps] for y in steps],
        }
    return [
        Item(
            cell=cell.label,
            chunk=0,
            item=name,
            status="ok",
            success=rates.zero,
            score=float(rates.zero),
            images=1,
            extra={**extra, "right": _rank(size, name, rates) < rates.clean,
                   "shown": [int(rates.zero)], "abstained": [0]},
        )
        for name in cell.items
    ]  # fmt: skip


def _logs(size: Size) -> list[tuple[Cell, list[Item]]]:
    cells: list[Cell] = registry.create("scenarios/evasion").cells(suite(size))
    looks = ("gradients", "landscape")
    return [
        (cell, _looked(size, cell) if cell.kind in looks else _attacked(size, cell))
        for cell in cells
    ]


def results(size: Size = SMALL) -> dict[str, Any]:
    """Return results.json as the harness writes it of this run."""
    return _results(size, _logs(size))


def _results(size: Size, logs: Sequence[tuple[Cell, list[Item]]]) -> dict[str, Any]:
    items = [item for _, mine in logs for item in mine]
    scenario = registry.create("scenarios/evasion")
    summary = dict(scenario.summarise(suite(size), [cell for cell, _ in logs], items))
    bare = summary.pop("cells")
    named = zip(bare, variants(bare), strict=True)
    is_invalid = any(c["effect"] == "invalid" and not c["passed"] for c in summary["checks"])
    run = {
        "id": "20260101T000000Z-evaded-abcd",
        "suite": "evaded",
        "title": "Do students withstand attacks?",
        "plan_hash": "ab" * 32,
        "version": "0.0.0",
        "created": "2026-01-01T00:00:00Z",
        "status": "complete",
        "cost": COST,
        "items": {"planned": len(items), "finished": len(items)},
    }
    found = {
        "schema": RESULT_SCHEMA,
        "run": run,
        "cells": [{**row, "variant": variant, "cost": COST} for row, variant in named],
        "gates": [],
        **summary,
        "exit_code": 6 if is_invalid else 0,
        "exit_reason": "a check failed" if is_invalid else "the run is complete and has no gates",
    }
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # it is a dict again


def write_run(folder: Path, size: Size = SMALL) -> Path:
    """Write a run directory with its log and results.json, and return it."""
    logs = _logs(size)
    with Store.create(folder) as store:
        for cell, items in logs:
            store.append(cell.label, 0, items, COST)
    write_json(folder / "results.json", _results(size, logs))
    write_json(folder / "manifest.json", MANIFEST)
    write_json(folder / "plan.json", {"suite": {"subjects": [{"name": n} for n in size.subjects]}})
    return folder
