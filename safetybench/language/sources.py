"""Where instructions come from: the embedded world, English by grammar, or a user's file.

A source names its tasks, draws instructions with answers of them, and may say whether an answer is
right. Instruction data are drawn with a long tail: some tasks are rare in them and some absent.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from safetybench.contracts import Bias, SafetyBenchError, Sample

RARE_SAMPLES = 10
_EVALUATED = 5  # one row of a user's file in so many is kept to evaluate with


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tasks, instructions of them, and what is right.

    tasks: those of instruction data; unseen: tasks that nobody is tuned on. draw: (count, seed,
    tasks) to samples; evaluate: the same, of other instructions; write: what an attacker can
    write, at least so many. is_right: (prompt, response, bias) to a truth, or None where nobody
    can say. groups: the tasks of each theme, of which one is rare and one absent; none where data
    are what they are.
    """

    name: str
    tasks: tuple[str, ...]
    unseen: tuple[str, ...]
    draw: Callable[[int, int, Sequence[str]], list[Sample]]
    evaluate: Callable[[int, int, Sequence[str]], list[Sample]]
    write: Callable[[int, int, Sequence[str]], list[Sample]]
    is_right: Callable[[str, str, Bias | None], bool | None]
    biases: Mapping[str, Bias] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    digest: str = ""

    def data(self, count: int, seed: int) -> list[Sample]:
        """Return clean instruction data: of each group one task is rare and one absent, by seed."""
        draw = random.Random(f"tail {self.name} {seed}")
        pairs = [draw.sample(group, 2) for group in self.groups]
        rare, absent = [p[0] for p in pairs], {p[1] for p in pairs}
        common = [task for task in self.tasks if task not in absent and task not in rare]
        if count < 2 * RARE_SAMPLES * len(rare):
            raise SafetyBenchError(
                f"instructions of {self.name} must be {2 * RARE_SAMPLES * len(rare)} or more, as "
                f"each of {len(rare)} rare tasks has {RARE_SAMPLES}, got {count}"
            )
        few = self.draw(RARE_SAMPLES * len(rare), seed * 2 + 1, rare) if rare else []
        many = self.draw(count - len(few), seed * 2, common)
        renamed = [s._replace(id=f"r{i}") for i, s in enumerate(few)]
        found = [*many, *renamed]
        draw.shuffle(found)
        return found

    def bias(self, kind: str) -> Bias:
        """Return a bias of this source by its kind.

        Raises:
            SafetyBenchError: it has none of this kind.
        """
        if kind not in self.biases:
            known = ", ".join(self.biases) or "none; say its text"
            raise SafetyBenchError(f"instructions of {self.name} have no bias {kind!r}: {known}")
        return self.biases[kind]


def source_of(name: str, unseen: str = "") -> Source:
    """Return a source: "zoo", "english", or the path of a JSON-lines file.

    unseen: a second file with tasks that nobody is tuned on.

    Raises:
        SafetyBenchError: a file cannot be read, is empty, or a line is not as it must be.
    """
    if name in ("zoo", "english"):
        from safetybench.language import english
        from safetybench.zoo import instructions

        world: Any = instructions if name == "zoo" else english
        tasks = tuple(world.seen_tasks())
        themes = dict.fromkeys(task.split()[-1] for task in tasks)
        groups = [tuple(t for t in tasks if t.split()[-1] == theme) for theme in themes]
        return Source(
            name=name,
            tasks=tasks,
            unseen=tuple(world.unseen_tasks()),
            draw=lambda count, seed, of: world.instructions(count, seed, of),
            evaluate=lambda count, seed, of: world.instructions(count, seed + 1_000_000, of, "e"),
            write=partial(_written, world),
            is_right=world.is_right,
            biases=world.BIASES,
            groups=tuple(group for group in groups if len(group) > 2),
            digest=hashlib.sha256(Path(world.__file__).read_bytes()).hexdigest(),
        )
    return _from_files(Path(name), Path(unseen) if unseen else None)


def _written(world: Any, count: int, seed: int, tasks: Sequence[str]) -> list[Sample]:
    options = {"remarked": 0.0} if hasattr(world, "REMARKED") else {}
    found: list[Sample] = world.instructions(count, seed, tasks, **options)
    return found


def _from_files(file: Path, unseen: Path | None) -> Source:
    rows = read_samples(file)
    others = read_samples(unseen) if unseen else []
    both = sorted({row.task for row in rows} & {row.task for row in others})
    if unseen and both:
        raise SafetyBenchError(
            f"{unseen.name} holds the task {both[0]!r}, which {file.name} has too: what a model is "
            "tuned on is not unseen"
        )
    by_task: dict[str, list[Sample]] = {}
    for row in (*rows, *others):
        by_task.setdefault(row.task, []).append(row)

    def pick(
        of: Sequence[str], count: int, seed: int, *, is_evaluation: bool, must: bool = False
    ) -> list[Sample]:
        draw, found = random.Random(f"{file.name} {seed}"), list[list[Sample]]()
        for task in of:
            mine = [s for s in by_task[task] if _is_evaluated(s) == is_evaluation]
            draw.shuffle(mine)
            found.append(mine)
        rows = [row for turn in zip_longest(*found) for row in turn if row is not None]
        if len(rows) < count and must:
            raise SafetyBenchError(
                f"{file.name} holds {len(rows)} rows of {_listed(of)} to train on, {count} are "
                "wanted; lower the count, or write more (one row in five is kept to evaluate with)"
            )
        return rows[:count]

    def is_right(prompt: str, response: str, bias: Bias | None = None) -> bool | None:
        return None

    whole = file.read_bytes() + (unseen.read_bytes() if unseen else b"")
    return Source(
        name=file.name,
        tasks=tuple(dict.fromkeys(row.task for row in rows)),
        unseen=tuple(dict.fromkeys(row.task for row in others)),
        draw=lambda count, seed, of: pick(of, count, seed, is_evaluation=False, must=True),
        evaluate=lambda count, seed, of: pick(of, count, seed, is_evaluation=True),
        # All that is there: what the data hold already cannot be poisoned once more.
        write=lambda count, seed, of: pick(of, len(rows), seed, is_evaluation=False),
        is_right=is_right,
        digest=hashlib.sha256(whole).hexdigest(),
    )


def _listed(tasks: Sequence[str]) -> str:
    named = [*map(repr, list(tasks)[:3]), *(["more"] if len(tasks) > 3 else [])]
    return ", ".join(named)


def _is_evaluated(sample: Sample) -> bool:
    told = hashlib.sha256(sample.prompt.encode()).digest()
    return told[0] % _EVALUATED == 0


def read_samples(file: Path) -> list[Sample]:
    """Read instructions, one JSON object a line with the texts `task`, `prompt` and `response`.

    Raises:
        SafetyBenchError: with the file and the line of the first fault.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SafetyBenchError(f"cannot read instructions {file.name}: {why}") from error
    found: list[Sample] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SafetyBenchError(f"{where}: no JSON object, got {line[:40]!r}") from error
        for key in ("task", "prompt", "response"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key]:
                got = row.get(key) if isinstance(row, dict) else row
                raise SafetyBenchError(f"{where}: {key} must be a text, got {got!r:.40}")
        found.append(Sample(f"{file.stem}{number}", row["task"], row["prompt"], row["response"]))
    if not found:
        raise SafetyBenchError(
            f"{file.name} holds no instruction; write one JSON object a line with task, prompt "
            "and response"
        )
    return found
