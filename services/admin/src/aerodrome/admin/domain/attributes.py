"""Matchable attributes: which of those that are stored applies, and what may be stored.

Source: spec/control-plane.md, sections 8.2 and 8.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flyteidl.admin.matchable_resource_pb2 import MatchableResource, MatchingAttributes, TaskResourceSpec

from aerodrome.admin.domain.validation import check_labels, invalid_value, shown
from aerodrome.stdlib.config import parse_quantity
from aerodrome.stdlib.errors import InvalidArgument

MAX_ATTRIBUTES_BYTES = 256 * 1024
"""Largest attributes of one kind at one level, serialized: every launch in their reach reads them."""

_KINDS: Mapping[str, MatchableResource] = {
    "task_resource_attributes": MatchableResource.TASK_RESOURCE,
    "cluster_resource_attributes": MatchableResource.CLUSTER_RESOURCE,
    "execution_queue_attributes": MatchableResource.EXECUTION_QUEUE,
    "execution_cluster_label": MatchableResource.EXECUTION_CLUSTER_LABEL,
    "plugin_overrides": MatchableResource.PLUGIN_OVERRIDE,
    "workflow_execution_config": MatchableResource.WORKFLOW_EXECUTION_CONFIG,
    "cluster_assignment": MatchableResource.CLUSTER_ASSIGNMENT,
}
"""What each field of `MatchingAttributes` is stored as.  Quality of service is no such field: nothing would use it."""


@dataclass(frozen=True, slots=True)
class Level:
    """Where attributes are stored: a project, a domain of it, or a workflow of that; empty parts mean "any"."""

    project: str
    domain: str = ""
    workflow: str = ""

    @property
    def priority(self) -> int:
        """What wins over what: the higher."""
        return 100 if self.workflow else 10 if self.domain else 5

    def __str__(self) -> str:
        return "-".join(part for part in (self.project, self.domain, self.workflow) if part)


@dataclass(frozen=True, slots=True)
class AttributeRow:
    """Attributes of one kind at one level; an empty key part means "any"."""

    project: str
    domain: str
    workflow: str
    launch_plan: str
    resource_type: str
    priority: int
    attributes: bytes


def most_specific(
    rows: Iterable[AttributeRow],
    kind: MatchableResource,
    *,
    project: str,
    domain: str = "",
    workflow: str = "",
    launch_plan: str = "",
) -> MatchingAttributes | None:
    """The attributes of `kind` of the most specific row that matches, whole; None if none does."""
    name = MatchableResource.Name(kind)
    best: AttributeRow | None = None
    for row in rows:
        if (
            row.resource_type == name
            and row.project in ("", project)
            and row.domain in ("", domain)
            and row.workflow in ("", workflow)
            and row.launch_plan in ("", launch_plan)
            and (best is None or row.priority > best.priority)
        ):
            best = row
    return None if best is None else MatchingAttributes.FromString(best.attributes)


def attributes_kind(attributes: MatchingAttributes) -> MatchableResource | None:
    """The kind that `attributes` are of; None where they are of none that can be stored."""
    target = attributes.WhichOneof("target")
    return None if target is None else _KINDS.get(target)


def check_kind(number: int) -> str:
    """The name of the kind that a request asks for by its number.  Raises InvalidArgument if there is no such kind."""
    value = MatchableResource.DESCRIPTOR.values_by_number.get(number)
    if value is None:
        raise invalid_value("resource_type")
    return str(value.name)


def check_attributes(attributes: MatchingAttributes) -> None:
    """What is stored can be used by every launch after: its quantities and labels are some.

    Raises InvalidArgument, with the place.  The reference stores anything and reads what it cannot parse as nothing.
    """
    if attributes.ByteSize() > MAX_ATTRIBUTES_BYTES:
        raise InvalidArgument(
            f"matching_attributes too large: {attributes.ByteSize()} bytes, at most {MAX_ATTRIBUTES_BYTES} are allowed"
        )
    resources = attributes.task_resource_attributes
    for part in ("defaults", "limits"):
        spec: TaskResourceSpec = getattr(resources, part)
        for field in ("cpu", "gpu", "memory", "storage", "ephemeral_storage"):
            text = getattr(spec, field)
            if text:
                _check_quantity(f"task_resource_attributes.{part}.{field}", text)
    check_labels(attributes.workflow_execution_config.labels.values)


def merge_plugin_overrides(stored: MatchingAttributes, given: MatchingAttributes) -> MatchingAttributes:
    """`stored` with the overrides that are `given`: one for a task type replaces the one that was there."""
    by_type = {each.task_type: each for each in stored.plugin_overrides.overrides}
    by_type.update((each.task_type, each) for each in given.plugin_overrides.overrides)
    merged = MatchingAttributes()
    merged.CopyFrom(given)
    merged.plugin_overrides.SetInParent()
    del merged.plugin_overrides.overrides[:]
    merged.plugin_overrides.overrides.extend(by_type.values())
    return merged


def _check_quantity(field: str, text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError as error:
        raise InvalidArgument(
            f"invalid value for {field}: [{shown(text)}] is no quantity such as 500m or 2Gi"
        ) from error
    if value < 0:
        raise InvalidArgument(f"invalid value for {field}: [{shown(text)}] is negative")
