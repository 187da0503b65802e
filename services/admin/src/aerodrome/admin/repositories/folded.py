"""The rows that the journal is folded into: loaded by key, written back many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.core.identifier_pb2 import TaskExecutionIdentifier, WorkflowExecutionIdentifier

from aerodrome.admin.domain.folding import ItemChange
from aerodrome.admin.domain.phases import (
    NODE_NAMES,
    NODE_NUMBERS,
    NODE_TERMINAL,
    TASK_NAMES,
    TASK_NUMBERS,
    TASK_OVER,
    TaskPhase,
)
from aerodrome.admin.domain.rows import Items, NodeRow, TaskKey, TaskRow
from aerodrome.admin.repositories.keys import find_execution
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_QUERIES = load_queries(__package__, "folded.sql")
_NODE_OVER_NAMES = ["", *(NODE_NAMES[phase] for phase in NODE_TERMINAL)]
_TASK_OVER_NAMES = [TASK_NAMES[phase] for phase in TASK_OVER]
_FRESH_AFTER = 16
"""A message that was changed in place this often is parsed anew, which frees what its changes left behind."""

NodeKey = tuple[int, str]
"""Execution and node."""


class FoldedRepository:
    """Reads and writes on the connection that it is given; the caller holds the locks of the executions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def tell_spec_cluster(self, execution_id: int, cluster: str) -> None:
        """Let an execution's spec say in which cluster it runs."""
        spec = ExecutionSpec.FromString(await self._connection.fetchval(_QUERIES.get_spec, execution_id))
        spec.metadata.system_metadata.execution_cluster = cluster
        await self._connection.execute(_QUERIES.set_spec, execution_id, spec.SerializeToString())

    async def load_nodes(self, keys: Sequence[NodeKey]) -> dict[NodeKey, NodeRow]:
        """Nodes with their attempts; keys without a row are absent from the answer."""
        wanted = [key[0] for key in keys], [key[1] for key in keys]
        nodes = {
            (row["execution_id"], row["node_id"]): _node(row)
            for row in await self._connection.fetch(_QUERIES.load_nodes, *wanted)
        }
        if nodes:
            await self._load_tasks(nodes)
        return nodes

    async def list_node_ids(self, execution_id: int) -> list[str]:
        """The nodes of an execution, in the order in which they appeared."""
        rows = await self._connection.fetch(_QUERIES.list_node_ids, execution_id)
        return [row["node_id"] for row in rows]

    async def load_live_nodes(self, execution_id: int) -> list[NodeRow]:
        """The nodes of an execution that are not over or have attempts that are not."""
        rows = await self._connection.fetch(_QUERIES.load_live_nodes, execution_id, _NODE_OVER_NAMES, _TASK_OVER_NAMES)
        nodes = {(execution_id, row["node_id"]): _node(row) for row in rows}
        if nodes:
            await self._load_tasks(nodes)
        return list(nodes.values())

    async def _load_tasks(self, nodes: dict[NodeKey, NodeRow]) -> None:
        wanted = [key[0] for key in nodes], [key[1] for key in nodes]
        for row in await self._connection.fetch(_QUERIES.load_tasks, *wanted):
            task = _task(row)
            nodes[row["execution_id"], row["node_id"]].tasks[task.key] = task

    async def load_items(self, keys: Sequence[NodeKey]) -> dict[NodeKey, Items]:
        """The map items of nodes; every key has an answer, maybe an empty one."""
        found = {key: Items() for key in keys}
        rows = await self._connection.fetch(_QUERIES.load_items, [key[0] for key in keys], [key[1] for key in keys])
        for row in rows:
            index = row["item_index"]
            found[row["execution_id"], row["node_id"]].put(index, index, row["phase"], row["attempt"])
        return found

    async def put_items(self, changes: Iterable[tuple[int, str, ItemChange]]) -> None:
        """Insert or replace ranges of items; where they overlap the later one counts, and the last error stays."""
        changes = list(changes)
        failed = max((at for at, (_, _, change) in enumerate(changes, 1) if change.error), default=0)
        for part in (changes[:failed], changes[failed:]):
            if part:
                await self._put_items(part)

    async def _put_items(self, changes: Sequence[tuple[int, str, ItemChange]]) -> None:
        await self._connection.execute(_QUERIES.put_items, *item_columns(changes))

    async def abort_items(self, execution_id: int) -> None:
        """End the map items of an execution that are not over."""
        await self._connection.execute(_QUERIES.abort_items, execution_id, TaskPhase.ABORTED, sorted(TASK_OVER))

    async def find_task_id(self, execution_id: int, identifier: TaskExecutionIdentifier) -> int | None:
        """The surrogate id of an attempt's row."""
        task = identifier.task_id
        found: int | None = await self._connection.fetchval(
            _QUERIES.find_task_id,
            execution_id,
            identifier.node_execution_id.node_id,
            identifier.retry_attempt,
            task.name,
            task.version,
            task.project,
            task.domain,
        )
        return found

    async def exists_execution(self, identifier: WorkflowExecutionIdentifier) -> bool:
        """Whether there is an execution of that name."""
        return await find_execution(self._connection, identifier) is not None


def item_columns(changes: Sequence[tuple[int, str, ItemChange]]) -> list[list[object]]:
    """Ranges of items, a list for each column."""
    columns: list[list[object]] = [[] for _ in range(10)]
    for execution_id, node_id, change in changes:
        values = (
            execution_id, node_id, change.first, change.last, change.attempt, change.system_failures, change.phase,
            change.cache_status, change.error or None, change.log_uri,
        )  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


def _node(row: Record) -> NodeRow:
    return NodeRow(
        node_id=row["node_id"],
        phase=NODE_NUMBERS[row["phase"]],
        closure=NodeExecutionClosure.FromString(row["closure"]),
        metadata=NodeExecutionMetaData.FromString(row["node_execution_metadata"]),
        input_uri=row["input_uri"],
        started_at=row["started_at"],
        node_execution_created_at=row["node_execution_created_at"],
        node_execution_updated_at=row["node_execution_updated_at"],
        duration=row["duration"],
        parent_node_id=row["parent_node_id"],
        parent_task_execution_id=row["parent_task_execution_id"],
        error_kind=row["error_kind"],
        error_code=row["error_code"],
        cache_status=row["cache_status"],
        dynamic_workflow_reference=row["dynamic_workflow_remote_closure_reference"],
        event_version=row["event_version"],
        engine_state=row["engine_state"],
    )


def node_columns(execution_id: int, row: NodeRow) -> tuple[object, ...]:
    """What is written of a node, as the type `node_execution_write`."""
    closure = row.closure.SerializeToString()
    row.writes += 1
    if row.writes % _FRESH_AFTER == 0:
        row.closure = NodeExecutionClosure.FromString(closure)
    return (
        execution_id, row.node_id, NODE_NAMES[row.phase], closure, row.metadata.SerializeToString(), row.input_uri,
        row.started_at, row.node_execution_created_at, row.node_execution_updated_at, row.duration,
        row.parent_node_id, row.parent_task_execution_id, row.error_kind, row.error_code, row.cache_status,
        row.dynamic_workflow_reference, row.event_version, row.engine_state,
    )  # fmt: skip


def _task(row: Record) -> TaskRow:
    return TaskRow(
        key=TaskKey(row["retry_attempt"], row["name"], row["version"], row["project"], row["domain"]),
        phase=TASK_NUMBERS[row["phase"]],
        phase_version=row["phase_version"],
        closure=TaskExecutionClosure.FromString(row["closure"]),
        input_uri=row["input_uri"],
        started_at=row["started_at"],
        task_execution_created_at=row["task_execution_created_at"],
        task_execution_updated_at=row["task_execution_updated_at"],
        duration=row["duration"],
        engine_state=row["engine_state"],
    )


def task_columns(execution_id: int, node_id: str, row: TaskRow) -> tuple[object, ...]:
    """What is written of an attempt, as the type `task_execution_write`."""
    closure = row.closure.SerializeToString()
    row.writes += 1
    if row.writes % _FRESH_AFTER == 0:
        row.closure = TaskExecutionClosure.FromString(closure)
    return (
        execution_id, node_id, *row.key, TASK_NAMES[row.phase], row.phase_version, closure, row.input_uri,
        row.started_at, row.task_execution_created_at, row.task_execution_updated_at, row.duration, row.engine_state,
    )  # fmt: skip
