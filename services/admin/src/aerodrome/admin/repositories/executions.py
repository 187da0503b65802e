"""Rows of executions, as they are created and archived; everything between is written by the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec, ExecutionStateChangeDetails
from flyteidl.core.execution_pb2 import ExecutionError, WorkflowExecution
from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier, WorkflowExecutionIdentifier

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "executions.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """Everything of an execution when it begins."""

    execution_id: int
    key: WorkflowExecutionIdentifier
    spec: ExecutionSpec
    closure: ExecutionClosure
    at: datetime
    workflow_id: int
    launch_plan_id: int | None
    task_id: int | None
    source_execution_id: int | None
    parent_execution_id: int | None
    parent_node_id: str | None
    recovered_execution_id: int | None
    cluster: str
    inputs_uri: str
    user_inputs_uri: str
    task_resources: bytes
    plugin_overrides: bytes
    tags: Sequence[tuple[str, str]]
    state_change: ExecutionStateChangeDetails


@dataclass(frozen=True, slots=True)
class SourceExecution:
    """An execution to launch again."""

    execution_id: int
    spec: ExecutionSpec
    inputs_uri: str
    user_inputs_uri: str


@dataclass(frozen=True, slots=True)
class ParentExecution:
    """The execution one of whose nodes launches a child."""

    execution_id: int
    spec: ExecutionSpec
    phase: str
    user: str


class ExecutionRepository:
    """Executions, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(self, new: NewExecution, *, waiting: bool = False) -> bool:
        """Add an execution with its tags and its lease; False if its name is taken.

        The lease is open unless the execution waits or has already failed.

        One statement, so it needs no transaction around it.
        """
        return bool(await self.insert_many([new], waiting=waiting))

    async def insert_many(self, new: Sequence[NewExecution], *, waiting: bool = False) -> frozenset[int]:
        """As `insert`, any number of them in one statement; returns the ids of those whose names were free.

        Of several under one name the first one is added.
        """
        ordered = sorted(new, key=lambda each: (each.key.project, each.key.domain, each.key.name))
        tags = [(each.execution_id, key, value) for each in ordered for key, value in each.tags]
        rows = await self._conn.fetch(
            _SQL.insert,
            *zip(*(_columns(each, waiting=waiting) for each in ordered), strict=True),
            [execution_id for execution_id, _, _ in tags],
            [key for _, key, _ in tags],
            [value for _, _, value in tags],
        )
        return frozenset(row["execution_id"] for row in rows)

    async def find_source(self, key: WorkflowExecutionIdentifier) -> SourceExecution | None:
        """What is needed of an execution to launch it again."""
        row = await self._conn.fetchrow(_SQL.source, key.project, key.domain, key.name)
        if row is None:
            return None
        return SourceExecution(
            execution_id=row["execution_id"],
            spec=ExecutionSpec.FromString(row["spec"]),
            inputs_uri=row["inputs_uri"],
            user_inputs_uri=row["user_inputs_uri"],
        )

    async def find_parent(self, node: NodeExecutionIdentifier) -> ParentExecution | None:
        """The execution of a node execution; None if either is not known."""
        key = node.execution_id
        row = await self._conn.fetchrow(_SQL.parent, key.project, key.domain, key.name, node.node_id)
        if row is None:
            return None
        return ParentExecution(
            execution_id=row["execution_id"],
            spec=ExecutionSpec.FromString(row["spec"]),
            phase=row["phase"],
            user=row["user"],
        )

    async def set_state(self, key: WorkflowExecutionIdentifier, change: ExecutionStateChangeDetails) -> bool:
        """Archive an execution or show it again; False if there is no such execution."""
        row = await self._conn.fetchrow(
            _SQL.set_state, key.project, key.domain, key.name, change.state, state_change_of(change)
        )
        return row is not None


def _columns(new: NewExecution, *, waiting: bool) -> tuple[Any, ...]:
    """The row of an execution, and the state of its lease at the end."""
    failed = new.closure.HasField("error")
    return (
        new.execution_id,
        new.key.project,
        new.key.domain,
        new.key.name,
        WorkflowExecution.Phase.Name(new.closure.phase),
        new.spec.SerializeToString(),
        new.closure.SerializeToString(),
        new.launch_plan_id,
        new.workflow_id,
        new.task_id,
        "launch_plan" if new.task_id is None else "task",
        new.at,
        new.spec.metadata.mode,
        new.source_execution_id,
        new.parent_execution_id,
        new.parent_node_id,
        new.cluster,
        new.inputs_uri,
        new.user_inputs_uri,
        new.task_resources,
        new.plugin_overrides,
        new.recovered_execution_id,
        ExecutionError.ErrorKind.Name(new.closure.error.kind) if failed else None,
        new.closure.error.code if failed else None,
        new.spec.metadata.principal,
        state_change_of(new.state_change),
        "closed" if failed else "waiting" if waiting else "open",
    )


def state_change_of(change: ExecutionStateChangeDetails) -> bytes:
    """The column `state_change`."""
    return ExecutionClosure(state_change_details=change).SerializeToString()
