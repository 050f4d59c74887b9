"""What a scenario gets to work with: models, judge, attack, log and images of one run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from safetybench import registry
from safetybench.contracts import Cell, Judge, SafetyBenchError
from safetybench.harness import device as devices
from safetybench.harness import models
from safetybench.harness.plan import Plan
from safetybench.harness.training import NotTrained, Workshop, is_training
from safetybench.store import Store
from safetybench.suite import Suite
from safetybench.suite_evasion import is_member

if TYPE_CHECKING:
    import torch

# The target under test and one it is compared with; a third would need memory nobody planned.
_KEPT = 2


@dataclass(kw_only=True)
class Context:
    """The run's services; one for each process.

    offline: nothing is fetched; tell: called with a line on what takes long; memo: what a
    scenario keeps between chunks because making it again would cost.
    """

    plan: Plan
    store: Store
    offline: bool = False
    tell: Callable[[str], None] = lambda line: None
    memo: dict[Any, Any] = field(default_factory=dict, init=False)
    load_error: SafetyBenchError | None = field(default=None, init=False)
    loads: int = field(default=0, init=False)
    _targets: OrderedDict[str, Any] = field(default_factory=OrderedDict, init=False)
    _freed_nfe: int = field(default=0, init=False)
    _untrained: dict[str, NotTrained] = field(default_factory=dict, init=False)

    @property
    def suite(self) -> Suite:
        """The suite that runs."""
        return self.plan.suite

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return devices.torch_device(self.plan.place)

    @property
    def dtype(self) -> torch.dtype:
        """What weights and activations are."""
        return devices.torch_dtype(self.plan.place)

    @cached_property
    def judge(self) -> Judge:
        """The judge of the suite, on the run's device if it can move."""
        judge: Any = self.suite.new_judge()
        moved: Judge = judge.to(self.device) if hasattr(judge, "to") else judge
        return moved

    def attack(self, cell: Cell) -> Any:
        """Return the attack of a cell, constructed with the cell's options."""
        return registry.create(cell.attack, cell.options)

    def target(self, label: str) -> Any:
        """Return the target of this label, loading it unless it is one of the last two used.

        Raises:
            NotTrained: it is a student of this run, whose training failed.
            SafetyBenchError: it cannot be loaded; the run then stops, for no item can change that.
        """
        if label in self._untrained:
            raise self._untrained[label]
        if label in self._targets:
            self._targets.move_to_end(label)
            return self._targets[label]
        self._drop(list(self._targets)[: len(self._targets) + 1 - _KEPT])
        try:
            found = self._open(label)
        except NotTrained as error:
            self._untrained[label] = error
            raise
        except SafetyBenchError as error:
            self.load_error = error
            raise
        self.loads += 1
        self._targets[label] = found
        return found

    def _open(self, label: str) -> Any:
        spec, known = self._place(label), self.plan.targets.get(label, {}).get("digest")
        options: dict[str, Any] = {"offline": self.offline, "digest": known}
        try:
            return models.open_target(spec, self.device, self.dtype, **options)
        except (MemoryError, RuntimeError) as error:
            if not (self._targets and devices.is_out_of_memory(error)):
                raise
        self.free()
        return models.open_target(spec, self.device, self.dtype, **options)

    def _place(self, label: str) -> Any:
        """Return a specification that can be loaded, after making what the run has to make."""
        if label in self._untrained:
            raise self._untrained[label]
        spec, base = self.suite.spec(label), self.suite.base_of(label)
        if is_training(spec):
            key = str(self.plan.targets[label]["digest"])
            if not self._workshop.has(label, key):
                spec = {**spec, **self._sources(label, spec, base)}
                self.free()
            try:
                return str(self._workshop.make(label, spec, key))
            except NotTrained as error:
                self._untrained[label] = error  # it fails for whatever is made of it, too
                raise
        is_on_made = bool(base and self.suite.base_of(base)) or is_member(spec)
        if is_on_made and isinstance(spec, dict):  # a plug, or one network of a family
            plug = {key: value for key, value in spec.items() if key != "teacher"}
            return {"path": self._place(base), **plug}
        return spec

    def _sources(self, label: str, spec: Any, base: str) -> dict[str, Any]:
        """Return where the models are that a target is made of, after making them."""
        if not base:
            return {}
        told: Any = self.suite.told(label)
        partner = self._place(told["partner"]) if told.get("partner") else ""
        found = {"teacher": self._place(base), "root": spec["teacher"]}
        return {**found, **({"partner": partner} if partner else {})}

    @cached_property
    def _workshop(self) -> Workshop:
        return Workshop(
            folder=self.store.path, device=self.device, offline=self.offline, tell=self.tell
        )

    def free(self, keep: str = "") -> None:
        """Drop all loaded targets but one, and give their memory back."""
        self._drop([label for label in self._targets if label != keep])

    def _drop(self, labels: list[str]) -> None:
        for label in labels:
            self._freed_nfe += _nfe(self._targets.pop(label))
        if labels:
            devices.release()

    def evaluations(self) -> int:
        """Return the network evaluations (NFE) of all targets of this process so far."""
        return self._freed_nfe + self._workshop.nfe + sum(map(_nfe, self._targets.values()))


def _nfe(target: Any) -> int:
    return int(getattr(target, "nfe", 0))
