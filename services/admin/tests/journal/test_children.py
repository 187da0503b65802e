"""Who drives a node hears that its child is over, no child outlives its parent, and earlier nodes can be recalled."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from flyteidl.admin.common_pb2 import Labels
from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure

from aerodrome.admin.managers import children
from aerodrome.idl.journal.v1.journal_pb2 import RecallRequest
from aerodrome.stdlib.postgres.database import Database

from .conftest import (
    ACCEPTED,
    DOMAIN,
    PATIENCE,
    PROJECT,
    Events,
    Executions,
    Hold,
    Holder,
    Replica,
    open_session,
    open_stream,
    replica,
    transition,
)

CHILD_WORKFLOW, RECOVERED = 4, 5


async def adopt(database: Database, child: int, parent: int, mode: int = CHILD_WORKFLOW) -> None:
    """Let `child` be what node n0 of `parent` launched."""
    await database.execute(
        "UPDATE executions SET parent_execution_id = $2, parent_node_id = 'n0', mode = $3 WHERE execution_id = $1",
        child, parent, mode,
    )  # fmt: skip


async def becomes(executions: Executions, execution_id: int, phase: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await executions.phase(execution_id) != phase:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)


async def test_the_holder_of_the_parent_is_told_of_the_end_of_a_child(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create("parent")
    await executions.create("child")
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    parent, child = [Holder(plane.stub, session_id, await stream.assignment()) for _ in range(2)]
    await adopt(database, child.execution_id, parent.execution_id)
    events = Events("child")
    assert (
        await child.append(events.workflow("RUNNING"), events.workflow("FAILING"), events.workflow("FAILED"))
        == [ACCEPTED] * 3
    )

    hint = await stream.control()
    assert (hint.execution_id, hint.sequence) == (parent.execution_id, 0)
    assert (hint.child_ended.node_id, hint.child_ended.name, hint.child_ended.phase) == ("n0", "child", "FAILED")
    assert await executions.entries(parent.execution_id) == []


async def test_a_holder_at_another_replica_is_told_too(database: Database, executions: Executions) -> None:
    async with replica(database) as one, replica(database) as other:
        await executions.create("parent")
        stream = open_stream(one.stub, await open_session(one.stub))
        parent = (await stream.assignment()).execution_id
        await executions.create("child", cluster="elsewhere")
        session_id = await open_session(other.stub, cluster="elsewhere")
        child = Holder(other.stub, session_id, await open_stream(other.stub, session_id).assignment())
        await adopt(database, child.execution_id, parent)
        events = Events("child")
        await child.append(events.workflow("RUNNING"), events.workflow("FAILING"), events.workflow("FAILED"))
        hint = await stream.control()
        assert (hint.execution_id, hint.child_ended.name) == (parent, "child")


async def test_a_child_does_not_outlive_a_parent_that_was_ended_by_force(
    plane: Replica, hold: Hold, executions: Executions, database: Database
) -> None:
    parent, child, stranger = await hold("parent"), await hold("child"), await hold("stranger")
    await adopt(database, child.execution_id, parent.execution_id)
    await plane.journal.force_abort(Events("parent").identifier, "enough")
    await becomes(executions, child.execution_id, "ABORTING")
    assert "parent is ABORTED" in (await executions.row(child.execution_id))["abort_cause"]
    assert await executions.phase(stranger.execution_id) == "UNDEFINED"


async def test_what_an_eager_task_launched_ends_with_the_execution_of_the_task(
    plane: Replica, hold: Hold, executions: Executions, database: Database
) -> None:
    _, child, other = await hold("parent"), await hold("child"), await hold("other")
    for execution, label in ((child, "parent"), (other, "parents")):
        spec = ExecutionSpec(labels=Labels(values={"eager-exec": label}))
        await database.execute(
            "UPDATE executions SET spec = $2 WHERE execution_id = $1", execution.execution_id, spec.SerializeToString()
        )
    await plane.journal.force_abort(Events("parent").identifier, "enough")
    await becomes(executions, child.execution_id, "ABORTING")
    assert await executions.phase(other.execution_id) == "UNDEFINED"


async def test_an_orphan_is_found_by_a_control_plane_that_did_not_see_it_become_one(
    database: Database, executions: Executions
) -> None:
    parent, child = await executions.create("parent", phase="FAILED"), await executions.create("child")
    await adopt(database, child, parent)
    async with replica(database):
        await becomes(executions, child, "ABORTING")


async def test_who_recovers_a_child_of_an_ended_execution_by_hand_keeps_it(
    plane: Replica, hold: Hold, executions: Executions, database: Database
) -> None:
    parent, child = await hold("parent"), await hold("child")
    await adopt(database, child.execution_id, parent.execution_id, RECOVERED)
    await database.execute(
        "UPDATE executions SET execution_created_at = now() + interval '1 day' WHERE execution_id = $1",
        child.execution_id,
    )
    await plane.journal.force_abort(Events("parent").identifier, "enough")
    sweeping = children.ChildManager(database, plane.journal, None, push=lambda *_: False)  # type: ignore[arg-type]
    await sweeping.sweep()
    await sweeping.end_orphans([parent.execution_id])
    assert await executions.phase(child.execution_id) == "UNDEFINED"


async def test_all_nodes_of_an_earlier_execution_are_recalled_page_by_page(plane: Replica, hold: Hold) -> None:
    holder, events = await hold("old"), Events("old")
    await holder.append(events.workflow("RUNNING"))
    for number in range(5):
        node = f"n{number}"
        await holder.append(
            transition(events.node(node, "QUEUED", input_uri=f"/in/{node}"), b"first"),
            transition(events.node(node, "RUNNING"), b"second"),
            transition(events.node(node, "SUCCEEDED", output_uri=f"/out/{node}"), b"third"),
        )
    token, found = "", {}
    while True:
        request = RecallRequest(project=PROJECT, domain=DOMAIN, name="old", limit=2, token=token)
        page = await plane.stub.Recall(request)
        found.update({node.node_id: node for node in page.nodes})
        assert len(page.nodes) <= 2
        token = page.next_token
        if not token:
            break
    assert sorted(found) == [f"n{number}" for number in range(5)]
    node = found["n3"]
    assert (node.phase, node.input_uri, node.state) == ("SUCCEEDED", "/in/n3", b"third")
    assert NodeExecutionClosure.FromString(node.closure).output_uri == "/out/n3"


async def test_what_cannot_be_recalled_is_refused(plane: Replica) -> None:
    for request, code in (
        (RecallRequest(project=PROJECT, domain=DOMAIN, name="never"), grpc.StatusCode.NOT_FOUND),
        (RecallRequest(project=PROJECT, domain=DOMAIN), grpc.StatusCode.INVALID_ARGUMENT),
        (RecallRequest(project=PROJECT, domain=DOMAIN, name="x", limit=1 << 30), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plane.stub.Recall(request)
        assert caught.value.code() is code
