"""Random compiled workflows with nodes of every kind, and the fates of what they start.

A fate depends on nothing but a seed and a name, so that it is the same however often somebody asks, before a crash and
after it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

from flyteidl.core import compiler_pb2, identifier_pb2, workflow_pb2
from graphs import identifier

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.graph import END, START, Closure, Graph

TIMEOUT = 1_000
"""Seconds that attempts may take which have a limit: far more than anything takes that ends by itself."""
_FINISH = workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
_KINDS = ("task", "task", "task", "sub-workflow", "branch", "launch plan", "sleep", "signal", "approve", "map", "array")


@dataclass(frozen=True)
class Bounds:
    """What a random workflow may have."""

    nodes: int = 6
    depth: int = 2
    fail_fast: bool = True
    """Some workflows end what still runs as soon as a node fails; otherwise none does."""
    timeouts: bool = True
    item_timeouts: bool = True
    arrays: bool = True


def draw_closure(rng: random.Random, bounds: Bounds, *, timeouts: bool | None = None) -> Closure:
    """A closure as the compiler would give it; `timeouts` speaks of the nodes of the outermost workflow only."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    template = compiled.tasks.add().template
    template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    template.type = "python-task"
    _Drawing(rng, bounds, compiled).fill(
        compiled.primary, "w", bounds.depth, bounds.timeouts if timeouts is None else timeouts
    )
    return Closure(compiled)


class _Drawing:
    def __init__(self, rng: random.Random, bounds: Bounds, closure: compiler_pb2.CompiledWorkflowClosure) -> None:
        self._rng = rng
        self._bounds = bounds
        self._closure = closure

    def fill(self, workflow: compiler_pb2.CompiledWorkflow, name: str, depth: int, timeouts: bool) -> None:
        rng, template = self._rng, workflow.template
        template.id.CopyFrom(identifier(name))
        if not self._bounds.fail_fast or rng.random() < 0.4:
            template.metadata.on_failure = _FINISH
        template.nodes.add(id=START)
        template.nodes.add(id=END)
        count = rng.randint(1, self._bounds.nodes)
        edges, back = workflow.connections.downstream, workflow.connections.upstream
        for number in range(count):
            node = template.nodes.add(id=f"n{number}")
            self._target(node, f"{name}-{number}", depth, timeouts)
            earlier = [f"n{before}" for before in range(number) if rng.random() < 0.35]
            for upstream in earlier or [START]:
                edges[upstream].ids.append(node.id)
                back[node.id].ids.append(upstream)
            if node.WhichOneof("target") == "branch_node":
                # An arm may read what the branch itself does not wait for.
                arm = node.branch_node.if_else.case.then_node.id
                back[arm].ids.extend(f"n{before}" for before in range(number) if rng.random() < 0.3)
        for number in range(count):
            if not edges[f"n{number}"].ids:
                edges[f"n{number}"].ids.append(END)
                back[END].ids.append(f"n{number}")
        if rng.random() < 0.3:
            template.failure_node.id = "efn0"
            self._target(template.failure_node, f"{name}-efn", min(depth, 1), timeouts)

    def _target(self, node: workflow_pb2.Node, name: str, depth: int, timeouts: bool) -> None:
        rng = self._rng
        kind = rng.choice(_KINDS)
        if (kind in ("sub-workflow", "branch") and depth <= 0) or (kind == "array" and not self._bounds.arrays):
            kind = "task"
        match kind:
            case "sub-workflow":
                inner = self._closure.sub_workflows.add()
                self.fill(inner, name, depth - 1, timeouts)
                node.workflow_node.sub_workflow_ref.CopyFrom(inner.template.id)
            case "branch":
                block = node.branch_node.if_else
                block.case.condition.comparison.left_value.primitive.boolean = True
                block.case.then_node.id = f"{node.id}-then"
                self._target(block.case.then_node, f"{name}-t", depth - 1, timeouts)
                if rng.random() < 0.7:
                    block.else_node.id = f"{node.id}-else"
                    self._target(block.else_node, f"{name}-e", depth - 1, timeouts)
                else:
                    block.error.message = "no arm fits"
            case "launch plan":
                node.workflow_node.launchplan_ref.CopyFrom(identifier("plan", identifier_pb2.LAUNCH_PLAN))
                node.metadata.retries.retries = rng.randint(0, 1)
            case "sleep":
                node.gate_node.sleep.duration.seconds = rng.randint(0, 20)
            case "signal":
                node.gate_node.signal.signal_id = name
            case "approve":
                node.gate_node.approve.signal_id = name
            case "map" | "array" if self._bounds.arrays:
                item = node.array_node.node
                if kind == "map":
                    item.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
                else:
                    item.workflow_node.launchplan_ref.CopyFrom(identifier("plan", identifier_pb2.LAUNCH_PLAN))
                item.metadata.retries.retries = rng.randint(0, 2)
                if self._bounds.item_timeouts and rng.random() < 0.5:
                    item.metadata.timeout.seconds = TIMEOUT
            case _:
                node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
                node.metadata.retries.retries = rng.randint(0, 2)
        # A branch that waits for what another node takes runs out of time before that does, or after it, by chance.
        races = kind == "branch" and not self._bounds.fail_fast
        if timeouts and not races and rng.random() < 0.25:
            node.metadata.timeout.seconds = TIMEOUT


@dataclass(frozen=True)
class Temper:
    """How much goes wrong."""

    failures: float = 0.15
    hangs: float = 0.05
    """Attempts that do not end by themselves if something limits them."""
    unprepared: float = 0.03
    """Nodes whose inputs cannot be had, and those whose outputs cannot be."""
    taken_over: float = 0.08
    """Nodes that hit the cache or are recovered, and items of arrays."""
    dynamic: float = 0.2


class Shapes:
    """What dynamic tasks may make: graphs that many executions share, each drawn when it is first wanted."""

    def __init__(self, seed: int, bounds: Bounds, *, count: int = 64) -> None:
        self._seed = seed
        self._bounds = bounds
        self._count = count
        self._graphs: dict[tuple[int, bool], Graph] = {}

    def graph(self, chance: float, *, deep: bool) -> Graph:
        """One of the graphs, by a number from 0 to 1; smaller ones for a node that is deep inside others."""
        key = int(chance * self._count), deep
        graph = self._graphs.get(key)
        if graph is None:
            bounds = replace(self._bounds, nodes=3, depth=0 if deep else 1)
            rng = random.Random(f"{self._seed}/{key}")
            graph = draw_closure(rng, bounds, timeouts=bounds.timeouts and bounds.fail_fast).root()
            self._graphs[key] = graph
        return graph


@lru_cache(maxsize=32)
def shapes(seed: int, bounds: Bounds) -> Shapes:
    """The graphs of that seed."""
    return Shapes(seed, bounds)


class Fates:
    """What becomes of whatever has a name."""

    def __init__(self, seed: int, temper: Temper) -> None:
        self.temper = temper
        self._key = seed.to_bytes(8, "big")
        self._drawn: dict[tuple[object, ...], float] = {}
        self._attempts: dict[tuple[str, int], Failure | str | None] = {}

    def draw(self, *name: object) -> float:
        """A number from 0 to 1 that belongs to the name."""
        known = self._drawn.get(name)
        if known is None:
            text = "/".join(map(str, name)).encode()
            known = int.from_bytes(blake2b(text, digest_size=7, key=self._key).digest(), "big") / 2**56
            self._drawn[name] = known
        return known

    def attempt(self, name: str, attempt: int) -> Failure | str | None:
        """What an attempt comes to: a failure, "hang", or None for success."""
        key = name, attempt
        if key in self._attempts:
            return self._attempts[key]
        chance, temper = self.draw(name, attempt), self.temper
        outcome: Failure | str | None = None
        if chance < temper.failures:
            outcome = self.failure(name, attempt)
        elif chance < temper.failures + temper.hangs:
            outcome = "hang"
        self._attempts[key] = outcome
        return outcome

    def failure(self, name: str, attempt: int) -> Failure:
        """By the user, by the system, by nobody knows whom, lost with its machine, or for good."""
        which = int(self.draw(name, attempt, "why") * 6)
        kind = (ErrorKind.USER, ErrorKind.USER, ErrorKind.SYSTEM, ErrorKind.SYSTEM, ErrorKind.UNKNOWN, ErrorKind.USER)[
            which
        ]
        code = ("Broken", "Broken", "Evicted", "PodLost", "Unknown", "NonRecoverable")[which]
        return Failure(code, f"{name}/{attempt}", kind, retryable=which != 5)
