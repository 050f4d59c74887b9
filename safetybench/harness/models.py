"""Targets by specification: `zoo:NAME`, a folder, a hub id, or a registered component.

A component target is a class from another package (or a mock) that answers prompts itself:
`targets/mine`, or a mapping `{component: targets/mine, options: {...}}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safetybench import registry
from safetybench.contracts import SafetyBenchError
from safetybench.store import digest as digest_json
from safetybench.suite_schema import TargetSpec
from safetybench.targets.classifier_loading import (
    check_classifier,
    classifier_digest,
    is_classifier,
    load_classifier,
)
from safetybench.targets.language_loading import (
    check_language,
    is_language,
    language_digest,
    load_language,
)

if TYPE_CHECKING:
    import torch


class _Component(NamedTuple):
    name: str
    options: dict[str, Any]


def _component(spec: TargetSpec) -> _Component | None:
    if isinstance(spec, str):
        return _Component(spec, {}) if spec.startswith("targets/") else None
    if "component" not in spec:
        return None
    extra = sorted(set(spec) - {"component", "options"})
    if extra:
        raise SafetyBenchError(f"a component target takes component and options, got {extra[0]!r}")
    return _Component(str(spec["component"]), dict(spec.get("options", {})))


def check(spec: TargetSpec, *, offline: bool) -> None:
    """Raise SafetyBenchError if a target cannot be loaded, as far as can be told cheaply."""
    component = _component(spec)
    if component is not None:
        registry.create(*component)
        return
    if is_classifier(spec):  # before language models, which take any folder with a config.json
        check_classifier(spec, offline=offline)
        return
    if is_language(spec):
        check_language(spec, offline=offline)
        return
    from safetybench.targets.loading import check_target

    check_target(spec, offline=offline)


def content_digest(spec: TargetSpec, *, offline: bool) -> str:
    """Return a digest of all that a target's answers depend on; a name is not enough.

    A component target may say what its weights are by a method `digest() -> str`.
    """
    component = _component(spec)
    if component is None and is_classifier(spec):
        return classifier_digest(spec, offline=offline)
    if component is None and is_language(spec):
        return language_digest(spec, offline=offline)
    if component is None:
        from safetybench.targets.loading import target_digest

        return target_digest(spec, offline=offline)
    made = registry.create(*component)
    weights = made.digest() if hasattr(made, "digest") else ""
    return digest_json([component.name, repr(made), weights, registry.code_digest(component.name)])


def open_target(
    spec: TargetSpec,
    device: torch.device,
    dtype: torch.dtype,
    *,
    offline: bool,
    digest: str | None = None,
) -> Any:
    """Load a target; a component target is moved by its own `to(device, dtype)` if it has one.

    digest: of `content_digest`, where it is known already.
    """
    component = _component(spec)
    if component is not None:
        made = registry.create(*component)
        return made.to(device, dtype) if hasattr(made, "to") else made
    if is_classifier(spec):
        return load_classifier(spec, device=device, dtype=dtype, offline=offline, digest=digest)
    if is_language(spec):
        return load_language(spec, device=device, dtype=dtype, offline=offline, digest=digest)
    from safetybench.targets.loading import load_target

    return load_target(spec, device=device, dtype=dtype, offline=offline, digest=digest)
