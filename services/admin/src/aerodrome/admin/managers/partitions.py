"""Keeps the partitions of the tables that grow with executions ahead of time."""

from __future__ import annotations

from datetime import timedelta

from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)

AHEAD = timedelta(days=92)
"""How far ahead partitions exist."""
EVERY = timedelta(hours=12)
RETRY = timedelta(minutes=1)


class PartitionKeeper:
    """Makes partitions before they are needed; the database's clock decides when that is."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def run(self) -> None:
        """Keep them until cancelled; what fails is tried again, long before it matters."""
        while True:
            pause = EVERY
            try:
                await self.ensure()
            except AerodromeError as error:
                log.warning("partitions could not be made", error=error.message)
                pause = RETRY
            await self._clock.sleep(pause.total_seconds())

    async def ensure(self) -> None:
        """Make those that are missing for now and for the time ahead."""
        await self._db.execute("SELECT ensure_execution_partitions(now(), now() + $1)", AHEAD)
