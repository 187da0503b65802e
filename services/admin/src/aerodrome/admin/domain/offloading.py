"""Where inline data of events is stored, instead of in the database.

References contain the execution's id, a digest of the data, and what nobody else has: a repeated or refused event can
never change what an accepted one refers to, and what was stored for it can be taken away again.  Source:
spec/control-plane.md sections 5 and 13.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from flyteidl.core.identifier_pb2 import Identifier

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.=+-]{0,127}")


@dataclass(frozen=True, slots=True)
class ExecutionPlace:
    """An execution, as paths name it."""

    execution_id: int
    project: str
    domain: str
    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (part(self.project), part(self.domain), part(self.name), str(self.execution_id))


def part(text: str) -> str:
    """`text` as one element of a path: itself if it is plain, a digest of it otherwise."""
    if _PLAIN.fullmatch(text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def data_path(place: ExecutionPlace, owner: Sequence[str], what: str, data: bytes) -> tuple[str, ...]:
    """Elements of the path at which `what` (`offloaded_inputs`, `offloaded_outputs`) of an execution, or of the node or
    attempt that `owner` names, is stored."""
    return ("metadata", *place.parts, *map(part, owner), what, _name(data))


def dynamic_workflow_path(
    place: ExecutionPlace, prefix: Sequence[str], node_id: str, workflow: Identifier, data: bytes
) -> tuple[str, ...]:
    """Elements of the path at which the workflow that a dynamic node made is stored."""
    identity = "_".join((workflow.project, workflow.domain, workflow.name, workflow.version))
    return (*prefix, *place.parts, part(node_id), part(identity), _name(data))


def _name(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}-{secrets.token_hex(8)}"
