"""What is done about slots whose time has passed: which are made up for, which are skipped.

A slot is on time until `grace` after it.  What is older was missed, because nobody was there to fire it, or because the
control plane did not answer; the policy says what becomes of it.

    all     every missed slot fires, the oldest first, up to the cap and the window
    latest  the newest missed slot fires, if no newer slot is on time
    none    no missed slot fires

Fired are always the newest of the slots that are due, so that what is skipped lies before what is fired.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from aerodrome.scheduler.domain.schedules import Schedule, count_slots, latest_slots

COUNTED = 1_000
"""As far as skipped slots are counted."""


class Misfire(Enum):
    """What to do about missed slots."""

    ALL = "all"
    LATEST = "latest"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Policy:
    """How one schedule treats its missed slots."""

    misfire: Misfire = Misfire.ALL
    cap: int = 1_000
    """Most slots that are made up for."""
    window: timedelta = timedelta(days=7)
    """What is older is not made up for."""
    grace: timedelta = timedelta(seconds=30)
    """How long after its time a slot still counts as on time."""
    rate: float = 0.0
    """Most missed slots of this schedule that fire in a second; 0: as fast as all schedules together may."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Slots that follow one another and are passed over."""

    first: datetime
    last: datetime
    count: int
    """At most COUNTED."""
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done now."""

    fire: tuple[datetime, ...]
    skip: Skip | None


NOTHING = Due((), None)


def judge(schedule: Schedule, decided: datetime, now: datetime, policy: Policy, *, paused: bool = False) -> Due:
    """What to do about the slots after `decided`, up to which everything is decided, that are due at `now`."""
    first = schedule.next(decided)
    if first is None or first > now:
        return NOTHING
    if paused:
        return Due((), _skip(schedule, decided, now, first, "paused"))
    on_time_from = now - policy.grace
    following = schedule.next(first)
    if first >= on_time_from and (following is None or following > now):
        return Due((first,), None)
    due = latest_slots(schedule, max(decided, now - max(policy.window, policy.grace)), now, policy.cap)
    on_time = tuple(slot for slot in due if slot >= on_time_from)
    if policy.misfire is Misfire.NONE:
        fire = on_time
    elif policy.misfire is Misfire.LATEST:
        fire = on_time or tuple(due[-1:])
    else:
        fire = tuple(due)
    if fire and fire[0] == first:
        return Due(fire, None)
    end = fire[0] - timedelta(microseconds=1) if fire else now
    return Due(fire, _skip(schedule, decided, end, first, _reason(policy)))


def is_missed(slot: datetime, now: datetime, policy: Policy) -> bool:
    """Whether a slot is no longer on time."""
    return slot < now - policy.grace


def _skip(schedule: Schedule, decided: datetime, end: datetime, first: datetime, reason: str) -> Skip:
    last = latest_slots(schedule, decided, end, 1)[0]
    return Skip(first, last, count_slots(schedule, decided, last, COUNTED), reason)


def _reason(policy: Policy) -> str:
    if policy.misfire is Misfire.NONE:
        return "missed, and the misfire policy is none"
    if policy.misfire is Misfire.LATEST:
        return "missed, and the misfire policy is latest"
    days = policy.window / timedelta(days=1)
    return f"missed, and at most {policy.cap} slots of the last {days:g} days are made up for"
