"""What a suite says about images: which are edited, how they are protected, edited and cleaned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from safetybench import registry
from safetybench.contracts import Budget, SafetyBenchError
from safetybench.suite_file import Location
from safetybench.suite_schema import Strict, Word, read_budget

if TYPE_CHECKING:
    from safetybench.suite import Suite

SELF = "self"
Change = Literal["object", "style", "colour", "background"]
Prompts = Literal["full", "bare"]


class ImageSet(Strict):
    """Images to protect, and what an editor is asked to make of them.

    count, seed, changes: renders of the zoo's world, of which one attribute is to be changed, in
    turn. keep: attributes that an edit must leave as they are to count as what the editor wanted.
    prompts: "full" names every attribute of the wanted image, so that the text brings back what a
    protection took off the image; "bare" names what is to change alone. table: a CSV of
    the user's images instead: image, prompt, concept, and where wanted id, caption, kept, mask,
    unseen_mask, seed; of it the first `count` rows are taken.
    """

    count: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0)] = 501
    changes: Annotated[tuple[Change, ...], Field(min_length=1)] = ("object",)
    keep: tuple[Change, ...] = ()
    prompts: Prompts = "full"
    table: str = ""


class ImageEntry(Strict):
    """An edit or a purifier: component name and options.

    model: what a purifier cleans with: "self" (the editing model), "teacher" or a student.
    mask: which area an edit that takes one draws anew: the one that protection was made for
    ("expected") or one of the editor's own ("unseen"). models: which edit, all by default.
    """

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    model: Word = SELF
    mask: Literal["expected", "unseen"] = "expected"
    models: tuple[Word, ...] = ()


def _read_spent(value: Any) -> Any:
    """Read a budget, or the word for the authors' own; told here, a union tells it once a type."""
    if value != "published" and not isinstance(value, Mapping | Budget):
        raise ValueError(f"must be epsilon and steps, or the word 'published', got {value!r}")
    return read_budget(value)


class Protection(Strict):
    """An image protection: component name, options and budget.

    budget: "published" is the epsilon and the steps that its authors released, for a comparison
    of methods as they are; at one epsilon they compare better.
    surrogates: models that it is made on: "teacher", a student, or "self", the editor itself.
    """

    name: Word
    options: dict[str, Any] = Field(default_factory=dict)
    budget: Annotated[Budget | Literal["published"], BeforeValidator(_read_spent)] = Budget()
    surrogates: Annotated[tuple[Word, ...], Field(min_length=1)] = ("teacher",)

    @property
    def spent(self) -> Budget:
        """The budget in figures."""
        if self.budget != "published":
            return self.budget
        published: Budget = registry.create(self.name, self.options).published
        return published


def components(suite: Suite) -> Iterable[tuple[Location, str, str]]:
    """Yield where a component is named, its name and the kind that it must have."""
    for i, protection in enumerate(suite.protections):
        yield ("protections", i, "name"), protection.name, "defenses"
    for key in ("edits", "purifiers"):
        for i, entry in enumerate(getattr(suite, key)):
            yield (key, i, "name"), entry.name, "attacks"


def faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    """Find what only the registry and the suite as a whole can tell."""
    from safetybench.contracts import ImageEdit, ImageProtection, Purifier

    yield from _image_faults(suite)
    wanted = {"edits": ImageEdit, "purifiers": Purifier, "protections": ImageProtection}
    models = ("teacher", *(student.name for student in suite.students))
    for key, contract in wanted.items():
        for i, entry in enumerate(getattr(suite, key)):
            at: Location = (key, i)
            try:
                made = registry.create(entry.name, entry.options)
            except SafetyBenchError as error:
                yield (*at, "name"), str(error)
                continue
            if not isinstance(made, contract):
                yield (*at, "name"), f"{entry.name} is no {contract.__name__}, as {key} are"
                continue
            for where in ("surrogates", "model", "models"):
                named = getattr(entry, where, ())
                for name in (named,) if isinstance(named, str) else named:
                    if name not in (SELF, *models):
                        near = registry.suggestion(name, models)
                        yield (*at, where), f"the suite has no model {name!r}{near}"
            if isinstance(entry, Protection):
                yield from _budget_faults(entry, made, at)


def _image_faults(suite: Suite) -> Iterable[tuple[Location, str]]:
    images = suite.images
    for key in ("keep", "prompts"):
        if images.table and getattr(images, key) != ImageSet.model_fields[key].default:
            yield ("images", key), f"{key} is about the zoo's renders, and images.table names yours"
    if images.keep and suite.judge != "judges/zoo":
        yield (
            ("images", "keep"),
            f"only judges/zoo can tell whether an edit keeps them, got the judge {suite.judge}",
        )


def _budget_faults(entry: Protection, made: Any, at: Location) -> Iterable[tuple[Location, str]]:
    budget = entry.spent
    if not budget.epsilon > 0 or budget.norm != "linf":
        yield (
            (*at, "budget"),
            f"{entry.name} needs a budget of epsilon above 0 in norm linf, in [0, 1] units "
            f"(8/255 is {8 / 255:.4f}), got {budget.epsilon:g} in {budget.norm}",
        )
    if budget.steps < 1 and not made.is_control:
        yield (*at, "budget"), f"{entry.name} needs a budget of steps, 1 or more"
