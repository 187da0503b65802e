"""The journal's entries, the lease rows that lock executions, and the one statement that writes a group of changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.folding import ItemChange
from aerodrome.admin.domain.phases import WORKFLOW_NAMES, WORKFLOW_NUMBERS
from aerodrome.admin.domain.rows import ExecutionRow, Folded, NodeRow, TaskRow
from aerodrome.admin.repositories.folded import item_columns, node_columns, task_columns
from aerodrome.admin.repositories.keys import find_execution
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_QUERIES = load_queries(__package__, "journal.sql")


class EntryKind:
    """What a journal entry is."""

    WORKFLOW = 1
    NODE = 2
    TASK = 3
    ITEMS = 4
    CONTROL = 5
    EVENT = 6


Entry = tuple[int, int, int, int, bytes]
"""execution_id, sequence, epoch, kind, body"""


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

    @property
    def mark(self) -> tuple[object, ...]:
        """By which it is recognized as unchanged."""
        return (self.writer, self.state, self.session_id, self.epoch, self.last_sequence)


@dataclass(slots=True)
class Changes:
    """What a group writes.  Every execution that it looked at is among the leases, also those that it left alone."""

    leases: list[tuple[LeaseRow, tuple[object, ...], bool]] = field(default_factory=list)
    """The lease as it becomes, its mark as it was, and whether there is anything to write."""
    entries: list[Entry] = field(default_factory=list)
    executions: list[ExecutionRow] = field(default_factory=list)
    nodes: list[tuple[int, NodeRow]] = field(default_factory=list)
    """New ones are numbered in this order."""
    tasks: list[tuple[int, str, TaskRow]] = field(default_factory=list)
    outbox: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(topic, key, payload)"""
    items: list[tuple[int, str, ItemChange]] = field(default_factory=list)
    """Execution, node and range of map items; where they overlap the later one counts."""


class JournalRepository:
    """Reads and writes on the connection that it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def identify(self, identifier: WorkflowExecutionIdentifier) -> int | None:
        """The id of the execution with that name."""
        return await find_execution(self._connection, identifier)

    async def describe(self, execution_id: int) -> tuple[str, str, str] | None:
        """Project, domain and name of an execution."""
        row = await self._connection.fetchrow(_QUERIES.describe, execution_id)
        return None if row is None else (row[0], row[1], row[2])

    async def lock(self, execution_ids: Sequence[int]) -> None:
        """Keep executions from being changed by others until the transaction ends."""
        await self._connection.execute(_QUERIES.lock, execution_ids)

    async def read(self, execution_ids: Sequence[int]) -> list[tuple[LeaseRow, Folded]]:
        """Executions as they are now; those that do not exist are absent from the answer."""
        rows = await self._connection.fetch(_QUERIES.read, execution_ids)
        if len(rows) < len(execution_ids):
            found = {row["execution_id"] for row in rows}
            missing = [execution_id for execution_id in execution_ids if execution_id not in found]
            if await self._connection.execute(_QUERIES.add_missing_leases, missing) != "INSERT 0 0":
                rows += await self._connection.fetch(_QUERIES.read, missing)
        return [_execution(row) for row in rows]

    async def write(self, changes: Changes, now: datetime) -> None:
        """Write everything, if no execution has moved on since it was read.  Raises Conflict if one has."""
        await self._connection.execute(
            _QUERIES.write,
            sorted(lease.execution_id for lease, _, _ in changes.leases),
            [
                (
                    lease.execution_id, changed, *mark, lease.writer, lease.state, lease.session_id, lease.epoch,
                    lease.last_sequence, lease.applied_first, lease.applied_results, lease.control_sequence,
                    lease.workflow_state,
                )
                for lease, mark, changed in changes.leases
            ],
            changes.entries,
            now,
            [node_columns(execution_id, row) for execution_id, row in changes.nodes],
            [task_columns(execution_id, node_id, row) for execution_id, node_id, row in changes.tasks],
            [
                (
                    row.execution_id, WORKFLOW_NAMES[row.phase], row.closure.SerializeToString(), row.cluster,
                    row.started_at, row.execution_updated_at, row.duration, row.abort_cause, row.error_kind,
                    row.error_code,
                )
                for row in changes.executions
            ],
            changes.outbox,
            *item_columns(changes.items),
        )  # fmt: skip

    async def find_signal(self, execution_id: int, signal_id: str) -> bool:
        """Whether there is such a signal."""
        return bool(await self._connection.fetchval(_QUERIES.find_signal, execution_id, signal_id))

    async def set_signal(self, execution_id: int, signal_id: str, value: bytes) -> None:
        """Set a signal's value."""
        await self._connection.execute(_QUERIES.set_signal, execution_id, signal_id, value)

    async def list_entries(self, execution_id: int, after: int, limit: int) -> list[Record]:
        """Entries of an execution behind sequence `after`, in order: sequence, epoch, kind, body, recorded_at."""
        return await self._connection.fetch(_QUERIES.list_entries, execution_id, after, limit)


def _execution(row: Record) -> tuple[LeaseRow, Folded]:
    execution_id = row["execution_id"]
    lease = LeaseRow(
        execution_id=execution_id,
        cluster=row["cluster"],
        writer=row["writer"],
        state=row["state"],
        session_id=row["session_id"],
        epoch=row["epoch"],
        last_sequence=row["last_sequence"],
        applied_first=row["applied_first"],
        applied_results=row["applied_results"],
        control_sequence=row["control_sequence"],
    )
    phase = WORKFLOW_NUMBERS[row["phase"]]
    own = ExecutionRow(
        execution_id=execution_id,
        phase=phase,
        closure=ExecutionClosure.FromString(row["closure"]),
        cluster=row["execution_cluster"],
        started_at=row["started_at"],
        execution_updated_at=row["execution_updated_at"],
        duration=row["duration"],
        abort_cause=row["abort_cause"],
        error_kind=row["error_kind"],
        error_code=row["error_code"],
    )
    folded = Folded(
        execution_id=execution_id,
        project=row["execution_project"],
        domain=row["execution_domain"],
        name=row["execution_name"],
        own=own,
        complete=lease.last_sequence == 0,
    )
    return lease, folded
