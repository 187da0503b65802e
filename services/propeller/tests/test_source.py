"""The right to act ends by itself, and what is appended arrives or is known to be refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.idl.journal.v1 import journal_pb2, journal_pb2_grpc
from aerodrome.propeller.source import LeaseLost, LeaseSource, Session
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import AerodromeError, NotFound, Unavailable
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry

TERM = 8.0
HEARTBEAT = TERM / 4


# A session


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), max_size=6))
def test_a_session_is_valid_for_its_term_from_when_the_heartbeat_was_sent(
    heartbeats: list[tuple[float, float]],
) -> None:
    async def go() -> None:
        clock = ManualClock()
        session = Session(1, clock, clock.boottime() + TERM)
        last_sent = 0.0
        for pause, on_the_way in heartbeats:
            await clock.advance(pause)
            assert session.valid is (clock.boottime() < last_sent + TERM)
            sent = clock.boottime()
            await clock.advance(on_the_way)
            session.prolong(sent, TERM)
            last_sent = sent
            assert session.valid is (clock.boottime() < last_sent + TERM)

    asyncio.run(go())


async def test_an_answer_that_was_slow_prolongs_from_its_question() -> None:
    clock = ManualClock()
    session = Session(1, clock, TERM)
    await clock.advance(3.0)
    sent = clock.boottime()
    await clock.advance(4.0)
    session.prolong(sent, TERM)
    await clock.advance(3.999)
    assert session.valid
    await clock.advance(0.001)
    assert not session.valid


async def test_a_permit_is_given_at_once_while_the_session_is_valid() -> None:
    await asyncio.wait_for(Session(1, ManualClock(), TERM).permit(), 1)


async def test_a_permit_waits_while_cut_off_and_comes_with_the_next_heartbeat() -> None:
    clock = ManualClock()
    session = Session(1, clock, TERM)
    await clock.advance(TERM)
    permits = [asyncio.create_task(session.permit()) for _ in range(3)]
    await clock.advance(100.0)
    assert not any(permit.done() for permit in permits)
    session.prolong(clock.boottime() - TERM, TERM)
    await clock.advance(0.0)
    assert not any(permit.done() for permit in permits), "a heartbeat that is as old as its term permits nothing"
    session.prolong(clock.boottime(), TERM)
    await asyncio.wait_for(asyncio.gather(*permits), 1)


async def test_a_permit_fails_once_the_session_is_lost_even_within_its_term() -> None:
    clock = ManualClock()
    session = Session(1, clock, TERM)
    session.lost.set()
    assert not session.valid
    with pytest.raises(LeaseLost):
        await session.permit()


async def test_whoever_waits_for_a_permit_learns_that_the_session_is_lost() -> None:
    clock = ManualClock()
    session = Session(1, clock, 0.0)
    permit = asyncio.create_task(session.permit())
    await clock.advance(0.0)
    session.lost.set()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(permit, 1)


# A source


class Journal(journal_pb2_grpc.JournalServiceServicer):
    """A control plane that does what a test says."""

    def __init__(self) -> None:
        self.opened: list[journal_pb2.OpenSessionRequest] = []
        self.closed: list[int] = []
        self.heartbeats = 0
        self.appends: list[journal_pb2.AppendRequest] = []
        self.leases: list[journal_pb2.LeaseRequest] = []
        self.released: list[journal_pb2.ReleaseRequest] = []
        self.opening_fails: list[AerodromeError] = []
        self.heartbeat_fails: list[AerodromeError] = []
        self.append_fails: list[AerodromeError] = []
        self.controls: list[journal_pb2.Control] = []
        self.streams: list[asyncio.Queue[journal_pb2.LeaseResponse | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def OpenSession(self, request: Any, context: object) -> journal_pb2.OpenSessionResponse:
        if self.opening_fails:
            raise self.opening_fails.pop(0)
        self.opened.append(request)
        answer = journal_pb2.OpenSessionResponse(session_id=len(self.opened))
        answer.term.FromNanoseconds(int(TERM * 1e9))
        return answer

    async def Heartbeat(self, request: Any, context: object) -> journal_pb2.HeartbeatResponse:
        self.heartbeats += 1
        if self.heartbeat_fails:
            raise self.heartbeat_fails.pop(0)
        answer = journal_pb2.HeartbeatResponse(controls=self.controls)
        answer.term.FromNanoseconds(int(TERM * 1e9))
        return answer

    async def CloseSession(self, request: Any, context: object) -> journal_pb2.CloseSessionResponse:
        self.closed.append(request.session_id)
        return journal_pb2.CloseSessionResponse()

    async def Lease(self, request: Any, context: object) -> AsyncIterator[journal_pb2.LeaseResponse]:
        self.leases.append(request)
        stream: asyncio.Queue[journal_pb2.LeaseResponse | None] = asyncio.Queue()
        self.streams.append(stream)
        while (item := await stream.get()) is not None:
            yield item
        raise Unavailable("the stream broke")

    async def Append(self, request: Any, context: object) -> journal_pb2.AppendResponse:
        self.appends.append(request)
        self.arrived.set()
        await self.gate.wait()
        if self.append_fails:
            raise self.append_fails.pop(0)
        answer = journal_pb2.AppendResponse()
        for one in reversed(request.executions):
            last = one.first_sequence + len(one.transitions) - 1
            answer.executions.add(
                execution_id=one.execution_id, status=journal_pb2.APPEND_STATUS_APPLIED, last_sequence=last
            )
        return answer

    async def Release(self, request: Any, context: object) -> journal_pb2.ReleaseResponse:
        self.released.append(request)
        return journal_pb2.ReleaseResponse()

    async def HandOver(self, request: Any, context: object) -> journal_pb2.HandOverResponse:
        raise AssertionError("nobody hands over here")

    async def Recall(self, request: Any, context: object) -> journal_pb2.RecallResponse:
        raise AssertionError("nobody recalls anything here")


class Side:
    """A source at work, and what it was told."""

    def __init__(self, journal: Journal, channel: DirectChannel) -> None:
        self.clock = ManualClock()
        self.assigned: list[tuple[int, Session]] = []
        self.controls: list[journal_pb2.Control] = []
        self.source = LeaseSource(
            channel,
            cluster="c",
            holder="h:1",
            capacity=5,
            clock=self.clock,
            on_assignment=lambda assignment, session: self.assigned.append((assignment.execution_id, session)),
            on_control=self.controls.append,
        )
        self.running = asyncio.create_task(self.source.run())

    async def session(self) -> Session:
        """The session that is open now, after everything due has happened."""
        for _ in range(5):
            await self.clock.advance(0.0)
        session = self.source.session
        assert session is not None
        return session

    def append(self, session: Session, execution: int, transitions: int = 1) -> asyncio.Task[Any]:
        one = journal_pb2.ExecutionAppend(
            execution_id=execution, epoch=1, first_sequence=1, transitions=[journal_pb2.Transition()] * transitions
        )
        return asyncio.create_task(self.source.append(session, one))

    async def stop(self) -> None:
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, in steps that heartbeats and retries can follow."""
        for _ in range(int(seconds / 0.5)):
            await self.clock.advance(0.5)
            await self.clock.advance(0.0)


@asynccontextmanager
async def working(journal: Journal) -> AsyncIterator[Side]:
    registry = Registry()
    registry.add(journal_pb2_grpc.add_JournalServiceServicer_to_server, journal)
    async with asyncio.timeout(10), DirectChannel([registry]) as channel:
        side = Side(journal, channel)
        try:
            yield side
        finally:
            journal.gate.set()
            await side.stop()


async def test_a_session_is_opened_for_the_cluster_and_leased_for() -> None:
    journal = Journal()
    async with working(journal) as side:
        session = await side.session()
        assert (session.id, session.valid_until) == (1, TERM)
        assert [(one.cluster, one.holder) for one in journal.opened] == [("c", "h:1")]
        assert [(one.session_id, one.capacity) for one in journal.leases] == [(1, 5)]


async def test_heartbeats_keep_the_session_valid_and_repeat_what_was_decided() -> None:
    journal = Journal()
    journal.controls.append(journal_pb2.Control(execution_id=7, sequence=3))
    async with working(journal) as side:
        session = await side.session()
        await side.pass_time(5 * TERM)
        assert session.valid
        assert session.valid_until == pytest.approx(side.clock.boottime() + TERM, abs=HEARTBEAT)
        assert journal.heartbeats == pytest.approx(5 * TERM / HEARTBEAT, abs=1)
        assert {control.execution_id for control in side.controls} == {7}


async def test_heartbeats_that_fail_leave_the_session_to_run_out_and_come_back() -> None:
    journal = Journal()
    journal.heartbeat_fails = [Unavailable("away") for _ in range(6)]
    async with working(journal) as side:
        session = await side.session()
        await side.pass_time(TERM)
        assert not session.valid
        assert not session.lost.is_set()
        await side.pass_time(TERM)
        assert session.valid
        assert side.source.session is session


async def test_a_session_that_the_control_plane_ended_is_lost_and_another_is_opened() -> None:
    journal = Journal()
    journal.heartbeat_fails = [NotFound("no such session")]
    async with working(journal) as side:
        first = await side.session()
        await side.pass_time(HEARTBEAT)
        assert first.lost.is_set()
        second = await side.session()
        assert (second.id, second.valid) == (2, True)
        assert [one.session_id for one in journal.leases] == [1, 2]


async def test_opening_is_tried_again_until_the_control_plane_answers() -> None:
    journal = Journal()
    journal.opening_fails = [Unavailable("not yet") for _ in range(3)]
    async with working(journal) as side:
        await side.pass_time(2.0)
        assert (await side.session()).valid
        assert len(journal.opened) == 1


async def test_assignments_come_with_the_session_that_they_belong_to_over_streams_that_break() -> None:
    journal = Journal()
    async with working(journal) as side:
        session = await side.session()
        journal.streams[0].put_nowait(
            journal_pb2.LeaseResponse(assignment=journal_pb2.Assignment(execution_id=11, epoch=1))
        )
        journal.streams[0].put_nowait(journal_pb2.LeaseResponse(control=journal_pb2.Control(execution_id=12)))
        journal.streams[0].put_nowait(None)
        await side.pass_time(1.0)
        assert side.assigned == [(11, session)]
        assert [control.execution_id for control in side.controls] == [12]
        assert [one.session_id for one in journal.leases] == [1, 1]
        journal.streams[1].put_nowait(
            journal_pb2.LeaseResponse(assignment=journal_pb2.Assignment(execution_id=13, epoch=1))
        )
        await side.clock.advance(0.0)
        assert side.assigned == [(11, session), (13, session)]
        assert session.valid


async def test_appends_that_wait_travel_together_and_each_gets_its_own_answer() -> None:
    journal = Journal()
    async with working(journal) as side:
        session = await side.session()
        appends = [side.append(session, execution, transitions=execution) for execution in range(1, 21)]
        answers = await asyncio.gather(*appends)
        assert [answer.execution_id for answer in answers] == list(range(1, 21))
        assert [answer.last_sequence for answer in answers] == list(range(1, 21))
        assert len(journal.appends) == 1
        assert journal.appends[0].session_id == session.id


async def test_what_is_appended_while_others_are_on_their_way_does_not_wait_for_them_for_ever() -> None:
    journal = Journal()
    journal.gate.clear()
    async with working(journal) as side:
        session = await side.session()
        first = side.append(session, 1)
        await journal.arrived.wait()
        second = side.append(session, 2)
        await side.clock.advance(0.0)
        assert [[one.execution_id for one in request.executions] for request in journal.appends] == [[1], [2]]
        journal.gate.set()
        await asyncio.gather(first, second)


async def test_a_batch_is_bounded_and_so_is_how_much_is_on_its_way() -> None:
    journal = Journal()
    journal.gate.clear()
    async with working(journal) as side:
        session = await side.session()
        appends = [side.append(session, execution, transitions=1_500) for execution in range(24)]
        for _ in range(5):
            await side.clock.advance(0.0)
        sizes = [sum(len(one.transitions) for one in request.executions) for request in journal.appends]
        assert len(sizes) == 4
        assert max(sizes) < 4_000 + 1_500
        journal.gate.set()
        answers = await asyncio.gather(*appends)
        assert [answer.execution_id for answer in answers] == list(range(24))


async def test_an_append_is_repeated_unchanged_while_the_control_plane_is_away() -> None:
    journal = Journal()
    journal.append_fails = [Unavailable("away") for _ in range(4)]
    async with working(journal) as side:
        session = await side.session()
        append = side.append(session, 1)
        await side.pass_time(3.0)
        answer = await append
        assert answer.status == journal_pb2.APPEND_STATUS_APPLIED
        assert len(journal.appends) == 5
        assert all(request == journal.appends[0] for request in journal.appends)


async def test_an_append_of_a_session_that_is_gone_fails_with_lease_lost() -> None:
    journal = Journal()
    journal.append_fails = [NotFound("no such session")]
    async with working(journal) as side:
        session = await side.session()
        append = side.append(session, 1)
        with pytest.raises(LeaseLost):
            await append
        assert len(journal.appends) == 1


async def test_an_append_that_is_tried_again_ends_when_its_session_is_lost() -> None:
    journal = Journal()
    journal.append_fails = [Unavailable("away") for _ in range(100)]
    journal.heartbeat_fails = [NotFound("no such session")]
    async with working(journal) as side:
        session = await side.session()
        append = side.append(session, 1)
        await side.pass_time(2 * TERM)
        with pytest.raises(LeaseLost):
            await append
        sent = len(journal.appends)
        with pytest.raises(LeaseLost):
            await side.append(session, 2)
        assert len(journal.appends) == sent, "nothing is sent for a session that is lost"


async def test_appends_of_two_sessions_never_share_a_request() -> None:
    journal = Journal()
    journal.heartbeat_fails = [NotFound("no such session")]
    async with working(journal) as side:
        first = await side.session()
        await side.pass_time(HEARTBEAT)
        second = await side.session()
        stale, fresh = side.append(first, 1), side.append(second, 2)
        with pytest.raises(LeaseLost):
            await stale
        assert (await fresh).execution_id == 2
        assert [request.session_id for request in journal.appends] == [second.id]


async def test_a_lease_is_given_back_by_its_key() -> None:
    journal = Journal()
    async with working(journal) as side:
        session = await side.session()
        await side.source.release(session, 9, 4)
        assert [(one.execution_id, one.epoch) for one in journal.released[0].leases] == [(9, 4)]


async def test_a_stop_ends_the_session_so_that_its_leases_are_free_at_once() -> None:
    journal = Journal()
    async with working(journal) as side:
        session = await side.session()
        await side.stop()
        assert session.lost.is_set()
        assert journal.closed == [session.id]


async def test_a_stop_while_the_control_plane_is_away_ends_all_the_same() -> None:
    journal = Journal()
    journal.opening_fails = [Unavailable("away") for _ in range(100)]
    async with working(journal) as side:
        await side.clock.advance(1.0)
        await side.stop()
        assert side.source.session is None
        assert journal.closed == []


async def test_a_stop_after_the_control_plane_ended_the_session_closes_nothing_twice() -> None:
    journal = Journal()
    journal.heartbeat_fails = [NotFound("no such session")]
    async with working(journal) as side:
        await side.session()
        journal.opening_fails = [Unavailable("away") for _ in range(100)]
        await side.pass_time(HEARTBEAT)
        assert side.source.session is None
        await side.stop()
        assert journal.closed == []
