"""Sessions of data planes: opened, kept alive by heartbeats, and closed when their term has passed.

Time is the database's, so that replicas of the control plane with different clocks agree who is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.validation import check_text, missing
from aerodrome.admin.repositories.leases import LeaseRepository
from aerodrome.idl.journal.v1.journal_pb2 import Control
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import Conflict, DeadlineExceeded, NotFound, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)


class SessionManager:
    """Knows which sessions are alive; `run` closes those that are not."""

    def __init__(self, database: Database, clock: Clock, config: AdminConfig) -> None:
        self._database = database
        self._clock = clock
        self._settings = config.journal
        self._closed: list[Callable[[int, str], None]] = []

    @property
    def term(self) -> timedelta:
        """How long a session lives after a heartbeat."""
        return self._settings.session_term

    def on_closed(self, listener: Callable[[int, str], None]) -> None:
        """Call `listener` with each session (and its cluster) that ended here; its leases are free by then."""
        self._closed.append(listener)

    async def open(self, cluster: str, holder: str) -> int:
        """A new session for a process of `cluster`; returns its id.

        A named holder is one process at a time, so its earlier sessions end: after a crash nobody waits for their term.
        """
        if not cluster:
            raise missing("cluster")
        check_text("cluster", cluster)
        check_text("holder", holder, max_chars=1024, max_bytes=4096)
        if holder:
            async with self._database.connection() as connection:
                earlier = await LeaseRepository(connection).list_sessions_of(cluster, holder)
            for session_id in earlier:
                await self.close(session_id)
        async with self._database.transaction() as connection:
            session_id = await LeaseRepository(connection).open_session(cluster, holder, self.term)
        log.info("session opened", session_id=session_id, cluster=cluster, holder=holder)
        return session_id

    async def heartbeat(self, session_id: int) -> list[Control]:
        """Prolong a session; returns what was decided for its executions.  Raises NotFound if it is gone."""
        async with self._database.transaction() as connection:
            leases = LeaseRepository(connection)
            if not await leases.prolong_session(session_id, self.term):
                raise gone(session_id)
            return await leases.list_controls(session_id)

    async def close(self, session_id: int) -> None:
        """End a session and free its leases; one that is gone already is fine."""
        async with self._database.transaction() as connection:
            cluster = await LeaseRepository(connection).close_session(session_id)
        if cluster is not None:
            log.info("session closed", session_id=session_id, cluster=cluster)
            self._tell(session_id, cluster)

    async def expire(self) -> None:
        """Close the sessions whose term has passed, and free their leases."""
        async with self._database.transaction() as connection:
            expired = await LeaseRepository(connection).close_expired_sessions()
        for session_id, cluster in expired.items():
            log.warning("session expired", session_id=session_id, cluster=cluster)
            self._tell(session_id, cluster)

    async def run(self) -> None:
        """Expire sessions until cancelled."""
        async with self._database.connection() as connection:
            await LeaseRepository(connection).delete_old_sessions()
        while True:
            await self._clock.sleep(self._settings.poll_interval.total_seconds())
            try:
                await self.expire()
            except (Unavailable, DeadlineExceeded, Conflict) as error:
                log.warning("sessions could not be expired", error=error.message)

    def _tell(self, session_id: int, cluster: str) -> None:
        for listener in self._closed:
            listener(session_id, cluster)


def gone(session_id: int) -> NotFound:
    """The error for a session that expired, was closed, or never was."""
    return NotFound(f"session {session_id} is gone; stop its work and open a new one")
