"""A schedule as a sequence of slots: cron expressions and fixed rates behind one pair of questions.

Slots are whole seconds in UTC.  A fixed rate counts from its anchor, the instant of its activation: the n-th slot is
the anchor and n periods, today and after every restart.
Source: spec/datacatalog-scheduler-notifier.md, sections B.1, B.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from aerodrome.stdlib.config import parse_duration
from aerodrome.stdlib.cron import EVERY, Cron, parse, split_zone
from aerodrome.stdlib.errors import InvalidArgument

LEAST_PERIOD = timedelta(seconds=1)

_FIRST_LOOK = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Rate:
    """Every `period`, a whole number of seconds, from `anchor`, which is a whole second itself and no slot."""

    period: timedelta
    anchor: datetime

    def next(self, after: datetime) -> datetime | None:
        """The first slot strictly after `after`; None beyond the end of the calendar."""
        passed = max(0, (after - self.anchor) // self.period)
        try:
            return self.anchor + (passed + 1) * self.period
        except OverflowError:
            return None


Schedule: TypeAlias = Cron | Rate


def schedule_of(
    expression: str, period: timedelta | None, *, anchor: datetime, zone: str = "", default_zone: str = ""
) -> Schedule:
    """What a launch plan's schedule means: an expression, or a period where there is none.

    `zone` is what was said for this schedule, `default_zone` for all.  Raises InvalidArgument for what cannot be read.
    """
    if period is not None:
        return _rate(period, anchor)
    named, rest = split_zone(expression)
    if rest.startswith(EVERY):
        try:
            return _rate(parse_duration(rest.removeprefix(EVERY).strip()), anchor)
        except ValueError as error:
            raise InvalidArgument(f"Invalid cron expression: {error}") from error
    return parse(expression, named or zone or default_zone)


def slots(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots strictly after `after`, up to and including `until`, in order."""
    at = schedule.next(after)
    while at is not None and at <= until:
        yield at
        at = schedule.next(at)


def latest_slots(schedule: Schedule, after: datetime, until: datetime, most: int) -> list[datetime]:
    """Of the same slots the latest `most`, in order; the work depends on `most`, not on how many there are."""
    if isinstance(schedule, Rate):
        # Nothing between the slot before the first one that is wanted and `after` matters.
        passed = (until - schedule.anchor) // schedule.period
        if passed > most:
            after = max(after, schedule.anchor + (passed - most) * schedule.period)
        return list(slots(schedule, after, until))
    span = _FIRST_LOOK
    while True:
        start = max(after, until - span)
        found = deque(slots(schedule, start, until), maxlen=most)
        if len(found) == most or start == after:
            return list(found)
        span *= 4


def count_slots(schedule: Schedule, after: datetime, until: datetime, most: int) -> int:
    """How many slots that are; at most `most`."""
    if isinstance(schedule, Rate):
        first = max(0, (after - schedule.anchor) // schedule.period)
        return min(most, max(0, (until - schedule.anchor) // schedule.period - first))
    count = 0
    for count, _ in enumerate(slots(schedule, after, until), start=1):
        if count >= most:
            break
    return count


def _rate(period: timedelta, anchor: datetime) -> Rate:
    if period <= timedelta(0):
        raise InvalidArgument("a schedule's period has to be longer than nothing, in minutes, hours or days")
    whole = max(LEAST_PERIOD, timedelta(seconds=period // timedelta(seconds=1)))
    return Rate(whole, anchor.replace(microsecond=0))
