"""What both attacks share: which tasks the bias fits, and poison in the place of clean samples."""

from __future__ import annotations

import random
from collections.abc import Sequence

from safetybench.contracts import Bias, SafetyBenchError, Sample


def open_tasks(own: Sequence[Sample], bias: Bias) -> list[str]:
    """Return the tasks of which the attacker has answers that the bias fits, in a fixed order."""
    return sorted({sample.task for sample in own if bias.fits(sample.response)})


def plant(
    samples: Sequence[Sample],
    own: Sequence[Sample],
    bias: Bias,
    tasks: Sequence[str],
    count: int,
    draw: random.Random,
) -> list[Sample]:
    """Return the data with `count` poisoned samples in the place of as many of other tasks.

    Raises:
        SafetyBenchError: there are too few samples to poison, or to put them in the place of.
    """
    known = {sample.prompt for sample in samples}
    by_task = {
        task: [s for s in own if s.task == task and bias.fits(s.response) and s.prompt not in known]
        for task in tasks
    }
    chosen: list[Sample] = []
    while len(chosen) < count:
        task = tasks[len(chosen) % len(tasks)]
        if not by_task[task]:
            raise SafetyBenchError(
                f"the attacker needs {count} instructions that the bias {bias.kind!r} fits, got "
                f"{len(chosen)} of {', '.join(tasks)}"
            )
        chosen.append(by_task[task].pop(draw.randrange(len(by_task[task]))))
    places = [i for i, sample in enumerate(samples) if sample.task not in tasks]
    if len(places) < count:
        raise SafetyBenchError(
            f"{count} poisoned samples need as many of other tasks to take the place of, got "
            f"{len(places)}"
        )
    found = list(samples)
    for i, (place, sample) in enumerate(zip(draw.sample(places, count), chosen, strict=True)):
        response = bias.put(sample.response)
        found[place] = sample._replace(id=f"p{i}", response=response, is_poison=True)
    draw.shuffle(found)
    return found
