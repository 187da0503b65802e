"""`flyte://` addresses of what nodes and attempts were given and made.  Source: spec/control-plane.md, section 9.4."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier, WorkflowExecutionIdentifier

from aerodrome.admin.domain.validation import shown
from aerodrome.stdlib.errors import InvalidArgument

PREFIX = "flyte://v1/"
MAX_URL_CHARS = 4_096


class Part(Enum):
    """What of a node or an attempt is meant."""

    INPUTS = "i"
    OUTPUTS = "o"
    DECK = "d"


@dataclass(frozen=True, slots=True)
class FlyteUrl:
    """A parsed address; `attempt` is None for the node itself, `name` None for the whole map."""

    project: str
    domain: str
    execution: str
    node_id: str
    attempt: int | None
    part: Part
    name: str | None

    @property
    def node(self) -> NodeExecutionIdentifier:
        """The identifier of the node."""
        return NodeExecutionIdentifier(
            execution_id=WorkflowExecutionIdentifier(project=self.project, domain=self.domain, name=self.execution),
            node_id=self.node_id,
        )

    def __str__(self) -> str:
        attempt = () if self.attempt is None else (str(self.attempt),)
        name = () if self.name is None else (self.name,)
        parts = (self.project, self.domain, self.execution, self.node_id, *attempt, self.part.value, *name)
        return PREFIX + "/".join(parts)


_WORD = "[A-Za-z0-9_-]+"
_PATH = re.compile(
    f"(?P<project>{_WORD})/(?P<domain>{_WORD})/(?P<execution>{_WORD})/(?P<node>{_WORD})"
    f"(?:/(?P<attempt>[0-9]+))?/(?:(?P<part>[io])(?:/(?P<name>{_WORD}))?|(?P<deck>d))"
)
_MAX_ATTEMPT = 2**31 - 1


def parse_flyte_url(url: str) -> FlyteUrl:
    """Raises InvalidArgument, saying which part cannot be understood."""
    if not url.startswith(PREFIX):
        reason = f"the address must start with {PREFIX}, but is [{shown(url)}]" if url else "missing flyte_url"
        raise InvalidArgument(f"failed to validate resolve artifact request. Error: {reason}")
    found = _PATH.fullmatch(url, len(PREFIX)) if len(url) <= MAX_URL_CHARS else None
    if found is None:
        raise _unparsed(url, "it is not <project>/<domain>/<execution>/<node>[/<attempt>]/<i, o or d>[/<name>]")
    attempt = None
    if found["attempt"] is not None:
        attempt = int(found["attempt"]) if len(found["attempt"]) <= 10 else _MAX_ATTEMPT + 1
        if attempt > _MAX_ATTEMPT:
            raise _unparsed(url, "there is no such attempt")
        if found["deck"]:
            raise _unparsed(url, "a deck belongs to a node, not to an attempt")
    return FlyteUrl(
        project=found["project"],
        domain=found["domain"],
        execution=found["execution"],
        node_id=found["node"],
        attempt=attempt,
        part=Part(found["part"] or found["deck"]),
        name=found["name"],
    )


def _unparsed(url: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"failed to parse artifact url Error: [{shown(url)}]: {reason}")
