"""What every handler of a node kind offers, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flyteidl.admin import execution_pb2, matchable_resource_pb2
from flyteidl.core import identifier_pb2, literals_pb2, types_pb2
from google.protobuf.message import DecodeError

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import START, Closure
from aerodrome.propeller.engine.state import NodeState, Scope
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.literals import Corrupt, Literals, SharedValues
from aerodrome.propeller.nodes.bindings import Unresolvable, resolve
from aerodrome.propeller.nodes.earlier import Earlier
from aerodrome.propeller.nodes.signals import Signals
from aerodrome.stdlib.errors import AerodromeError, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted

_ERROR_INPUT = "err"
"""Input of a failure node that is given the error which the node handles."""

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
    child_queue: str = field(default="", kw_only=True)
    """What the container tasks find in their container's config as `child_queue`; nothing if it is empty."""
    post: Callable[[Observation], None]
    """Hands an observation to the engine, from anywhere in the loop."""
    permit: Callable[[], Coroutine[Any, Any, None]]
    """Returns when a side effect is permitted; raises where this process may not act for the execution any more."""
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    """Runs something beside, for as long as this process drives the execution."""
    signals: Signals = field(default_factory=Signals)
    earlier: Earlier | None = None
    """Set if this execution recovers from another one."""
    _endings: list[Callable[[], None]] = field(default_factory=list)
    known: dict[Any, Any] = field(default_factory=dict)
    """What handlers remember of the execution."""
    values: SharedValues = field(init=False)
    """Inputs and outputs of nodes that no process is given a directory for."""

    def __post_init__(self) -> None:
        self.values = SharedValues(self.literals, self.layout.shared)

    def at_end(self, ending: Callable[[], None]) -> None:
        """Call `ending` when this process drives the execution no longer."""
        self._endings.append(ending)

    def end(self) -> None:
        """This process drives the execution no longer."""
        while self._endings:
            self._endings.pop()()

    def child_id(self, node: NodeState, attempt: int) -> identifier_pb2.WorkflowExecutionIdentifier:
        """The execution that an attempt of a launch-plan node starts."""
        return identifier_pb2.WorkflowExecutionIdentifier(
            project=self.id.project, domain=self.id.domain, name=self.layout.child_name(node, attempt)
        )

    async def inputs(self, node: NodeState) -> literals_pb2.LiteralMap:
        """The inputs of a node from its bindings.  Raises Unresolvable, or a storage error that may pass."""

        async def outputs(node_id: str) -> literals_pb2.LiteralMap:
            return await self.outputs(node.scope, node_id or START)

        inputs = await resolve(node.spec.template.inputs, outputs, self.load)
        if node is node.scope.handler and _ERROR_INPUT in inputs.literals:
            inputs.literals[_ERROR_INPUT].CopyFrom(_error_literal(node.scope))
        return inputs

    def inputs_at_hand(self, node: NodeState) -> literals_pb2.LiteralMap | None:
        """The inputs of a node, if its bindings are plain and what they name is in memory; else `inputs` tells."""
        scope = node.scope
        if node is scope.handler:
            return None
        resolved = literals_pb2.LiteralMap()
        for binding in node.spec.template.inputs:
            data = binding.binding
            kind = data.WhichOneof("value")
            if kind == "scalar":
                resolved.literals[binding.var].scalar.CopyFrom(data.scalar)
                continue
            if kind != "promise":
                return None
            promise = data.promise
            source = scope.find(promise.node_id or START)
            if source is None or promise.attr_path or source.spec.template.output_aliases:
                return None
            known = self.literals.remembered(self.layout.outputs(source))
            if known is None or promise.var not in known.literals:
                return None
            resolved.literals[binding.var].CopyFrom(known.literals[promise.var])
        return resolved

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
        """The value of an offloaded literal.  Raises Unresolvable if it is gone or damaged, or a storage error."""
        uri = literal.offloaded_metadata.uri
        try:
            return await self.literals.read_as(uri, literals_pb2.Literal.FromString)
        except DecodeError as error:
            raise Unresolvable(f"what is stored at {uri} is not a value: {error}") from error
        except NotFound as error:
            raise Unresolvable(f"the value that was stored at {uri} is gone") from error


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
class AtHandHandler(Handler, Protocol):
    """A kind of node for which much is decided by what is in memory, without waiting for anything.

    None (or False) of each means that the handler has to be asked in the ordinary way.
    """

    def prepare_at_hand(self, run: Run, node: NodeState) -> Observation | None:
        """As `prepare`."""
        ...

    def start_at_hand(self, run: Run, node: NodeState, attempt: int) -> Observation | None:
        """As `start`, for an attempt that begins and ends at once.  Called only with a valid lease."""
        ...

    def holds_nothing(self, run: Run, node: NodeState) -> bool:
        """Whether `finalize` would do nothing."""
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


def _error_literal(scope: Scope) -> literals_pb2.Literal:
    """The error that a failure node handles, as its input.  Source: spec/data-plane.md, 1.12."""
    error = types_pb2.Error(message=scope.failure.message if scope.failure is not None else "")
    if scope.failed is not None:
        error.failed_node_id = scope.failed.spec.id
    kind = types_pb2.LiteralType(simple=types_pb2.ERROR, structure=types_pb2.TypeStructure(tag="FlyteError"))
    given = literals_pb2.Literal(scalar=literals_pb2.Scalar(error=error))
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(union=literals_pb2.Union(value=given, type=kind)))


def final(error: AerodromeError) -> bool:
    """Whether trying the same storage call again is pointless."""
    return isinstance(error, NotFound | PermissionDenied | ResourceExhausted | Corrupt | InvalidArgument)


def storage_failure(error: AerodromeError, code: str) -> Failure:
    """A storage error that ends a node."""
    return Failure(code, error.message, ErrorKind.SYSTEM, retryable=not final(error))
