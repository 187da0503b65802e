"""The execution that this one recovers from, as far as its nodes matter.

A nested node's identity holds the attempt of the node around it, which may have been another one then; so a node's
earlier self is looked for by the way that led to it.  Source: spec/data-plane.md, 1.13, 1.15.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from flyteidl.admin import node_execution_pb2
from flyteidl.core import identifier_pb2, literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins.names import unique_node_id
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.literals import Literals
from aerodrome.stdlib.errors import NotFound, PermissionDenied


class Reads(Protocol):
    """The part of a run that is needed here."""

    literals: Literals


@dataclass(eq=False)
class EarlierNode:
    """A node as the earlier execution left it."""

    known: journal_pb2.RecalledNode

    @property
    def phase(self) -> str:
        """Name of its phase, as the API shows it."""
        return self.known.phase

    @cached_property
    def closure(self) -> node_execution_pb2.NodeExecutionClosure:
        return node_execution_pb2.NodeExecutionClosure.FromString(self.known.closure)

    @property
    def attempts(self) -> int:
        """Number of its last attempt."""
        try:
            return state_pb2.NodeState.FromString(self.known.state).attempts
        except DecodeError:  # another engine's
            return 0


class Earlier:
    """Every node of the execution that this one recovers from."""

    def __init__(self, execution: identifier_pb2.WorkflowExecutionIdentifier) -> None:
        self.execution = execution
        self._nodes: dict[str, EarlierNode] = {}

    def add(self, node: journal_pb2.RecalledNode) -> None:
        self._nodes[node.node_id] = EarlierNode(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, node: NodeState) -> EarlierNode | None:
        """What `node` was then, if it was reached; failure nodes, and what is in them, always run anew."""
        identity = self._identity(node)
        return None if identity is None else self._nodes.get(identity)

    def _identity(self, node: NodeState) -> str | None:
        known: str | None = node.memo.get("earlier")
        if known is not None:
            return known or None
        scope = node.scope
        identity: str | None = None
        if node is not scope.handler:
            identity = node.unique_id
            if scope.owner is not None:
                around = self._identity(scope.owner)
                owner = None if around is None else self._nodes.get(around)
                if around is None or owner is None or scope.owner_attempt:
                    # After a retry, what the attempt before took over or did is no longer what is wanted.
                    identity = None
                else:
                    identity = unique_node_id(around, owner.attempts, node.spec.id)
        node.memo["earlier"] = identity or ""
        return identity

    async def inputs(self, run: Reads, node: EarlierNode) -> literals_pb2.LiteralMap | None:
        """What a node was given then; None if that is gone."""
        if not node.known.input_uri:
            return None
        try:
            return await run.literals.read(node.known.input_uri)
        except (NotFound, PermissionDenied):
            return None
