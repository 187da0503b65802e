"""What every handler of a node kind offers, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flyteidl.admin import execution_pb2, matchable_resource_pb2
from flyteidl.core import identifier_pb2, literals_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import START, Closure
from aerodrome.propeller.engine.state import NodeState, Scope
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.nodes.bindings import Unresolvable, resolve
from aerodrome.stdlib.errors import AerodromeError, NotFound, PermissionDenied, ResourceExhausted

Observation = Callable[[Engine, float], None]
"""Tells the engine what was observed, at an instant in seconds since 1970."""


@dataclass(eq=False)
class Run:
    """One execution as handlers see it."""

    id: identifier_pb2.WorkflowExecutionIdentifier
    workflow_id: identifier_pb2.Identifier
    namespace: str
    spec: execution_pb2.ExecutionSpec
    closure: Closure
    layout: Layout
    literals: Literals
    resources: matchable_resource_pb2.TaskResourceAttributes
    plugin_overrides: tuple[matchable_resource_pb2.PluginOverride, ...]
    post: Callable[[Observation], None]
    """Hands an observation to the engine, from anywhere in the loop."""

    async def inputs(self, node: NodeState) -> literals_pb2.LiteralMap:
        """The inputs of a node from its bindings.  Raises Unresolvable, or a storage error that may pass."""

        async def outputs(node_id: str) -> literals_pb2.LiteralMap:
            return await self.outputs(node.scope, node_id or START)

        return await resolve(node.spec.template.inputs, outputs, self.load)

    async def outputs(self, scope: Scope, node_id: str) -> literals_pb2.LiteralMap:
        """What the node called `node_id` gave, as seen from `scope`; its aliases name the same values."""
        source = scope.find(node_id)
        if source is None:
            raise Unresolvable(f"there is no node {node_id}")
        try:
            known = await self.literals.read(self.layout.outputs(source))
        except NotFound as error:
            raise Unresolvable(f"the outputs of node {node_id} are gone: {error}") from error
        if not source.spec.template.output_aliases:
            return known
        aliased = literals_pb2.LiteralMap()
        aliased.CopyFrom(known)
        for alias in source.spec.template.output_aliases:
            if alias.var in known.literals:
                aliased.literals[alias.alias].CopyFrom(known.literals[alias.var])
        return aliased

    async def load(self, literal: literals_pb2.Literal) -> literals_pb2.Literal:
        """The value of an offloaded literal."""
        data = await self.literals.storage.read(literal.offloaded_metadata.uri)
        return literals_pb2.Literal.FromString(data)


class Handler(Protocol):
    """One kind of node."""

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        """Resolve and store the inputs, and decide what follows from them.  Repeatable."""
        ...

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        """Start the attempt, or find it again; what becomes of it is posted.  Called only with a valid lease."""
        ...

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        """End the attempt; returns when nothing of it is left."""
        ...

    async def collect(self, run: Run, node: NodeState) -> Observation:
        """Make the outputs of the inner scope the node's own.  Repeatable."""
        ...

    async def finalize(self, run: Run, node: NodeState, attempt: int) -> None:
        """Give back what a finished attempt holds."""
        ...


@runtime_checkable
class ItemsHandler(Handler, Protocol):
    """A kind of node that runs items; they come as (index, attempt)."""

    async def start_items(
        self,
        run: Run,
        node: NodeState,
        items: Sequence[tuple[int, int]],
        permit: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Start the attempts, or find them again, waiting for `permit` before each; what becomes of them is posted."""
        ...

    async def abort_item(self, run: Run, node: NodeState, index: int, attempt: int, reason: str) -> Observation:
        """End an item's attempt; returns when nothing of it is left."""
        ...

    async def finalize_items(self, run: Run, node: NodeState, items: Sequence[tuple[int, int]]) -> None:
        """Give back what finished attempts hold."""
        ...


class Coordinating:
    """The part that kinds share which run nothing of their own."""

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        raise AssertionError(f"{node.spec.kind.value} nodes have no attempts")

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        return lambda engine, now: engine.aborted(node, attempt, now)

    async def finalize(self, run: Run, node: NodeState, attempt: int) -> None:
        """Nothing is held."""


def final(error: AerodromeError) -> bool:
    """Whether trying the same storage call again is pointless."""
    return isinstance(error, NotFound | PermissionDenied | ResourceExhausted)


def storage_failure(error: AerodromeError, code: str) -> Failure:
    """A storage error that ends a node."""
    return Failure(code, error.message, ErrorKind.SYSTEM, retryable=not final(error))
