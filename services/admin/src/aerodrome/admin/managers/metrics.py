"""Where the time of an execution went: reads what the spans are made of, as far as the depth needs it.

Source: spec/control-plane.md, section 6.9.  Deviations: a node that its workflow's closure does not know has a span
without anything inside it, where the reference answers INTERNAL; the tree is bounded, in its depth by what clients'
protobuf libraries still read, and in its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from flyteidl.admin.execution_pb2 import (
    ExecutionClosure,
    WorkflowExecutionGetMetricsRequest,
    WorkflowExecutionGetMetricsResponse,
)
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionMetaData
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure
from flyteidl.admin.workflow_pb2 import WorkflowClosure
from flyteidl.core.compiler_pb2 import CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, WorkflowExecutionIdentifier
from google.protobuf.message import DecodeError

from aerodrome.admin.domain.spans import ExecutionFacts, NodeFacts, TaskFacts, execution_span, level_of
from aerodrome.admin.domain.validation import check_execution_id, not_found
from aerodrome.admin.repositories.metrics import MetricsRepository
from aerodrome.stdlib.errors import AerodromeError, Internal, NotFound, ResourceExhausted
from aerodrome.stdlib.postgres.database import Database, Record
from aerodrome.stdlib.storage import Storage

MAX_DEPTH = 60
"""Deepest tree, whatever is asked for: protobuf libraries refuse messages that nest more than 100 deep."""
MAX_ROWS = 10_000
"""Most nodes of one tree, all executions in it together, and most attempts of each of those."""
MAX_EXECUTIONS = 1_000
"""Most executions of one tree."""

Closure = TypeVar("Closure", WorkflowClosure, CompiledWorkflowClosure)


@dataclass(slots=True)
class _Gathering:
    """One tree while its rows are read."""

    key: WorkflowExecutionIdentifier
    rows_left: int
    executions_left: int
    closures: dict[str, CompiledWorkflowClosure] = field(default_factory=dict)

    def too_large(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"the spans of execution [{self.key.name}] are too many to be sent at once: ask with a smaller depth, "
            "or for the executions that it launched one by one"
        )


class MetricsManager:
    """Spans of executions."""

    def __init__(
        self, database: Database, storage: Storage, *, max_rows: int = MAX_ROWS, max_executions: int = MAX_EXECUTIONS
    ) -> None:
        self._db = database
        self._storage = storage
        self._max_rows = max_rows
        self._max_executions = max_executions

    async def execution_metrics(
        self, request: WorkflowExecutionGetMetricsRequest
    ) -> WorkflowExecutionGetMetricsResponse:
        """The spans of an execution, `depth` levels of them.

        Raises InvalidArgument, NotFound, ResourceExhausted if they are too many, and Internal if the closure of a
        workflow that ran cannot be read.
        """
        check_execution_id(request.id)
        depth = request.depth if 0 <= request.depth <= MAX_DEPTH else MAX_DEPTH
        gathering = _Gathering(request.id, self._max_rows, self._max_executions)
        facts = await self._gather(gathering, request.id, depth)
        if facts is None:
            raise not_found("execution", request.id)
        span = await asyncio.to_thread(execution_span, facts, depth)
        return WorkflowExecutionGetMetricsResponse(span=span)

    async def _gather(
        self, gathering: _Gathering, key: WorkflowExecutionIdentifier, depth: int
    ) -> ExecutionFacts | None:
        """An execution and `depth` levels of what is in it; None if there is no such execution."""
        if gathering.executions_left == 0:
            raise gathering.too_large()
        gathering.executions_left -= 1
        async with self._db.connection() as conn:
            metrics = MetricsRepository(conn)
            row = await metrics.find_execution(key)
            if row is None:
                return None
            most = gathering.rows_left
            node_rows: Sequence[Record] = ()
            task_rows: Sequence[Record] = ()
            if depth >= 1:
                node_rows = await metrics.list_nodes(row["execution_id"], top_only=depth == 1, limit=most + 1)
            if depth >= 2:
                task_rows = await metrics.list_tasks(row["execution_id"], limit=most + 1)
        if max(len(node_rows), len(task_rows)) > most:
            raise gathering.too_large()
        gathering.rows_left -= len(node_rows)
        found = WorkflowExecutionIdentifier(
            project=row["execution_project"], domain=row["execution_domain"], name=row["execution_name"]
        )
        closure = ExecutionClosure.FromString(row["closure"])
        if not node_rows or row["remote_closure_identifier"] is None:
            return ExecutionFacts(found, closure)
        nodes, tasks = await asyncio.to_thread(_decoded, node_rows, task_rows)
        dynamic, children = await self._gather_inside(gathering, nodes, depth)
        return ExecutionFacts(
            key=found,
            closure=closure,
            workflow=await self._read_registered(gathering, row["remote_closure_identifier"]),
            nodes=nodes,
            tasks=tasks,
            dynamic=dynamic,
            children=children,
        )

    async def _gather_inside(
        self, gathering: _Gathering, nodes: Sequence[NodeFacts], depth: int
    ) -> tuple[dict[str, CompiledWorkflowClosure], dict[str, ExecutionFacts]]:
        """What the nodes made and launched, as far as the depth reaches into it."""
        by_id = {node.node_id: node for node in nodes}
        dynamic: dict[str, CompiledWorkflowClosure] = {}
        children: dict[str, ExecutionFacts] = {}
        for node in nodes:
            launched = node.closure.workflow_node_metadata.executionId
            if not node.dynamic_reference and not launched.name:
                continue
            inside = depth - level_of(node, by_id)
            if inside < 1:
                continue
            if node.dynamic_reference:
                dynamic[node.node_id] = await self._read_dynamic(gathering, node.dynamic_reference)
            if launched.name:
                child = await self._gather(gathering, launched, inside - 1)
                if child is not None:  # it may have been deleted
                    children[node.node_id] = child
        return dynamic, children

    async def _read_registered(self, gathering: _Gathering, reference: str) -> CompiledWorkflowClosure:
        known = gathering.closures.get(reference)
        if known is None:
            data = await self._read(reference)
            known = (await _parsed(WorkflowClosure, data, reference)).compiled_workflow
            gathering.closures[reference] = known
        return known

    async def _read_dynamic(self, gathering: _Gathering, reference: str) -> CompiledWorkflowClosure:
        known = gathering.closures.get(reference)
        if known is None:
            known = await _parsed(CompiledWorkflowClosure, await self._read(reference), reference)
            gathering.closures[reference] = known
        return known

    async def _read(self, reference: str) -> bytes:
        try:
            return await self._storage.read(reference, limit_bytes=0)
        except NotFound as error:
            raise Internal(f"Unable to read WorkflowClosure from location {reference} : it is gone") from error
        except AerodromeError as error:
            raise Internal(f"Unable to read WorkflowClosure from location {reference} : {error.message}") from error


async def _parsed(kind: type[Closure], data: bytes, reference: str) -> Closure:
    try:
        return await asyncio.to_thread(kind.FromString, data)
    except DecodeError as error:
        raise Internal(f"Unable to read WorkflowClosure from location {reference} : {error}") from error


def _decoded(
    node_rows: Sequence[Record], task_rows: Sequence[Record]
) -> tuple[list[NodeFacts], dict[str, list[TaskFacts]]]:
    nodes = [
        NodeFacts(
            node_id=row["node_id"],
            parent_id=row["parent_node_id"],
            closure=NodeExecutionClosure.FromString(row["closure"]),
            metadata=NodeExecutionMetaData.FromString(row["node_execution_metadata"]),
            dynamic_reference=row["dynamic_workflow_remote_closure_reference"],
        )
        for row in node_rows
    ]
    tasks: dict[str, list[TaskFacts]] = {}
    for row in task_rows:
        task = Identifier(
            resource_type=ResourceType.TASK,
            project=row["project"],
            domain=row["domain"],
            name=row["name"],
            version=row["version"],
        )
        tasks.setdefault(row["node_id"], []).append(
            TaskFacts(task, row["retry_attempt"], TaskExecutionClosure.FromString(row["closure"]))
        )
    return nodes, tasks
