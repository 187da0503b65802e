"""What makes a task acceptable.  Source: spec/control-plane.md, section 1.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flyteidl.admin.description_entity_pb2 import DescriptionEntity
from flyteidl.admin.task_pb2 import TaskCreateRequest

from aerodrome.admin.config import WhitelistEntry
from aerodrome.admin.domain.task_resources import check_container, check_pod
from aerodrome.admin.domain.validation import check_size, check_text, missing
from aerodrome.idl.journal.v1.journal_pb2 import ResolvedResources
from aerodrome.stdlib.errors import InvalidArgument

MAX_DESCRIPTION_CHARS = 16_384
"""Longest short description or link."""

MAX_DESCRIPTION_BYTES = 2 * 2**20
"""Largest description, with its long text."""


def check_task(
    request: TaskCreateRequest,
    platform: ResolvedResources,
    whitelist: Mapping[str, Sequence[WhitelistEntry]],
) -> None:
    """The specification of a task whose identifier, project and domain were found good; raises InvalidArgument."""
    if not request.spec.HasField("template"):
        raise missing("spec")
    template = request.spec.template
    if not template.type:
        raise missing("type")
    check_text("type", template.type)
    _check_whitelist(template.type, request.id.project, request.id.domain, whitelist)
    if not template.HasField("metadata"):
        raise missing("metadata")
    if template.metadata.HasField("runtime") and not template.metadata.runtime.version:
        raise missing("runtime version")
    if not template.HasField("interface"):
        raise missing("typed interface")
    match template.WhichOneof("target"):
        case "container":
            if not template.container.image:
                raise missing("image")
            check_container(request.id, template.container.resources, platform)
        case "k8s_pod":
            check_pod(request.id, template.k8s_pod, platform)
        case _:
            pass
    check_description(request.spec.description)


def check_description(description: DescriptionEntity) -> None:
    """The texts of a description can be stored."""
    check_size("description", description.ByteSize(), MAX_DESCRIPTION_BYTES)
    check_text("short_description", description.short_description, max_chars=MAX_DESCRIPTION_CHARS, max_bytes=None)
    check_text("link", description.source_code.link, max_chars=MAX_DESCRIPTION_CHARS, max_bytes=None)


def _check_whitelist(
    task_type: str, project: str, domain: str, whitelist: Mapping[str, Sequence[WhitelistEntry]]
) -> None:
    entries = whitelist.get(task_type)
    if not entries:
        return
    for entry in entries:
        if not entry.project or (entry.project == project and entry.domain in ("", domain)):
            return
    raise InvalidArgument("task type must be whitelisted before use")
