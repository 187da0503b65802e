"""Gauges of what is in progress, for dashboards: counted in the database now and then, never when they are read.

What happens between two counts is not followed, so that every replica shows the same, whoever writes.  A count that
takes too long is given up and tried again later, with growing pauses.  Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

from datetime import timedelta

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.repositories.gauges import GaugeRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)

AT_MOST_MS = 500
"""Longest that a count may take."""
LONGEST_PAUSE = timedelta(minutes=10)


class GaugeKeeper:
    """Counts executions, nodes and attempts in progress every `flyteadmin.gauge-interval`."""

    def __init__(self, database: Database, clock: Clock, config: AdminConfig, metrics: Metrics) -> None:
        self._db = database
        self._clock = clock
        self._domains = [domain.id for domain in config.domains]
        self._interval = config.flyteadmin.gauge_interval
        scope = f"{config.flyteadmin.metrics_scope}admin"
        self._executions = metrics.gauge(f"{scope}:execution_manager:active_executions")
        self._nodes = metrics.gauge(f"{scope}:node_execution_manager:active_node_executions")
        self._tasks = metrics.gauge(f"{scope}:task_execution_manager:active_executions")

    async def run(self) -> None:
        """Count now and then, until cancelled."""
        pause = self._interval
        while self._interval:
            try:
                await self.count()
                pause = self._interval
            except AerodromeError as error:
                pause = min(pause * 2, max(LONGEST_PAUSE, self._interval))
                log.warning("what is in progress was not counted", error=error.message, seconds=pause.total_seconds())
            await self._clock.sleep(pause.total_seconds())

    async def count(self) -> None:
        """Count once.  Raises what the database raises, DeadlineExceeded for what takes too long."""
        async with self._db.transaction(readonly=True) as conn:
            found = await GaugeRepository(conn).in_progress(self._domains, at_most_ms=AT_MOST_MS)
        self._executions.set(found.executions)
        self._nodes.set(found.nodes)
        self._tasks.set(found.tasks)
