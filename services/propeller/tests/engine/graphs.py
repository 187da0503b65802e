"""Random workflows for the engine's tests, and a world that carries out what the engine wants."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from flyteidl.core import compiler_pb2, identifier_pb2, workflow_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure, Graph, NodeKind
from aerodrome.propeller.engine.items import ItemPlan, SavedItem
from aerodrome.propeller.engine.phases import TERMINAL, NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    Finalize,
    ItemTransition,
    NodeState,
    NodeTransition,
    Prepare,
    SavedNode,
    SavedWorkflow,
    Start,
    StartItem,
    TaskTransition,
    Transition,
    WorkflowTransition,
)


def identifier(name: str, resource_type: int = identifier_pb2.WORKFLOW) -> identifier_pb2.Identifier:
    return identifier_pb2.Identifier(
        resource_type=resource_type,  # type: ignore[arg-type]
        project="p",
        domain="d",
        name=name,
        version="v",
    )


@dataclass
class Shape:
    """How large and how nested a random workflow is."""

    nodes: int = 8
    depth: int = 2
    failure_nodes: bool = True
    arrays: bool = True


def random_closure(rng: random.Random, shape: Shape) -> Closure:
    """A closure with tasks, sub-workflows and branches, as the compiler would give it."""
    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    _fill(rng, shape, closure, closure.primary, "w", shape.depth)
    return Closure(closure)


def _fill(
    rng: random.Random,
    shape: Shape,
    closure: compiler_pb2.CompiledWorkflowClosure,
    workflow: compiler_pb2.CompiledWorkflow,
    name: str,
    depth: int,
) -> None:
    template = workflow.template
    template.id.CopyFrom(identifier(name))
    if rng.random() < 0.4:
        template.metadata.on_failure = workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
    template.nodes.add(id=START)
    template.nodes.add(id=END)
    count = rng.randint(1, shape.nodes)
    for number in range(count):
        node = template.nodes.add(id=f"n{number}")
        _target(rng, shape, closure, node, f"{name}-{number}", depth)
        earlier = [f"n{before}" for before in range(number) if rng.random() < 0.35]
        for upstream in earlier or [START]:
            _edge(workflow, upstream, node.id)
        if node.WhichOneof("target") == "branch_node":
            # An arm may read what the branch itself does not wait for.
            arm = node.branch_node.if_else.case.then_node.id
            workflow.connections.upstream[arm].ids.extend(
                f"n{before}" for before in range(number) if rng.random() < 0.3
            )
    for number in range(count):
        if not workflow.connections.downstream[f"n{number}"].ids:
            _edge(workflow, f"n{number}", END)
    if shape.failure_nodes and rng.random() < 0.3:
        template.failure_node.id = "efn"
        template.failure_node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))


def _target(
    rng: random.Random,
    shape: Shape,
    closure: compiler_pb2.CompiledWorkflowClosure,
    node: workflow_pb2.Node,
    name: str,
    depth: int,
) -> None:
    kind = rng.random()
    if depth > 0 and kind < 0.2:
        inner = closure.sub_workflows.add()
        _fill(rng, shape, closure, inner, name, depth - 1)
        node.workflow_node.sub_workflow_ref.CopyFrom(inner.template.id)
    elif depth > 0 and kind < 0.4:
        block = node.branch_node.if_else
        block.case.condition.comparison.left_value.primitive.boolean = True
        block.case.then_node.id = f"{node.id}-then"
        _target(rng, shape, closure, block.case.then_node, f"{name}-t", depth - 1)
        block.else_node.id = f"{node.id}-else"
        _target(rng, shape, closure, block.else_node, f"{name}-e", depth - 1)
    elif kind < 0.45:
        node.gate_node.sleep.duration.seconds = rng.randint(0, 20)
        if rng.random() < 0.3:
            node.metadata.timeout.seconds = 10
    elif kind < 0.5:
        node.workflow_node.launchplan_ref.CopyFrom(identifier("plan", identifier_pb2.LAUNCH_PLAN))
        if rng.random() < 0.3:
            node.metadata.timeout.seconds = 10
            node.metadata.retries.retries = 1
    elif kind < 0.6 and shape.arrays:
        item = node.array_node.node
        item.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
        item.metadata.retries.retries = rng.randint(0, 2)
        if rng.random() < 0.5:
            item.metadata.timeout.seconds = 10
    else:
        node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
        node.metadata.retries.retries = rng.randint(0, 2)
        if rng.random() < 0.2:
            node.metadata.timeout.seconds = 10


def _edge(workflow: compiler_pb2.CompiledWorkflow, upstream: str, downstream: str) -> None:
    workflow.connections.downstream[upstream].ids.append(downstream)
    workflow.connections.upstream[downstream].ids.append(upstream)


@dataclass
class Record:
    """What is durable: the fold of every transition that was appended."""

    phase: WorkflowPhase = WorkflowPhase.READY
    failure: Failure | None = None
    nodes: dict[str, SavedNode] = field(default_factory=dict)
    node_phases: dict[str, list[NodePhase]] = field(default_factory=dict)
    workflow_phases: list[WorkflowPhase] = field(default_factory=list)
    task_phases: dict[tuple[str, int], list[TaskPhase]] = field(default_factory=dict)
    items: dict[str, dict[int, SavedItem]] = field(default_factory=dict)
    item_phases: dict[tuple[str, int], list[TaskPhase]] = field(default_factory=dict)

    def append(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            if isinstance(transition, WorkflowTransition):
                self.phase = transition.phase
                self.failure = transition.failure or self.failure
                self.workflow_phases.append(transition.phase)
            elif isinstance(transition, NodeTransition):
                node = transition.node
                self._save(node)
                if transition.phase is not None:
                    self.node_phases.setdefault(node.unique_id, []).append(transition.phase)
            elif isinstance(transition, ItemTransition):
                unique_id, index = transition.node.unique_id, transition.index
                self.items.setdefault(unique_id, {})[index] = SavedItem(
                    index, transition.phase, transition.attempt, transition.system_failures
                )
                self.item_phases.setdefault((unique_id, index), []).append(transition.phase)
            elif isinstance(transition, TaskTransition):
                key = (transition.node.unique_id, transition.attempt)
                self.task_phases.setdefault(key, []).append(transition.phase)

    def _save(self, node: NodeState) -> None:
        self.nodes[node.unique_id] = SavedNode(
            phase=node.phase,
            attempts=node.attempts,
            system_failures=node.system_failures,
            queued_at=node.queued_at,
            attempt_at=node.attempt_at,
            choice=node.choice,
            expansion=node.expansion,
            task_phase=node.task_phase,
            task_version=node.task_version,
            failure=node.failure,
            plan=node.items.plan if node.items is not None else None,
        )

    def saved(self) -> SavedWorkflow:
        phase = WorkflowPhase.RUNNING if self.phase is WorkflowPhase.ABORTING else self.phase
        nodes = {
            name: replace(node, items=tuple(self.items.get(name, {}).values())) if node.plan is not None else node
            for name, node in self.nodes.items()
        }
        return SavedWorkflow(phase=phase, nodes=nodes, failure=self.failure)


class Crash(Exception):
    """The process that drove the engine is gone."""


class World:
    """Attempts that run, with an outcome each that depends on nothing but the seed, the node and the attempt."""

    def __init__(
        self, seed: int, closure: Closure, *, failures: float = 0.15, hangs: float = 0.05, dynamic: float = 0.2
    ) -> None:
        self.seed = seed
        self.closure = closure
        self.record = Record()
        self.running: set[tuple[str, int]] = set()
        self.begun: list[tuple[str, int]] = []
        self.running_items: set[tuple[str, int, int]] = set()
        self.now = 1_000.0
        self.abort_cause: str | None = None
        self._failures = failures
        self._hangs = hangs
        self._dynamic = dynamic
        self.arrays = True
        """Whether what dynamic tasks make may have array nodes."""

    def outcome(self, unique_id: str, attempt: int) -> Failure | str | None:
        """A failure, "hang", or None for success."""
        rng = random.Random(f"{self.seed}/{unique_id}/{attempt}")
        chance = rng.random()
        if chance < self._failures:
            kind = rng.choice([ErrorKind.USER, ErrorKind.SYSTEM, ErrorKind.UNKNOWN])
            return Failure("Failed", f"{unique_id}/{attempt}", kind, retryable=rng.random() < 0.6)
        return "hang" if chance < self._failures + self._hangs else None

    def engine(self, *, max_parallelism: int = 0) -> Engine:
        """An engine that goes on from what is durable."""
        engine = Engine(self.closure, max_parallelism=max_parallelism)
        saved = self.record.saved()
        expansions = {name: self.made(node.expansion) for name, node in saved.nodes.items() if node.expansion}
        engine.restore(saved, self.now, expansions=expansions, abort_cause=self.abort_cause)
        return engine

    def made(self, expansion: str) -> Graph:
        """The graph that a dynamic task makes; a smaller one each time that it is nested."""
        depth = expansion.count("-")
        shape = Shape(nodes=3, depth=1 if depth < 3 else 0, failure_nodes=False, arrays=self.arrays)
        return random_closure(random.Random(f"{self.seed}/{expansion}/made"), shape).root()

    def expands(self, unique_id: str, attempt: int) -> bool:
        """Whether an attempt of a task that succeeds makes a graph."""
        chance = random.Random(f"{self.seed}/{unique_id}/{attempt}/expands").random()
        return chance < self._dynamic and unique_id.count("-") < 5

    def drive(self, engine: Engine, rng: random.Random, *, crash_after: int | None = None, abort_at: int = -1) -> None:
        """Carry out what the engine wants until it is over.  Raises Crash after `crash_after` steps, at any point."""
        known: dict[tuple[str, int], NodeState] = {}
        items: dict[tuple[str, int, int], NodeState] = {}
        for turn in range(100_000):
            self.now += 0.01
            if turn == abort_at and self.abort_cause is None:
                self.abort_cause = "enough"
                engine.abort("enough", self.now)
            step = engine.take()
            dying = crash_after is not None and turn >= crash_after
            if dying and rng.random() < 0.3:
                raise Crash
            self.record.append(step.transitions)
            if dying and rng.random() < 0.3:
                raise Crash
            permitted = list(step.permitted)
            for command in permitted:
                if dying and rng.random() < 0.2:
                    raise Crash
                if isinstance(command, StartItem):
                    if command.node.live and not command.node.abort_sent:
                        one = (command.node.unique_id, command.index, command.attempt)
                        items[one] = command.node
                        self.running_items.add(one)
                    continue
                if isinstance(command, AbortItem):
                    self.running_items.discard((command.node.unique_id, command.index, command.attempt))
                    engine.item_aborted(command.node, command.index, command.attempt, self.now)
                    continue
                key = (command.node.unique_id, command.attempt)
                if isinstance(command, Start):
                    if command.node.attempts == command.attempt and command.node.live and not command.node.abort_sent:
                        known[key] = command.node
                        if command.node.spec.kind is NodeKind.GATE:
                            known.pop(key)  # nothing runs, and it ends by itself
                        elif key not in self.begun:
                            self.begun.append(key)
                            self.running.add(key)
                        self._started(engine, command.node, command.attempt)
                elif isinstance(command, Abort):
                    self.running.discard(key)
                    self.running_items = {one for one in self.running_items if one[0] != command.node.unique_id}
                    engine.aborted(command.node, command.attempt, self.now)
                elif isinstance(command, Finalize):
                    assert key not in self.running, f"{key} was finalized while it ran"
            free = list(step.free)
            rng.shuffle(free)
            for wish in free:
                self._free(engine, wish.node, isinstance(wish, Prepare))
            if engine.terminal and not step.transitions and not step.permitted and not step.free:
                return
            if not step.transitions and not step.free and not step.permitted:
                self._progress(engine, rng, known, items)
        raise AssertionError(f"it does not end: {engine.phase}, running {self.running}")

    def _free(self, engine: Engine, node: NodeState, preparing: bool) -> None:
        if not preparing:
            engine.collected(node, self.now)
        elif node.spec.kind is NodeKind.ARRAY:
            plan = random.Random(f"{self.seed}/{node.unique_id}/plan")
            ratio = plan.choice([None, 0.5, 0.0, 1.0])
            engine.prepared(node, self.now, plan=ItemPlan(plan.randint(0, 6), plan.randint(0, 3), None, ratio))
        elif node.spec.kind is NodeKind.BRANCH:
            choice = random.Random(f"{self.seed}/{node.unique_id}/branch").randrange(len(node.spec.choices))
            engine.prepared(node, self.now, choice=choice)
        else:
            engine.prepared(node, self.now)

    def _started(self, engine: Engine, node: NodeState, attempt: int) -> None:
        if node.spec.kind is NodeKind.LAUNCH_PLAN:
            engine.launched(node, attempt, self.now)
        elif node.spec.kind is NodeKind.GATE:
            seconds = node.spec.template.gate_node.sleep.duration.seconds
            engine.sleep(node, attempt, node.attempt_at + seconds, self.now)

    def _progress(
        self,
        engine: Engine,
        rng: random.Random,
        known: dict[tuple[str, int], NodeState],
        items: dict[tuple[str, int, int], NodeState],
    ) -> None:
        """Something that runs ends, or time passes until a deadline."""
        if items and rng.random() < 0.7 and self._item_ends(engine, rng, items):
            return
        ended = [key for key in sorted(known) if known[key].attempts == key[1] and known[key].phase not in TERMINAL]
        rng.shuffle(ended)
        for key in ended:
            node, outcome = known[key], self.outcome(*key)
            if outcome == "hang" and node.spec.timeout:
                continue
            known.pop(key)
            self.running.discard(key)
            if isinstance(outcome, Failure):
                engine.failed(node, key[1], outcome, self.now)
            elif node.spec.kind is NodeKind.TASK and node is not node.scope.handler and self.expands(*key):
                expansion = f"{key[0]}-{key[1]}"
                engine.expanded(node, key[1], self.made(expansion), self.now, expansion=expansion)
            else:
                engine.succeeded(node, key[1], self.now)
            return
        if self._item_ends(engine, rng, items):
            return
        deadline = engine.next_deadline()
        assert deadline is not None, f"nothing happens any more: {engine.phase}"
        self.now = max(self.now, deadline)
        engine.tick(self.now)

    def _item_ends(self, engine: Engine, rng: random.Random, items: dict[tuple[str, int, int], NodeState]) -> bool:
        for key in rng.sample(sorted(items), len(items)):
            node = items[key]
            unique_id, index, attempt = key
            current = node.items is not None and node.items.current(index, attempt)
            if node.phase in TERMINAL or not current:
                items.pop(key)
                continue
            outcome = self.outcome(f"{unique_id}[{index}]", attempt)
            if outcome == "hang" and node.spec.item_timeout:
                continue
            items.pop(key)
            self.running_items.discard(key)
            if isinstance(outcome, Failure):
                engine.item_failed(node, index, attempt, outcome, self.now)
            else:
                engine.item_succeeded(node, index, attempt, self.now)
            return True
        return False
