"""Sessions of data planes, and the executions that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.domain.phases import TaskPhase
from aerodrome.idl.journal.v1.journal_pb2 import (
    Assignment,
    Control,
    ItemRange,
    NodeSnapshot,
    ResolvedResources,
    SignalSet,
)
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_QUERIES = load_queries(__package__, "leases.sql")

_ITEM_ERRORS = 10
"""How many errors of failed items of a node a new holder is told."""
_UNDER_WAY = [TaskPhase.QUEUED, TaskPhase.RUNNING, TaskPhase.INITIALIZING, TaskPhase.WAITING_FOR_RESOURCES]
"""Phases of an item whose attempt may run."""

LeaseKeys = Sequence[tuple[int, int]]
"""(execution_id, epoch)"""


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What a session was given."""

    execution_ids: list[int]
    """In their order."""
    projects: frozenset[str]
    contended: bool
    """Whether there was more, which others were taking at the same moment."""


class LeaseRepository:
    """Reads and writes on the connection that it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open_session(self, cluster: str, holder: str, term: timedelta) -> int:
        """A new session; returns its id."""
        return int(await self._connection.fetchval(_QUERIES.open_session, cluster, holder, term))

    async def prolong_session(self, session_id: int, term: timedelta) -> bool:
        """Whether the session is alive, and then lives for another term."""
        return await self._connection.fetchval(_QUERIES.prolong_session, session_id, term) is not None

    async def find_session(self, session_id: int) -> str | None:
        """The cluster of a session that is alive."""
        cluster: str | None = await self._connection.fetchval(_QUERIES.find_session, session_id)
        return cluster

    async def list_sessions_of(self, cluster: str, holder: str) -> list[int]:
        """The sessions of one holder that nobody has closed."""
        rows = await self._connection.fetch(_QUERIES.list_sessions_of, cluster, holder)
        return [row["session_id"] for row in rows]

    async def close_session(self, session_id: int) -> str | None:
        """Close a session and free its leases; returns its cluster, or None if it is closed or unknown."""
        cluster: str | None = await self._connection.fetchval(_QUERIES.close_session, session_id)
        if cluster is not None:
            await self._connection.execute(_QUERIES.free_leases, [session_id])
        return cluster

    async def close_expired_sessions(self) -> dict[int, str]:
        """Close sessions whose term has passed and free their leases; returns them with their clusters."""
        rows = await self._connection.fetch(_QUERIES.close_expired_sessions)
        expired = {row["session_id"]: row["cluster"] for row in rows}
        if expired:
            await self._connection.execute(_QUERIES.free_leases, sorted(expired))
        return expired

    async def delete_old_sessions(self) -> None:
        """Forget sessions that were closed long ago."""
        await self._connection.execute(_QUERIES.delete_old_sessions)

    async def hand_out(self, session_id: int, capacity: int, most: int, turns: Mapping[str, int]) -> HandedOut:
        """Let the session hold up to `most` more executions and at most `capacity` in all.

        Projects take turns, each with its oldest executions first; `turns` has a number for each project that was
        served, larger when it was later.
        """
        rows = await self._connection.fetch(
            _QUERIES.hand_out, session_id, capacity, most, list(turns), list(turns.values())
        )
        return HandedOut(
            execution_ids=sorted(row["execution_id"] for row in rows),
            projects=frozenset(row["project"] for row in rows),
            contended=bool(rows and rows[0]["contended"]),
        )

    async def list_held(self, session_id: int, after: int, limit: int) -> list[int]:
        """Executions that the session holds, in the order of their ids, behind `after`."""
        rows = await self._connection.fetch(_QUERIES.list_held, session_id, after, limit)
        return [row["execution_id"] for row in rows]

    async def lock_held(self, session_id: int, execution_ids: Sequence[int]) -> list[int]:
        """Those of the executions that the session still holds, kept from changing until the transaction ends."""
        rows = await self._connection.fetch(_QUERIES.lock_held, session_id, execution_ids)
        return [row["execution_id"] for row in rows]

    async def release(self, session_id: int, keys: LeaseKeys) -> set[str]:
        """Free leases that the session holds; returns their clusters."""
        execution_ids, epochs = [key[0] for key in keys], [key[1] for key in keys]
        rows = await self._connection.fetch(_QUERIES.release, session_id, execution_ids, epochs)
        return {row["cluster"] for row in rows}

    async def hand_over(self, session_id: int, keys: LeaseKeys, cluster: str) -> set[str]:
        """Free leases that the session holds, for `cluster` if it is not empty; returns the clusters to go on in."""
        execution_ids, epochs = [key[0] for key in keys], [key[1] for key in keys]
        rows = await self._connection.fetch(_QUERIES.hand_over, session_id, execution_ids, epochs, cluster)
        return {row["cluster"] for row in rows}

    async def list_controls(self, session_id: int) -> list[Control]:
        """What was decided for the executions of a session."""
        rows = await self._connection.fetch(_QUERIES.list_controls, session_id)
        return [Control.FromString(row["body"]) for row in rows]

    async def list_controls_of(self, execution_ids: Sequence[int]) -> list[Control]:
        """What was decided for executions."""
        rows = await self._connection.fetch(_QUERIES.list_controls_of, execution_ids)
        return [Control.FromString(row["body"]) for row in rows]

    async def assignments(self, execution_ids: Sequence[int]) -> tuple[list[Assignment], list[int]]:
        """Everything a holder needs to go on, and which of the executions something was decided for."""
        rows = await self._connection.fetch(_QUERIES.describe_assignments, execution_ids)
        begun = [row["execution_id"] for row in rows if row["last_sequence"]]
        nodes = await self._snapshots(begun) if begun else {}
        assignments = [_assignment(row, nodes.get(row["execution_id"], [])) for row in rows]
        decided = [row["execution_id"] for row in rows if row["control_sequence"]]
        if decided:  # a signal's value is a decision
            signals = await self._set_signals(decided)
            for assignment in assignments:
                assignment.signals.extend(signals.get(assignment.execution_id, ()))
        return assignments, decided

    async def _set_signals(self, execution_ids: Sequence[int]) -> dict[int, list[SignalSet]]:
        signals: dict[int, list[SignalSet]] = {}
        for row in await self._connection.fetch(_QUERIES.list_set_signals, execution_ids):
            signals.setdefault(row["execution_id"], []).append(
                SignalSet(signal_id=row["signal_id"], value=row["value"])
            )
        return signals

    async def _snapshots(self, execution_ids: Sequence[int]) -> dict[int, list[NodeSnapshot]]:
        attempts = {
            (row["execution_id"], row["node_id"]): row["engine_state"]
            for row in await self._connection.fetch(_QUERIES.snapshot_attempts, execution_ids)
        }
        items: dict[tuple[int, str], list[ItemRange]] = {}
        known = await self._connection.fetch(
            _QUERIES.snapshot_items,
            execution_ids,
            TaskPhase.FAILED,
            _ITEM_ERRORS,
            TaskPhase.RETRYABLE_FAILED,
            TaskPhase.QUEUED,
            _UNDER_WAY,
        )
        for row in known:
            items.setdefault((row["execution_id"], row["node_id"]), []).append(_item_range(row))
        snapshots: dict[int, list[NodeSnapshot]] = {}
        for row in await self._connection.fetch(_QUERIES.snapshot_nodes, execution_ids):
            snapshot = NodeSnapshot(
                node_id=row["node_id"],
                phase=row["phase"],
                state=row["engine_state"],
                attempt_state=attempts.get((row["execution_id"], row["node_id"]), b""),
                items=items.get((row["execution_id"], row["node_id"]), ()),
            )
            if row["failed_closure"] is not None:
                snapshot.error = NodeExecutionClosure.FromString(row["failed_closure"]).error.SerializeToString()
            snapshots.setdefault(row["execution_id"], []).append(snapshot)
        return snapshots


def _item_range(row: Record) -> ItemRange:
    return ItemRange(
        first=row["first"],
        last=row["last"],
        attempt=row["attempt"],
        system_failures=row["system_failures"],
        phase=row["phase"],
        error=row["error"] or b"",
        failed_ms_ago=row["failed_ms_ago"] or 0,
        changed_ms_ago=row["changed_ms_ago"] or 0,
    )


def _assignment(row: Record, nodes: Sequence[NodeSnapshot]) -> Assignment:
    assignment = Assignment(
        execution_id=row["execution_id"],
        epoch=row["epoch"],
        project=row["execution_project"],
        domain=row["execution_domain"],
        name=row["execution_name"],
        last_sequence=row["last_sequence"],
        spec=row["spec"],
        closure=row["closure"],
        workflow_closure_reference=row["remote_closure_identifier"] or "",
        inputs_reference=row["inputs_uri"],
        resources=ResolvedResources.FromString(row["task_resources"]),
        nodes=nodes,
        abort_cause=(row["abort_cause"] or "aborted") if row["phase"] == "ABORTING" else "",
        workflow_state=row["workflow_state"],
        plugin_overrides=row["plugin_overrides"],
    )
    assignment.created_at.FromDatetime(row["execution_created_at"])
    if row["recovered_name"] is not None:
        assignment.recovered_execution = WorkflowExecutionIdentifier(
            project=row["recovered_project"], domain=row["recovered_domain"], name=row["recovered_name"]
        ).SerializeToString()
    return assignment
