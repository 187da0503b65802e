"""What a launch plan's schedule has to look like.  Source: spec/control-plane.md, section 3.3; flyteidl admin.Schedule.

The accepted cron expressions are the standard ones with five fields (minute, hour, day of month, month, day of week),
with an optional `TZ=` or `CRON_TZ=` prefix, and the descriptors `@hourly`, `@daily`, `@midnight`, `@weekly`,
`@monthly`, `@yearly`, `@annually` and `@every <duration>`.
"""

from __future__ import annotations

from datetime import timedelta

from flyteidl.admin.schedule_pb2 import FixedRateUnit, Schedule
from flyteidl.core.interface_pb2 import ParameterMap
from flyteidl.core.types_pb2 import SimpleType

from aerodrome.admin.domain.validation import shown
from aerodrome.compiler import type_text
from aerodrome.stdlib.config import parse_duration
from aerodrome.stdlib.cron import EVERY, parse, split_zone, zone_of
from aerodrome.stdlib.errors import InvalidArgument


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
    zone, text = split_zone(expression)
    if not text.startswith(EVERY):
        parse(expression)
        return
    try:
        zone_of(zone)
    except InvalidArgument as error:
        raise InvalidArgument(f"Invalid cron expression: {error.message}") from None
    try:
        period = parse_duration(text.removeprefix(EVERY).strip())
    except ValueError:
        period = timedelta(0)
    if period <= timedelta(0):
        raise InvalidArgument(f"Invalid cron expression: failed to parse duration {shown(text)}")
