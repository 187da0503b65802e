"""Rows of schedules, of what became of their slots, of pauses, and of orders to backfill."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.plans import Plan
from aerodrome.scheduler.domain.records import (
    BackfillOrder,
    Decision,
    KnownDecision,
    Origin,
    Outcome,
    Pause,
    Progress,
    Scheduled,
)
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

CHANNEL = "aerodrome_scheduler"
"""Where changes are announced to other replicas: the id of a schedule, or nothing: look at everything."""

NEWEST = 2**63 - 1
"""Before the first page of what is listed from the newest on."""

_SQL = load_queries(__package__, "schedules.sql")


@dataclass(frozen=True, slots=True)
class Filter:
    """What is left empty is not restricted."""

    project: str = ""
    domain: str = ""
    name: str = ""
    version: str = ""


class ScheduleRepository:
    """Schedules, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def learn(self, plans: Sequence[tuple[Plan, str]]) -> dict[Key, int]:
        """Keep what launch plans say now, and why they cannot be run if they cannot; each is named once.

        The ids of those that this changed; not of those of which something newer is known.
        """
        rows = await self._conn.fetchmany(
            _SQL.learn,
            [
                (
                    *_key(plan.key),
                    plan.active,
                    plan.activated_at,
                    plan.expression,
                    plan.period,
                    plan.kickoff_arg,
                    json.dumps(plan.annotations, sort_keys=True),
                    problem,
                )
                for plan, problem in sorted(plans, key=lambda each: each[0].key)  # so that no two wait for each other
            ],
        )
        return {_key_of(row): int(row["id"]) for row in rows}

    async def announce(self, ids: Collection[int] = ()) -> None:
        """Tell other replicas, once the transaction commits, that schedules changed, or (none) many things."""
        await self._conn.execute(_SQL.announce, [str(each) for each in ids] or [""])

    async def get(self, ids: Collection[int]) -> list[Scheduled]:
        """Those of the schedules that exist."""
        return [_scheduled(row) for row in await self._conn.fetch(_SQL.get, list(ids))]

    async def active(self) -> list[Scheduled]:
        """Every active schedule."""
        return [_scheduled(row) for row in await self._conn.fetch(_SQL.all_active)]

    async def page(
        self, wanted: Filter, *, active_only: bool, after: tuple[str, str, str, str], limit: int
    ) -> list[Scheduled]:
        """Schedules in the order of their keys."""
        rows = await self._conn.fetch(_SQL.page, *_filter(wanted), active_only, *after, limit)
        return [_scheduled(row) for row in rows]

    async def find(self, key: Key) -> Scheduled | None:
        """A schedule; with an empty version the active one."""
        row = await self._conn.fetchrow(_SQL.find, *_key(key))
        return None if row is None else _scheduled(row)

    async def holds_lead(self, holder: str, epoch: int) -> bool:
        """Whether `holder` leads in `epoch`; it does until the transaction ends."""
        return await self._conn.fetchval(_SQL.fence, holder, epoch) is not None

    async def record(self, steps: Sequence[Progress]) -> None:
        """Write what was decided; at most one step of each schedule."""
        schedules = [each for each in steps if each.decided_until is not None or each.error is not None or _ran(each)]
        if schedules:
            ran = [each.decision if _ran(each) else None for each in schedules]
            await self._conn.execute(
                _SQL.decide,
                [each.schedule_id for each in schedules],
                [each.decided_until for each in schedules],
                [None if decision is None else decision.slot for decision in ran],
                [None if decision is None else decision.decided_at for decision in ran],
                [None if decision is None else decision.execution_name for decision in ran],
                [each.error for each in schedules],
            )
        await self.add_decisions([each.decision for each in steps if each.decision is not None])
        orders = [each for each in steps if each.backfill_id is not None]
        if orders:
            outcomes = [None if each.decision is None else each.decision.outcome for each in orders]
            await self._conn.execute(
                _SQL.advance_backfills,
                [each.backfill_id for each in orders],
                [each.backfill_decided_until for each in orders],
                [int(outcome is Outcome.FIRED) for outcome in outcomes],
                [int(outcome is Outcome.EXISTED) for outcome in outcomes],
                [int(outcome is Outcome.FAILED) for outcome in outcomes],
                [each.backfill_finished for each in orders],
            )

    async def add_decisions(self, decisions: Sequence[Decision]) -> None:
        """Keep what was decided for people to see."""
        if not decisions:
            return
        await self._conn.execute(
            _SQL.add_decisions,
            [each.schedule_id for each in decisions],
            [each.outcome.value for each in decisions],
            [each.origin.value for each in decisions],
            [each.slot for each in decisions],
            [each.last_slot or each.slot for each in decisions],
            [each.slots for each in decisions],
            [each.execution_name for each in decisions],
            [each.reason for each in decisions],
            [each.decided_at for each in decisions],
        )

    async def prune(self, keep: int, above: int, up_to: int) -> None:
        """Forget all but the newest `keep` decisions of the schedules with ids in (`above`, `up_to`]."""
        await self._conn.execute(_SQL.prune, keep, above, up_to)

    async def prune_backfills(self, before: datetime) -> None:
        """Forget orders that were finished before then."""
        await self._conn.execute(_SQL.prune_backfills, before)

    async def last_id(self) -> int:
        """The largest id of a schedule."""
        return int(await self._conn.fetchval(_SQL.last_id))

    async def decisions(
        self, wanted: Filter, outcomes: Sequence[int], *, before: int, limit: int
    ) -> list[KnownDecision]:
        """Decisions, the newest first."""
        rows = await self._conn.fetch(_SQL.decisions, *_filter(wanted), list(outcomes), before, limit)
        return [_decision(row) for row in rows]

    async def last_decisions(self, ids: Collection[int], most: int) -> dict[int, list[KnownDecision]]:
        """The latest decisions of each schedule, the newest first."""
        found: dict[int, list[KnownDecision]] = {}
        for row in await self._conn.fetch(_SQL.last_decisions, list(ids), most):
            found.setdefault(row["schedule_id"], []).append(_decision(row))
        return found

    async def pauses(self) -> list[Pause]:
        """Everything that is held back."""
        return [_pause(row) for row in await self._conn.fetch(_SQL.pauses)]

    async def pause(self, project: str, domain: str, name: str, reason: str, at: datetime) -> Pause:
        """Hold something back; one that is held back already gets the new reason."""
        row = await self._conn.fetchrow(_SQL.pause, project, domain, name, reason, at)
        assert row is not None  # it was inserted or updated
        return _pause(row)

    async def resume(self, project: str, domain: str, name: str, at: datetime) -> bool:
        """Hold it back no longer; what was due before `at` stays undone.  False if it was not held back."""
        if await self._conn.fetchval(_SQL.resume, project, domain, name) is None:
            return False
        await self._conn.execute(_SQL.decided_meanwhile, project, domain, name, at)
        return True

    async def add_backfill(
        self, schedule_id: int, start: datetime, end: datetime, *, after: datetime, slots: int, at: datetime
    ) -> BackfillOrder:
        """Order the slots of [start, end), which are those after `after`; one without slots is finished."""
        row = await self._conn.fetchrow(
            _SQL.add_backfill, schedule_id, start, end, after, slots, at, None if slots else at
        )
        assert row is not None  # it was inserted
        return _backfill(row)

    async def count_open_backfills(self) -> int:
        """How many orders are under way."""
        return int(await self._conn.fetchval(_SQL.count_open_backfills))

    async def open_backfills(self) -> list[BackfillOrder]:
        """The orders that are under way."""
        return [_backfill(row) for row in await self._conn.fetch(_SQL.open_backfills)]

    async def backfills(self, wanted: Filter, *, before: int, limit: int) -> list[tuple[Key, BackfillOrder]]:
        """Orders, the newest first."""
        rows = await self._conn.fetch(_SQL.backfills, *_filter(wanted), before, limit)
        return [(_key_of(row), _backfill(row)) for row in rows]


def _ran(step: Progress) -> bool:
    """Whether it is the latest slot of its schedule that has an execution; a backfill's is an old one."""
    return (
        step.backfill_id is None
        and step.decision is not None
        and step.decision.outcome in (Outcome.FIRED, Outcome.EXISTED)
    )


def _key(key: Key) -> tuple[str, str, str, str]:
    return key.project, key.domain, key.name, key.version


def _filter(wanted: Filter) -> tuple[str, str, str, str]:
    return wanted.project, wanted.domain, wanted.name, wanted.version


def _key_of(row: Record) -> Key:
    return Key(row["project"], row["domain"], row["name"], row["version"])


def _scheduled(row: Record) -> Scheduled:
    return Scheduled(
        id=row["id"],
        plan=Plan(
            key=_key_of(row),
            active=row["active"],
            activated_at=row["activated_at"],
            expression=row["expression"],
            period=row["period"],
            kickoff_arg=row["kickoff_arg"],
            annotations=json.loads(row["annotations"]),
        ),
        problem=row["problem"],
        decided_until=row["decided_until"],
        last_slot=row["last_slot"],
        last_fired_at=row["last_fired_at"],
        last_execution=row["last_execution"],
        last_error=row["last_error"],
    )


def _decision(row: Record) -> KnownDecision:
    return KnownDecision(
        id=row["id"],
        key=_key_of(row),
        decision=Decision(
            schedule_id=0,
            outcome=Outcome(row["outcome"]),
            origin=Origin(row["origin"]),
            decided_at=row["decided_at"],
            slot=row["slot"],
            last_slot=row["last_slot"],
            slots=row["slots"],
            execution_name=row["execution_name"],
            reason=row["reason"],
        ),
    )


def _pause(row: Record) -> Pause:
    return Pause(row["project"], row["domain"], row["name"], row["reason"], row["paused_at"])


def _backfill(row: Record) -> BackfillOrder:
    return BackfillOrder(
        id=row["id"],
        schedule_id=row["schedule_id"],
        start=row["range_start"],
        end=row["range_end"],
        decided_until=row["decided_until"],
        slots=row["slots"],
        fired=row["fired"],
        existed=row["existed"],
        failed=row["failed"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )
