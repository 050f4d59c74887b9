"""The page of the distillation library: its pieces, a recipe as an example, and its limits."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.markdown import NOTE, table

_HOME = Path(__file__).resolve().parent.parent / "safetybench" / "distill"
EXAMPLE = _HOME / "recipes" / "lora_distill.py"

_ABOUT = """\
Students under test have to come from somewhere. `safetybench/distill/` makes them from any
text-to-image target, by published methods, so that teacher and student differ by the distillation
alone. A method is one short file that lists pieces; there is one training loop, and no piece
knows which method it serves.

`safetybench distill` runs a recipe on a target of yours, `safetybench zoo build` makes the
students of the zoo again. What the zoo's students can do is in [their figures](results/zoo.md),
what that says about the papers in [claims beside measurements](results/claims.md), every recipe
and option in [the reference](reference/recipes.md)."""
_ABOUT_PIECES = "Each file does one thing; the sentence is its own."
_WRITE = """\
A recipe is a frozen dataclass with one method. `plan` is given a lab (teacher, student, prompts,
and draws from them) and a number of updates, and returns what is trained and how the student is
sampled; the frame trains, averages the weights, saves checkpoints and builds the target. This is
the class of [`{name}`](../safetybench/distill/recipes/{file}), whole:"""
_RULES = """\
- A loss is a function of the step. Every random draw comes from a stream that the step names
  (`step.rng("noise")`), so one term's draws do not move another's, and a resumed training ends
  with the same weights.
- Put a new gradient rule into `rules.py` and a new term into `terms.py` only if two recipes use
  it; else it stays in the recipe's file.
- `reads_images` tells whether real images are read. A recipe that returns False never gets any.
- Source and departures from the paper stand in the class's docstring. Where no code was
  published, it says "after the paper".
- The contract tests find the file by its name; a student of a tiny target is made in each."""
_GUIDANCE = """\
Scales are Ho's everywhere: f = f(null) + w (f(text) - f(null)). So w = 1 is the prompt alone, 0
the empty prompt alone, below 0 away from the prompt; papers that write f(text) + w (f(text) -
f(null)) mean w + 1. A scale is one of three things:

- **at run time** (CFG): two passes a step, and a negative prompt works. The teacher's 3;
- **baked in**: the teacher was guided in training, and the student answers in one pass. No
  negative prompt works, and w cannot be changed. Most students here;
- **an input**: one pass, w alive, negative prompt dead (`sana-sprint`, `agd`).

In the fake-score family one triple says which network is guided how: (1, 1, w) is DMD, (1, w, w)
SwiftBrush, (w, w, w) LSG, (0, 0, 1) Zero-CFG, (-1, -1, 1) Anti-CFG, and a pair in the place of a
number is drawn at every step (PG-SB). NASA brings a negative prompt back into students in which
guidance is dead, by subtracting what cross-attention answers to it; it is a wrapper,
`safetybench/distill/nasa.py`, and trains nothing."""
_TIMES = """\
The process has a thousand times, 999 the noisiest, with zero terminal SNR: at 999 an image is
noise alone. A student is sampled at the times it was trained at and no others: they are on its
card, and the loader keeps them. A four-step student through the teacher's twelve steps is another
model, and an attack on that is none on the student.

- One step: 699. Pure noise goes in, the network is told 699.
- Four steps: 899, 699, 499, 249 in the distribution matching family, 899, 674, 449, 224 in the
  consistency family. Each x0-prediction is noised afresh (LCM's scheduler), or by TCD's
  (`hyper-sd`), whose gamma says how far a step overshoots before it renoises.
- Two steps: 799, 499 (`sana-sprint`).
- The teacher's own twelve: `lora-distill` and `agd`."""
_DEPARTS = """\
Everything is some thousand times smaller and shorter than published, and four things were changed
for that (see [decision 013](decisions/013-warm-start-and-stored-paths.md)):

- **Regression first.** One-step students of the fake-score family are regressed on teacher
  samples for 200 updates before their own loss. DMD2 does so for SDXL; SiD and SwiftBrush do not.
  It saves thousands of updates, and it means that these students are not free of synthetic
  images, whatever the paper says of the method. `dmd2-1-cold` is the control without it.
- **One step starts at 699, not at 999.** At zero terminal SNR the teacher's answer at 999 does
  not depend on the noise, so a student that starts there as the teacher draws one image a prompt.
- **Trajectories are stored.** The teacher's guided paths are drawn once and read again by every
  recipe and seed; papers draw new ones, or noise real images.
- **Errors in velocity.** Fake scores and guidance regressions are trained on v, which is finite
  at every time; papers mostly use the error in noise."""
_LIMITS = """\
- One teacher, one world, one seed a student. Differences between two recipes contain the luck of
  two trainings, which no interval on these pages knows of.
- Steps, rates and weights were chosen so that a student works within minutes of CPU time, not
  tuned alike for all. A recipe that does worse than another here was not shown to be worse.
- Hyper-SD's reward and score stages, SwiftBrush's and SiD's scale, and SANA-Sprint's one-step use
  are left out. Methods without published code (BOOT, SCott, SNOOPI, Hyper-SD, decoupled DMD) were
  written after the papers, and may differ from what their authors ran.
- KID, recall and rare combinations are against the teacher's images: a student that improves on
  its teacher, as DMD2's adversarial term is said to make it, looks worse for it.
- The judge sees four attributes. Artefacts it was not trained on cost nothing here.
- Nothing about the size of an effect on photographs follows; directions may."""


def pieces() -> list[tuple[str, str]]:
    """Return each file of the library with the first sentence of its docstring."""
    rows = []
    for file in sorted(_HOME.glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if file.stem != "__init__":
            rows.append((f"`safetybench/distill/{file.name}`", text.partition("\n\n")[0]))
    rows.append(("`safetybench/distill/recipes/`", "The methods, one file each."))
    return rows


def example() -> str:
    """Return the class of the example's file with its decorators, as it stands there."""
    text = EXAMPLE.read_text(encoding="utf-8")
    (node,) = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef))
    first = min(decorator.lineno for decorator in node.decorator_list)
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


def page() -> str:
    """Return the page of the distillation library."""
    parts = ["# Distillation", NOTE, _ABOUT]
    parts += ["## Pieces", _ABOUT_PIECES, table(("file", "what it is"), pieces())]
    write = _WRITE.format(name=f"recipes/{EXAMPLE.stem}", file=EXAMPLE.name)
    parts += ["## Write a recipe", write, f"```python\n{example()}\n```", _RULES]
    parts += ["## Guidance", _GUIDANCE, "## Times", _TIMES]
    parts += ["## What departs from the papers", _DEPARTS, "## Limits", _LIMITS]
    return "\n\n".join(parts) + "\n"
