"""The names that the control plane gives: executions, generated workflows, namespaces, and where blobs lie.

Source: spec/control-plane.md, sections 4.2, 4.7, 4.10 and 13.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from urllib.parse import quote

from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.admin.domain.validation import shown
from aerodrome.stdlib.errors import InvalidArgument

MAX_EXECUTION_NAME_CHARS = 63
GENERATED_PREFIX = ".flytegen."
"""What the names of workflows and launch plans start with that were generated for single tasks."""

_EXECUTION_NAME = re.compile(r"[a-z][a-z\-0-9]*")
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MAX_SEGMENT_CHARS = 200


def new_execution_name() -> str:
    """A random name of 20 characters: `a`, then letters that form no words."""
    return "a" + "".join(secrets.choice(_NAME_LETTERS) for _ in range(19))


def check_execution_name(name: str) -> None:
    """`name` can be the name of an execution and of what the data plane makes for it; raises InvalidArgument."""
    if len(name) > MAX_EXECUTION_NAME_CHARS:
        raise InvalidArgument(f"size of name exceeded length {MAX_EXECUTION_NAME_CHARS} : {shown(name)}")
    if not _EXECUTION_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid name format: {name}, does not match regex '^[a-z][a-z\\-0-9]*$'")


def generated_id(task: Identifier, resource_type: ResourceType) -> Identifier:
    """The identifier of the workflow or launch plan that runs a single task."""
    return Identifier(
        resource_type=resource_type,
        project=task.project,
        domain=task.domain,
        name=GENERATED_PREFIX + task.name,
        version=task.version,
    )


def namespace(template: str, project: str, domain: str) -> str:
    """The namespace of an execution: `template` with `{{ project }}` and `{{ domain }}` replaced by ids."""
    return template.replace("{{ project }}", project).replace("{{ domain }}", domain)


def path_segment(text: str) -> str:
    """`text` as one element of a path that any store can hold.

    Ordinary names and versions stay as they are; separators, dots alone and control characters are percent-encoded, and
    what is longer than a file name may be is cut and ends in a hash of the whole.  Different texts give different
    segments.
    """
    quoted = quote(text, safe="-_.~=+@:!,()$&';*")
    if not quoted.strip("."):
        quoted = quoted.replace(".", "%2E")
    if len(quoted) > _MAX_SEGMENT_CHARS:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        quoted = f"{quoted[: _MAX_SEGMENT_CHARS - 65]}%{digest}"
    return quoted
