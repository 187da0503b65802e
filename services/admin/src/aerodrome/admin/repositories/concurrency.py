"""Executions of launch plans that limit how many are in progress, and those that wait for room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.stdlib.postgres.database import Connection
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "concurrency.sql")


@dataclass(frozen=True, slots=True)
class Live:
    """An execution that is not over."""

    execution_id: int
    aborting: bool
    waiting: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution that waits until fewer than `most` of its launch plan are in progress."""

    execution_id: int
    most: int
    aborting: bool


class ConcurrencyRepository:
    """Limited launches, on one connection.  A launch plan stands for all of its versions."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def lock(self, plan: Identifier) -> None:
        """Until the transaction ends nobody else launches this launch plan or lets those begin that wait."""
        await self._conn.execute(_SQL.lock, *_name(plan))

    async def count_running(self, plan: Identifier) -> int:
        """Executions that are about to run or running, as the behaviour SKIP counts them."""
        return int(await self._conn.fetchval(_SQL.count_running, *_name(plan)))

    async def count_started(self, plan: Identifier) -> int:
        """Executions that are not over and do not wait: each may have something that runs."""
        return int(await self._conn.fetchval(_SQL.count_started, *_name(plan)))

    async def list_live(self, plan: Identifier) -> list[Live]:
        """Executions that are not over, the oldest first."""
        rows = await self._conn.fetch(_SQL.list_live, *_name(plan))
        return [Live(row["execution_id"], row["aborting"], row["waiting"]) for row in rows]

    async def somebody_waits(self, plan: Identifier) -> bool:
        """Whether an execution of this launch plan waits."""
        return bool(await self._conn.fetchval(_SQL.somebody_waits, *_name(plan)))

    async def put_waiting(self, execution_id: int, plan: Identifier, most: int, shown: ExecutionSpec) -> None:
        """Let an execution wait; `shown` is merged into its specification for readers as long as it does."""
        await self._conn.execute(
            _SQL.put_waiting, execution_id, *_name(plan), most, shown.SerializeToString(deterministic=True)
        )

    async def list_names(self) -> list[Identifier]:
        """The launch plans of which executions wait, without versions."""
        return [
            Identifier(
                resource_type=ResourceType.LAUNCH_PLAN, project=row["project"], domain=row["domain"], name=row["name"]
            )
            for row in await self._conn.fetch(_SQL.list_names)
        ]

    async def forget_those_that_do_not_wait(self, plan: Identifier) -> None:
        """Drop the notes of executions that were aborted while they waited."""
        await self._conn.execute(_SQL.forget_those_that_do_not_wait, *_name(plan))

    async def list_next(self, plan: Identifier, limit: int) -> list[Waiting]:
        """The executions that have waited longest."""
        rows = await self._conn.fetch(_SQL.list_next, *_name(plan), limit)
        return [Waiting(row["execution_id"], row["most"], row["aborting"]) for row in rows]

    async def begin(self, execution_ids: Sequence[int]) -> set[str]:
        """Let executions be leased that waited; returns their clusters."""
        return {row["cluster"] for row in await self._conn.fetch(_SQL.begin, execution_ids)}


def _name(plan: Identifier) -> tuple[str, str, str]:
    return plan.project, plan.domain, plan.name
