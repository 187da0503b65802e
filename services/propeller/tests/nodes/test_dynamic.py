"""What a task made at run time becomes a graph, or the node fails and says why; earlier selves of nodes are found.

Source: spec/data-plane.md, 1.13, 3.6.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from flyteidl.admin import node_execution_pb2
from flyteidl.core import compiler_pb2, dynamic_job_pb2, identifier_pb2, interface_pb2, literals_pb2, types_pb2
from graphs import identifier

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.propeller.v1 import state_pb2
from aerodrome.plugins.api import Failure
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.phases import NodePhase
from aerodrome.propeller.engine.state import NodeState, Scope
from aerodrome.propeller.nodes.dynamic import MAX_FUTURES_BYTES, Expanded, Expander
from aerodrome.propeller.nodes.earlier import Earlier
from aerodrome.propeller.nodes.handler import Run
from aerodrome.propeller.nodes.recovery import checkpoint, take_over
from aerodrome.stdlib.errors import NotFound

from .launching import ControlPlane, driving

INTEGER = types_pb2.LiteralType(simple=types_pb2.INTEGER)
TASK = identifier("made", identifier_pb2.TASK)


def interface(**outputs: types_pb2.LiteralType) -> interface_pb2.TypedInterface:
    variables = {name: interface_pb2.Variable(type=type_) for name, type_ in outputs.items()}
    return interface_pb2.TypedInterface(outputs=interface_pb2.VariableMap(variables=variables))


def specification(nodes: int, *, gives: bool = True, task: identifier_pb2.Identifier = TASK) -> bytes:
    """Tasks side by side, each of which gives a number; the last one's is the output."""
    spec = dynamic_job_pb2.DynamicJobSpec()
    made = spec.tasks.add(id=TASK, type="python-task", interface=interface(o0=INTEGER))
    made.container.image, made.container.args[:] = "i", ["a"]
    for number in range(nodes):
        spec.nodes.add(id=f"dn{number}").task_node.reference_id.CopyFrom(task)
    if gives:
        output = spec.outputs.add(var="o0").binding.promise
        output.node_id, output.var = f"dn{nodes - 1}", "o0"
    return spec.SerializeToString()


class Registry(ControlPlane):
    """Knows no tasks."""

    async def GetTask(self, request: object, context: object) -> object:
        raise NotFound("missing entity of type TASK")


@asynccontextmanager
async def expanding(store: Path, *, inline_bytes: int) -> AsyncIterator[tuple[Run, NodeState, Expander]]:
    async with driving(store, Registry()) as (drive, admin):
        expander = Expander(admin, default_max_attempts=1, inline_bytes=inline_bytes)
        node = dynamic_node()
        await drive.run.literals.write(drive.run.layout.inputs(node), literals_pb2.LiteralMap())
        yield drive.run, node, expander
        await expander.close()


def dynamic_node() -> NodeState:
    return Scope(around().root(), None).node("dyn")


def around() -> Closure:
    """A workflow with a dynamic task."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    compiled.tasks.add().template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    compiled.tasks[0].template.interface.CopyFrom(interface(o0=INTEGER))
    template = compiled.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    template.nodes.add(id="dyn").task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
    template.nodes.add(id=END)
    template.failure_node.id = "efn"
    template.failure_node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
    compiled.primary.connections.downstream[START].ids.append("dyn")
    compiled.primary.connections.downstream["dyn"].ids.append(END)
    return Closure(compiled)


async def expand(store: Path, futures: bytes, *, inline_bytes: int = 40_000) -> Expanded | Failure:
    async with expanding(store, inline_bytes=inline_bytes) as (run, node, expander):
        await run.literals.storage.write(f"{run.layout.output_dir(node, 0)}/futures.pb", futures)
        return await expander.expand(run, node, 0)


@pytest.mark.parametrize("inline_bytes", [40_000, 0], ids=["here", "in another process"])
async def test_a_specification_becomes_a_graph_that_can_be_read_again(tmp_path: Path, inline_bytes: int) -> None:
    async with expanding(tmp_path, inline_bytes=inline_bytes) as (run, node, expander):
        prefix = run.layout.output_dir(node, 0)
        await run.literals.storage.write(f"{prefix}/futures.pb", specification(3))
        expanded = await expander.expand(run, node, 0)
        assert isinstance(expanded, Expanded)
        assert [each.id for each in expanded.graph.nodes] == [START, END, "dn0", "dn1", "dn2"]
        assert expanded.reference == f"{prefix}/dynamic_compiled.pb"
        dynamic = expanded.metadata.dynamic_workflow
        assert (dynamic.id.name, dynamic.dynamic_job_spec_uri) == ("dynamic_dyn", f"{prefix}/futures.pb")
        assert await run.literals.read(f"{prefix}/start-node/0/outputs.pb") == literals_pb2.LiteralMap()
        again = await expander.expand(run, node, 0)
        assert isinstance(again, Expanded)
        assert again.metadata == expanded.metadata
        restored = await expander.restore(run, expanded.reference)
        assert [each.id for each in restored.nodes] == [each.id for each in expanded.graph.nodes]


@pytest.mark.parametrize("inline_bytes", [40_000, 0], ids=["here", "in another process"])
@pytest.mark.parametrize(
    ("futures", "says"),
    [
        (b"\xff\xff\xff garbage", "is not a dynamic job specification"),
        (b"", "does not hold together"),
        (specification(1, gives=False), "does not hold together"),
        (specification(1, task=identifier("unknown", identifier_pb2.TASK)), "missing entity of type TASK"),
    ],
    ids=["garbage", "nothing", "no output", "unknown task"],
)
async def test_what_is_no_workflow_fails_the_node_for_good(
    tmp_path: Path, futures: bytes, says: str, inline_bytes: int
) -> None:
    failure = await expand(tmp_path, futures, inline_bytes=inline_bytes)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.retryable) == ("DynamicWorkflowBuildFailed", False)
    assert says in failure.message


async def test_a_specification_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    async with expanding(tmp_path, inline_bytes=0) as (run, node, expander):
        futures = Path(f"{run.layout.output_dir(node, 0)}/futures.pb")
        futures.parent.mkdir(parents=True)
        futures.touch()
        os.truncate(futures, MAX_FUTURES_BYTES + 1)
        failure = await expander.expand(run, node, 0)
        assert isinstance(failure, Failure)
        assert str(MAX_FUTURES_BYTES) in failure.message


# Earlier executions


def recalled(node_id: str, phase: str = "SUCCEEDED", *, attempts: int = 0, **closure: str) -> journal_pb2.RecalledNode:
    return journal_pb2.RecalledNode(
        node_id=node_id,
        phase=phase,
        state=state_pb2.NodeState(attempts=attempts).SerializeToString(),
        closure=node_execution_pb2.NodeExecutionClosure(**closure).SerializeToString(),  # type: ignore[arg-type]
    )


def earlier(*nodes: journal_pb2.RecalledNode) -> Earlier:
    known = Earlier(identifier_pb2.WorkflowExecutionIdentifier(name="old"))
    for node in nodes:
        known.add(node)
    return known


async def test_nested_nodes_are_found_although_what_is_around_them_was_retried(tmp_path: Path) -> None:
    failure = await expand(tmp_path, specification(1))
    assert isinstance(failure, Expanded)
    engine = Engine(around())
    owner = engine.root.node("dyn")
    owner.inner = Scope(failure.graph, owner)
    inner = owner.inner.node("dn0")
    known = earlier(recalled("dyn", "FAILED", attempts=2), recalled("dyn-0-dn0", "FAILED"), recalled("dyn-2-dn0"))
    found = known.find(inner)
    assert found is not None
    assert found.known.node_id == "dyn-2-dn0"
    owner.attempts = 1
    owner.inner = Scope(failure.graph, owner)
    assert known.find(owner.inner.node("dn0")) is None, "a new attempt makes everything anew"


async def test_a_failure_node_is_never_taken_over(tmp_path: Path) -> None:
    engine = Engine(around())
    spec = engine.root.graph.failure_node
    assert spec is not None
    handler = engine.root.handler = NodeState(spec, engine.root, 3, 0)
    assert earlier(recalled("efn")).find(handler) is None


async def test_what_succeeded_is_copied_and_what_is_gone_runs_again(tmp_path: Path) -> None:
    async with driving(tmp_path, ControlPlane()) as (drive, _):
        run, node = drive.run, drive.engine.root.node("lp")
        given = literals_pb2.LiteralMap()
        given.literals["o0"].scalar.primitive.integer = 3
        reference = run.literals.storage.join("old/outputs.pb")
        await run.literals.write(reference, given)
        run.earlier = earlier(recalled("lp", output_uri=reference))
        observation = await take_over(run, node)
        assert observation is not None
        assert await run.literals.read(run.layout.outputs(node)) == given
        drive.engine.take()
        observation(drive.engine, 1_001.0)
        assert node.phase is NodePhase.RECOVERED

        for known in (
            recalled("ok", output_uri=run.literals.storage.join("never/outputs.pb")),
            recalled("ok", "SKIPPED"),
            recalled("ok", "FAILED"),
        ):
            run.earlier = earlier(known)
            other = drive.engine.root.node("ok")
            other.memo.clear()
            assert await take_over(run, other) is None


async def test_the_first_attempt_gets_the_checkpoints_of_an_earlier_one_that_failed(tmp_path: Path) -> None:
    async with driving(tmp_path, ControlPlane()) as (drive, _):
        closure = node_execution_pb2.NodeExecutionClosure()
        closure.task_node_metadata.checkpoint_uri = "/old/checkpoints"
        for phase, expected in (("FAILED", "/old/checkpoints"), ("SUCCEEDED", "")):
            known = journal_pb2.RecalledNode(node_id="lp", phase=phase, closure=closure.SerializeToString())
            drive.run.earlier = earlier(known)
            assert checkpoint(drive.run, drive.engine.root.node("lp")) == expected
        drive.run.earlier = None
        assert checkpoint(drive.run, drive.engine.root.node("lp")) == ""
