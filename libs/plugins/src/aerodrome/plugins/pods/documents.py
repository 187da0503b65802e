"""JSON documents in Kubernetes' form: reading them out of protobuf, checking their shape, and merging them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

from aerodrome.plugins.api import V1Pod, bad_task
from aerodrome.plugins.templating import decimal

_SPEC_SHAPE: Final[Mapping[str, type]] = {
    "containers": list,
    "initContainers": list,
    "volumes": list,
    "tolerations": list,
    "affinity": dict,
    "nodeSelector": dict,
}
_CONTAINER_SHAPE: Final[Mapping[str, type]] = {
    "name": str,
    "image": str,
    "command": list,
    "args": list,
    "env": list,
    "envFrom": list,
    "volumeMounts": list,
    "resources": dict,
}
_LISTS_OF_OBJECTS: Final = frozenset({"env", "envFrom", "volumeMounts", "volumes", "tolerations"})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_WORDS: Final[Mapping[type, str]] = {list: "a list", dict: "an object", str: "text"}


def from_struct(struct: struct_pb2.Struct, where: str) -> dict[str, Any]:
    """A protobuf Struct as JSON, with whole numbers as integers: Kubernetes refuses 80.0 for a port.

    Raises PluginError that names the place if a number is infinite or none.
    """
    try:
        result: dict[str, Any] = _with_integers(json_format.MessageToDict(struct))
    except ValueError as error:
        raise bad_task(f"{where}: {error}") from error
    return result


def check_spec(spec: Any, where: str) -> V1Pod:
    """`spec`, without null members, if it has the shape of a pod spec as far as it is read here.

    Raises PluginError that names the place.
    """
    checked = _without_nulls(spec)
    _expect(checked, dict, where)
    _check_members(checked, _SPEC_SHAPE, where)
    seen: set[str] = set()
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(checked.get(kind, ())):
            place = f"{where}.{kind}[{index}]"
            _check_container(container, place)
            if container["name"] in seen:
                raise bad_task(f"{place}: the container name {container['name']!r} is used twice")
            seen.add(container["name"])
    if not checked.get("containers"):
        raise bad_task(f"{where}.containers is empty: a pod needs at least one container")
    result: V1Pod = checked
    return result


def part(document: Mapping[str, Any], *members: str) -> Mapping[str, Any]:
    """The object at that path; empty if it is absent or null."""
    found: Any = document
    for member in members:
        found = found.get(member) or {}
    result: Mapping[str, Any] = found
    return result


def entries(document: Mapping[str, Any], *members: str) -> Sequence[Any]:
    """The list at that path; empty if it is absent or null."""
    *path, last = members
    result: Sequence[Any] = part(document, *path).get(last) or ()
    return result


def containers_of(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Init containers, then regular ones."""
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def find_container(spec: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The regular container called `name`."""
    found: Sequence[dict[str, Any]] = [
        container for container in spec.get("containers", ()) if container["name"] == name
    ]
    return found[0] if found else None


def copied(value: Any) -> Any:
    """A copy of a JSON document; several times as fast as `copy.deepcopy`, which has to expect anything."""
    kind = type(value)
    if kind is dict:
        return {key: copied(member) for key, member in value.items()}
    if kind is list:
        return [copied(member) for member in value]
    return value if kind in _SCALARS else copy.deepcopy(value)


def laid_over(base: Any, top: Any) -> Any:
    """`top` merged over `base` into a new document: objects by key, lists appended, anything else from `top`."""
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        merged = {key: laid_over(value, top[key]) if key in top else copied(value) for key, value in base.items()}
        merged.update({key: copied(value) for key, value in top.items() if key not in base})
        return merged
    if isinstance(base, list) and isinstance(top, list):
        return [*copied(base), *copied(top)]
    return copied(top)


def quantity_text(value: Any) -> str:
    """A quantity as it stands in JSON, which may be a number, as text."""
    if isinstance(value, float):
        return decimal(value)
    return str(value)


def _check_container(container: Any, place: str) -> None:
    _expect(container, dict, place)
    if not container.get("name"):
        raise bad_task(f"{place}: the container has no name")
    _check_members(container, _CONTAINER_SHAPE, place)
    for member in ("command", "args"):
        for index, text in enumerate(container.get(member, ())):
            _expect(text, str, f"{place}.{member}[{index}]")
    for member in ("requests", "limits"):
        _expect(container.get("resources", {}).get(member, {}), dict, f"{place}.resources.{member}")


def _check_members(document: Mapping[str, Any], shape: Mapping[str, type], where: str) -> None:
    for member, kind in shape.items():
        if member in document:
            _expect(document[member], kind, f"{where}.{member}")
            if member in _LISTS_OF_OBJECTS:
                for index, entry in enumerate(document[member]):
                    _expect(entry, dict, f"{where}.{member}[{index}]")


def _expect(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise bad_task(f"{where} has to be {_WORDS[kind]}, it is {_described(value)}")


def _described(value: Any) -> str:
    return _WORDS.get(type(value)) or f"{value!r}"[:80]


def _with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _with_integers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_integers(member) for member in value]
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value
