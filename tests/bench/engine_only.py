"""How many transitions a second the engine makes by itself: `python tests/bench/engine_only.py`.

A workflow of 10,000 nodes below one that all of them read: tasks, and branches of two arms whose condition is
evaluated.  Every input is resolved from its bindings with the code of the handlers; every third task fails once and is
retried.  What is left out is what does IO: storage, journal, runtime.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

from flyteidl.core import compiler_pb2, identifier_pb2, literals_pb2, types_pb2, workflow_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import Closure, NodeKind
from aerodrome.propeller.engine.phases import TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import Collect, NodeState, Prepare, Start
from aerodrome.propeller.nodes.bindings import resolve
from aerodrome.propeller.nodes.branches import choose

BRANCH_EVERY = 10
RETRY_EVERY = 3


@dataclass(frozen=True)
class Figures:
    """What one run gave."""

    nodes: int
    transitions: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.transitions / self.seconds


def measure(nodes: int = 10_000, repeats: int = 3) -> Figures:
    """The best of some runs, after one that warms up."""
    closure = Closure(_closure(nodes))
    closure.root()
    return min((asyncio.run(_drive(closure, nodes)) for _ in range(repeats + 1)), key=lambda run: run.seconds)


async def _drive(closure: Closure, nodes: int) -> Figures:
    engine = Engine(closure)
    given = literals_pb2.LiteralMap()
    given.literals["o"].scalar.primitive.integer = 1

    async def outputs(_: str) -> literals_pb2.LiteralMap:
        return given

    async def load(literal: literals_pb2.Literal) -> literals_pb2.Literal:
        return literal

    async def prepare(node: NodeState) -> None:
        inputs = await resolve(node.spec.template.inputs, outputs, load)
        choice = choose(node.spec, inputs) if node.spec.kind is NodeKind.BRANCH else -1
        assert isinstance(choice, int)
        engine.prepared(node, now, choice=choice)

    now = 1.0
    transitions = 0
    begun = time.perf_counter()
    engine.begin(now)
    while True:
        step = engine.take()
        transitions += len(step.transitions)
        for free in step.free:
            if isinstance(free, Prepare):
                await prepare(free.node)
            elif isinstance(free, Collect):
                engine.collected(free.node, now)
        for command in step.permitted:
            if not isinstance(command, Start):
                continue
            node, attempt = command.node, command.attempt
            engine.task_phase(node, attempt, TaskPhase.RUNNING, 0, now)
            if attempt == 0 and node.number % RETRY_EVERY == 0:
                engine.failed(node, attempt, Failure("USER:Once", "once", ErrorKind.USER, retryable=True), now)
            else:
                engine.succeeded(node, attempt, now)
        if engine.terminal and not step.transitions:
            break
    seconds = time.perf_counter() - begun
    if engine.phase is not WorkflowPhase.SUCCEEDED:
        raise RuntimeError(f"the workflow ended {engine.phase.name}")
    return Figures(nodes, transitions, seconds)


def _closure(nodes: int) -> compiler_pb2.CompiledWorkflowClosure:
    closure = compiler_pb2.CompiledWorkflowClosure()
    task = closure.tasks.add().template
    task.id.CopyFrom(_identifier("task", identifier_pb2.TASK))
    task.interface.outputs.variables["o"].type.simple = types_pb2.INTEGER
    template = closure.primary.template
    template.id.CopyFrom(_identifier("workflow", identifier_pb2.WORKFLOW))
    template.nodes.add(id="start-node")
    end = template.nodes.add(id="end-node")
    downstream = closure.primary.connections.downstream
    root = template.nodes.add(id="root")
    _make_task(root, task.id)
    downstream["start-node"].ids.append("root")
    for number in range(nodes):
        node = template.nodes.add(id=f"n{number}")
        _read(node.inputs.add(), "a", "root")
        node.inputs.add(var="b").binding.scalar.primitive.integer = number
        if number % BRANCH_EVERY == 0:
            _make_branch(node, task.id)
        else:
            _make_task(node, task.id)
        downstream["root"].ids.append(node.id)
        downstream[node.id].ids.append("end-node")
    members = end.inputs.add(var="all").binding.collection
    for number in range(nodes):
        member = members.bindings.add().promise
        member.node_id, member.var = f"n{number}", "o"
    return closure


def _make_task(node: workflow_pb2.Node, task: identifier_pb2.Identifier) -> None:
    node.task_node.reference_id.CopyFrom(task)
    node.metadata.retries.retries = 1


def _make_branch(node: workflow_pb2.Node, task: identifier_pb2.Identifier) -> None:
    """One arm if `b` is below a number, the other else; both run the task on `a`."""
    block = node.branch_node.if_else
    comparison = block.case.condition.comparison
    comparison.operator = comparison.LT
    comparison.left_value.var = "b"
    comparison.right_value.primitive.integer = 5_000
    for arm, name in ((block.case.then_node, "then"), (block.else_node, "else")):
        arm.id = f"{node.id}-{name}"
        _read(arm.inputs.add(), "a", "root")
        _make_task(arm, task)


def _read(binding: literals_pb2.Binding, variable: str, node: str) -> None:
    binding.var = variable
    binding.binding.promise.node_id = node
    binding.binding.promise.var = "o"


def _identifier(name: str, kind: identifier_pb2.ResourceType) -> identifier_pb2.Identifier:
    return identifier_pb2.Identifier(resource_type=kind, project="p", domain="d", name=name, version="v")


if __name__ == "__main__":
    figures = measure()
    sys.stdout.write(
        f"{figures.nodes} nodes, {figures.transitions} transitions, {figures.per_second:,.0f} per second\n"
    )
