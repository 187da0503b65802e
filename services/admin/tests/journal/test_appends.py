"""What a lease holder appends is folded, once, and answered per transition."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from flyteidl.admin.execution_pb2 import ExecutionTerminateRequest
from flyteidl.core.execution_pb2 import ExecutionError

from aerodrome.admin.config import AdminConfig
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    AppendStatus,
    ExecutionAppend,
    ItemRange,
    ItemsChange,
    NodeChange,
    TaskChange,
    Transition,
    WorkflowChange,
)
from aerodrome.stdlib.errors import Conflict, Internal
from aerodrome.stdlib.postgres.database import Database

from .conftest import (
    ABORTING,
    ACCEPTED,
    REFUSED,
    REPEATED,
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

APPLIED = AppendStatus.APPEND_STATUS_APPLIED
STALE = AppendStatus.APPEND_STATUS_STALE
INVALID = AppendStatus.APPEND_STATUS_INVALID


async def drive_to_success(holder: Holder, events: Events) -> None:
    assert await holder.append(events.workflow("RUNNING")) == [ACCEPTED]
    assert await holder.append(events.node("n0", "QUEUED"), events.task("n0", "QUEUED")) == [ACCEPTED] * 2
    assert await holder.append(events.node("n0", "RUNNING"), events.task("n0", "RUNNING")) == [ACCEPTED] * 2
    done = [
        events.task("n0", "SUCCEEDED", output_uri="/o"),
        events.node("n0", "SUCCEEDED", output_uri="/o"),
        events.workflow("SUCCEEDING"),
        events.workflow("SUCCEEDED", output_uri="/end"),
    ]
    assert await holder.append(*done) == [ACCEPTED] * 4


async def test_a_whole_execution_is_folded_and_its_lease_closed(hold: Hold, executions: Executions) -> None:
    holder = await hold()
    await drive_to_success(holder, Events())

    row = await executions.row(holder.execution_id)
    closure = await executions.closure(holder.execution_id)
    assert (row["phase"], closure.outputs.uri) == ("SUCCEEDED", "/end")
    assert row["duration"] == closure.duration.ToNanoseconds() == 8 * 10**9
    node, node_closure, metadata = await executions.node(holder.execution_id, "n0")
    assert (node["phase"], node_closure.output_uri, metadata.spec_node_id) == ("SUCCEEDED", "/o", "n0")
    task, task_closure = await executions.task(holder.execution_id, "n0")
    assert (task["phase"], task_closure.output_uri, task_closure.task_type) == ("SUCCEEDED", "/o", "python-task")
    lease = await executions.lease(holder.execution_id)
    assert (lease["state"], lease["session_id"], lease["writer"]) == ("closed", None, "lease")
    assert [entry["sequence"] for entry in await executions.entries(holder.execution_id)] == list(range(1, 10))
    await executions.check(holder.execution_id)


async def test_the_end_of_an_execution_leaves_one_message_in_the_outbox(hold: Hold, database: Database) -> None:
    holder = await hold()
    await drive_to_success(holder, Events())

    rows = await database.fetch("SELECT topic, key FROM outbox")
    assert [(row["topic"], row["key"]) for row in rows] == [("executions.terminal", str(holder.execution_id))]


async def test_a_repeated_append_changes_nothing_and_is_answered_the_same(hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    request = holder.request(
        transition(events.workflow("RUNNING")),
        transition(events.node("n0", "QUEUED")),
        transition(events.node("n0", "QUEUED")),
        transition(events.node("n9", "TIMED_OUT")),
    )
    first = await holder.send(request)
    before = await executions.entries(holder.execution_id)
    again = await holder.send(request)

    assert [result.status for result in first.results] == [ACCEPTED, ACCEPTED, REPEATED, REFUSED]
    assert [result.status for result in again.results] == [result.status for result in first.results]
    assert (again.status, again.last_sequence) == (first.status, first.last_sequence)
    assert await executions.entries(holder.execution_id) == before


async def test_a_repeat_is_recognized_by_another_replica_and_after_the_end(
    database: Database, hold: Hold, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    last = holder.request(transition(events.workflow("FAILED", error=ExecutionError(code="X", message="no"))))
    first = await holder.send(last)
    async with replica(database) as other:
        again = (await other.stub.Append(last)).executions[0]

    assert first == again
    assert (await executions.lease(holder.execution_id))["state"] == "closed"


async def test_an_older_append_that_arrives_late_changes_nothing(hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    late = holder.request(transition(events.workflow("RUNNING")))
    await holder.send(late)
    await holder.append(events.node("n0", "QUEUED"))
    result = await holder.send(late)

    assert [each.status for each in result.results] == [REPEATED]
    assert len(await executions.entries(holder.execution_id)) == 2


async def test_the_same_sequence_with_other_transitions_is_refused(hold: Hold) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    result = await holder.send(
        holder.request(transition(events.node("a", "QUEUED")), transition(events.node("b", "QUEUED")), first=1)
    )
    assert result.status == INVALID
    assert "had 1 transitions, this one has 2" in result.reason


async def test_an_append_that_nothing_was_accepted_of_does_not_take_its_sequence(hold: Hold) -> None:
    holder, events = await hold(), Events()
    assert await holder.append(events.workflow("SUCCEEDED")) == [REFUSED]
    assert await holder.append(events.workflow("RUNNING")) == [ACCEPTED]
    assert holder.last_sequence == 1


async def test_a_gap_is_refused_and_says_where_the_journal_ends(hold: Hold) -> None:
    holder, events = await hold(), Events()
    result = await holder.send(holder.request(transition(events.workflow("RUNNING")), first=3))
    assert result.status == INVALID
    assert result.reason.startswith("first_sequence is 3, but the journal ends at 0")


async def test_a_decision_in_between_is_no_gap_and_no_repeat(
    hold: Hold, plane: Replica, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"), events.node("n0", "QUEUED"))
    await plane.journal.request_abort(events.identifier, "enough", "me")
    request = holder.request(transition(events.node("n0", "ABORTED")))
    assert request.executions[0].first_sequence == 3

    result = await holder.send(request)
    assert ([each.status for each in result.results], result.last_sequence) == ([ACCEPTED], 4)
    assert (await holder.send(request)).last_sequence == 4
    await executions.check(holder.execution_id)


@pytest.mark.parametrize(
    "break_it",
    [
        {"epoch": 7},
        {"epoch": 0},
    ],
)
async def test_a_stale_epoch_is_refused(hold: Hold, break_it: dict[str, int], executions: Executions) -> None:
    holder, events = await hold(), Events()
    result = await holder.send(holder.request(transition(events.workflow("RUNNING")), **break_it))
    assert result.status == STALE
    assert await executions.phase(holder.execution_id) == "UNDEFINED"


async def test_another_session_is_refused(hold: Hold, plane: Replica) -> None:
    holder, events = await hold(), Events()
    request = holder.request(transition(events.workflow("RUNNING")))
    request.session_id = await open_session(plane.stub)
    assert (await holder.send(request)).status == STALE


async def test_an_unknown_execution_is_not_found(hold: Hold) -> None:
    holder, events = await hold(), Events()
    request = holder.request(transition(events.workflow("RUNNING")))
    request.executions[0].execution_id = 12345
    assert (await holder.send(request)).status == AppendStatus.APPEND_STATUS_NOT_FOUND


def _broken() -> list[tuple[str, Transition, str]]:
    events, other = Events(), Events("other")
    missing_time = events.node("n0", "QUEUED")
    missing_time.ClearField("occurred_at")
    strange_phase = events.node("n0", "QUEUED")
    setattr(strange_phase, "phase", 77)  # noqa: B010 - it has no name
    far_future = events.task("n0", "QUEUED")
    far_future.occurred_at.seconds = 10**12
    nul = events.node("n\0", "QUEUED")
    mixed = transition(events.node("n0", "QUEUED"))
    mixed.node.node_id = "n1"
    attempt = transition(events.task("n0", "QUEUED"))
    attempt.task.attempt = 3
    huge_attempt = transition(events.task("n0", "QUEUED", attempt=2**32 - 1))
    return [
        ("empty", Transition(), "no change that is known"),
        ("garbage", Transition(node=NodeChange(node_id="n0", event=b"\xff\xff\xff")), "not a valid message"),
        ("other execution", transition(other.node("n0", "QUEUED")), "speaks of another execution"),
        ("no time", transition(missing_time), "missing occurred_at"),
        ("unknown phase", transition(strange_phase), "invalid value for phase"),
        ("year 33658", transition(far_future), "invalid value for occurred_at"),
        ("NUL", transition(nul), "NUL"),
        ("other node", mixed, "the event speaks of node n0"),
        ("other attempt", attempt, "the event speaks of attempt 0"),
        ("attempt beyond a column", huge_attempt, "invalid value for retry_attempt"),
        ("long name", transition(events.node("n" * 300, "QUEUED")), "too long"),
        ("no node", Transition(node=NodeChange(state=b"x")), "missing node_id"),
        (
            "items out of range",
            Transition(items=ItemsChange(node_id="n0", ranges=[ItemRange(first=5, last=4)])),
            "no range",
        ),
        (
            "too many items",
            Transition(items=ItemsChange(node_id="n0", ranges=[ItemRange(first=0, last=2**32 - 1)])),
            "no range",
        ),
        ("large state", Transition(workflow=WorkflowChange(state=b"x" * (9 * 2**20))), "at most 8388608"),
    ]


async def test_what_cannot_be_understood_is_refused_whole(hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    for what, broken, reason in _broken():
        result = await holder.send(holder.request(transition(events.workflow("RUNNING")), broken))
        assert result.status == INVALID, what
        assert reason in result.reason, what
        assert await executions.entries(holder.execution_id) == []
    assert await holder.append(events.workflow("RUNNING")) == [ACCEPTED]


async def test_one_bad_append_leaves_the_others_alone(plane: Replica, executions: Executions) -> None:
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    holders = []
    for name in ("good", "bad", "fine"):
        await executions.create(name)
        plane.work.work_available("local")
        holders.append(Holder(plane.stub, session_id, await stream.assignment()))
    appends = [
        holder.request(transition(Events(holder.assignment.name).workflow("RUNNING"))).executions[0]
        for holder in holders
    ]
    appends[1].transitions.append(Transition())
    response = await plane.stub.Append(AppendRequest(session_id=session_id, executions=appends))

    assert [result.status for result in response.executions] == [APPLIED, INVALID, APPLIED]
    assert [await executions.phase(holder.execution_id) for holder in holders] == ["RUNNING", "UNDEFINED", "RUNNING"]


async def test_what_the_database_refuses_of_one_execution_stays_its_own(
    plane: Replica, executions: Executions, database: Database
) -> None:
    """A group fails as a whole; its operations are then tried one by one."""
    await database.execute(
        """
        CREATE FUNCTION refuse_bad() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF new.node_id = 'bad' THEN RAISE EXCEPTION 'no room for this one'; END IF;
            RETURN new;
        END $$;
        CREATE TRIGGER refuse_bad BEFORE INSERT ON node_executions FOR EACH ROW EXECUTE FUNCTION refuse_bad();
        """
    )
    session_id = await open_session(plane.stub)
    stream = open_stream(plane.stub, session_id)
    appends = []
    for name in ("a", "b", "c", "d", "e", "f"):
        await executions.create(name)
        plane.work.work_available("local")
        holder = Holder(plane.stub, session_id, await stream.assignment())
        node = Events(name).node("bad" if name == "c" else "n0", "QUEUED")
        appends.append(holder.request(transition(node)).executions[0])
    response = await plane.stub.Append(AppendRequest(session_id=session_id, executions=appends))

    expected = [APPLIED, APPLIED, INVALID, APPLIED, APPLIED, APPLIED]
    assert [result.status for result in response.executions] == expected
    assert "no room for this one" in response.executions[2].reason


async def test_nothing_starts_in_an_execution_that_is_being_aborted(
    hold: Hold, plane: Replica, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    await holder.append(
        events.workflow("RUNNING"), events.node("n0", "QUEUED"), events.task("n0", "QUEUED"),
    )  # fmt: skip
    await plane.events.TerminateExecution(ExecutionTerminateRequest(id=events.identifier, cause="stop"), None)
    holder.last_sequence += 1

    assert await holder.append(
        events.node("n1", "QUEUED"),
        events.node("n0", "RUNNING"),
        events.task("n0", "RUNNING"),  # it runs already: an observation, not a start
        events.task("n0", "QUEUED", attempt=1),
        events.workflow("SUCCEEDING"),
    ) == [ABORTING, ABORTING, ACCEPTED, ABORTING, ABORTING]
    assert await holder.append(
        events.task("n0", "ABORTED"),
        events.task("n0", "QUEUED", attempt=1),
        events.node("n0", "ABORTED"),
        events.workflow("ABORTED"),
    ) == [ACCEPTED, ABORTING, ACCEPTED, ACCEPTED]
    closure = await executions.closure(holder.execution_id)
    assert (closure.abort_metadata.cause, await executions.phase(holder.execution_id)) == ("stop", "ABORTED")
    await executions.check(holder.execution_id)


async def test_an_attempt_begins_only_after_the_one_before_is_over(hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"), events.node("n0", "QUEUED"))
    assert await holder.append(events.task("n0", "RUNNING"), events.task("n0", "QUEUED", attempt=1)) == [
        ACCEPTED,
        REFUSED,
    ]
    assert await holder.append(
        events.task("n0", "FAILED"), events.task("n0", "QUEUED", attempt=2), events.task("n0", "QUEUED", attempt=1)
    ) == [ACCEPTED, ACCEPTED, REFUSED]
    await executions.check(holder.execution_id)


async def test_nothing_follows_the_end_of_an_execution(hold: Hold, executions: Executions) -> None:
    holder, events = await hold(), Events()
    assert await holder.append(
        events.workflow("RUNNING"),
        events.workflow("FAILED"),
        events.node("n0", "QUEUED"),
        events.workflow("SUCCEEDED"),
        Transition(workflow=WorkflowChange(state=b"x")),
    ) == [ACCEPTED, ACCEPTED, REFUSED, REFUSED, REFUSED]
    result = await holder.send(holder.request(transition(events.workflow("RUNNING"))))
    assert (result.status, result.reason) == (STALE, "the execution is FAILED")


async def test_states_come_back_with_the_next_lease(hold: Hold, plane: Replica, executions: Executions) -> None:
    holder, events = await hold(), Events()
    failed = events.node("n2", "FAILED", error=ExecutionError(code="Oops", message="it broke"))
    assert (
        await holder.append(
            transition(events.workflow("RUNNING"), b"W1"),
            Transition(node=NodeChange(node_id="n0", state=b"N0 before any event")),
            transition(events.node("n1", "QUEUED"), b"N1"),
            transition(events.task("n1", "QUEUED"), b"A0"),
            transition(events.task("n1", "FAILED")),
            transition(events.task("n1", "QUEUED", attempt=1), b"A1"),
            Transition(task=TaskChange(node_id="n1", attempt=1, state=b"A1 later")),
            Transition(node=NodeChange(node_id="n1", state=b"N1 later")),
            transition(failed),
            Transition(workflow=WorkflowChange(state=b"W2")),
        )
        == [ACCEPTED] * 10
    )
    await plane.sessions.close(holder.session_id)

    stream = open_stream(plane.stub, await open_session(plane.stub))
    assignment = await stream.assignment()
    assert (assignment.execution_id, assignment.epoch) == (holder.execution_id, holder.epoch + 1)
    assert (assignment.last_sequence, assignment.workflow_state) == (10, b"W2")
    assert [(node.node_id, node.phase, node.state, node.attempt_state) for node in assignment.nodes] == [
        ("n0", "", b"N0 before any event", b""),
        ("n1", "QUEUED", b"N1 later", b"A1 later"),
        ("n2", "FAILED", b"", b""),
    ]
    assert ExecutionError.FromString(assignment.nodes[2].error).code == "Oops"
    await executions.check(holder.execution_id)


async def test_a_state_of_an_attempt_that_was_not_reported_is_refused(hold: Hold) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.node("n0", "QUEUED"))
    assert await holder.append(Transition(task=TaskChange(node_id="n0", attempt=0, state=b"x"))) == [REFUSED]


async def test_map_items_are_rows_that_only_go_forward(
    hold: Hold, executions: Executions, database: Database, plane: Replica
) -> None:
    holder, events = await hold(), Events()

    def items(*ranges: tuple[int, int, int, str]) -> Transition:
        from flyteidl.core.execution_pb2 import TaskExecution

        return Transition(
            items=ItemsChange(
                node_id="map",
                ranges=[
                    ItemRange(first=first, last=last, attempt=attempt, phase=TaskExecution.Phase.Value(phase))
                    for first, last, attempt, phase in ranges
                ],
            )
        )

    await holder.append(events.workflow("RUNNING"), events.node("map", "RUNNING"))
    assert await holder.append(
        items((0, 99, 0, "QUEUED")),
        items((0, 49, 0, "RUNNING"), (50, 59, 0, "FAILED")),
        items((0, 9, 0, "SUCCEEDED")),
        items((5, 5, 1, "QUEUED")),  # it has succeeded
        items((60, 60, 0, "RUNNING"), (9, 9, 0, "FAILED")),  # all of it or nothing
        items((50, 54, 1, "RUNNING")),
        items((52, 52, 0, "RUNNING")),  # an attempt of the past
    ) == [ACCEPTED, ACCEPTED, ACCEPTED, REFUSED, REFUSED, ACCEPTED, REFUSED]

    async def phases() -> dict[tuple[int, int], int]:
        rows = await database.fetch("SELECT phase, attempt, count(*) FROM node_items GROUP BY phase, attempt")
        return {(row["phase"], row["attempt"]): row["count"] for row in rows}

    assert await phases() == {(3, 0): 10, (2, 0): 40, (5, 0): 5, (2, 1): 5, (1, 0): 40}
    await executions.check(holder.execution_id)
    # what is not remembered is read back
    async with replica(database) as other:
        holder.stub = other.stub
        assert await holder.append(items((5, 5, 1, "QUEUED"))) == [REFUSED]
        assert await holder.append(items((60, 99, 0, "SUCCEEDED"))) == [ACCEPTED]
    holder.stub = plane.stub
    assert await holder.append(items((60, 60, 1, "QUEUED"))) == [REFUSED]
    assert await holder.append(events.node("map", "SUCCEEDED")) == [ACCEPTED]
    await executions.check(holder.execution_id)


async def test_nodes_are_listed_in_the_order_of_their_first_appearance(
    hold: Hold, database: Database, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    names = [f"n{number * 7 % 50}" for number in range(50)]
    await holder.append(*(events.node(name, "QUEUED") for name in names[:30]))
    await holder.append(*(events.node(name, "RUNNING") for name in reversed(names[:30])))
    await holder.append(*(events.node(name, "QUEUED") for name in names[30:]))

    rows = await database.fetch("SELECT node_id FROM node_executions ORDER BY created_at, id")
    assert [row["node_id"] for row in rows] == names
    await executions.check(holder.execution_id)


async def test_two_replicas_that_write_the_same_execution_agree(
    database: Database, hold: Hold, plane: Replica, executions: Executions
) -> None:
    """Memory of one replica is never trusted over what the other wrote."""
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    async with replica(database) as other:
        for number in range(20):
            holder.stub = (plane, other)[number % 2].stub
            assert await holder.append(events.node(f"n{number}", "QUEUED")) == [ACCEPTED]
            assert await holder.append(events.node(f"n{number // 2}", "QUEUED")) == [REPEATED]
    await executions.check(holder.execution_id)


async def test_racing_appends_of_one_execution_are_applied_once(
    database: Database, hold: Hold, plane: Replica, executions: Executions
) -> None:
    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    request = holder.request(*(transition(events.node(f"n{number}", "QUEUED")) for number in range(5)))
    async with replica(database) as other:
        answers = await asyncio.gather(
            *((plane, other)[number % 2].stub.Append(request, timeout=20) for number in range(10))
        )
    assert all(answer == answers[0] for answer in answers)
    assert len(await executions.entries(holder.execution_id)) == 6
    await executions.check(holder.execution_id)


async def test_many_executions_over_two_replicas_race_without_loss(
    database: Database, plane: Replica, executions: Executions
) -> None:
    count = 30
    for number in range(count):
        await executions.create(f"e{number}")
    async with replica(database) as other:
        sessions = [(each, await open_session(each.stub)) for each in (plane, other)]
        streams = [open_stream(each.stub, session_id, count // 2) for each, session_id in sessions]
        holders = [
            Holder(each.stub, session_id, await stream.assignment())
            for (each, session_id), stream in zip(sessions, streams, strict=True)
            for _ in range(count // 2)
        ]
        assert len({holder.execution_id for holder in holders}) == count
        await asyncio.gather(*(drive_to_success(holder, Events(holder.assignment.name)) for holder in holders))
    for holder in holders:
        assert await executions.phase(holder.execution_id) == "SUCCEEDED"
        await executions.check(holder.execution_id)


async def test_an_append_across_the_loss_of_the_connections_is_unavailable_and_can_be_repeated(
    hold: Hold, plane: Replica, database: Database, executions: Executions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened to the commit, a repeat makes it right."""
    from aerodrome.admin.repositories.journal import JournalRepository
    from aerodrome.stdlib.errors import Unavailable

    holder, events = await hold(), Events()
    write = JournalRepository.write

    async def write_and_lose(self: JournalRepository, *arguments: Any) -> None:
        await write(self, *arguments)
        raise Unavailable("the database is not available: it went away after the commit")

    request = holder.request(transition(events.workflow("RUNNING")))
    monkeypatch.setattr(JournalRepository, "write", write_and_lose)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await holder.send(request)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    monkeypatch.setattr(JournalRepository, "write", write)
    result = await holder.send(request)

    assert [each.status for each in result.results] == [ACCEPTED]
    assert len(await executions.entries(holder.execution_id)) == 1


@pytest.mark.parametrize("error", [Conflict("met another one"), Internal("broken")])
async def test_what_was_folded_is_forgotten_when_it_could_not_be_written(
    hold: Hold, executions: Executions, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from aerodrome.admin.repositories.journal import JournalRepository

    holder, events = await hold(), Events()
    await holder.append(events.workflow("RUNNING"))
    write = JournalRepository.write
    left = 2 if isinstance(error, Conflict) else 1

    async def fail(self: JournalRepository, *arguments: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise error
        await write(self, *arguments)

    monkeypatch.setattr(JournalRepository, "write", fail)
    request = holder.request(transition(events.node("n0", "QUEUED")))
    if isinstance(error, Conflict):
        with pytest.raises(grpc.aio.AioRpcError):
            await holder.send(request)
    else:
        assert (await holder.send(request)).status == INVALID
    assert [each.status for each in (await holder.send(request)).results] == [ACCEPTED]
    await executions.check(holder.execution_id)


async def test_memory_is_bounded_and_given_back(database: Database, executions: Executions) -> None:
    from datetime import timedelta

    from aerodrome.stdlib.clock import ManualClock

    config = AdminConfig.model_validate({"journal": {"cached_nodes": 20, "writers": 1, "cache_idle": "30s"}})
    clock = ManualClock()
    async with replica(database, config, clock=clock) as plane:
        session_id = await open_session(plane.stub)
        stream = open_stream(plane.stub, session_id)
        holders = []
        for number in range(4):
            await executions.create(f"e{number}")
            plane.work.work_available("local")
            holders.append(Holder(plane.stub, session_id, await stream.assignment()))
        for step in ("QUEUED", "RUNNING"):
            for holder in holders:
                events = Events(holder.assignment.name)
                assert set(await holder.append(*(events.node(f"n{each}", step) for each in range(9)))) == {ACCEPTED}
                assert plane.journal.remembered_nodes <= 20
        assert plane.journal.remembered_nodes > 0
        await clock.advance(timedelta(seconds=60))
        assert plane.journal.remembered_nodes == 0
        for holder in holders:
            await executions.check(holder.execution_id)


async def test_an_append_with_too_many_transitions_is_refused(database: Database, executions: Executions) -> None:
    config = AdminConfig.model_validate({"journal": {"append_transitions": 3}})
    async with replica(database, config) as plane:
        await executions.create()
        session_id = await open_session(plane.stub)
        holder = Holder(plane.stub, session_id, await open_stream(plane.stub, session_id).assignment())
        events = Events()
        result = await holder.send(holder.request(*(transition(events.node(f"n{n}", "QUEUED")) for n in range(4))))
    assert result.status == INVALID
    assert "send at most 3" in result.reason


async def test_an_append_with_too_many_items_is_refused(database: Database, executions: Executions) -> None:
    config = AdminConfig.model_validate({"journal": {"append_items": 10}})
    async with replica(database, config) as plane:
        await executions.create()
        session_id = await open_session(plane.stub)
        holder = Holder(plane.stub, session_id, await open_stream(plane.stub, session_id).assignment())
        ranges = [ItemRange(first=0, last=5, phase=2) for _ in range(2)]
        items = Transition(items=ItemsChange(node_id="n0", ranges=ranges))
        result = await holder.send(holder.request(items))
    assert result.status == INVALID
    assert "changes 12 items of maps; send at most 10" in result.reason


async def test_a_lane_that_is_full_lets_appends_wait(database: Database, executions: Executions) -> None:
    config = AdminConfig.model_validate({"journal": {"pending_transitions": 2, "writers": 1}})
    async with replica(database, config) as plane:
        session_id = await open_session(plane.stub)
        stream = open_stream(plane.stub, session_id)
        holders = []
        for number in range(10):
            await executions.create(f"e{number}")
            plane.work.work_available("local")
            holders.append(Holder(plane.stub, session_id, await stream.assignment()))
        appends: list[ExecutionAppend] = [
            holder.request(transition(Events(holder.assignment.name).workflow("RUNNING"))).executions[0]
            for holder in holders
        ]
        async with asyncio.timeout(20):
            response = await plane.stub.Append(AppendRequest(session_id=session_id, executions=appends))
    assert [result.status for result in response.executions] == [APPLIED] * 10
