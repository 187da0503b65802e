"""What is written about projects: their rules, and what an inactive one means.

Source: spec/control-plane.md, sections 1.3, 1.7 and 8.1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flyteidl.admin.common_pb2 import Labels
from flyteidl.admin.project_pb2 import InactiveProject, Project

from aerodrome.admin.domain.validation import check_labels, check_text, dns_label_problems, missing, shown
from aerodrome.stdlib.errors import InvalidArgument

ACTIVE = int(Project.ACTIVE)
ARCHIVED = int(Project.ARCHIVED)

MAX_NAME_BYTES = 64
MAX_DESCRIPTION_BYTES = 300


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """What a write has to know about its project: the state, and the labels that executions inherit."""

    state: int
    labels: bytes

    def label_values(self) -> dict[str, str]:
        """The labels, decoded."""
        return dict(Labels.FromString(self.labels).values) if self.labels else {}


def check_usable(project: str, facts: ProjectFacts | None, domain: str, domains: Collection[str]) -> None:
    """`project` exists and is active, and `domain` is one of `domains`; raises InvalidArgument."""
    if facts is None:
        raise InvalidArgument(
            f"failed to validate that project [{shown(project)}] and domain [{shown(domain)}] are registered, "
            f"err: [project [{shown(project)}] not found]"
        )
    if facts.state != ACTIVE:
        raise InvalidArgument(f"project [{project}] is not active", details=(InactiveProject(id=project),))
    if domain not in domains:
        raise InvalidArgument(f"domain [{shown(domain)}] is unrecognized by system")


def check_project(project: Project, *, name_required: bool) -> None:
    """A project as it is registered (`name_required`) or updated."""
    if not project.ByteSize():
        raise missing("project")
    if name_required and not project.name:
        raise missing("project_name")
    if not project.id:
        raise missing("project_id")
    check_labels(project.labels.values)
    if reasons := dns_label_problems(project.id):
        raise InvalidArgument(f"invalid project id [{shown(project.id)}]: {'; '.join(reasons)}")
    if len(project.name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidArgument(f"project_name cannot exceed {MAX_NAME_BYTES} characters")
    if len(project.description.encode("utf-8", "surrogatepass")) > MAX_DESCRIPTION_BYTES:
        raise InvalidArgument(f"project_description cannot exceed {MAX_DESCRIPTION_BYTES} characters")
    check_text("project_name", project.name)
    check_text("project_description", project.description, max_chars=None, max_bytes=None)
    if project.domains:
        raise InvalidArgument(
            "Domains are currently only set system wide. Please retry without domains included in your request."
        )
    if project.state not in Project.ProjectState.values():
        raise InvalidArgument("invalid value for state")
