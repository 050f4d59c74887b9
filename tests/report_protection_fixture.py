"""A protection run made by code: invented outcomes, and what the scenario makes of them.

Which edit succeeds is drawn from the rates below; nothing depends on time, host or version.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from safetybench import registry
from safetybench.contracts import Cell, Item
from safetybench.store import RESULT_SCHEMA, Store
from safetybench.suite import Suite
from safetybench.wording import variants
from tests.report_fixture import MANIFEST, write_json

SDS, ENCODER = "defenses/images/sds", "defenses/images/photoguard_encoder"
JPEG = "attacks/images/purifiers/jpeg"
EPSILON = 16 / 255
COST = {"wall_s": 1.5, "cpu_s": 1.5, "device_s": 0.0, "nfe": 40, "peak_mb": 800.0}


class Size(NamedTuple):
    """How large a run is. rates: edits that succeed, by protection, and per editor in order."""

    rates: Mapping[str, Sequence[float]]
    students: tuple[str, ...] = ("dmd2-1", "dmd2-4")
    purifiers: tuple[Mapping[str, Any], ...] = ({"name": JPEG, "options": {"quality": 75}},)
    epsilons: tuple[float, ...] = (EPSILON,)
    surrogates: tuple[str, ...] = ("teacher",)
    images: int = 32
    kept: int = 3  # images that are written


SMALL = Size({ENCODER: (0.1, 0.2, 0.9), SDS: (0.9, 0.9, 0.95)})


def suite(size: Size = SMALL) -> Suite:
    data: dict[str, Any] = {
        "schema": "safetybench.suite/1",
        "name": "shields",
        "scenario": "scenarios/protection",
        "judge": "judges/zoo",
        "images": {"count": size.images, "changes": ["object"]},
        "subjects": [{"name": "zoo", "teacher": "zoo:teacher"}],
        "students": [{"name": n, "targets": {"zoo": f"zoo:{n}"}} for n in size.students],
        "protections": [
            {
                "name": name,
                "budget": {"epsilon": epsilon, "steps": 40},
                "surrogates": list(size.surrogates),
            }
            for name in size.rates
            for epsilon in size.epsilons
        ],
        "edits": [{"name": "attacks/images/sdedit", "options": {"strength": 0.5}}],
        "purifiers": list(size.purifiers),
    }
    return Suite.from_json(data)


def _rate(size: Size, cell: Cell) -> float:
    shield = str(cell.defense.get("protection", ""))
    if cell.kind != "attack":
        return 0.95 if cell.kind == "clean" else 0.9
    editor = ("", *size.students).index(cell.student)
    found = size.rates[shield]
    part = float(cell.defense["budget"]["epsilon"]) / max(size.epsilons)
    lost = (0.95 - found[editor % len(found)]) * part
    return 0.95 - lost * (0.3 if "purifier" in cell.defense else 1.0)


def _extra(cell: Cell, rng: random.Random, success: bool) -> dict[str, Any]:
    if cell.kind == "protect":
        levels = cell.budget.epsilon * 255
        psnr = 48 - levels + rng.random()
        found: dict[str, Any] = {
            "levels": levels,
            "psnr": psnr,
            "ssim": 1 - levels / 160,
            "lpips": levels / 90,
        }
        found |= {"shown": [1], "abstained": [0]}
        return found | ({"latent": 4.0 + rng.random()} if cell.defense["surrogate"] else {})
    far = {"clean": 0.0, "control": 0.08}.get(cell.kind, 0.2) + 0.05 * rng.random()
    is_ruined = not success and rng.random() < 0.2
    return {
        "shown": [int(success)],
        "abstained": [int(is_ruined)],
        "similarity": 0.9 - far / 2,
        "psnr": 30 - 40 * far,
        "ssim": 1 - far,
        "lpips": far,
        "direction": 0.95 - far,
    }


def _items(size: Size, cell: Cell) -> list[Item]:
    found = []
    for i, name in enumerate(cell.items):
        rng = random.Random(f"{cell.label} {name}")
        # The same images are hard under everything.
        hard = random.Random(name).random() * 0.7 + 0.3 * rng.random()
        success = cell.kind == "protect" or hard < _rate(size, cell)
        found.append(
            Item(
                cell=cell.label,
                chunk=0,
                item=name,
                status="ok",
                success=success,
                score=None if cell.kind == "protect" else round(0.9 * success, 3),
                images=int(cell.kind != "protect"),
                prompt=f"a green lamp number {i}",
                seed=i,
                artifacts=(f"artifacts/{cell.label}/{name}.png",) if i < size.kept else (),
                extra=_extra(cell, rng, success),
            )
        )
    return found


def results(size: Size = SMALL) -> dict[str, Any]:
    """Return results.json as the harness writes it of this run."""
    return _results(size, [(cell, _items(size, cell)) for cell in _cells(size)])


def _cells(size: Size) -> list[Cell]:
    found: list[Cell] = registry.create("scenarios/protection").cells(suite(size))
    return found


def _results(size: Size, logs: Sequence[tuple[Cell, list[Item]]]) -> dict[str, Any]:
    items = [item for _, mine in logs for item in mine]
    scenario = registry.create("scenarios/protection")
    summary = dict(scenario.summarise(suite(size), [cell for cell, _ in logs], items))
    bare = summary.pop("cells")
    named = zip(bare, variants(bare), strict=True)
    return {
        "schema": RESULT_SCHEMA,
        "run": {
            "id": "20260101T000000Z-shields-abcd",
            "suite": "shields",
            "title": "Do shields hold?",
            "plan_hash": "ab" * 32,
            "version": "0.0.0",
            "created": "2026-01-01T00:00:00Z",
            "status": "complete",
        },
        "cells": [{**row, "variant": variant, "cost": COST} for row, variant in named],
        "gates": [],
        **summary,
        "exit_code": 0,
        "exit_reason": "all gates hold",
    }


def draw(path: Path, seed: int, success: bool, far: float) -> None:
    """Write a small picture: a disc as asked or a square, under `far` noise."""
    rng = random.Random(seed)
    image = Image.new("RGB", (32, 32), tuple(rng.randrange(150, 235) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    shape = pen.ellipse if success else pen.rectangle
    shape((8, 8, 24, 24), fill=(52, 96, 200))
    noise = random.Random(f"{path.name} {far}")
    for _ in range(int(300 * far)):
        pen.point((noise.randrange(32), noise.randrange(32)), fill=(20, 20, 20))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_run(folder: Path, size: Size = SMALL, *, blurred: bool = False) -> Path:
    """Write a run directory with its log, pictures and results.json, and return it."""
    logs = [(cell, _items(size, cell)) for cell in _cells(size)]
    with Store.create(folder) as store:
        for cell, items in logs:
            for i, item in enumerate(items):
                for name in item.artifacts:
                    draw(folder / name, i, bool(item.success), float(item.extra["lpips"]))
            store.append(cell.label, 0, items, COST)
    write_json(folder / "results.json", _results(size, logs))
    write_json(folder / "manifest.json", MANIFEST)
    subject = {"name": "zoo", "blur": blurred}
    write_json(folder / "plan.json", {"suite": {"subjects": [subject]}})
    return folder
