"""What people ask of the scheduler and tell it: lists, previews, backfills, pauses.

Every replica answers.  What it writes is announced, and the leading replica carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from aerodrome.scheduler.config import SchedulerSection
from aerodrome.scheduler.domain.misfire import Policy
from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.plans import settings_of, zone_name
from aerodrome.scheduler.domain.records import BackfillOrder, KnownDecision, Pause, Scheduled
from aerodrome.scheduler.domain.schedules import count_slots, schedule_of, slots
from aerodrome.scheduler.repositories.schedules import NEWEST, Filter, ScheduleRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.cron import Cron
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from aerodrome.stdlib.postgres.database import Database

MOST_PREVIEWED = 1_000
MOST_OPEN_BACKFILLS = 1_000
MOST_REASON_CHARS = 1_000
_INSTANT = timedelta(microseconds=1)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class View:
    """A schedule as people see it."""

    known: Scheduled
    zone: str
    policy: Policy | None
    """None if it cannot be run."""
    next_slot: datetime | None
    pauses: Sequence[Pause]
    decisions: Sequence[KnownDecision]


@dataclass(frozen=True, slots=True)
class Preview:
    """When something would fire."""

    slots: Sequence[datetime]
    zone: str
    local: tzinfo


class AnsweringManager:
    """Answers; `changed` wakes the leader of this process, with the id of a schedule or None for everything."""

    def __init__(
        self, section: SchedulerSection, database: Database, clock: Clock, changed: Callable[[int | None], None]
    ) -> None:
        self._section = section
        self._defaults = section.misfire.as_policy()
        self._db = database
        self._clock = clock
        self._changed = changed

    async def schedules(
        self, wanted: Filter, *, active_only: bool, decisions: int, after: tuple[str, str, str, str], limit: int
    ) -> list[View]:
        """Schedules in the order of their keys, after the key `after`, each with its latest decisions."""
        async with self._db.connection() as conn:
            repository = ScheduleRepository(conn)
            found = await repository.page(wanted, active_only=active_only, after=after, limit=limit)
            pauses = await repository.pauses()
            latest: Mapping[int, Sequence[KnownDecision]] = {}
            if decisions and found:
                latest = await repository.last_decisions([each.id for each in found], decisions)
        now = self._clock.now()
        return [self._view(each, pauses, latest.get(each.id, ()), now) for each in found]

    def _view(
        self, known: Scheduled, pauses: Sequence[Pause], decisions: Sequence[KnownDecision], now: datetime
    ) -> View:
        held = [each for each in pauses if each.holds(known.plan.key)]
        policy, next_slot, problem = None, None, known.problem
        try:
            settings = settings_of(known.plan, self._defaults, self._section.time_zone)
        except InvalidArgument as error:
            problem = problem or error.message
        else:
            policy = settings.policy
            if known.plan.active and not held and not problem:
                next_slot = settings.schedule.next(max(now, known.decided_until))
        zone = zone_name(known.plan, self._section.time_zone)
        return View(replace(known, problem=problem), zone, policy, next_slot, held, decisions)

    def preview(
        self, expression: str, period: timedelta | None, zone: str, after: datetime | None, count: int
    ) -> Preview:
        """The next slots of an expression or a rate.  Raises InvalidArgument."""
        if count > MOST_PREVIEWED:
            raise InvalidArgument(f"slots is at most {MOST_PREVIEWED}")
        start = _checked("after", self._clock.now() if after is None else after)
        schedule = schedule_of(expression, period, anchor=start, zone=zone, default_zone=self._section.time_zone)
        local = schedule.zone if isinstance(schedule, Cron) else UTC
        found = list(islice(slots(schedule, start, datetime(9998, 1, 1, tzinfo=UTC)), count or 10))
        return Preview(found, str(getattr(local, "key", "UTC")), local)

    async def backfill(self, key: Key, start: datetime, end: datetime) -> tuple[Key, BackfillOrder]:
        """Order the slots of [start, end).  Raises InvalidArgument, NotFound, FailedPrecondition, ResourceExhausted."""
        for field in ("project", "domain", "name"):
            if not getattr(key, field):
                raise InvalidArgument(f"missing launch_plan.{field}")
        start, end = _checked("start", start), _checked("end", end)
        now = self._clock.now()
        if end > now:
            raise InvalidArgument("end is later than now: only past slots can be backfilled, future ones fire anyway")
        if start >= end:
            raise InvalidArgument("start has to be before end")
        async with self._db.transaction() as conn:
            repository = ScheduleRepository(conn)
            known = await repository.find(key)
            if known is None:
                which = f"version {key.version}" if key.version else "active version"
                raise NotFound(
                    f"{key.project}:{key.domain}:{key.name} has no {which} with a schedule; "
                    "a schedule is known here from its first activation on"
                )
            try:
                schedule = settings_of(known.plan, self._defaults, self._section.time_zone).schedule
            except InvalidArgument as error:
                raise FailedPrecondition(f"the schedule of {known.plan.key} cannot be run: {error.message}") from error
            most = self._section.backfill_slots
            count = count_slots(schedule, start - _INSTANT, end - _INSTANT, most + 1)
            if count > most:
                raise InvalidArgument(f"the range has more than {most} slots; order it in parts")
            if await repository.count_open_backfills() >= MOST_OPEN_BACKFILLS:
                raise ResourceExhausted(f"{MOST_OPEN_BACKFILLS} backfills are under way; wait until some have finished")
            order = await repository.add_backfill(known.id, start, end, after=start - _INSTANT, slots=count, at=now)
            await repository.announce([known.id])
        self._changed(known.id)
        return known.plan.key, order

    async def backfills(self, wanted: Filter, *, before: int | None, limit: int) -> list[tuple[Key, BackfillOrder]]:
        """Orders to backfill, the newest first."""
        async with self._db.connection() as conn:
            return await ScheduleRepository(conn).backfills(
                wanted, before=NEWEST if before is None else before, limit=limit
            )

    async def decisions(
        self, wanted: Filter, outcomes: Sequence[int], *, before: int | None, limit: int
    ) -> list[KnownDecision]:
        """Decisions, the newest first."""
        async with self._db.connection() as conn:
            return await ScheduleRepository(conn).decisions(
                wanted, outcomes, before=NEWEST if before is None else before, limit=limit
            )

    async def pause(self, project: str, domain: str, name: str, reason: str) -> Pause:
        """Hold back a launch plan, a domain or a project.  Raises InvalidArgument."""
        _check_place(project, domain, name)
        if len(reason) > MOST_REASON_CHARS:
            raise InvalidArgument(f"reason has at most {MOST_REASON_CHARS} characters")
        async with self._db.transaction() as conn:
            repository = ScheduleRepository(conn)
            pause = await repository.pause(project, domain, name, reason, self._clock.now())
            await repository.announce()
        self._changed(None)
        return pause

    async def resume(self, project: str, domain: str, name: str) -> None:
        """Hold it back no longer; what was due meanwhile stays undone.  Raises InvalidArgument."""
        _check_place(project, domain, name)
        async with self._db.transaction() as conn:
            repository = ScheduleRepository(conn)
            if not await repository.resume(project, domain, name, self._clock.now()):
                return
            await repository.announce()
        self._changed(None)


def _check_place(project: str, domain: str, name: str) -> None:
    if not project:
        raise InvalidArgument("missing project")
    if name and not domain:
        raise InvalidArgument("missing domain: a launch plan's name is one within a domain")
    for field, value in (("project", project), ("domain", domain), ("name", name)):
        if len(value) > 255 or "\0" in value:
            raise InvalidArgument(f"{field} has at most 255 characters and no NUL")


def _checked(name: str, at: datetime) -> datetime:
    if not _EARLIEST <= at <= _LATEST:
        raise InvalidArgument(f"{name} has to be within the years {_EARLIEST.year} and {_LATEST.year}")
    return at
