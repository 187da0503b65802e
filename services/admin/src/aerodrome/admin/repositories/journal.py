"""The journal's entries, and the lease rows that lock executions and say how far their journals reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.phases import WORKFLOW_NUMBERS
from aerodrome.admin.domain.rows import Folded
from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_QUERIES = load_queries(__package__, "journal.sql")
_ENTRY_COLUMNS = ("execution_id", "sequence", "epoch", "kind", "body", "recorded_at")


class EntryKind:
    """What a journal entry is."""

    WORKFLOW = 1
    NODE = 2
    TASK = 3
    ITEMS = 4
    CONTROL = 5
    EVENT = 6


Entry = tuple[int, int, int, int, bytes, datetime]
"""execution_id, sequence, epoch, kind, body, recorded_at"""


@dataclass(slots=True)
class LeaseRow:
    """Who writes an execution, and how far its journal reaches."""

    execution_id: int
    cluster: str
    writer: str
    state: str
    session_id: int | None
    epoch: int
    last_sequence: int
    applied_first: int
    applied_results: bytes
    control_sequence: int
    workflow_state: bytes | None = None
    """The holder's state to be stored; None keeps what is there."""


class JournalRepository:
    """Reads and writes on the connection that it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def identify(self, identifier: WorkflowExecutionIdentifier) -> int | None:
        """The id of the execution with that name."""
        found: int | None = await self._connection.fetchval(
            _QUERIES.identify, identifier.project, identifier.domain, identifier.name
        )
        return found

    async def lock(self, execution_ids: Sequence[int]) -> dict[int, LeaseRow]:
        """Lock executions in the order of their keys; those that do not exist are absent from the answer."""
        found = await self._lock(execution_ids)
        missing = [execution_id for execution_id in execution_ids if execution_id not in found]
        if missing:
            await self._connection.execute(_QUERIES.add_missing_leases, missing)
            found.update(await self._lock(missing))
        return found

    async def _lock(self, execution_ids: Sequence[int]) -> dict[int, LeaseRow]:
        rows = await self._connection.fetch(_QUERIES.lock, execution_ids)
        return {row["execution_id"]: LeaseRow(*row.values()) for row in rows}

    async def describe(self, execution_ids: Sequence[int]) -> dict[int, Folded]:
        """What folding needs to know of executions before any of their rows."""
        rows = await self._connection.fetch(_QUERIES.describe, execution_ids)
        return {
            row["execution_id"]: Folded(
                execution_id=row["execution_id"],
                project=row["execution_project"],
                domain=row["execution_domain"],
                name=row["execution_name"],
                phase=WORKFLOW_NUMBERS[row["phase"]],
                cluster=row["cluster"],
            )
            for row in rows
        }

    async def add(self, entries: Sequence[Entry]) -> None:
        """Append entries."""
        await self._connection.copy_records("journal", entries, _ENTRY_COLUMNS)

    async def entries(self, execution_id: int, after: int, limit: int) -> list[Entry]:
        """Entries of an execution behind sequence `after`, in order."""
        rows = await self._connection.fetch(_QUERIES.entries, execution_id, after, limit)
        return [(execution_id, *row.values()) for row in rows]

    async def update_leases(self, rows: Sequence[LeaseRow]) -> None:
        """Write locked rows back."""
        await self._connection.execute(
            _QUERIES.update_leases,
            [row.execution_id for row in rows],
            [row.writer for row in rows],
            [row.state for row in rows],
            [row.session_id for row in rows],
            [row.epoch for row in rows],
            [row.last_sequence for row in rows],
            [row.applied_first for row in rows],
            [row.applied_results for row in rows],
            [row.control_sequence for row in rows],
            [row.workflow_state for row in rows],
        )

    async def add_outbox(self, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Leave (topic, key, payload) messages to be published after the commit."""
        topics, keys, payloads = zip(*messages, strict=True)
        await self._connection.execute(_QUERIES.add_outbox, topics, keys, payloads)

    async def set_signal(self, execution_id: int, signal_id: str, value: bytes) -> bool:
        """Set a signal's value; False if there is no such signal."""
        return await self._connection.fetchval(_QUERIES.set_signal, execution_id, signal_id, value) is not None
