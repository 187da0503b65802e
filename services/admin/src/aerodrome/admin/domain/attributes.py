"""Which of the stored matchable attributes applies.  Source: spec/control-plane.md, section 8.2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flyteidl.admin.matchable_resource_pb2 import MatchableResource, MatchingAttributes


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
