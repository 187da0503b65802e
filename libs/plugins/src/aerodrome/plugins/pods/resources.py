"""How much of the machine each container gets: what the node, the task, the pod template and the platform say.

Source: spec/data-plane.md, section 2.7 (resources).  One deviation: a node's resource override goes to the primary
container only; the reference also gives it to every init container.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flyteidl.admin.matchable_resource_pb2 import TaskResourceSpec

from aerodrome.plugins import quantity
from aerodrome.plugins.api import PluginError, TaskContext, failed_to_build
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.documents import quantity_text
from aerodrome.plugins.pods.targets import declared_resources

Sides = dict[str, dict[str, str]]
"""`requests` and `limits`, each by resource name."""

_GPU: Final = "gpu"
_EPHEMERAL: Final = "ephemeral-storage"
_SIZED: Final = frozenset({"cpu", "memory", _EPHEMERAL})
"""The resources that the platform chooses where nobody else does."""
_NOTHING: Final = quantity.Bounds(None, None)
_SIDES: Final = ("requests", "limits")


@dataclass(frozen=True, slots=True)
class PlatformResources:
    """Defaults and maxima by Kubernetes resource name; what is not there is not set."""

    defaults: Mapping[str, str]
    maxima: Mapping[str, str]


def platform_resources(context: TaskContext, config: K8sPluginConfig) -> PlatformResources:
    """What the platform sets for this execution; CPU and memory requests always have a default."""
    defaults = {"cpu": config.default_cpus, "memory": config.default_memory}
    defaults.update(_by_name(context.resources.defaults, config))
    return PlatformResources(defaults, _by_name(context.resources.limits, config))


def primary_resources(
    context: TaskContext, container: Mapping[str, Any], template: Mapping[str, Any], config: K8sPluginConfig
) -> Sides:
    """The resources of the primary container.  `template` is what the pod template says of it.

    Raises PluginError.
    """
    override: Sides = {}
    if context.overrides is not None:
        override = declared_resources(context.overrides.resources)
    return _sized(
        context, _merged((template.get("resources", {}), container.get("resources", {}), override), config), config
    )


def defaulted_resources(
    context: TaskContext, container: Mapping[str, Any], template: Mapping[str, Any], config: K8sPluginConfig
) -> list[str]:
    """The resources of the primary container, as it was written, for which nobody but the platform chose a size.

    They are known to be quantities (`primary_resources` comes first).
    """
    override = {} if context.overrides is None else declared_resources(context.overrides.resources)
    chosen = _merged((template.get("resources", {}), container.get("resources", {}), override), config)
    given = {name for side in chosen.values() for name in _SIZED & side.keys() if quantity.is_given(side[name])}
    return sorted(platform_resources(context, config).defaults.keys() & _SIZED - given)


def init_resources(
    context: TaskContext, container: Mapping[str, Any], template: Mapping[str, Any], config: K8sPluginConfig
) -> Sides:
    """The resources of an init container, sized like the primary one but for the override.  Raises PluginError."""
    return _sized(context, _merged((template.get("resources", {}), container.get("resources", {})), config), config)


def other_resources(
    context: TaskContext, container: Mapping[str, Any], template: Mapping[str, Any], config: K8sPluginConfig
) -> Sides:
    """The resources of a secondary container: what it asks for, bounded; nothing is added.  Raises PluginError."""
    sides = _merged((template.get("resources", {}), container.get("resources", {})), config)
    maxima = platform_resources(context, config).maxima
    result: Sides = {side: {} for side in _SIDES}
    for name, (request, limit) in _paired(sides).items():
        try:
            _put(result, name, quantity.clamp(request, limit, maxima.get(name)))
        except ValueError as error:
            raise _unreadable(context, name, error) from error
    return result


def _sized(context: TaskContext, sides: Sides, config: K8sPluginConfig) -> Sides:
    """`sides` completed and bounded by the platform; what the platform does not size passes unchanged."""
    platform = platform_resources(context, config)
    paired = {**dict.fromkeys(sorted(_SIZED), _NOTHING), **_paired(sides)}
    result: Sides = {side: {} for side in _SIDES}
    for name, (request, limit) in paired.items():
        default, maximum = platform.defaults.get(name), platform.maxima.get(name)
        try:
            if name == config.gpu_resource_name:
                devices = quantity.adjust(request, limit, None, maximum).limit
                bounds = quantity.Bounds(devices, devices)
            elif name in _SIZED:
                bounds = quantity.adjust(request, limit, default, maximum)
            else:
                bounds = quantity.Bounds(request, limit)
        except ValueError as error:
            raise _unreadable(context, name, error) from error
        _put(result, name, bounds)
    return result


def _merged(layers: tuple[Mapping[str, Any], ...], config: K8sPluginConfig) -> Sides:
    """`layers` of resources by side and name, later ones winning, with `gpu` under its configured name."""
    result: Sides = {side: {} for side in _SIDES}
    for layer in layers:
        for side in _SIDES:
            for name, value in (layer.get(side) or {}).items():
                result[side][config.gpu_resource_name if name == _GPU else name] = quantity_text(value)
    return result


def _paired(sides: Sides) -> dict[str, quantity.Bounds]:
    names = {**sides["requests"], **sides["limits"]}
    return {name: quantity.Bounds(sides["requests"].get(name), sides["limits"].get(name)) for name in names}


def _put(sides: Sides, name: str, bounds: quantity.Bounds) -> None:
    for side, value in zip(_SIDES, bounds, strict=True):
        if value is not None:
            sides[side][name] = value


def _by_name(spec: TaskResourceSpec, config: K8sPluginConfig) -> dict[str, str]:
    values = {
        "cpu": spec.cpu,
        "memory": spec.memory,
        _EPHEMERAL: spec.ephemeral_storage,
        config.gpu_resource_name: spec.gpu,
    }
    return {name: value for name, value in values.items() if value}


def _unreadable(context: TaskContext, resource: str, error: ValueError) -> PluginError:
    return failed_to_build(f"{context.describe()}: {resource}: {error}")
