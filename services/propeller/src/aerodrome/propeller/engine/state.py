"""What changes: scopes (a workflow being run, at any depth) and their nodes; and the values that describe a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aerodrome.plugins.api import Failure
from aerodrome.plugins.names import MAX_NODE_ID, unique_node_id
from aerodrome.propeller.engine.graph import Graph, NodeKind, NodeSpec
from aerodrome.propeller.engine.items import ItemPlan, Items, SavedItem
from aerodrome.propeller.engine.phases import LIVE, NodePhase, TaskPhase, WorkflowPhase


class ScopeStatus(Enum):
    RUNNING = "running"
    DRAINING = "draining"
    """It has failed or is aborted; what still runs is being ended."""
    HANDLING = "handling"
    """Its failure node runs."""
    DONE = "done"


class After(Enum):
    """What a node becomes once nothing of its attempt is left."""

    NOTHING = "nothing"
    RETRY_OR_FAIL = "retry or fail"
    FAIL = "fail"
    TIMED_OUT = "timed out"
    ABORTED = "aborted"


# Looking a member up in its enum takes a quarter of what making a node takes.
_NOT_STARTED = NodePhase.NOT_STARTED
_UNDEFINED = TaskPhase.UNDEFINED
_AFTER_NOTHING = After.NOTHING


class NodeState:
    """One node of one scope.  Identity is by object; `unique_id` is what the API and the runtime know it by."""

    __slots__ = (
        "abort_sent",
        "after",
        "attempt_at",
        "attempts",
        "begun",
        "blocked",
        "choice",
        "expansion",
        "failure",
        "holds_slot",
        "inner",
        "items",
        "memo",
        "number",
        "pending",
        "phase",
        "preparing",
        "queued_at",
        "scope",
        "spec",
        "system_failures",
        "task_phase",
        "task_version",
        "unique_id",
        "waiters",
    )

    def __init__(self, spec: NodeSpec, scope: Scope, number: int, pending: int) -> None:
        self.spec = spec
        self.scope = scope
        self.number = number
        self.pending = pending
        qualified = scope.qualifier + spec.id
        plain = len(qualified) <= MAX_NODE_ID and qualified.isascii()  # as is most often so
        self.unique_id = qualified if plain else unique_node_id(scope.prefix, scope.owner_attempt, spec.id)
        self.phase = _NOT_STARTED
        self.attempts = 0
        """Number of the current attempt, from 0."""
        self.system_failures = 0
        self.blocked = False
        """An upstream node was skipped or failed: this one will be skipped."""
        self.begun = False
        """Of a launch-plan node: what it launches exists, whatever is still permitted of what is told about it."""
        self.preparing = False
        self.holds_slot = False
        self.queued_at = 0.0
        self.attempt_at = 0.0
        self.choice = -1
        self.inner: Scope | None = None
        self.expansion = ""
        """Of a dynamic node: where the graph of `inner` is stored."""
        self.items: Items | None = None
        """Of an array node, once it runs."""
        self.failure: Failure | None = None
        self.after = _AFTER_NOTHING
        self.abort_sent = False
        self.task_phase = _UNDEFINED
        self.task_version = 0
        self.waiters: list[NodeState] | None = None
        """Arms of branches, taken already, that read this node's outputs."""
        self.memo: dict[str, Any] = {}
        """What handlers remember about the node between calls; never read by the engine, not durable."""

    @property
    def live(self) -> bool:
        return self.phase in LIVE

    def __repr__(self) -> str:
        return f"<{self.unique_id} {self.phase.name} attempt {self.attempts}>"


class Scope:
    """A graph being run: the root workflow, or what is nested in a sub-workflow, branch or dynamic node."""

    __slots__ = (
        "draining",
        "failed",
        "failure",
        "graph",
        "handler",
        "memo",
        "nodes",
        "open",
        "owner",
        "owner_attempt",
        "prefix",
        "qualifier",
        "status",
    )

    def __init__(self, graph: Graph, owner: NodeState | None) -> None:
        self.graph = graph
        self.owner = owner
        self.prefix: str = owner.unique_id if owner else ""
        self.owner_attempt: int | None = owner.attempts if owner else None
        self.qualifier: str = f"{self.prefix}-{self.owner_attempt}-" if owner else ""
        """What the ids of nodes begin with here, as far as they are not too long."""
        counts = graph.upstream_counts
        self.nodes = [NodeState(spec, self, number, counts[number]) for number, spec in enumerate(graph.nodes)]
        self.open = len(self.nodes)
        """How many nodes are not terminal yet."""
        self.status = ScopeStatus.RUNNING
        self.failed: NodeState | None = None
        self.failure: Failure | None = None
        self.draining = 0
        self.handler: NodeState | None = None
        """The failure node, once it runs."""
        self.memo: dict[str, Any] = {}

    def node(self, node_id: str) -> NodeState:
        """A node of this scope by its id in the template; raises KeyError."""
        return self.nodes[self.graph.index[node_id]]

    def find(self, node_id: str) -> NodeState | None:
        """The node that `node_id` means here: branches see the nodes of the workflow that they are in."""
        scope: Scope | None = self
        while scope is not None:
            number = scope.graph.index.get(node_id)
            if number is not None:
                return scope.nodes[number]
            owner = scope.owner
            scope = owner.scope if owner is not None and owner.spec.kind is NodeKind.BRANCH else None
        return None

    def walk(self) -> Iterator[NodeState]:
        """Every node of this scope and of the scopes nested in it."""
        stack = [self]
        while stack:
            scope = stack.pop()
            for node in (*scope.nodes, scope.handler):
                if node is not None:
                    yield node
                    if node.inner is not None:
                        stack.append(node.inner)


class NodeTransition:
    """A node changed its phase (`phase`), or only what the engine remembers of it (`phase` is None)."""

    __slots__ = ("at", "attempt", "detail", "failure", "node", "phase", "state")

    def __init__(
        self, node: NodeState, phase: NodePhase | None, at: float, failure: Failure | None = None, detail: Any = None
    ) -> None:
        self.node = node
        self.phase = phase
        self.at = at
        self.attempt = node.attempts
        self.failure = failure
        self.detail = detail
        self.state: bytes | None = None
        """What the journal keeps of the node with this transition, once that is written down."""

    def __repr__(self) -> str:
        return f"N {self.node.unique_id} {self.phase.name if self.phase is not None else '-'}"


class TaskTransition:
    """An attempt changed its phase; `info` is what the plugin said, passed through to the event."""

    __slots__ = ("at", "attempt", "failure", "info", "node", "phase", "version")

    def __init__(
        self,
        node: NodeState,
        phase: TaskPhase,
        version: int,
        at: float,
        info: Any = None,
        failure: Failure | None = None,
    ) -> None:
        self.node = node
        self.attempt = node.attempts
        self.phase = phase
        self.version = version
        self.at = at
        self.info = info
        self.failure = failure

    def __repr__(self) -> str:
        return f"T {self.node.unique_id}/{self.attempt} {self.phase.name}"


class ItemTransition:
    """An item of an array node changed its phase."""

    __slots__ = ("at", "attempt", "failure", "index", "info", "node", "phase", "system_failures")

    def __init__(
        self,
        node: NodeState,
        index: int,
        phase: TaskPhase,
        at: float,
        info: Any = None,
        failure: Failure | None = None,
        attempt: int | None = None,
    ) -> None:
        """`attempt` is the item's current one if it is None."""
        assert node.items is not None
        self.node = node
        self.index = index
        self.attempt = node.items.attempts[index] if attempt is None else attempt
        self.system_failures = node.items.systems[index]
        self.phase = phase
        self.at = at
        self.info = info
        self.failure = failure

    def __repr__(self) -> str:
        return f"I {self.node.unique_id}[{self.index}]/{self.attempt} {self.phase.name}"


class WorkflowTransition:
    """The execution changed its phase."""

    __slots__ = ("at", "failure", "phase")

    def __init__(self, phase: WorkflowPhase, at: float, failure: Failure | None = None) -> None:
        self.phase = phase
        self.at = at
        self.failure = failure

    def __repr__(self) -> str:
        return f"W {self.phase.name}"


Transition = NodeTransition | TaskTransition | ItemTransition | WorkflowTransition


class Prepare:
    """Resolve the node's inputs and whatever its kind decides from them.  Repeatable; needs no permit."""

    __slots__ = ("node",)

    def __init__(self, node: NodeState) -> None:
        self.node = node


class Collect:
    """The node's inner scope is done: make its outputs the node's own.  Repeatable; needs no permit."""

    __slots__ = ("node",)

    def __init__(self, node: NodeState) -> None:
        self.node = node


class Start:
    """Start (or find again) attempt `attempt`.  Only after the transitions of the same step are durable."""

    __slots__ = ("attempt", "node")

    def __init__(self, node: NodeState, attempt: int) -> None:
        self.node = node
        self.attempt = attempt


class StartItem:
    """Start (or find again) an attempt of one item.  Only after the transitions of the same step are durable."""

    __slots__ = ("attempt", "index", "node")

    def __init__(self, node: NodeState, index: int, attempt: int) -> None:
        self.node = node
        self.index = index
        self.attempt = attempt


class AbortItem:
    """End an item's attempt whose time is up; `Engine.item_aborted` when nothing of it is left."""

    __slots__ = ("attempt", "index", "node", "reason")

    def __init__(self, node: NodeState, index: int, attempt: int, reason: str) -> None:
        self.node = node
        self.index = index
        self.attempt = attempt
        self.reason = reason


class FinalizeItem:
    """Give back what an item's finished attempt holds.  Only after the transitions are durable; nobody waits for it."""

    __slots__ = ("attempt", "index", "node")

    def __init__(self, node: NodeState, index: int, attempt: int) -> None:
        self.node = node
        self.index = index
        self.attempt = attempt


class Abort:
    """End the attempt; `Engine.aborted` when nothing of it is left.  Only after the transitions are durable."""

    __slots__ = ("attempt", "node", "reason")

    def __init__(self, node: NodeState, attempt: int, reason: str) -> None:
        self.node = node
        self.attempt = attempt
        self.reason = reason


class Finalize:
    """Give back what a finished attempt holds.  Only after the transitions are durable; nothing waits for it."""

    __slots__ = ("attempt", "node")

    def __init__(self, node: NodeState, attempt: int) -> None:
        self.node = node
        self.attempt = attempt


FreeCommand = Prepare | Collect
PermittedCommand = Start | StartItem | Abort | AbortItem | Finalize | FinalizeItem


@dataclass(slots=True)
class Step:
    """What the engine wants after what it has observed."""

    transitions: list[Transition] = field(default_factory=list)
    free: list[FreeCommand] = field(default_factory=list)
    permitted: list[PermittedCommand] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A node as its last durable transition left it."""

    phase: NodePhase
    attempts: int = 0
    system_failures: int = 0
    queued_at: float = 0.0
    attempt_at: float = 0.0
    choice: int = -1
    expansion: str = ""
    task_phase: TaskPhase = TaskPhase.UNDEFINED
    task_version: int = 0
    failure: Failure | None = None
    plan: ItemPlan | None = None
    items: tuple[SavedItem, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedWorkflow:
    """An execution as its last durable transitions left it; `nodes` by unique id."""

    phase: WorkflowPhase = WorkflowPhase.READY
    nodes: Mapping[str, SavedNode] = field(default_factory=dict)
    failure: Failure | None = None
