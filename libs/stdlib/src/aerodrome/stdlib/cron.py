"""Cron expressions: what they mean and when they fire.  Source: spec/datacatalog-scheduler-notifier.md, section B.2.

    minute  hour  day-of-month  month  day-of-week     with an optional prefix `CRON_TZ=Area/City ` or `TZ=Area/City `

A day must match both of its fields if one of them has its star, else either of them.  Times are those of a clock on
the wall in the schedule's zone.  A time that a change to summer time leaves out does not fire that day.  A time that a
change to winter time repeats fires the first time only, unless the expression fires in every hour of a day: such an
expression follows the time that passes, in both of the repeated hours.
"""

from __future__ import annotations

import calendar
import zoneinfo
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from aerodrome.stdlib.errors import InvalidArgument

DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What stands for an expression."""

SDK_ALIASES = {
    "hourly": "@hourly",
    "hours": "@hourly",
    "daily": "@daily",
    "days": "@daily",
    "weekly": "@weekly",
    "weeks": "@weekly",
    "monthly": "@monthly",
    "months": "@monthly",
    "yearly": "@yearly",
    "annually": "@annually",
}
"""What flytekit's own check lets through beside the descriptors."""

EVERY = "@every "
"""Begins what looks like an expression and is a rate: a duration follows."""

MAX_CHARS = 255

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_INSTANT = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_MOST_YEARS = 17
"""No satisfiable expression leaves a longer gap: 29 February is missing for eight years around 2100, and the change to
summer time of one zone can fall on it once more."""
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]

    @property
    def width(self) -> int:
        return self.high - self.low + 1


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _WEEKDAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Whether a day has to match only one of `days` and `weekdays`."""
    zone: tzinfo

    def next(self, after: datetime) -> datetime | None:
        """The first instant strictly after `after` at which it fires, in UTC; None if there is none within reach."""
        if self.zone is UTC:
            wall = self._next_wall(_naive(after.astimezone(UTC)))
            return None if wall is None else wall.replace(tzinfo=UTC)
        if len(self.hours) == _FIELDS[1].width:
            return self._next_by_time(after)
        return self._next_by_wall(after)

    def _next_by_wall(self, after: datetime) -> datetime | None:
        """Of a repeated time the first counts, so that instants follow one another as the times on the wall do."""
        wall = _naive(after.astimezone(self.zone))
        last_year = wall.year + _MOST_YEARS
        while True:
            found = self._next_wall(wall)
            if found is None or found.year > last_year:
                return None
            instant = found.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            exists = _naive(instant.astimezone(self.zone)) == found
            if exists and instant > after:
                return instant
            wall = found

    def _next_by_time(self, after: datetime) -> datetime | None:
        """Stretches of one offset from UTC, one after the other, each a day at most."""
        at = after.astimezone(UTC)
        offset = self._offset(at)
        wall = _naive(at + offset)
        last_year = wall.year + _MOST_YEARS
        found = self._next_wall(wall)
        while found is not None and found.year <= last_year:
            instant = (found - offset).replace(tzinfo=UTC)
            until = min(instant, at + _DAY)
            if self._offset(until) == offset:
                if until == instant:
                    return instant
                at = until
                continue
            at = self._change(at, until)
            offset = self._offset(at)
            found = self._next_wall(_naive(at + offset) - _INSTANT)
        return None

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The first instant, to the second, that has another offset than `before`; `after` has one."""
        offset = self._offset(before)
        low, high = before.replace(microsecond=0), after
        while high - low > _SECOND:
            middle = (low + (high - low) / 2).replace(microsecond=0)
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self.zone).utcoffset() or timedelta(0)

    def _next_wall(self, after: datetime) -> datetime | None:
        """The first time of a calendar without changes of the clock that matches, strictly after a time in it."""
        start = after.replace(second=0, microsecond=0) + _MINUTE
        today = start.date()
        if self._matches(today):
            for hour in self.hours[bisect_left(self.hours, start.hour) :]:
                first = bisect_left(self.minutes, start.minute) if hour == start.hour else 0
                if first < len(self.minutes):
                    return datetime.combine(today, time(hour, self.minutes[first]))
        day = self._next_day(today)
        return None if day is None else datetime.combine(day, time(self.hours[0], self.minutes[0]))

    def _next_day(self, after: date) -> date | None:
        year, month, done = after.year, after.month, after.day
        for _ in range(12 * _MOST_YEARS):
            if month in self.months:
                for day in range(done + 1, calendar.monthrange(year, month)[1] + 1):
                    found = date(year, month, day)
                    if self._matches(found):
                        return found
            year, month, done = (year, month + 1, 0) if month < 12 else (year + 1, 1, 0)
            if year > _LAST_YEAR:
                return None
        return None

    def _matches(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week


def parse(expression: str, zone: str = "") -> Cron:
    """The meaning of an expression of five fields or a descriptor, read in `zone` (IANA) unless it names one itself.

    Raises InvalidArgument `Invalid cron expression: <reason>`; `@every` is no cron expression.
    """
    try:
        return _parsed(expression, zone)
    except _Reason as reason:
        raise InvalidArgument(f"Invalid cron expression: {reason}") from None


def split_zone(expression: str) -> tuple[str, str]:
    """The zone that an expression names (empty: none), and the rest of it.  Raises InvalidArgument."""
    text = expression.strip()
    if len(text) > MAX_CHARS:
        raise InvalidArgument(f"Invalid cron expression: it is longer than {MAX_CHARS} characters")
    if not text.startswith(("TZ=", "CRON_TZ=")):
        return "", text
    prefix, _, rest = text.partition(" ")
    name = prefix.partition("=")[2]
    if not name or not rest.strip():
        raise InvalidArgument(
            f"Invalid cron expression: after {_shown(prefix)} a space and an expression have to follow"
        )
    return name, rest.strip()


def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name; empty is UTC.  Raises InvalidArgument."""
    if name in ("", "UTC"):
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidArgument(f"{_shown(name)} is no time zone; write one like Europe/Berlin") from None


class _Reason(Exception):
    """Why an expression is none."""


@lru_cache(maxsize=4096)
def _parsed(expression: str, zone: str) -> Cron:
    try:
        named, text = split_zone(expression)
        where = zone_of(named or zone)
    except InvalidArgument as error:
        raise _Reason(error.message.removeprefix("Invalid cron expression: ")) from error
    if not text:
        raise _Reason("it is empty")
    text = SDK_ALIASES.get(text, text)
    if text.startswith("@"):
        if text not in DESCRIPTORS:
            raise _Reason(f"{_shown(text)} is no descriptor; there are {', '.join(DESCRIPTORS)} and @every")
        text = DESCRIPTORS[text]
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise _Reason(f"it has {len(parts)} fields instead of {len(_FIELDS)}: {_shown(text)}")
    (minutes, _), (hours, _), (days, all_days), (months, _), (weekdays, all_weekdays) = (
        _values(field, part) for field, part in zip(_FIELDS, parts, strict=True)
    )
    either = not (all_days or all_weekdays)
    if not either and not any(min(days) <= _LONGEST_MONTHS[month - 1] for month in months):
        raise _Reason(f"no month that it names has such a day: {_shown(text)}")
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(weekdays),
        either_day=either,
        zone=where,
    )


def _values(field: _Field, part: str) -> tuple[set[int], bool]:
    """What a field allows, and whether its star is set."""
    values: set[int] = set()
    star = False
    for item in part.split(","):
        span, slash, written_step = item.partition("/")
        step = 1
        if slash:
            if not _is_number(written_step) or int(written_step) == 0:
                raise _Reason(f"the step of the {field.name} has to be a positive number: {_shown(item)}")
            step = int(written_step)
        if span in ("*", "?"):
            low, high = field.low, field.high
            star = star or step == 1
        else:
            first, dash, last = span.partition("-")
            low = _number(field, first, item)
            high = _number(field, last, item) if dash else field.high if slash else low
        if low > high:
            raise _Reason(f"the beginning of the {field.name} is beyond its end: {_shown(item)}")
        values.update(range(low, high + 1, step))
    return values, star


def _number(field: _Field, text: str, item: str) -> int:
    number = field.names.get(text.lower())
    if number is None:
        if not _is_number(text):
            raise _Reason(f"the {field.name} is no number: {_shown(item)}")
        number = int(text)
    if not field.low <= number <= field.high:
        raise _Reason(f"the {field.name} ({number}) is not within {field.low} and {field.high}: {_shown(item)}")
    return number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def _naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None, fold=0)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


_LAST_YEAR = 9998
"""The calendar ends soon after."""
