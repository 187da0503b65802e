"""Rows of deliveries, of their attempts, and of the messages that they were made from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from aerodrome.notifier.domain.deliveries import (
    Attempt,
    Claimed,
    Delivery,
    Outcome,
    Planned,
    Result,
    Status,
    Verdict,
)
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

NEWEST = 2**63 - 1
"""Before the first page."""
ATTEMPTS_SHOWN = 20

_SQL = load_queries(__package__, "deliveries.sql")


@dataclass(frozen=True, slots=True)
class Filter:
    """What is left empty is not restricted."""

    id: int = 0
    project: str = ""
    domain: str = ""
    execution: str = ""
    rule: str = ""
    channel: str = ""
    statuses: tuple[int, ...] = ()


class DeliveryRepository:
    """Deliveries, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def receive(
        self, message_id: str, planned: Sequence[Planned], now: datetime, *, once: bool = False
    ) -> list[int]:
        """Note that a message was received, and keep its deliveries, due at once; the ids of those that are new.

        A message that was received before makes none.
        """
        columns = [
            [getattr(each, name) for each in planned]
            for name in (
                "key", "project", "domain", "execution", "phase", "rule", "channel", "kind", "recipient", "subject",
                "content",
            )
        ]  # fmt: skip
        rows = await self._conn.fetch(_SQL.receive, *columns, once, now, message_id)
        return [int(row["id"]) for row in rows]

    async def claim(
        self,
        now: datetime,
        until: datetime,
        most: int,
        *,
        without: Collection[str] = (),
        ids: Sequence[int] | None = None,
    ) -> list[Claimed]:
        """Take up to `most` deliveries that are due, of other channels than `without`, and open an attempt of each.

        Nobody else takes them before `until`.  With `ids`, only of these.
        """
        return [_claimed(row) for row in await self._conn.fetch(_SQL.claim, now, until, list(without), most, ids)]

    async def next_due(self, without: Collection[str] = ()) -> datetime | None:
        """When the first of those that wait is to be looked at; None if none waits."""
        found: datetime | None = await self._conn.fetchval(_SQL.next_due, list(without))
        return found

    async def record(self, claimed: Claimed, result: Result, verdict: Verdict, now: datetime) -> None:
        """What became of an attempt, and what follows."""
        await self._conn.execute(
            _SQL.record, claimed.id, claimed.attempt, verdict.status.value, verdict.due_at, now, verdict.error,
            int(verdict.failed), result.outcome.value, result.answer, result.error,
        )  # fmt: skip

    async def retry(self, delivery_id: int, now: datetime) -> None:
        """Let one be tried again now that was given up, not sent, or waits; nothing happens to others."""
        await self._conn.execute(_SQL.retry, delivery_id, now)

    async def page(self, wanted: Filter, *, before: int, limit: int) -> list[Delivery]:
        """Deliveries, the newest first, each with its latest attempts."""
        rows = await self._conn.fetch(
            _SQL.page, before, wanted.id, wanted.project, wanted.domain, wanted.execution, wanted.rule, wanted.channel,
            list(wanted.statuses), limit,
        )  # fmt: skip
        attempts: dict[int, list[Attempt]] = {int(row["id"]): [] for row in rows}
        for row in await self._conn.fetch(_SQL.attempts, list(attempts), ATTEMPTS_SHOWN):
            attempts[row["delivery_id"]].append(_attempt(row))
        return [_delivery(row, attempts[row["id"]]) for row in rows]

    async def prune(self, before: datetime, most: int) -> int:
        """Forget deliveries that were finished before then, and messages received before then; how many they were."""
        deliveries = await self._conn.fetch(_SQL.prune, before, most)
        messages = await self._conn.fetch(_SQL.prune_messages, before, most)
        return max(len(deliveries), len(messages))


def _planned(row: Record) -> Planned:
    return Planned(
        key=row["idempotency_key"],
        project=row["project"],
        domain=row["domain"],
        execution=row["execution"],
        phase=row["phase"],
        rule=row["rule"],
        channel=row["channel"],
        kind=row["kind"],
        recipient=row["recipient"],
        subject=row["subject"],
        content=row["content"],
    )


def _claimed(row: Record) -> Claimed:
    return Claimed(
        id=row["id"],
        attempt=row["attempts"],
        failures=row["failures"],
        interrupted=row["interrupted"],
        counting_since=row["counting_since"],
        delivery=_planned(row),
        once=row["once"],
    )


def _attempt(row: Record) -> Attempt:
    return Attempt(
        number=row["number"],
        outcome=Outcome(row["outcome"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        answer=row["answer"],
        error=row["error"],
    )


def _delivery(row: Record, attempts: Sequence[Attempt]) -> Delivery:
    return Delivery(
        id=row["id"],
        planned=_planned(row),
        status=Status(row["status"]),
        attempt_count=row["attempts"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        due_at=row["due_at"],
        error=row["error"],
        attempts=attempts,
    )
