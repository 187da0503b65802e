"""Where work comes from: a session with the control plane, its leases, and the way back into the journal.

A session's right to act is counted on the boot-time clock from the moment its last good heartbeat was *sent*, so a
process that was paused, or cut off, knows it by itself.  Source: the journal's contract (protos/aerodrome/journal/v1).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from aerodrome.idl.journal.v1 import journal_pb2, journal_pb2_grpc
from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

_RPC_TIMEOUT = 30.0
_BATCH = 4_000
BYTES_PER_WEIGHT = 8_192
"""So many bytes count as one transition: a batch stays well below the largest message that is taken."""
_IN_FLIGHT = 4
_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


class LeaseLost(Exception):
    """This process may no longer act for the execution: stop, start nothing, and say nothing more about it."""


@dataclass(eq=False)
class Session:
    """The right to act for a cluster, while heartbeats come through."""

    id: int
    clock: Clock
    valid_until: float
    """On the boot-time clock."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    renewed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def valid(self) -> bool:
        """Whether a side effect is permitted right now."""
        return not self.lost.is_set() and self.clock.boottime() < self.valid_until

    def prolong(self, sent_at: float, term: float) -> None:
        """A heartbeat that was sent at `sent_at` came through."""
        self.valid_until = sent_at + term
        self.renewed.set()
        self.renewed = asyncio.Event()

    async def permit(self) -> None:
        """Return when a side effect is permitted; wait while cut off.  Raises LeaseLost once the session is gone."""
        while not self.valid:
            if self.lost.is_set():
                raise LeaseLost
            renewed, lost = asyncio.ensure_future(self.renewed.wait()), asyncio.ensure_future(self.lost.wait())
            try:
                await asyncio.wait((renewed, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                renewed.cancel()
                lost.cancel()


@dataclass(slots=True)
class _Outgoing:
    append: journal_pb2.ExecutionAppend
    session: Session
    answer: asyncio.Future[journal_pb2.ExecutionAppendResult]


class LeaseSource:
    """Keeps a session open and hands on what it is given; sends appends in batches."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        cluster: str,
        holder: str,
        capacity: int,
        clock: Clock,
        on_assignment: Callable[[journal_pb2.Assignment, Session], None],
        on_control: Callable[[journal_pb2.Control], None],
    ) -> None:
        self._stub = journal_pb2_grpc.JournalServiceStub(channel)
        self._cluster = cluster
        self._holder = holder
        self._capacity = capacity
        self._clock = clock
        self._on_assignment = on_assignment
        self._on_control = on_control
        self._outgoing: deque[_Outgoing] = deque()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self.session: Session | None = None
        """The one that is open; what is done in its name ends before it is closed."""

    async def run(self) -> None:
        """Hold a session, and open another when it is lost, until cancelled; then give the leases back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(group), name="journal appends")
            try:
                delay = 0.05
                while True:
                    try:
                        await self._one_session()
                        delay = 0.05
                    except grpc.aio.AioRpcError as error:
                        log.warning("control plane cannot be reached", code=error.code().name, reason=error.details())
                        await self._clock.sleep(delay)
                        delay = min(delay * 2, 5.0)
            finally:
                await asyncio.shield(self._close())

    async def append(self, session: Session, append: journal_pb2.ExecutionAppend) -> journal_pb2.ExecutionAppendResult:
        """Append to one execution's journal; tries again until there is an answer.  Raises LeaseLost."""
        answer: asyncio.Future[journal_pb2.ExecutionAppendResult] = asyncio.get_running_loop().create_future()
        self._outgoing.append(_Outgoing(append, session, answer))
        self._wake.set()
        return await answer

    @property
    def waiting(self) -> int:
        """How many appends have yet to be sent."""
        return len(self._outgoing)

    async def release(self, session: Session, execution_id: int, epoch: int) -> None:
        """Give one lease back."""
        key = journal_pb2.LeaseKey(execution_id=execution_id, epoch=epoch)
        request = journal_pb2.ReleaseRequest(session_id=session.id, leases=[key])
        await self._stub.Release(request, timeout=_RPC_TIMEOUT)

    async def _one_session(self) -> None:
        sent = self._clock.boottime()
        opened = await self._stub.OpenSession(
            journal_pb2.OpenSessionRequest(cluster=self._cluster, holder=self._holder), timeout=_RPC_TIMEOUT
        )
        term = opened.term.ToTimedelta().total_seconds()
        session = self.session = Session(opened.session_id, self._clock, sent + term)
        log.info("session opened", session=session.id, cluster=self._cluster, term_seconds=term)
        leasing = asyncio.create_task(self._lease(session), name="lease stream")
        try:
            await self._heartbeats(session, term)
            self.session = None  # it ended over there: nothing is left to give back
        finally:
            leasing.cancel()
            await asyncio.gather(leasing, return_exceptions=True)
            session.lost.set()

    async def _heartbeats(self, session: Session, term: float) -> None:
        """Until the session is gone."""
        while True:
            await self._clock.sleep(term / 4)
            sent = self._clock.boottime()
            request = journal_pb2.HeartbeatRequest(session_id=session.id)
            try:
                answer = await self._stub.Heartbeat(request, timeout=term / 2)
            except grpc.aio.AioRpcError as error:
                if error.code() in _GONE:
                    log.warning("session lost", session=session.id, reason=error.details())
                    return
                log.warning("heartbeat failed", session=session.id, code=error.code().name, reason=error.details())
                continue
            session.prolong(sent, answer.term.ToTimedelta().total_seconds())
            for control in answer.controls:
                self._on_control(control)

    async def _lease(self, session: Session) -> None:
        delay = 0.05
        while True:
            try:
                request = journal_pb2.LeaseRequest(session_id=session.id, capacity=self._capacity)
                async for item in self._stub.Lease(request):
                    delay = 0.05
                    if item.WhichOneof("item") == "assignment":
                        self._on_assignment(item.assignment, session)
                    else:
                        self._on_control(item.control)
            except grpc.aio.AioRpcError as error:
                log.warning("lease stream broke", session=session.id, code=error.code().name, reason=error.details())
            await self._clock.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def _send(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._wake.wait()
            await self._slots.acquire()
            self._wake.clear()
            batch: list[_Outgoing] = []
            size = 0
            while self._outgoing and size < _BATCH:
                if batch and self._outgoing[0].session is not batch[0].session:
                    break
                following = self._outgoing[0].append
                weight = max(len(following.transitions), following.ByteSize() // BYTES_PER_WEIGHT)
                if batch and size + weight > _BATCH:
                    break
                batch.append(self._outgoing.popleft())
                size += weight
            if self._outgoing:
                self._wake.set()
            if not batch:
                self._slots.release()
                continue
            group.create_task(self._send_batch(batch))

    async def _send_batch(self, batch: list[_Outgoing]) -> None:
        session = batch[0].session
        request = journal_pb2.AppendRequest(session_id=session.id, executions=[item.append for item in batch])
        delay = 0.02
        try:
            while not session.lost.is_set():
                try:
                    response = await self._stub.Append(request, timeout=_RPC_TIMEOUT)
                except grpc.aio.AioRpcError as error:
                    if error.code() in _GONE:
                        break
                    log.warning("append failed, trying again", code=error.code().name, reason=error.details())
                    await self._clock.sleep(delay)
                    delay = min(delay * 2, 2.0)
                    continue
                results = {result.execution_id: result for result in response.executions}
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_result(results[item.append.execution_id])
                return
        finally:
            self._slots.release()
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(LeaseLost())

    async def _close(self) -> None:
        session = self.session
        if session is None:
            return
        faults.point("lease.giving-back")
        try:
            await self._stub.CloseSession(journal_pb2.CloseSessionRequest(session_id=session.id), timeout=2.0)
            faults.point("lease.given-back")
        except grpc.aio.AioRpcError as error:
            log.warning("session could not be closed", session=session.id, code=error.code().name)
