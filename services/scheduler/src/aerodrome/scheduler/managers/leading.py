"""Which replica leads: one at a time, by a lease in PostgreSQL with an epoch that only grows.

The leader counts its term on its own boot-time clock, from the moment before it asked, and looks at it before each
call; what it writes, it writes in a transaction that holds the epoch.  So a leader that was paused or cut off writes
nothing once another leads.  That two leaders could call the control plane at the same time for a moment changes
nothing, because the names of executions follow from their slots.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from aerodrome.scheduler.repositories.leader import LeaderRepository
from aerodrome.scheduler.repositories.schedules import ScheduleRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import Conflict
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)


class NotLeading(Conflict):
    """Another replica leads, or may lead by now."""


class Leadership:
    """The lead as this replica has it or not."""

    def __init__(self, database: Database, clock: Clock, *, holder: str, term: timedelta) -> None:
        self._db = database
        self._clock = clock
        self._holder = holder
        self._term = term
        self._until = -1.0
        self.epoch = 0
        """Of the latest lead; another number means that what was known before may be out of date."""

    @property
    def holds(self) -> bool:
        """Whether this replica leads for sure right now."""
        return self._clock.boottime() < self._until

    @property
    def pause(self) -> timedelta:
        """How long to wait between two attempts to take or renew."""
        return self._term / 3

    async def take(self) -> bool:
        """Become the leader, or go on being it; False while another one leads.  Raises Unavailable."""
        asked = self._clock.boottime()
        async with self._db.connection() as conn:
            epoch = await LeaderRepository(conn).take(self._holder, self.epoch, self._term)
        if epoch is None:
            if self._until >= 0:
                log.warning("another replica leads", holder=self._holder)
            self._until = -1.0
            return False
        if epoch != self.epoch:
            log.info("leads", holder=self._holder, epoch=epoch)
            self.epoch = epoch
        self._until = asked + self._term.total_seconds()
        return True

    async def release(self) -> None:
        """Let another replica lead at once."""
        if self._until >= 0:
            self._until = -1.0
            async with self._db.connection() as conn:
                await LeaderRepository(conn).release(self._holder, self.epoch)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[ScheduleRepository]:
        """A transaction during which nobody else can become the leader.  Raises NotLeading."""
        async with self._db.transaction() as conn:
            schedules = ScheduleRepository(conn)
            if not await schedules.holds_lead(self._holder, self.epoch):
                self._until = -1.0
                raise NotLeading("another replica leads")
            yield schedules
