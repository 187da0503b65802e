"""What the control plane decides is journalled, and passed on to whoever holds the lease."""

from __future__ import annotations

import asyncio

import pytest
from flyteidl.admin.event_pb2 import EventFailureReason
from flyteidl.admin.execution_pb2 import ExecutionTerminateRequest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import Literal

from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendStatus,
    Control,
    HeartbeatRequest,
    ItemRange,
    ItemsChange,
    Transition,
)
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.rpc.context import Identity, set_identity

from .conftest import (
    ACCEPTED,
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


async def terminate(plane: Replica, events: Events, cause: str = "stop it") -> None:
    await plane.events.TerminateExecution(ExecutionTerminateRequest(id=events.identifier, cause=cause), None)


async def test_an_abort_shows_at_once_with_who_and_why(plane: Replica, hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    before = await executions.row(holder.execution_id)
    set_identity(Identity(user_id="me"))
    await terminate(plane, events)

    row, closure = await executions.row(holder.execution_id), await executions.closure(holder.execution_id)
    assert (row["phase"], row["abort_cause"]) == ("ABORTING", "stop it")
    assert (closure.abort_metadata.cause, closure.abort_metadata.principal) == ("stop it", "me")
    assert row["execution_updated_at"] == before["execution_updated_at"]
    (_, entry) = await executions.entries(holder.execution_id)
    control = Control.FromString(entry["body"])
    assert (entry["kind"], control.sequence, control.abort.cause, control.abort.principal) == (5, 2, "stop it", "me")
    await executions.check(holder.execution_id)


async def test_an_abort_may_be_repeated_until_the_end(plane: Replica, hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    await terminate(plane, events, "first")
    await terminate(plane, events, "second")
    assert (await executions.row(holder.execution_id))["abort_cause"] == "second"
    holder.last_sequence = 2
    assert await holder.append(events.workflow("ABORTED")) == [ACCEPTED]
    with pytest.raises(FailedPrecondition, match="Cannot abort an already terminated workflow execution") as caught:
        await terminate(plane, events, "third")
    (reason,) = caught.value.details
    assert isinstance(reason, EventFailureReason)
    assert reason.already_in_terminal_state.current_phase == "ABORTED"
    assert (await executions.row(holder.execution_id))["abort_cause"] == "second"
    await executions.check(holder.execution_id)


@pytest.mark.parametrize(
    ("identifier", "kind", "message"),
    [
        (Events("nobody").identifier, NotFound, "missing entity of type execution"),
        (WorkflowExecutionIdentifier(), InvalidArgument, "missing id"),
        (WorkflowExecutionIdentifier(project="p", domain="d"), InvalidArgument, "missing name"),
    ],
)
async def test_what_cannot_be_aborted(
    plane: Replica, identifier: WorkflowExecutionIdentifier, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await plane.events.TerminateExecution(ExecutionTerminateRequest(id=identifier), None)


async def test_a_cause_that_cannot_be_stored_is_refused(plane: Replica, executions: Executions) -> None:
    execution_id = await executions.create()
    with pytest.raises(InvalidArgument, match="NUL"):
        await terminate(plane, Events(), "a\0b")
    assert await executions.phase(execution_id) == "UNDEFINED"


async def test_an_abort_is_pushed_to_the_holder_and_repeated_by_heartbeats(
    plane: Replica, executions: Executions
) -> None:
    execution_id = await executions.create()
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    holder = Holder(plane.stub, session_id, await stream.assignment())
    events = Events()
    await holder.append(events.workflow("RUNNING"))
    await terminate(plane, events)

    control = await stream.control()
    assert (control.execution_id, control.sequence, control.abort.cause) == (execution_id, 2, "stop it")
    for _ in range(2):
        beat = await plane.stub.Heartbeat(HeartbeatRequest(session_id=session_id))
        assert list(beat.controls) == [control]
    await holder.append(events.workflow("ABORTED"))
    assert not (await plane.stub.Heartbeat(HeartbeatRequest(session_id=session_id))).controls


async def test_an_abort_decided_by_another_replica_reaches_the_holder(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create()
    stream = open_stream(plane.stub, await open_session(plane.stub))
    await stream.assignment()
    async with replica(database) as other:
        await terminate(other, Events())
        assert (await stream.control()).abort.cause == "stop it"


async def test_an_execution_that_was_never_leased_ends_through_a_data_plane(
    plane: Replica, executions: Executions
) -> None:
    execution_id = await executions.create()
    events = Events()
    await terminate(plane, events)
    assert await executions.phase(execution_id) == "ABORTING"

    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    assignment = await stream.assignment()
    assert (assignment.abort_cause, assignment.last_sequence) == ("stop it", 1)
    assert (await stream.control()).abort.cause == "stop it"
    holder = Holder(plane.stub, session_id, assignment)
    assert await holder.append(events.workflow("ABORTED")) == [ACCEPTED]
    closure = await executions.closure(execution_id)
    assert closure.abort_metadata.cause == "stop it"
    await executions.check(execution_id)


async def test_of_an_abort_and_the_end_at_the_same_time_one_wins(
    plane: Replica, hold: Hold, executions: Executions, database: Database
) -> None:
    async with replica(database) as other:
        for number in range(10):
            holder, events = await hold(f"e{number}"), Events(f"e{number}")
            await holder.append(events.workflow("RUNNING"))
            request = holder.request(transition(events.workflow("SUCCEEDED")))
            appending = asyncio.ensure_future(plane.stub.Append(request))
            aborted = (await asyncio.gather(terminate(other, events), return_exceptions=True))[0]
            (result,) = (await appending).executions
            assert result.status == AppendStatus.APPEND_STATUS_APPLIED
            phase = await executions.phase(holder.execution_id)
            assert phase == "SUCCEEDED"  # its end was reported; the abort came before it, or not at all
            assert aborted is None or isinstance(aborted, FailedPrecondition)
            await executions.check(holder.execution_id)


async def test_a_forced_abort_ends_everything_without_the_engine(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create()
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    holder = Holder(plane.stub, session_id, await stream.assignment())
    events = Events()
    items = ItemsChange(
        node_id="map", ranges=[ItemRange(first=0, last=9, phase=2), ItemRange(first=3, last=3, phase=3)]
    )
    await holder.append(
        events.workflow("RUNNING"),
        events.node("done", "SUCCEEDED", output_uri="/o"),
        events.node("n0", "RUNNING"),
        events.task("n0", "FAILED"),
        events.task("n0", "RUNNING", attempt=1),
        events.node("map", "RUNNING"),
        Transition(items=items),
        events.node("queued", "QUEUED"),
    )
    await plane.journal.force_abort(events.identifier, "the cluster is lost")

    row, closure = await executions.row(holder.execution_id), await executions.closure(holder.execution_id)
    assert (row["phase"], closure.abort_metadata.cause) == ("ABORTED", "the cluster is lost")
    phases = {node: (await executions.node(holder.execution_id, node))[0]["phase"] for node in
              ("done", "n0", "map", "queued")}  # fmt: skip
    assert phases == {"done": "SUCCEEDED", "n0": "ABORTED", "map": "ABORTED", "queued": "ABORTED"}
    assert [(await executions.task(holder.execution_id, "n0", attempt))[0]["phase"] for attempt in (0, 1)] == [
        "FAILED",
        "ABORTED",
    ]
    found = await database.fetch("SELECT phase, count(*) FROM node_items GROUP BY phase ORDER BY phase")
    assert [(each["phase"], each["count"]) for each in found] == [(3, 1), (4, 9)]
    lease = await executions.lease(holder.execution_id)
    assert (lease["state"], lease["epoch"]) == ("closed", holder.epoch + 1)
    assert (await stream.control()).force_abort.cause == "the cluster is lost"
    result = await holder.send(holder.request(transition(events.node("n0", "SUCCEEDED"))))
    assert result.status == AppendStatus.APPEND_STATUS_STALE
    assert await database.fetchval("SELECT count(*) FROM outbox") == 1
    await executions.check(holder.execution_id)
    with pytest.raises(FailedPrecondition):
        await plane.journal.force_abort(events.identifier, "again")


async def test_a_forced_abort_after_an_abort_keeps_who_asked(
    plane: Replica, hold: Hold, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"), events.node("n0", "QUEUED"))
    await plane.journal.request_abort(events.identifier, "enough", "me")
    await plane.journal.force_abort(events.identifier, "no answer")
    closure = await executions.closure(holder.execution_id)
    assert (closure.abort_metadata.cause, closure.abort_metadata.principal) == ("no answer", "me")
    await executions.check(holder.execution_id)


async def test_a_signal_is_stored_and_passed_on(plane: Replica, executions: Executions, database: Database) -> None:
    execution_id = await executions.create()
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    await stream.assignment()
    value = Literal()
    value.scalar.primitive.boolean = True
    with pytest.raises(NotFound):
        await plane.journal.set_signal(Events().identifier, "go", value.SerializeToString())
    await database.execute("INSERT INTO signals (execution_id, signal_id, type) VALUES ($1, 'go', '')", execution_id)
    await plane.journal.set_signal(Events().identifier, "go", value.SerializeToString())

    control = await stream.control()
    assert (control.signal.signal_id, Literal.FromString(control.signal.value)) == ("go", value)
    assert await database.fetchval("SELECT value FROM signals") == value.SerializeToString()
    await executions.check(execution_id)
    # the next holder hears of it as well
    await plane.sessions.close(session_id)
    stream = open_stream(plane.stub, await open_session(plane.stub))
    await stream.assignment()
    assert (await stream.control()).signal.signal_id == "go"
