"""Leases: executions are handed out to sessions, and what was decided for them is passed on to whoever holds them.

A stream is woken at once by work that arrives in this process, by notifications of other replicas, and by a slow poll
as the safety net; it always looks at the rows and never trusts what woke it.  Source: design.md section 2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.validation import check_text
from aerodrome.admin.managers.recording import Told
from aerodrome.admin.managers.sessions import SessionManager, gone
from aerodrome.admin.repositories.leases import LeaseKeys, LeaseRepository
from aerodrome.idl.journal.v1.journal_pb2 import Control, LeaseResponse
from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import Conflict, DeadlineExceeded, InvalidArgument, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.notify import Announcer, Listener

log = get_logger(__name__)

WORK_CHANNEL = "aerodrome_work"
"""Payload: the cluster for which there is work."""
SESSION_CHANNEL = "aerodrome_sessions"
"""Payload: a session that has room again, or for which something was decided."""
_MOST_CONTROLS = 10_000
_MOST_TURNS = 1_000
"""How many projects are remembered as served."""
_LARGEST_CAPACITY = 10_000_000


class WorkAnnouncer:
    """Tells that there may be executions to lease: here at once, and to other replicas through the database."""

    def __init__(self, announcer: Announcer | None = None) -> None:
        self._announcer = announcer
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def work_available(self, cluster: str) -> None:
        """There may be work for `cluster`; called after the commit."""
        self.wake(cluster)
        if self._announcer is not None:
            self._announcer.announce(WORK_CHANNEL, cluster)

    def wake(self, cluster: str) -> None:
        """Wake those who watch `cluster` in this process; empty: everybody."""
        if cluster:
            for event in self._watchers.get(cluster, ()):
                event.set()
            return
        for events in self._watchers.values():
            for event in events:
                event.set()

    @contextmanager
    def watch(self, cluster: str, event: asyncio.Event) -> Iterator[None]:
        """Set `event` whenever there may be work for `cluster`."""
        self._watchers.setdefault(cluster, set()).add(event)
        try:
            yield
        finally:
            watchers = self._watchers[cluster]
            watchers.discard(event)
            if not watchers:
                del self._watchers[cluster]


class _Stream:
    """The open stream of a session, as others in this process see it."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.controls: deque[Control] = deque()
        self.look = False
        """Whether decisions have to be looked up, because what they are did not arrive here."""
        self.replaced = False
        self.closed = False

    def push(self, control: Control) -> None:
        if len(self.controls) >= _MOST_CONTROLS:
            self.controls.clear()
            self.look = True
        else:
            self.controls.append(control)
        self.wake.set()


class _Turns:
    """Which projects were served, and in which order: each process remembers its own part, and each part is fair."""

    def __init__(self) -> None:
        self.served: dict[str, int] = {}
        """A number for each project, larger when it was served later; one that is forgotten counts as never served."""
        self._last = 0

    def took(self, projects: Iterable[str]) -> None:
        """These were served now, all of them together."""
        self._last += 1
        for project in projects:
            self.served.pop(project, None)
            self.served[project] = self._last
        while len(self.served) > _MOST_TURNS:
            del self.served[next(iter(self.served))]


class LeaseManager:
    """Hands out executions; `run` hears what other replicas announce."""

    def __init__(
        self,
        database: Database,
        sessions: SessionManager,
        work: WorkAnnouncer,
        config: AdminConfig,
        *,
        announcer: Announcer | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._work = work
        self._settings = config.journal
        self._announcer = announcer
        self._listener = listener
        self._streams: dict[int, _Stream] = {}
        self._turns = _Turns()
        sessions.on_closed(self._session_closed)

    async def run(self) -> None:
        """Wake streams by what other replicas announce, until cancelled."""
        if self._listener is None:
            await asyncio.Event().wait()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hear_work(self._listener), name="hear of work")
            group.create_task(self._hear_sessions(self._listener), name="hear of sessions")

    def told(self, told: Told) -> None:
        """Pass on what a journal group meant; subscribe this to the journal."""
        for session_id, control in told.controls:
            stream = self._streams.get(session_id)
            if stream is not None:
                stream.push(control)
            else:
                self._announce_session(session_id)
        for _, ended_session in told.ended:
            if ended_session is None:
                continue
            stream = self._streams.get(ended_session)
            if stream is not None:
                stream.wake.set()  # it has room again
            else:
                self._announce_session(ended_session)

    def push(self, session_id: int, hint: Control) -> bool:
        """Hand a hint to the stream of a session; whether it has one here."""
        stream = self._streams.get(session_id)
        if stream is None:
            return False
        stream.push(hint)
        return True

    async def lease(self, session_id: int, capacity: int) -> AsyncIterator[LeaseResponse]:
        """Assignments and decisions for a session, until it ends or another stream of it begins.

        What the session holds already is repeated first.  Raises NotFound when the session is gone, and Conflict when
        another stream has replaced this one.
        """
        if capacity > _LARGEST_CAPACITY:
            raise InvalidArgument(f"capacity is {capacity}, at most {_LARGEST_CAPACITY} executions can be held")
        async with self._database.connection() as connection:
            cluster = await LeaseRepository(connection).find_session(session_id)
        if cluster is None:
            raise gone(session_id)
        stream = _Stream()
        previous = self._streams.get(session_id)
        if previous is not None:
            previous.replaced = True
            previous.wake.set()
        self._streams[session_id] = stream
        try:
            with self._work.watch(cluster, stream.wake):
                async for response in self._repeat(session_id):
                    yield response
                while True:
                    stream.wake.clear()
                    async for response in self._advance(session_id, capacity, stream):
                        yield response
                    await self._pause(session_id, stream)
        finally:
            if self._streams.get(session_id) is stream:
                del self._streams[session_id]

    async def release(self, session_id: int, keys: LeaseKeys) -> None:
        """Free leases of a session for the next one of its cluster; others than its own are left alone."""
        self._check_number(keys)
        async with self._database.transaction() as connection:
            clusters = await LeaseRepository(connection).release(session_id, keys)
        for cluster in clusters:
            self._work.work_available(cluster)

    async def hand_over(self, session_id: int, keys: LeaseKeys, cluster: str) -> None:
        """Free leases of a session of whose executions nothing is left in its cluster, to go on in `cluster`."""
        self._check_number(keys)
        check_text("cluster", cluster)
        async with self._database.transaction() as connection:
            clusters = await LeaseRepository(connection).hand_over(session_id, keys, cluster)
        for each in clusters:
            self._work.work_available(each)

    # --- inside

    def _check_number(self, keys: LeaseKeys) -> None:
        if len(keys) > self._settings.release_leases:
            raise InvalidArgument(
                f"{len(keys)} leases are too many at once; send at most {self._settings.release_leases}"
            )

    async def _repeat(self, session_id: int) -> AsyncIterator[LeaseResponse]:
        """What the session holds; it may have missed that it was told so."""
        after = -1
        while True:
            async with self._database.transaction() as connection:
                leases = LeaseRepository(connection)
                held = await leases.list_held(session_id, after, self._settings.assignment_batch)
                if not held:
                    return
                responses = await _responses(leases, await leases.lock_held(session_id, held))
            for response in responses:
                yield response
            after = held[-1]

    async def _advance(self, session_id: int, capacity: int, stream: _Stream) -> AsyncIterator[LeaseResponse]:
        """What there is for the session now."""
        while stream.controls:
            yield LeaseResponse(control=stream.controls.popleft())
        if stream.look:
            stream.look = False
            async with self._database.connection() as connection:
                controls = await LeaseRepository(connection).list_controls(session_id)
            for control in controls:
                yield LeaseResponse(control=control)
        most = self._settings.assignment_batch
        while not (stream.replaced or stream.closed):
            responses, again = await self._hand_out(session_id, capacity, most)
            for response in responses:
                yield response
            if not again:
                return

    async def _hand_out(self, session_id: int, capacity: int, most: int) -> tuple[list[LeaseResponse], bool]:
        """What the session is given, and whether there may be more for it."""
        try:
            async with self._database.transaction() as connection:
                leases = LeaseRepository(connection)
                handed_out = await leases.hand_out(session_id, capacity, most, self._turns.served)
                execution_ids = handed_out.execution_ids
                # still inside: the rows are locked, so that the snapshot and `last_sequence` belong together
                responses = await _responses(leases, execution_ids) if execution_ids else []
        except (Unavailable, DeadlineExceeded, Conflict) as error:
            log.warning("executions could not be handed out", session_id=session_id, error=error.message)
            return [], False
        if execution_ids:
            faults.point("lease.handed-out")
        self._turns.took(handed_out.projects)
        return responses, len(execution_ids) == most or handed_out.contended

    async def _pause(self, session_id: int, stream: _Stream) -> None:
        """Wait until there may be something; raises when the stream is over."""
        try:
            async with asyncio.timeout(self._settings.poll_interval.total_seconds()):
                await stream.wake.wait()
        except TimeoutError:
            await self._check(session_id, stream)
        if stream.replaced:
            raise Conflict(f"another stream of session {session_id} has replaced this one")
        if stream.closed:
            raise gone(session_id)

    async def _check(self, session_id: int, stream: _Stream) -> None:
        try:
            async with self._database.connection() as connection:
                if await LeaseRepository(connection).find_session(session_id) is None:
                    stream.closed = True
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("session could not be checked", session_id=session_id, error=error.message)

    def _announce_session(self, session_id: int) -> None:
        if self._announcer is not None:
            self._announcer.announce(SESSION_CHANNEL, str(session_id))

    def _session_closed(self, session_id: int, cluster: str) -> None:
        stream = self._streams.get(session_id)
        if stream is not None:
            stream.closed = True
            stream.wake.set()
        self._work.work_available(cluster)

    async def _hear_work(self, listener: Listener) -> None:
        async with listener.subscribe(WORK_CHANNEL) as wakeups:
            async for cluster in wakeups:
                self._work.wake(cluster)

    async def _hear_sessions(self, listener: Listener) -> None:
        async with listener.subscribe(SESSION_CHANNEL) as wakeups:
            async for payload in wakeups:
                heard = [int(payload)] if payload.isdigit() else list(self._streams)
                for session_id in heard:
                    stream = self._streams.get(session_id)
                    if stream is not None:
                        stream.look = True
                        stream.wake.set()


async def _responses(leases: LeaseRepository, execution_ids: Sequence[int]) -> list[LeaseResponse]:
    assignments, decided = await leases.assignments(execution_ids)
    responses = [LeaseResponse(assignment=assignment) for assignment in assignments]
    if decided:
        responses += [LeaseResponse(control=control) for control in await leases.list_controls_of(decided)]
    return responses
