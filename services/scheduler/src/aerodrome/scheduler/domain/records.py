"""What is known about schedules: rows as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.plans import Plan


class Outcome(IntEnum):
    """What became of a slot; the numbers of aerodrome.scheduler.v1.Outcome."""

    FIRED = 1
    EXISTED = 2
    SKIPPED = 3
    FAILED = 4
    UNUSABLE = 5


class Origin(IntEnum):
    """Why a slot was looked at; the numbers of aerodrome.scheduler.v1.Origin."""

    ON_TIME = 1
    CATCH_UP = 2
    BACKFILL = 3


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule, and how far its slots are decided."""

    id: int
    plan: Plan
    problem: str
    decided_until: datetime
    last_slot: datetime | None = None
    last_fired_at: datetime | None = None
    last_execution: str = ""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a slot, or of several that were skipped together."""

    schedule_id: int
    outcome: Outcome
    origin: Origin
    decided_at: datetime
    slot: datetime | None = None
    last_slot: datetime | None = None
    slots: int = 1
    execution_name: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KnownDecision:
    """A decision as it is stored."""

    id: int
    key: Key
    decision: Decision


@dataclass(frozen=True, slots=True)
class BackfillOrder:
    """An order to fire the slots of a past range, and how far it is carried out."""

    id: int
    schedule_id: int
    start: datetime
    end: datetime
    decided_until: datetime
    slots: int
    fired: int
    existed: int
    failed: int
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step changes: of a schedule, and of an order to backfill if it is one's."""

    schedule_id: int
    decision: Decision | None = None
    decided_until: datetime | None = None
    error: str | None = None
    """Empty: nothing is wrong any more; None: as before."""
    backfill_id: int | None = None
    backfill_decided_until: datetime | None = None
    backfill_finished: datetime | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """What is held back; an empty domain means all of the project, an empty name all of the domain."""

    project: str
    domain: str
    name: str
    reason: str
    paused_at: datetime

    def holds(self, key: Key) -> bool:
        """Whether it concerns this schedule."""
        return self.project == key.project and self.domain in ("", key.domain) and self.name in ("", key.name)
