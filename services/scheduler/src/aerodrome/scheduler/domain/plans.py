"""What a launch plan says about its schedule, as the scheduler keeps it.

Annotations of the launch plan change how its schedule is treated:

    aerodrome/misfire          all, latest or none
    aerodrome/misfire-cap      most missed slots that are made up for
    aerodrome/misfire-window   what was missed longer ago is not made up for, such as 12h
    aerodrome/misfire-grace    how late a slot may fire and still be on time, such as 30s
    aerodrome/misfire-rate     missed slots of this schedule per second, such as 0.5
    aerodrome/time-zone        in which its expression is read, if that names none

`cron_schedule.offset` has no meaning, as in the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanState
from flyteidl.admin.schedule_pb2 import FixedRateUnit
from flyteidl.admin.schedule_pb2 import Schedule as ScheduleMessage

from aerodrome.scheduler.domain.misfire import Misfire, Policy
from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.schedules import Schedule, schedule_of
from aerodrome.stdlib.config import parse_duration
from aerodrome.stdlib.errors import InvalidArgument

PREFIX = "aerodrome/"
TIME_ZONE = PREFIX + "time-zone"
MISFIRE = PREFIX + "misfire"
KNOWN = frozenset({TIME_ZONE, MISFIRE, *(f"{MISFIRE}-{what}" for what in ("cap", "window", "grace", "rate"))})
"""The annotations that concern a schedule."""

MOST_CAP = 100_000

_UNITS = {
    FixedRateUnit.MINUTE: timedelta(minutes=1),
    FixedRateUnit.HOUR: timedelta(hours=1),
    FixedRateUnit.DAY: timedelta(days=1),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A launch plan with a schedule."""

    key: Key
    active: bool
    activated_at: datetime
    """When its state changed last."""
    expression: str
    period: timedelta | None
    """Of a fixed rate."""
    kickoff_arg: str
    annotations: Mapping[str, str]
    """Those of KNOWN."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a plan is to be run."""

    schedule: Schedule
    policy: Policy


def plan_of(launch_plan: LaunchPlan) -> Plan | None:
    """What the scheduler keeps of a launch plan; None if it has no schedule."""
    schedule = launch_plan.spec.entity_metadata.schedule
    if not has_schedule(schedule):
        return None
    identifier = launch_plan.id
    annotations = launch_plan.spec.annotations.values
    return Plan(
        key=Key(identifier.project, identifier.domain, identifier.name, identifier.version),
        active=launch_plan.closure.state == LaunchPlanState.ACTIVE,
        activated_at=launch_plan.closure.updated_at.ToDatetime(UTC),
        expression=schedule.cron_schedule.schedule or schedule.cron_expression,
        period=_period(schedule),
        kickoff_arg=schedule.kickoff_time_input_arg,
        annotations={name: annotations[name] for name in sorted(KNOWN & set(annotations))},
    )


def has_schedule(schedule: ScheduleMessage) -> bool:
    """Whether there is one; a rate of zero is none.  Source: spec/datacatalog-scheduler-notifier.md, section B.1."""
    return bool(schedule.cron_expression or schedule.HasField("cron_schedule") or schedule.rate.value)


def settings_of(plan: Plan, defaults: Policy, default_zone: str) -> Settings:
    """How a plan is to be run.  Raises InvalidArgument if it cannot be, which says why."""
    schedule = schedule_of(
        plan.expression,
        plan.period,
        anchor=plan.activated_at,
        zone=plan.annotations.get(TIME_ZONE, ""),
        default_zone=default_zone,
    )
    if schedule.next(plan.activated_at) is None:  # a period of millions of years
        raise InvalidArgument("the schedule never fires")
    return Settings(schedule, _policy(plan.annotations, defaults))


def zone_name(plan: Plan, default_zone: str) -> str:
    """The name of the zone in which the plan's expression is read; empty for a fixed rate."""
    if plan.period is not None:
        return ""
    text = plan.expression.strip()
    if text.startswith(("TZ=", "CRON_TZ=")):
        return text.partition(" ")[0].partition("=")[2]
    return plan.annotations.get(TIME_ZONE) or default_zone or "UTC"


def _period(schedule: ScheduleMessage) -> timedelta | None:
    if schedule.cron_expression or schedule.HasField("cron_schedule"):
        return None
    try:
        return schedule.rate.value * _UNITS.get(schedule.rate.unit, timedelta(0))
    except OverflowError:
        return timedelta.max


def _policy(annotations: Mapping[str, str], defaults: Policy) -> Policy:
    policy = defaults
    for name, text in annotations.items():
        what = name.removeprefix(MISFIRE).removeprefix("-")
        try:
            if name == MISFIRE:
                policy = replace(policy, misfire=Misfire(text.strip().lower()))
            elif what == "cap":
                policy = replace(policy, cap=_within(int(text), 1, MOST_CAP))
            elif what in ("window", "grace"):
                length = parse_duration(text)
                if length < timedelta(0):
                    raise ValueError("a length of time is not negative")
                policy = replace(policy, window=length) if what == "window" else replace(policy, grace=length)
            elif what == "rate":
                rate = float(text)
                if not (math.isfinite(rate) and rate > 0):
                    raise ValueError("a rate is a positive number")
                policy = replace(policy, rate=rate)
        except (ValueError, OverflowError) as error:
            raise InvalidArgument(f"the annotation {name} cannot be {text[:80]!r}: {error}") from error
    return policy


def _within(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise ValueError(f"it has to be within {low} and {high}")
    return number
