"""Executions that nodes of other executions launched, and what an execution that recovers asks of an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.repositories.keys import find_execution
from aerodrome.idl.journal.v1.journal_pb2 import ChildEnded, Control, RecalledNode
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

EAGER_LABEL = "eager-exec"
"""Label by which the SDK says whose eager task launched an execution."""

_QUERIES = load_queries(__package__, "children.sql")


@dataclass(frozen=True, slots=True)
class Orphan:
    """An execution that goes on although the one that launched it is over."""

    id: WorkflowExecutionIdentifier
    parent: str
    """Name and phase of that one, for people."""


class ChildRepository:
    """Reads on the connection that it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def holders(self, execution_ids: Sequence[int]) -> list[tuple[int, int, Control]]:
        """Those of the executions that a node launched: who drives the node's execution, and what to tell there.

        As (child's execution id, session id, the hint).
        """
        told = []
        for row in await self._connection.fetch(_QUERIES.holders, execution_ids):
            ended = ChildEnded(node_id=row["parent_node_id"], name=row["execution_name"], phase=row["phase"])
            hint = Control(execution_id=row["parent_execution_id"], child_ended=ended)
            told.append((row["execution_id"], row["session_id"], hint))
        return told

    async def orphans_of(self, parents: Sequence[int], ended: Sequence[str], over: Sequence[str]) -> list[Orphan]:
        """What the executions launched and left behind; they count as ended in the phases `ended`, those in `over`."""
        rows = await self._connection.fetch(_QUERIES.orphans_of, parents, ended, over)
        eager = await self._connection.fetch(_QUERIES.launched_by_tasks_of, parents, over, EAGER_LABEL)
        return [
            *(_orphan(row) for row in rows),
            *(_orphan(row) for row in eager if _eager_parent(row["spec"]) == row["parent_name"]),
        ]

    async def parents_of_open(self, ended: Sequence[str]) -> list[int]:
        """Executions that are over, and launched what an engine still has to do with."""
        rows = await self._connection.fetch(_QUERIES.parents_of_open, ended)
        return [row["parent_execution_id"] for row in rows]

    async def find_execution(self, identifier: WorkflowExecutionIdentifier) -> int | None:
        """The number of an execution."""
        return await find_execution(self._connection, identifier)

    async def recall(self, execution_id: int, after: str, limit: int) -> list[RecalledNode]:
        """Nodes of an execution of which an event was folded, behind the node id `after`."""
        rows = await self._connection.fetch(_QUERIES.recall, execution_id, after, limit)
        return [
            RecalledNode(
                node_id=row["node_id"],
                phase=row["phase"],
                closure=row["closure"],
                input_uri=row["input_uri"],
                state=row["engine_state"],
                dynamic_workflow_reference=row["dynamic_workflow_remote_closure_reference"],
            )
            for row in rows
        ]


def _orphan(row: Record) -> Orphan:
    return Orphan(
        WorkflowExecutionIdentifier(
            project=row["execution_project"], domain=row["execution_domain"], name=row["execution_name"]
        ),
        f"{row['parent_name']} is {row['parent_phase']}",
    )


def _eager_parent(spec: bytes) -> str:
    return ExecutionSpec.FromString(spec).labels.values.get(EAGER_LABEL, "")
