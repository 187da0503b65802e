"""What a task may ask of the platform: quantities, and the platform's defaults and limits for them.

Source: spec/control-plane.md, sections 1.5 (rules 8 and 9) and 4.6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from flyteidl.admin.matchable_resource_pb2 import TaskResourceAttributes, TaskResourceSpec
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.tasks_pb2 import K8sPod, Resources
from google.protobuf.struct_pb2 import Struct, Value

from aerodrome.admin.config import TaskResourcesConfig, TaskResourceSet
from aerodrome.admin.domain.validation import proto_text, shown
from aerodrome.idl.journal.v1.journal_pb2 import ResolvedResources
from aerodrome.stdlib.config import parse_quantity
from aerodrome.stdlib.errors import InvalidArgument

KINDS: Mapping[str, str] = {"CPU": "cpu", "MEMORY": "memory", "GPU": "gpu", "EPHEMERAL_STORAGE": "ephemeral-storage"}
"""The names of resources in task templates, and how `ResolvedResources` calls them."""

_POD_NAMES: Mapping[str, str] = {
    "cpu": "CPU", "memory": "MEMORY", "ephemeral-storage": "EPHEMERAL_STORAGE", "nvidia.com/gpu": "GPU",
}  # fmt: skip
_CONVENTIONS = (
    "Please follow K8s conventions for resources "
    "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/"
)


def platform_resources(attributes: TaskResourceAttributes | None, config: TaskResourcesConfig) -> ResolvedResources:
    """The platform's defaults and limits: those of the attribute if there is one, whole, else the configured ones."""
    if attributes is None:
        return ResolvedResources(defaults=_set(config.defaults), limits=_set(config.limits))
    return ResolvedResources(defaults=_set(attributes.defaults), limits=_set(attributes.limits))


def check_container(task: Identifier, resources: Resources, platform: ResolvedResources) -> None:
    """The resources of a container are well formed and within the platform's limits; raises InvalidArgument."""
    requests = _entries(task, resources.requests, "request")
    limits = _entries(task, resources.limits, "limit")
    _check(task, requests, limits, platform)


def check_pod(task: Identifier, pod: K8sPod, platform: ResolvedResources) -> None:
    """The same for every container of a pod."""
    if not pod.HasField("pod_spec"):
        raise InvalidArgument(
            "invalid TaskSpecification, pod tasks should specify their target as a K8sPod with a defined pod spec"
        )
    for container in _list(pod.pod_spec, "containers"):
        if container.WhichOneof("kind") != "struct_value":
            raise InvalidArgument(f"every container in the pod spec of task [{proto_text(task)}] must be an object")
        resources = _field(container.struct_value, "resources").struct_value
        requests = _quantities(resources, "requests", "request")
        limits = _quantities(resources, "limits", "limit")
        _check(task, requests, limits, platform)


def _set(resources: TaskResourceSet | TaskResourceSpec) -> dict[str, str]:
    values = {
        "cpu": resources.cpu,
        "memory": resources.memory,
        "gpu": resources.gpu,
        "ephemeral-storage": resources.ephemeral_storage,
    }
    return {name: value for name, value in values.items() if value and _value_or_zero(value)}


def _value_or_zero(quantity: str) -> Decimal:
    try:
        return parse_quantity(quantity)
    except InvalidArgument:
        return Decimal(0)


def _entries(task: Identifier, entries: Iterable[Resources.ResourceEntry], what: str) -> dict[str, str]:
    """Quantities by name; STORAGE and UNKNOWN are ignored."""
    result: dict[str, str] = {}
    for entry in entries:
        name = Resources.ResourceName.DESCRIPTOR.values_by_number.get(entry.name)
        if name is None or name.name not in KINDS:
            continue
        if name.name in result:
            raise InvalidArgument(f"can't specify {name.name} limit for task [{proto_text(task)}] multiple times")
        _parse(name.name, entry.value, what)
        result[name.name] = entry.value
    return result


def _quantities(resources: Struct, field: str, what: str) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in _field(resources, field).struct_value.fields.items():
        text = _plain(value)
        kind = _POD_NAMES.get(name)
        _parse(kind or shown(name), text, what)
        if kind is not None:
            result[kind] = text
    return result


def _plain(value: Value) -> str:
    if value.WhichOneof("kind") == "number_value":
        number = value.number_value
        return str(int(number)) if number.is_integer() else repr(number)
    return value.string_value


def _list(struct: Struct, field: str) -> Sequence[Value]:
    return list(_field(struct, field).list_value.values)


def _field(struct: Struct, name: str) -> Value:
    """A field's value, an empty one if there is none; the map itself would add what is looked up."""
    return struct.fields[name] if name in struct.fields else Value()


def _parse(name: str, text: str, what: str) -> Decimal:
    try:
        return parse_quantity(text)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"Parsing of {name} {what} failed for value {shown(text)} - reason  {error}. {_CONVENTIONS}"
        ) from error


def _check(
    task: Identifier, requests: Mapping[str, str], limits: Mapping[str, str], platform: ResolvedResources
) -> None:
    for entries in (requests, limits):
        if "GPU" in entries:
            value = parse_quantity(entries["GPU"])
            if value != value.to_integral_value():
                raise InvalidArgument(
                    f"gpu for [{proto_text(task)}] must be a whole number, got: {shown(entries['GPU'])} instead"
                )
    for name, request in requests.items():
        limit = limits.get(name)
        ceiling = platform.limits.get(KINDS[name], "")
        if name == "GPU":
            if limit is not None and parse_quantity(limit) != parse_quantity(request):
                raise InvalidArgument(
                    "For extended resource 'gpu' the default value must equal the limit value for task "
                    f"[{proto_text(task)}]"
                )
            _check_platform(name, "default", request, ceiling)
            continue
        if limit is not None:
            if _rounded(request) > _rounded(limit):
                raise InvalidArgument(
                    f"Requested {name} default [{request}] is greater than the limit [{limit}]. "
                    "Please fix your configuration"
                )
            _check_platform(name, "limit", limit, ceiling)
        _check_platform(name, "default", request, ceiling)


def _check_platform(name: str, what: str, value: str, ceiling: str) -> None:
    if ceiling and _rounded(value) > _rounded(ceiling):
        raise InvalidArgument(
            f"Requested {name} {what} [{value}] is greater than current limit set in the platform configuration "
            f"[{ceiling}]. Please contact Flyte Admins to change these limits or consult the configuration"
        )


def _rounded(quantity: str) -> int:
    """Comparisons are between whole numbers, rounded up, as everywhere in this contract."""
    return math.ceil(parse_quantity(quantity))
