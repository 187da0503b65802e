"""How much is in progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aerodrome.admin.domain.phases import (
    NODE_NAMES,
    NODE_TERMINAL,
    NOTHING,
    TASK_NAMES,
    TASK_OVER,
    WORKFLOW_NAMES,
    WORKFLOW_TERMINAL,
)
from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "gauges.sql")

_WORKFLOWS = [name for phase, name in WORKFLOW_NAMES.items() if phase not in WORKFLOW_TERMINAL]
_NODES = [name for phase, name in NODE_NAMES.items() if phase not in (*NODE_TERMINAL, NOTHING)]
_TASKS = [name for phase, name in TASK_NAMES.items() if phase not in (*TASK_OVER, NOTHING)]


@dataclass(frozen=True, slots=True)
class InProgress:
    """Counts of what is not over."""

    executions: int
    nodes: int
    tasks: int


class GaugeRepository:
    """Counts, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def in_progress(self, domains: Sequence[str], *, at_most_ms: int) -> InProgress:
        """What is in progress in `domains`; inside of a transaction.  Raises DeadlineExceeded if it takes too long."""
        await self._conn.execute(f"SET LOCAL statement_timeout = {int(at_most_ms)}")
        row = await self._conn.fetchrow(_SQL.get_in_progress, list(domains), _WORKFLOWS, _NODES, _TASKS)
        assert row is not None  # it has no condition
        return InProgress(row["executions"], row["nodes"], row["tasks"])
