"""What a launch plan's schedule has to look like.  Source: spec/control-plane.md, section 3.3; flyteidl admin.Schedule.

The accepted cron expressions are the standard ones with five fields (minute, hour, day of month, month, day of week),
with an optional `TZ=` or `CRON_TZ=` prefix, and the descriptors `@hourly`, `@daily`, `@midnight`, `@weekly`,
`@monthly`, `@yearly`, `@annually` and `@every <duration>`.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from flyteidl.admin.schedule_pb2 import FixedRateUnit, Schedule
from flyteidl.core.interface_pb2 import ParameterMap
from flyteidl.core.types_pb2 import SimpleType

from aerodrome.admin.domain.validation import shown
from aerodrome.compiler import type_text
from aerodrome.stdlib.config import parse_duration
from aerodrome.stdlib.errors import InvalidArgument

DESCRIPTORS = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})

_MONTHS = {name: at for at, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1)}  # fmt: skip
_DAYS = {name: at for at, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SDK_ALIASES = {
    "hourly": "@hourly", "hours": "@hourly", "daily": "@daily", "days": "@daily", "weekly": "@weekly",
    "weeks": "@weekly", "monthly": "@monthly", "months": "@monthly", "yearly": "@yearly", "annually": "@annually",
}  # fmt: skip
"""What flytekit's own check lets through beside the descriptors; the scheduler knows them too."""
_MAX_EXPRESSION_CHARS = 255


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


def expression_of(schedule: Schedule) -> str:
    """The cron expression of `schedule`, in whichever of its two fields it is; empty if it has none."""
    return schedule.cron_schedule.schedule or schedule.cron_expression


def schedule_type(schedule: Schedule) -> str:
    """`CRON`, `RATE`, or `NONE` for a schedule that is not set."""
    if schedule.cron_expression or schedule.HasField("cron_schedule"):
        return "CRON"
    return "RATE" if schedule.HasField("rate") else "NONE"


def check_schedule(schedule: Schedule, expected: ParameterMap) -> None:
    """A launch plan that expects `expected` can run on `schedule`; raises InvalidArgument."""
    kind = schedule_type(schedule)
    if kind == "NONE":
        return
    kickoff = schedule.kickoff_time_input_arg
    for name, parameter in expected.parameters.items():
        if parameter.required and name != kickoff:
            raise InvalidArgument(
                "Cannot create a launch plan with a schedule if there is an unbound required input. "
                f"[{shown(name)}] is required"
            )
    if kickoff:
        if kickoff not in expected.parameters:
            raise InvalidArgument(
                "Cannot create a schedule with a KickoffTimeInputArg that does not point to a free input. "
                f"[{shown(kickoff)}] is not free or does not exist."
            )
        type_ = expected.parameters[kickoff].var.type
        if type_.WhichOneof("type") != "simple" or type_.simple != SimpleType.DATETIME:
            raise InvalidArgument(
                f"KickoffTimeInputArg must reference a datetime input. [{shown(kickoff)}] is a [{type_text(type_)}]"
            )
    if kind == "CRON":
        check_cron(expression_of(schedule))
    else:
        rate = schedule.rate
        if rate.unit not in FixedRateUnit.values():
            raise InvalidArgument(f"Invalid fixed rate: unit {rate.unit} is not known")
        if not 1 <= rate.value <= 2**31 - 1:
            raise InvalidArgument(f"Invalid fixed rate: value {rate.value} is not a positive number")


def check_cron(expression: str) -> None:
    """`expression` is a cron expression as above; raises InvalidArgument `Invalid cron expression: <reason>`."""
    try:
        _check_cron(expression)
    except _Reason as reason:
        raise InvalidArgument(f"Invalid cron expression: {reason}") from None


class _Reason(Exception):
    """Why an expression is none."""


def _check_cron(expression: str) -> None:
    if len(expression) > _MAX_EXPRESSION_CHARS:
        raise _Reason(f"it is longer than {_MAX_EXPRESSION_CHARS} characters")
    text = expression.strip()
    if text.startswith(("TZ=", "CRON_TZ=")):
        zone, _, text = text.partition(" ")
        _check_zone(zone.partition("=")[2])
        text = text.strip()
    if not text:
        raise _Reason("empty spec string")
    text = _SDK_ALIASES.get(text, text)
    if text.startswith("@"):
        _check_descriptor(text)
        return
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise _Reason(f"expected exactly {len(_FIELDS)} fields, found {len(parts)}: [{shown(text)}]")
    _, _, (days, every_day), (months, _), (_, every_weekday) = (
        _values(field, part) for field, part in zip(_FIELDS, parts, strict=True)
    )
    if (every_day or every_weekday) and min(days) > max(_LONGEST_MONTHS[month - 1] for month in months):
        raise _Reason(f"no month that it names has such a day: [{shown(text)}]")


def _check_zone(name: str) -> None:
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise _Reason(f"provided bad location {shown(name)}") from None


def _check_descriptor(text: str) -> None:
    if text.startswith("@every "):
        try:
            if parse_duration(text.removeprefix("@every ").strip()) > timedelta(0):
                return
        except ValueError:
            pass
        raise _Reason(f"failed to parse duration {shown(text)}")
    if text not in DESCRIPTORS:
        raise _Reason(f"unrecognized descriptor: {shown(text)}")


def _values(field: _Field, part: str) -> tuple[set[int], bool]:
    """What a field allows, and whether it has its star, which a step takes away."""
    values: set[int] = set()
    star = False
    for item in part.split(","):
        span, slash, step = item.partition("/")
        if slash and (not _is_number(step) or int(step) == 0):
            raise _Reason(f"the step of the {field.name} has to be a positive number: {shown(item)}")
        by = int(step) if slash else 1
        low, high = field.low, field.high
        if span in ("*", "?"):
            star = star or by == 1
        else:
            first, dash, last = span.partition("-")
            low = _number(field, first, item)
            if dash or not slash:
                high = _number(field, last, item) if dash else low
        if low > high:
            raise _Reason(f"the beginning of the {field.name} is beyond its end: {shown(item)}")
        values.update(range(low, high + 1, by))
    return values, star


def _number(field: _Field, text: str, item: str) -> int:
    number = field.names.get(text.lower())
    if number is None:
        if not _is_number(text):
            raise _Reason(f"failed to parse the {field.name}: {shown(item)}")
        number = int(text)
    if not field.low <= number <= field.high:
        raise _Reason(f"the {field.name} ({number}) is not within {field.low} and {field.high}: {shown(item)}")
    return number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
