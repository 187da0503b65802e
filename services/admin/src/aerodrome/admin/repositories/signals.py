"""Rows of signals.  Their values are written by the journal, which tells the engine in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.filters import Entity
from aerodrome.admin.repositories.listing import Place, Source
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "signals.sql")
_THROUGH_EXECUTION: Final = frozenset({Entity.EXECUTION})

SIGNALS = Source(
    entity=Entity.SIGNAL,
    select="s.signal_id, s.type, s.value",
    table="signals s",
    tie=("id",),
    joins={Entity.EXECUTION: "JOIN executions e ON e.execution_id = s.execution_id"},
    places={
        (Entity.SIGNAL, column): Place(f"e.{column}", _THROUGH_EXECUTION)
        for column in ("execution_project", "execution_domain", "execution_name")
    },
    nullable=frozenset({"deleted_at"}),
)


@dataclass(frozen=True, slots=True)
class ExecutionFacts:
    """What a signal has to know of its execution."""

    execution_id: int
    phase: str


class SignalRepository:
    """Signals, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def find_execution(self, key: WorkflowExecutionIdentifier) -> ExecutionFacts | None:
        """The execution that a signal belongs to."""
        row = await self._conn.fetchrow(_SQL.find_execution, key.project, key.domain, key.name)
        return None if row is None else ExecutionFacts(row["execution_id"], row["phase"])

    async def insert(self, execution_id: int, signal_id: str, type_: bytes) -> None:
        """Add a signal without a value, if there is none of that id; `type_` is a `flyteidl.core.LiteralType`."""
        await self._conn.execute(_SQL.insert, execution_id, signal_id, type_)

    async def find(self, execution_id: int, signal_id: str) -> Record | None:
        """A signal of an execution."""
        return await self._conn.fetchrow(_SQL.find, execution_id, signal_id)
