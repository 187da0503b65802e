"""Rows of retention: policies, pins, deletions, and what a deletion takes from the other tables.

An execution's own rows go in one transaction with the record of its deletion; what grows with it goes afterwards, a
batch at a time.  Instants are given by the caller, whose clock decides what is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure

from aerodrome.admin.domain.retention import Policy, Stored
from aerodrome.stdlib.postgres.database import Connection, Record, quote_name
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "retention.sql")

Kind = Literal["execution", "blobs"]
Cause = Literal["request", "policy"]
Stage = Literal["cache", "blobs", "rows", "done"]

_BATCHES = (_SQL.delete_items, _SQL.delete_tasks, _SQL.delete_nodes, _SQL.delete_journal)


@dataclass(frozen=True, slots=True)
class Member:
    """An execution that may be deleted."""

    stored: Stored
    phase: str
    raw_output_location: str
    """What its specification says; empty: the data plane's default."""
    ended_at: datetime
    is_held: bool
    pin_reason: str | None
    has_parent: bool
    parent_execution_id: int | None


@dataclass(frozen=True, slots=True)
class User:
    """An execution that uses data of one that is to be deleted."""

    project: str
    domain: str
    name: str
    how: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A deletion to go on with."""

    id: int
    stored: Stored
    kind: Kind
    raw_output_base: str
    started_at: datetime
    ended_at: datetime
    stage: Stage
    attempts: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of one of the tables that grow, and the execution ids that it holds."""

    name: str
    parent: str
    first: int
    beyond: int
    detaching: bool


class RetentionRepository:
    """Retention, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    # Policies and pins

    async def put_policy(self, policy: Policy) -> None:
        """Set a policy."""
        await self._conn.execute(
            _SQL.put_policy, policy.project, policy.domain, policy.keep_executions_days, policy.keep_blobs_days,
            policy.updated_at, policy.updated_by,
        )  # fmt: skip

    async def list_policies(self) -> list[Policy]:
        """All that are set, by project and domain."""
        return [
            Policy(
                row["project"], row["domain"], row["keep_executions_days"], row["keep_blobs_days"], row["updated_at"],
                row["updated_by"],
            )
            for row in await self._conn.fetch(_SQL.list_policies)
        ]  # fmt: skip

    async def delete_policy(self, project: str, domain: str) -> bool:
        """Remove the policy of exactly this place; False if there is none."""
        return bool(await self._conn.fetchval(_SQL.delete_policy, project, domain))

    async def list_projects(self) -> list[str]:
        """All projects, archived ones too."""
        return [row["identifier"] for row in await self._conn.fetch(_SQL.list_places)]

    async def find(self, project: str, domain: str, name: str) -> int | None:
        """The number of an execution."""
        found = await self._conn.fetchval(_SQL.find, project, domain, name)
        return None if found is None else int(found)

    async def find_deleted(self, project: str, domain: str, name: str) -> int | None:
        """The number that an execution had which was deleted."""
        found = await self._conn.fetchval(_SQL.deleted_id, project, domain, name)
        return None if found is None else int(found)

    async def pin(self, project: str, domain: str, name: str, at: datetime, by: str, reason: str) -> bool:
        """Pin an execution; False if there is no such execution."""
        return await self._conn.fetchval(_SQL.pin, project, domain, name, at, by, reason) is not None

    async def unpin(self, execution_id: int) -> bool:
        """Take a pin away; False if there was none."""
        return bool(await self._conn.fetchval(_SQL.unpin, execution_id))

    # What is due

    async def due(
        self,
        project: str,
        domain: str,
        phase: str,
        before: datetime,
        after: tuple[datetime, int],
        kind: Kind,
        limit: int,
    ) -> list[tuple[datetime, int]]:
        """Executions in a terminal `phase` that ended `before` and that no living execution launched, behind `after`
        in the order of (created_at, execution_id)."""
        rows = await self._conn.fetch(_SQL.due, project, domain, phase, before, *after, kind == "execution", limit)
        return [(row["created_at"], row["execution_id"]) for row in rows]

    async def family(self, execution_id: int, limit: int) -> list[int]:
        """An execution and all that it launched, each after what launched it."""
        return [row["execution_id"] for row in await self._conn.fetch(_SQL.family, execution_id, limit)]

    async def lock(self, execution_ids: Sequence[int]) -> None:
        """Keep everybody else from changing these executions until the transaction ends."""
        await self._conn.fetch(_SQL.lock_leases, execution_ids)
        await self._conn.fetch(_SQL.lock_executions, execution_ids)

    async def describe(self, execution_ids: Sequence[int]) -> list[Member]:
        """Those of the executions that exist."""
        return [_member(row) for row in await self._conn.fetch(_SQL.describe, execution_ids)]

    async def find_user(self, execution_ids: Sequence[int]) -> User | None:
        """An execution outside of these that uses data of one of them."""
        row = await self._conn.fetchrow(_SQL.outside_users, execution_ids)
        if row is None:
            return None
        return User(row["execution_project"], row["execution_domain"], row["execution_name"], row["how"])

    async def name_of(self, execution_id: int) -> str:
        """`project/domain/name` of an execution, for people; empty if it is gone."""
        row = await self._conn.fetchrow(_SQL.name_of, execution_id)
        return "" if row is None else "/".join(row.values())

    # Deleting

    async def begin(
        self, bases: Sequence[tuple[int, str]], kind: Kind, *, at: datetime, by: str, cause: Cause, retry_at: datetime
    ) -> None:
        """Record that executions are being deleted; with each comes the base of its raw outputs, if it is ours.

        For kind `execution` their own rows go as well.
        """
        ids = [execution_id for execution_id, _ in bases]
        dependents = 0
        if kind == "execution":
            dependents = int(await self._conn.fetchval(_SQL.count_dependents, ids))
        await self._conn.execute(_SQL.add_deletions, ids, [base for _, base in bases], kind, at, by, cause, retry_at)
        if kind == "execution":
            await self._conn.execute(_SQL.bury, ids, at)
            await self._conn.execute(
                "UPDATE execution_deletions SET rows = rows + 1 WHERE execution_id = ANY($1::bigint[]) AND kind = $2",
                ids, kind,
            )  # fmt: skip
            if dependents:
                await self._conn.execute(
                    "UPDATE execution_deletions SET rows = rows + $3 WHERE execution_id = $1 AND kind = $2",
                    ids[0], kind, dependents,
                )  # fmt: skip

    async def claim(self, now: datetime, until: datetime, limit: int) -> list[Pending]:
        """Deletions to go on with, which nobody else takes before `until`."""
        return [_pending(row) for row in await self._conn.fetch(_SQL.claim, now, until, limit)]

    async def claim_these(self, execution_ids: Sequence[int], kind: Kind, until: datetime) -> list[Pending]:
        """The unfinished deletions of these executions."""
        return [_pending(row) for row in await self._conn.fetch(_SQL.claim_these, execution_ids, until, kind)]

    async def advance(
        self, deletion: int, stage: Stage, *, now: datetime, until: datetime,
        blobs: int = 0, blob_bytes: int = 0, rows: int = 0,
    ) -> None:  # fmt: skip
        """A deletion has come as far as `stage`, and has deleted so much since it was recorded last."""
        await self._conn.execute(_SQL.advance, deletion, stage, blobs, blob_bytes, rows, until, now)

    async def postpone(self, deletion: int, until: datetime, why: str) -> None:
        """A deletion cannot go on before `until`."""
        await self._conn.execute(_SQL.postpone, deletion, until, why)

    async def list_deletions(
        self, project: str, domain: str, before: int, limit: int, *, unfinished_only: bool
    ) -> list[Record]:
        """Deletions with numbers below `before`, the latest first."""
        return await self._conn.fetch(_SQL.list_deletions, project, domain, before, unfinished_only, limit)

    async def deletions_of(self, execution_ids: Sequence[int]) -> list[Record]:
        """The deletions of whole executions among these."""
        return await self._conn.fetch(_SQL.deletions_of, execution_ids)

    async def list_attempts(self, execution_id: int, after: str, limit: int) -> list[tuple[str, int]]:
        """Nodes behind `after`, and how many attempts each has had."""
        rows = await self._conn.fetch(_SQL.list_attempts, execution_id, after, limit)
        return [(row["node_id"], row["attempts"]) for row in rows]

    async def list_items(self, execution_id: int, after: tuple[str, int], limit: int) -> list[tuple[str, int, int]]:
        """Map items behind `after`: node, index, and how many attempts it has had."""
        rows = await self._conn.fetch(_SQL.list_items, execution_id, *after, limit)
        return [(row["node_id"], row["item_index"], row["attempt"] + 1) for row in rows]

    async def exists_any(self, keys: Sequence[tuple[str, str, str]]) -> bool:
        """Whether an execution with one of these keys exists."""
        if not keys:
            return False
        return bool(await self._conn.fetchval(_SQL.exists_any, *(list(column) for column in zip(*keys, strict=True))))

    async def exists_name(self, stored: Stored, domains: Sequence[str]) -> bool:
        """Whether another project or domain has an execution of the same name."""
        return bool(
            await self._conn.fetchval(_SQL.exists_name, stored.project, stored.domain, stored.name, list(domains))
        )

    async def retain_prefixes(self, name: str, prefixes: Sequence[str]) -> None:
        """Leave raw outputs to the deletion of the last execution of this name."""
        await self._conn.execute(_SQL.retain_prefixes, name, prefixes)

    async def retained_prefixes(self, name: str, limit: int) -> list[str]:
        """What was left to it."""
        return [row["prefix"] for row in await self._conn.fetch(_SQL.retained_prefixes, name, limit)]

    async def forget_prefixes(self, name: str, prefixes: Sequence[str]) -> None:
        """These are gone."""
        await self._conn.execute(_SQL.forget_prefixes, name, prefixes)

    async def workflow_closure(self, project: str, domain: str, name: str, version: str) -> str | None:
        """Where the closure of a workflow is; None if there is no such workflow."""
        found = await self._conn.fetchval(_SQL.workflow_closure, project, domain, name, version)
        return None if found is None else str(found)

    async def delete_rows(self, execution_id: int, limit: int) -> int:
        """Delete up to `limit` of the rows that grew with an execution; how many there were, 0 at the end."""
        for statement in _BATCHES:
            deleted = _affected(await self._conn.execute(statement, execution_id, limit))
            if deleted:
                return deleted
        return _affected(await self._conn.execute(_SQL.delete_hits, execution_id))

    # Whose outputs the cache gave to whom

    async def settle_hits(self, limit: int) -> int:
        """Read up to `limit` cache hits and remember whose data they use; how many there were."""
        rows = await self._conn.fetch(_SQL.take_hits, limit)
        users, projects, domains, names = [], [], [], []
        for row in rows:
            if row["closure"] is None:
                continue
            closure = NodeExecutionClosure.FromString(row["closure"])
            key = closure.task_node_metadata.catalog_key.source_task_execution.node_execution_id.execution_id
            if not key.name:
                continue
            users.append(row["execution_id"])
            projects.append(key.project)
            domains.append(key.domain)
            names.append(key.name)
        if rows:
            await self._conn.execute(
                _SQL.settle_hits, [row["execution_id"] for row in rows], [row["node_id"] for row in rows], users,
                projects, domains, names,
            )  # fmt: skip
        return len(rows)

    # Partitions; outside of transactions

    async def old_partitions(self) -> list[Partition]:
        """Those of quarters that are over."""
        current = int(await self._conn.fetchval(_SQL.current_quarter))
        return [
            Partition(row["name"], row["parent"], row["first"], row["beyond"], row["detaching"])
            for row in await self._conn.fetch(_SQL.old_partitions)
            if row["beyond"] is not None and row["beyond"] <= current
        ]

    async def is_droppable(self, partition: Partition) -> bool:
        """Nothing is in it, and nothing that exists could come into it."""
        if await self._conn.fetchval(_SQL.range_in_use, partition.first, partition.beyond):
            return False
        return await self._is_empty(partition.name)

    async def detach(self, partition: Partition) -> None:
        """Take a partition out of its table, without keeping anybody from reading or writing that."""
        how = "FINALIZE" if partition.detaching else "CONCURRENTLY"
        await self._conn.execute(
            f"ALTER TABLE {quote_name(partition.parent)} DETACH PARTITION {quote_name(partition.name)} {how}"
        )

    async def drop_orphans(self) -> list[str]:
        """Drop the detached partitions that are empty."""
        dropped = []
        for row in await self._conn.fetch(_SQL.orphaned_tables):
            if await self._is_empty(row["name"]):
                await self._conn.execute(f"DROP TABLE IF EXISTS {quote_name(row['name'])}")
                dropped.append(row["name"])
        return dropped

    async def _is_empty(self, table: str) -> bool:
        return not await self._conn.fetchval(f"SELECT EXISTS (SELECT FROM {quote_name(table)})")


def _member(row: Record) -> Member:
    spec = ExecutionSpec.FromString(row["spec"])
    return Member(
        stored=Stored(row["execution_id"], row["execution_project"], row["execution_domain"], row["execution_name"]),
        phase=row["phase"],
        raw_output_location=spec.raw_output_data_config.output_location_prefix,
        ended_at=row["execution_updated_at"],
        is_held=row["lease_state"] == "held",
        pin_reason=(row["pin_reason"] or "") if row["is_pinned"] else None,
        has_parent=row["has_parent"],
        parent_execution_id=row["parent_execution_id"],
    )


def _pending(row: Record) -> Pending:
    return Pending(
        id=row["id"],
        stored=Stored(row["execution_id"], row["project"], row["domain"], row["name"]),
        kind=row["kind"],
        raw_output_base=row["raw_output_base"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        stage=row["stage"],
        attempts=row["attempts"],
    )


def _affected(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
