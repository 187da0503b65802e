"""Executions are held by one session at a time, pass on when it ends, and keep their cluster until a hand-over."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.config import AdminConfig
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendStatus,
    CloseSessionRequest,
    HandOverRequest,
    HeartbeatRequest,
    LeaseKey,
    OpenSessionRequest,
    ReleaseRequest,
    ResolvedResources,
)
from aerodrome.stdlib.postgres.database import Database

from .conftest import (
    ACCEPTED,
    Events,
    Executions,
    Holder,
    Replica,
    Stream,
    open_session,
    open_stream,
    replica,
    transition,
)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_an_assignment_has_everything_to_begin_with(
    plane: Replica, executions: Executions, database: Database
) -> None:
    old = await executions.create("old")
    execution_id = await executions.create()
    workflow_id = await database.fetchval(
        """
        INSERT INTO workflows (project, domain, name, version, typed_interface, remote_closure_identifier, digest)
        VALUES ('p', 'd', 'w', 'v', '', '/closures/w', '') RETURNING id
        """
    )
    resources = ResolvedResources(limits={"cpu": "2"})
    await database.execute(
        """
        UPDATE executions
        SET workflow_id = $2, inputs_uri = '/in', task_resources = $3, plugin_overrides = 'PO',
            recovered_execution_id = $4
        WHERE execution_id = $1
        """,
        execution_id, workflow_id, resources.SerializeToString(), old,
    )  # fmt: skip
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assert (await stream.assignment()).execution_id == old  # the oldest first
    assignment = await stream.assignment()

    assert (assignment.project, assignment.domain, assignment.name) == ("flytesnacks", "development", "one")
    assert (assignment.epoch, assignment.last_sequence, assignment.abort_cause) == (1, 0, "")
    assert (assignment.workflow_closure_reference, assignment.inputs_reference) == ("/closures/w", "/in")
    assert (assignment.resources, assignment.plugin_overrides) == (resources, b"PO")
    assert WorkflowExecutionIdentifier.FromString(assignment.recovered_execution).name == "old"
    assert assignment.created_at.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    row = await executions.row(execution_id)
    assert (assignment.spec, assignment.closure) == (row["spec"], row["closure"])


async def test_new_work_wakes_the_stream_at_once(database: Database, executions: Executions) -> None:
    slow = AdminConfig.model_validate({"journal": {"poll_interval": "1h"}})
    async with replica(database, slow) as plane, replica(database, slow) as other:
        await executions.create("zero")
        stream = open_stream(plane.stub, await open_session(plane.stub))
        assert (await stream.assignment()).name == "zero"
        await executions.create("first")
        plane.work.work_available("local")
        assert (await stream.assignment()).name == "first"
        await executions.create("second")
        other.work.work_available("local")  # through the database
        assert (await stream.assignment()).name == "second"


async def test_work_that_nobody_announced_is_found_all_the_same(database: Database, executions: Executions) -> None:
    quick = AdminConfig.model_validate({"journal": {"poll_interval": "20ms"}})
    async with replica(database, quick) as plane:
        stream = open_stream(plane.stub, await open_session(plane.stub))
        await stream.nothing_comes()
        await executions.create()
        assert (await stream.assignment()).name == "one"


async def test_a_cluster_gets_only_its_own_executions(plane: Replica, executions: Executions) -> None:
    await executions.create("there", cluster="elsewhere")
    await executions.create("here")
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assert (await stream.assignment()).name == "here"
    await stream.nothing_comes()


async def test_no_more_is_handed_out_than_there_is_room_for(
    plane: Replica, executions: Executions, database: Database
) -> None:
    for number in range(5):
        await executions.create(f"e{number}")
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id, capacity=2)
    holders = [Holder(plane.stub, session_id, await stream.assignment()) for _ in range(2)]
    await stream.nothing_comes()
    stream = open_stream(plane.stub, session_id, capacity=2)
    for _ in holders:
        await stream.assignment()  # repeated for a new stream
    await holders[0].append(Events("e0").workflow("FAILED"))
    assert (await stream.assignment()).name == "e2"


async def test_a_capacity_of_zero_gets_decisions_only(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create()
    stream = open_stream(plane.stub, await open_session(plane.stub), capacity=0)
    await stream.nothing_comes()


async def test_sessions_that_race_never_share_an_execution(database: Database, executions: Executions) -> None:
    count, planes = 60, 3
    for number in range(count):
        await executions.create(f"e{number}")
    small = AdminConfig.model_validate({"journal": {"assignment_batch": 4}})
    async with replica(database, small) as one, replica(database, small) as two:
        sessions = [
            (each, await open_session(each.stub)) for each, _ in zip((one, two, one), range(planes), strict=True)
        ]
        streams = [open_stream(each.stub, session_id, count // planes) for each, session_id in sessions]

        async def collect(stream: Stream) -> list[int]:
            return [(await stream.assignment()).execution_id for _ in range(count // planes)]

        collected = await asyncio.gather(*(collect(stream) for stream in streams))
    assert len({execution_id for each in collected for execution_id in each}) == count


async def test_a_second_stream_replaces_the_first_and_repeats_what_is_held(
    plane: Replica, executions: Executions
) -> None:
    await executions.create()
    session_id = await open_session(plane.stub)
    first = open_stream(plane.stub, session_id)
    assignment = await first.assignment()
    second = open_stream(plane.stub, session_id)
    assert await second.assignment() == assignment
    code, text = await refusal(first.next())
    assert (code, "has replaced this one" in text) == (grpc.StatusCode.ABORTED, True)
    await executions.create("two")
    plane.work.work_available("local")
    assert (await second.assignment()).name == "two"


async def test_a_closed_session_frees_its_leases_at_once(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create()
    first = await open_session(plane.stub)
    stream = open_stream(plane.stub, first)
    holder = Holder(plane.stub, first, await stream.assignment())
    other = open_stream(plane.stub, await open_session(plane.stub))
    await other.nothing_comes()
    await plane.stub.CloseSession(CloseSessionRequest(session_id=first))

    assignment = await other.assignment()
    assert (assignment.execution_id, assignment.epoch) == (holder.execution_id, holder.epoch + 1)
    result = await holder.send(holder.request(transition(Events().workflow("RUNNING"))))
    assert (result.status, "the lease has passed on" in result.reason) == (AppendStatus.APPEND_STATUS_STALE, True)
    assert (await refusal(stream.next()))[0] == grpc.StatusCode.NOT_FOUND
    await plane.stub.CloseSession(CloseSessionRequest(session_id=first))  # closing again is fine


async def test_a_session_that_stops_beating_loses_its_leases(
    plane: Replica, executions: Executions, database: Database
) -> None:
    """A data plane that crashed: its executions pass on, with what it has recorded."""
    await executions.create()
    crashed = await open_session(plane.stub)
    stream = open_stream(plane.stub, crashed)
    holder = Holder(plane.stub, crashed, await stream.assignment())
    stream.cancel()
    assert await holder.append(Events().workflow("RUNNING"), Events().node("n0", "QUEUED")) == [ACCEPTED] * 2
    await plane.sessions.expire()
    assert (await executions.lease(holder.execution_id))["state"] == "held"  # its term has not passed

    await database.execute("UPDATE sessions SET expires_at = now() - interval '1 second'")
    code, text = await refusal(plane.stub.Heartbeat(HeartbeatRequest(session_id=crashed)))
    assert (code, "is gone" in text) == (grpc.StatusCode.NOT_FOUND, True)
    assert (await refusal(open_stream(plane.stub, crashed).next()))[0] == grpc.StatusCode.NOT_FOUND
    fresh = await open_session(plane.stub)
    await plane.sessions.expire()
    assignment = await open_stream(plane.stub, fresh).assignment()
    assert (assignment.epoch, [node.node_id for node in assignment.nodes]) == (2, ["n0"])
    result = await holder.send(holder.request(transition(Events().node("n1", "QUEUED"))))
    assert result.status == AppendStatus.APPEND_STATUS_STALE
    await executions.check(holder.execution_id)


async def test_a_holder_that_comes_back_need_not_wait_for_its_term(plane: Replica, executions: Executions) -> None:
    await executions.create()
    crashed = await open_session(plane.stub, holder="host 1")
    await open_stream(plane.stub, crashed).assignment()
    elsewhere = await open_session(plane.stub, "elsewhere", holder="host 1")
    again = await open_session(plane.stub, holder="host 1")
    assert (await open_stream(plane.stub, again).assignment()).epoch == 2
    await plane.stub.Heartbeat(HeartbeatRequest(session_id=elsewhere))
    assert (await refusal(plane.stub.Heartbeat(HeartbeatRequest(session_id=crashed))))[0] == grpc.StatusCode.NOT_FOUND


async def test_heartbeats_keep_a_session_alive(plane: Replica, database: Database) -> None:
    session = await plane.stub.OpenSession(OpenSessionRequest(cluster="local", holder="me"))
    assert session.term.ToTimedelta().total_seconds() == 10
    await database.execute("UPDATE sessions SET expires_at = now() + interval '1 second'")
    beat = await plane.stub.Heartbeat(HeartbeatRequest(session_id=session.session_id))
    assert beat.term == session.term
    left = await database.fetchval("SELECT extract(epoch FROM expires_at - now()) FROM sessions")
    assert left > 5


async def test_a_session_that_is_closed_while_it_is_handed_work_keeps_nothing(
    plane: Replica, executions: Executions, database: Database
) -> None:
    """However the two race, no lease is held by a session that is gone."""
    for number in range(16):
        await executions.create(f"e{number}")
        plane.work.work_available("local")
        session_id = await open_session(plane.stub)
        stream = open_stream(plane.stub, session_id)
        for _ in range(number % 8):
            await asyncio.sleep(0)
        await plane.sessions.close(session_id)
        assert (await refusal(_read_on(stream)))[0] == grpc.StatusCode.NOT_FOUND
    assert await database.fetchval("SELECT count(*) FROM leases WHERE state = 'held'") == 0


async def _read_on(stream: Stream) -> None:
    while True:
        await stream.next()


async def test_released_leases_go_to_the_next_session_of_the_cluster(
    plane: Replica, executions: Executions, database: Database
) -> None:
    await executions.create()
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    assignment = await stream.assignment()
    stream.cancel()
    stale = ReleaseRequest(
        session_id=session_id, leases=[LeaseKey(execution_id=assignment.execution_id, epoch=assignment.epoch + 1)]
    )
    await plane.stub.Release(stale)
    assert (await executions.lease(assignment.execution_id))["state"] == "held"
    other = await open_session(plane.stub)
    await plane.stub.Release(
        ReleaseRequest(session_id=other, leases=[LeaseKey(execution_id=assignment.execution_id, epoch=1)])
    )
    assert (await executions.lease(assignment.execution_id))["state"] == "held"  # not its own

    await plane.stub.Release(
        ReleaseRequest(session_id=session_id, leases=[LeaseKey(execution_id=assignment.execution_id, epoch=1)])
    )
    assert (await open_stream(plane.stub, other).assignment()).epoch == 2


async def test_too_many_leases_at_once_are_refused(database: Database) -> None:
    config = AdminConfig.model_validate({"journal": {"release_leases": 2}})
    async with replica(database, config) as plane:
        session_id = await open_session(plane.stub)
        keys = [LeaseKey(execution_id=number, epoch=1) for number in range(3)]
        for call in (
            plane.stub.Release(ReleaseRequest(session_id=session_id, leases=keys)),
            plane.stub.HandOver(HandOverRequest(session_id=session_id, leases=keys, cluster="b")),
        ):
            code, text = await refusal(call)
            assert (code, text) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "3 leases are too many at once; send at most 2",
            )


async def test_only_a_hand_over_changes_the_cluster(plane: Replica, executions: Executions, database: Database) -> None:
    await executions.create()
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    holder = Holder(plane.stub, session_id, await stream.assignment())
    stream.cancel()
    await holder.append(Events().workflow("RUNNING"))
    elsewhere = open_stream(plane.stub, await open_session(plane.stub, "elsewhere"))
    key = LeaseKey(execution_id=holder.execution_id, epoch=holder.epoch)
    await plane.stub.HandOver(HandOverRequest(session_id=session_id, leases=[key], cluster="elsewhere"))

    assignment = await elsewhere.assignment()
    assert (assignment.execution_id, assignment.epoch, assignment.last_sequence) == (holder.execution_id, 2, 1)
    assert (await executions.row(holder.execution_id))["cluster"] == "elsewhere"
    result = await holder.send(holder.request(transition(Events().node("n0", "QUEUED"))))
    assert result.status == AppendStatus.APPEND_STATUS_STALE


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (OpenSessionRequest(), "missing cluster"),
        (OpenSessionRequest(cluster="a\0b"), "NUL"),
        (OpenSessionRequest(cluster="c" * 1000), "too long"),
        (OpenSessionRequest(cluster="c", holder="h" * 10_000), "too long"),
    ],
)
async def test_sessions_without_a_proper_name_are_refused(
    plane: Replica, request_: OpenSessionRequest, message: str
) -> None:
    code, text = await refusal(plane.stub.OpenSession(request_))
    assert (code, message in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_keys_beyond_what_columns_hold_are_refused_or_ignored(plane: Replica) -> None:
    session_id = await open_session(plane.stub)
    key = LeaseKey(execution_id=1, epoch=2**64 - 1)
    code, _ = await refusal(plane.stub.Release(ReleaseRequest(session_id=session_id, leases=[key])))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
