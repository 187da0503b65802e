"""Firing: what is due is asked of the control plane, slot by slot, and recorded.

One slot of a schedule is under way at a time, the oldest first; many schedules are under way at once, bounded by
`concurrency` and by the rate that the control plane is to be spared above.  Slots that are on time go before those that
are made up for, which have a lower rate of their own.

Order of effects: the execution is created, then the slot is recorded as decided.  Who crashes in between asks again,
and hears that the execution exists.  A slot is decided when it was fired, found, skipped, or refused for good; what may
succeed later is tried again, until the misfire policy says that it was missed.

Waiting for a slot goes by the wall clock, since that is what slots are made of; waiting to try again, and counting
rates, goes by a clock that nobody sets.  A wall clock that is set back fires nothing again, because everything up to
`decided_until` is decided, and one that is set forward is an outage like any other.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, ExecutionMetadata
from flyteidl.core.identifier_pb2 import ResourceType

from aerodrome.scheduler.config import SchedulerSection
from aerodrome.scheduler.control_plane import ControlPlane
from aerodrome.scheduler.domain.misfire import is_missed, judge
from aerodrome.scheduler.domain.naming import Key, execution_name
from aerodrome.scheduler.domain.plans import Settings, settings_of
from aerodrome.scheduler.domain.records import (
    BackfillOrder,
    Decision,
    Origin,
    Outcome,
    Pause,
    Progress,
    Scheduled,
)
from aerodrome.scheduler.managers.leading import Leadership, NotLeading
from aerodrome.scheduler.managers.pacing import Bucket
from aerodrome.scheduler.managers.recording import Recorder
from aerodrome.scheduler.repositories.schedules import ScheduleRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, InvalidArgument, Kind
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.telemetry.metrics import Metrics

log = get_logger(__name__)

PASSING = frozenset(
    {
        Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.RESOURCE_EXHAUSTED, Kind.ABORTED, Kind.INTERNAL, Kind.UNKNOWN,
        Kind.CANCELLED, Kind.UNAUTHENTICATED,
    }
)  # fmt: skip
"""What may succeed later: the specification's list, and what a restart of the control plane or a new token mends."""

_LOOK_SECONDS = 0.2
"""How often new work is looked for while calls are under way."""
_LONGEST_SLEEP_SECONDS = 1.0
"""A wall clock that was set forward is noticed within this time."""
_MOST_REASON_CHARS = 2_000


@dataclass(slots=True, eq=False)
class _Job:
    """Something with slots: what is waited for, and how often it failed in a row."""

    id: int
    key: Key
    ticket: int = 0
    """Of its latest place in a queue; older places count no more."""
    running: bool = False
    gone: bool = False
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _ScheduleJob(_Job):
    known: Scheduled = field(kw_only=True)
    settings: Settings = field(kw_only=True)
    decided: datetime = field(kw_only=True)
    backlog: deque[datetime] = field(default_factory=deque)
    """Slots that were judged worth firing."""


@dataclass(slots=True, eq=False)
class _BackfillJob(_Job):
    order: BackfillOrder = field(kw_only=True)
    known: Scheduled = field(kw_only=True)
    settings: Settings = field(kw_only=True)
    decided: datetime = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the control plane said to a slot."""

    outcome: Outcome | None
    """None: try again."""
    reason: str = ""


class FiringManager:
    """The slots of all schedules, while this replica leads; `tick` does everything that is due."""

    def __init__(
        self,
        section: SchedulerSection,
        database: Database,
        control_plane: ControlPlane,
        clock: Clock,
        leadership: Leadership,
        metrics: Metrics,
    ) -> None:
        self._section = section
        self._defaults = section.misfire.as_policy()
        self._db = database
        self._control_plane = control_plane
        self._clock = clock
        self._leadership = leadership
        self._recorder = Recorder(leadership)
        limit = section.workflow_executor.local.admin_rate_limit
        now = clock.boottime()
        self._limit = Bucket(limit.tps, limit.burst, now)
        self._late_limit = Bucket(section.misfire.tps, max(1.0, section.misfire.tps), now)
        self._jitter = random.Random()
        self._epoch = -1
        self._reading = asyncio.Lock()
        self._forget()
        scope = f"{section.metrics_scope}flytescheduler"
        self._successful = metrics.counter(f"{scope}:successful_execution_counter")
        self._failed = metrics.counter(f"{scope}:failed_execution_counter")
        self._postponed = metrics.counter(f"{scope}:postponed_execution_counter")
        self._skipped = metrics.counter(f"{scope}:skipped_slot_counter")
        self._backfilled = metrics.counter(f"{scope}:backfilled_slot_counter")
        self._unusable = metrics.counter(f"{scope}:job_schedule_failed_counter")
        self._errors = metrics.counter(f"{scope}:job_func_panic_counter")
        self._unsaved = metrics.counter(f"{scope}:checkpoint_save_error_counter")
        self._catch_up_errors = metrics.counter(f"{scope}:catchup_error_counter")
        self._delay = metrics.stopwatch(f"{scope}:scheduled_execution_delay", unit="s")
        metrics.observed(f"{scope}:active_schedules", lambda: float(len(self._schedules)))
        metrics.observed(f"{scope}:leads", lambda: float(leadership.holds))
        metrics.observed(f"{scope}:lag_seconds", self._lag_seconds)

    # What is known

    def _forget(self) -> None:
        self._schedules: dict[int, _ScheduleJob] = {}
        self._backfills: dict[int, _BackfillJob] = {}
        self._pauses: list[Pause] = []
        self._order = itertools.count()
        self._by_slot: list[tuple[datetime, int, int, _Job]] = []
        self._by_time: list[tuple[float, int, int, _Job]] = []
        self._on_time: deque[_Job] = deque()
        self._late: deque[_Job] = deque()

    async def load(self) -> None:
        """Read everything anew, at the beginning of a lead."""
        self._forget()
        self._epoch = self._leadership.epoch
        await self._read(None)

    async def reload(self, ids: Collection[int] | None) -> None:
        """Read what changed: these schedules, or (None) everything; pauses and orders to backfill always.

        Before the first `load`, and after a lead was lost, there is nothing to bring up to date.
        """
        if self.is_loaded:
            await self._read(ids)

    @property
    def is_loaded(self) -> bool:
        """Whether everything was read since this replica began to lead."""
        return self._epoch == self._leadership.epoch

    async def _read(self, ids: Collection[int] | None) -> None:
        async with self._reading:  # what was read first must not be applied last
            await self._read_alone(ids)

    async def _read_alone(self, ids: Collection[int] | None) -> None:
        async with self._db.connection() as conn:
            schedules = ScheduleRepository(conn)
            self._pauses = await schedules.pauses()
            found = await (schedules.active() if ids is None else schedules.get(ids))
            orders = [each for each in await schedules.open_backfills() if each.id not in self._backfills]
            ordered = {each.id: each for each in await schedules.get({each.schedule_id for each in orders})}
        for index, known in enumerate(found):
            try:
                self._know(known)
            except Exception:  # whatever it is, it is this schedule's own
                self._errors.add()
                log.exception("schedule failed", schedule=str(known.plan.key))
            if index % 200 == 199:
                await asyncio.sleep(0)  # reading ten thousand expressions takes a while
        looked_at = self._schedules.keys() if ids is None else ids
        for gone in set(looked_at) - {known.id for known in found if known.plan.active}:
            job = self._schedules.pop(gone, None)
            if job is not None:
                job.gone = True
        for order in orders:
            self._know_order(order, ordered[order.schedule_id])

    def _know(self, known: Scheduled) -> None:
        if not known.plan.active or known.problem:
            stale = self._schedules.pop(known.id, None)
            if stale is not None:
                stale.gone = True
            return
        job = self._schedules.get(known.id)
        if job is not None and job.known.plan == known.plan and known.decided_until <= job.decided:
            return  # it has its place in the queues
        try:
            settings = settings_of(known.plan, self._defaults, self._section.time_zone)
        except InvalidArgument as error:  # the settings of this process differ from those of who learned of it
            self._unusable.add()
            log.warning("schedule cannot be run", schedule=str(known.plan.key), error=error.message)
            stale = self._schedules.pop(known.id, None)
            if stale is not None:
                stale.gone = True
            return
        if job is None:
            job = _ScheduleJob(known.id, known.plan.key, known=known, settings=settings, decided=known.decided_until)
            self._schedules[known.id] = job
        else:
            job.known, job.settings = known, settings
            job.decided = max(job.decided, known.decided_until)
            job.backlog.clear()
        if not job.running:
            self._wait_for_slot(job)

    def _know_order(self, order: BackfillOrder, known: Scheduled) -> None:
        try:
            settings = settings_of(known.plan, self._defaults, self._section.time_zone)
        except InvalidArgument as error:
            log.warning("backfill cannot be run", schedule=str(known.plan.key), error=error.message)
            return
        job = _BackfillJob(
            order.id, known.plan.key, order=order, known=known, settings=settings, decided=order.decided_until
        )
        self._backfills[order.id] = job
        self._enqueue(job, late=True)

    def _lag_seconds(self) -> float:
        now = self._clock.now()
        # Another thread reads this: what the loop may change meanwhile is copied before it is looked at.
        backlogs = (tuple(job.backlog) for job in tuple(self._schedules.values()))
        oldest = min((backlog[0] for backlog in backlogs if backlog), default=now)
        return max(0.0, (now - oldest).total_seconds())

    # Queues

    def _wait_for_slot(self, job: _ScheduleJob) -> None:
        job.ticket += 1
        slot = job.settings.schedule.next(job.decided)
        if slot is not None:
            heapq.heappush(self._by_slot, (slot, next(self._order), job.ticket, job))

    def _wait(self, job: _Job, seconds: float) -> None:
        job.ticket += 1
        heapq.heappush(self._by_time, (self._clock.boottime() + seconds, next(self._order), job.ticket, job))

    def _enqueue(self, job: _Job, *, late: bool) -> None:
        job.ticket += 1
        job.running = True
        (self._late if late else self._on_time).append(job)

    def _collect(self) -> None:
        """Move what is due into the queues."""
        now, boottime = self._clock.now(), self._clock.boottime()
        while self._by_slot and self._by_slot[0][0] <= now:
            slot, _, ticket, job = heapq.heappop(self._by_slot)
            if ticket == job.ticket and not job.gone:
                assert isinstance(job, _ScheduleJob)
                self._enqueue(job, late=is_missed(slot, now, job.settings.policy))
        while self._by_time and self._by_time[0][0] <= boottime:
            _, _, ticket, job = heapq.heappop(self._by_time)
            if ticket == job.ticket and not job.gone:
                self._enqueue(job, late=isinstance(job, _BackfillJob) or self._is_late(job, now))

    @staticmethod
    def _is_late(job: _Job, now: datetime) -> bool:
        if not isinstance(job, _ScheduleJob):
            return True
        slot = job.backlog[0] if job.backlog else job.settings.schedule.next(job.decided)
        return slot is not None and is_missed(slot, now, job.settings.policy)

    def _take(self) -> _Job | None:
        """The next job whose turn it is, if the rates permit it."""
        for queue in (self._on_time, self._late):
            while queue and queue[0].gone:
                queue.popleft().running = False
        now = self._clock.boottime()
        if self._limit.wait(now) > 0:
            return None
        if self._on_time:
            self._limit.take(now)
            return self._on_time.popleft()
        if self._late and self._late_limit.wait(now) <= 0:
            self._limit.take(now)
            self._late_limit.take(now)
            return self._late.popleft()
        return None

    def sleep_seconds(self) -> float:
        """How long nothing is due, as far as is known now."""
        now, boottime = self._clock.now(), self._clock.boottime()
        waits = [_LONGEST_SLEEP_SECONDS]
        if self._by_slot:
            waits.append((self._by_slot[0][0] - now).total_seconds())
        if self._by_time:
            waits.append(self._by_time[0][0] - boottime)
        if self._on_time or self._late:
            late = 0.0 if self._on_time else self._late_limit.wait(boottime)
            waits.append(max(self._limit.wait(boottime), late))
        return max(0.0, min(waits))

    # Work

    async def tick(self) -> None:
        """Do everything that is due and that the rates permit now.  Raises NotLeading once another replica leads."""
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._collect()
                while len(running) < self._section.concurrency:
                    job = self._take()
                    if job is None:
                        break
                    task = group.create_task(self._one(job), name=f"fire {job.key}")
                    running.add(task)
                    task.add_done_callback(running.discard)
                if not running:
                    break
                await asyncio.wait(running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not self._leadership.holds:
                    break
        if not self._leadership.holds:
            raise NotLeading("the lead was lost while work was under way")

    async def _one(self, job: _Job) -> None:
        """One step of one job; its trouble stays its own."""
        pause: float | None = None
        try:
            pause = await (self._schedule_step(job) if isinstance(job, _ScheduleJob) else self._backfill_step(job))
        except NotLeading:
            pause = self._section.retry.first.total_seconds()
        except Exception as error:
            if isinstance(error, AerodromeError):  # the database: what was fired is found again by its name
                self._unsaved.add()
                log.warning("slot not recorded", schedule=str(job.key), error=error.message)
            else:
                self._errors.add()
                log.exception("slot failed", schedule=str(job.key))
            pause = self._back_off(job)
        finally:
            job.running = False
        self._go_on(job, pause)

    def _go_on(self, job: _Job, pause: float | None) -> None:
        if job.gone:
            return
        if pause is not None:
            self._wait(job, pause)
        elif isinstance(job, _ScheduleJob) and not job.backlog:
            self._wait_for_slot(job)
        else:
            self._enqueue(job, late=self._is_late(job, self._clock.now()))

    async def _schedule_step(self, job: _ScheduleJob) -> float | None:
        """Skip what is to be skipped, fire the oldest slot of what is left; seconds to wait before the next step."""
        now = self._clock.now()
        policy = job.settings.policy
        paused = next((each for each in self._pauses if each.holds(job.key)), None)
        if paused is not None:
            job.backlog.clear()
        if not job.backlog:
            due = judge(job.settings.schedule, job.decided, now, policy, paused=paused is not None)
            if due.skip is not None:
                reason = due.skip.reason
                if paused is not None:
                    reason = f"paused: {paused.reason}" if paused.reason else "paused"
                decision = Decision(
                    schedule_id=job.id, outcome=Outcome.SKIPPED, origin=Origin.CATCH_UP, decided_at=now,
                    slot=due.skip.first, last_slot=due.skip.last, slots=due.skip.count, reason=reason,
                )  # fmt: skip
                await self._recorder.write(Progress(job.id, decision, decided_until=due.skip.last))
                job.decided = max(job.decided, due.skip.last)
                self._skipped.add(due.skip.count)
                log.info("slots skipped", schedule=str(job.key), slots=due.skip.count, reason=reason)
            job.backlog.extend(slot for slot in due.fire if slot > job.decided)
            if not job.backlog:
                return None
        slot = job.backlog[0]
        missed = is_missed(slot, now, policy)
        answer = await self._ask(job, job.known, slot)
        if missed and answer.outcome in (None, Outcome.FAILED):
            self._catch_up_errors.add()
        if answer.outcome is None:
            job.backlog.clear()  # by the next attempt the policy may see it otherwise
            if job.attempts == 0:
                await self._recorder.write(Progress(job.id, error=answer.reason))
            return self._back_off(job)
        origin = Origin.CATCH_UP if missed else Origin.ON_TIME
        failed = answer.outcome is Outcome.FAILED
        await self._recorder.write(
            Progress(
                job.id,
                self._decision(job, job.id, slot, answer, origin),
                decided_until=slot,
                error=answer.reason if failed else "",
            )
        )
        job.attempts = 0
        job.decided = max(job.decided, slot)
        while job.backlog and job.backlog[0] <= job.decided:
            job.backlog.popleft()
        return 1 / policy.rate if missed and policy.rate and job.backlog else None

    async def _backfill_step(self, job: _Job) -> float | None:
        """Fire the next slot of the range, or finish the order."""
        assert isinstance(job, _BackfillJob)
        now = self._clock.now()
        slot = job.settings.schedule.next(job.decided)
        if slot is None or slot >= job.order.end:
            await self._recorder.write(
                Progress(job.known.id, backfill_id=job.id, backfill_decided_until=job.order.end, backfill_finished=now)
            )
            job.gone = True
            self._backfills.pop(job.id, None)
            return None
        answer = await self._ask(job, job.known, slot)
        if answer.outcome is None:
            return self._back_off(job)
        await self._recorder.write(
            Progress(
                job.known.id,
                self._decision(job, job.known.id, slot, answer, Origin.BACKFILL),
                backfill_id=job.id,
                backfill_decided_until=slot,
            )
        )
        self._backfilled.add()
        job.attempts = 0
        job.decided = slot
        return None

    def _decision(self, job: _Job, schedule_id: int, slot: datetime, answer: _Answer, origin: Origin) -> Decision:
        assert answer.outcome is not None
        return Decision(
            schedule_id=schedule_id, outcome=answer.outcome, origin=origin, decided_at=self._clock.now(), slot=slot,
            execution_name=execution_name(job.key, slot), reason=answer.reason,
        )  # fmt: skip

    async def _ask(self, job: _Job, known: Scheduled, slot: datetime) -> _Answer:
        """Have the slot's execution created."""
        if not self._leadership.holds:
            raise NotLeading("the lease has run out")
        try:
            await self._control_plane.create_execution(execution_request(known, slot))
        except AlreadyExists as error:
            self._successful.add()
            return _Answer(Outcome.EXISTED, error.message[:_MOST_REASON_CHARS])
        except AerodromeError as error:
            reason = error.message[:_MOST_REASON_CHARS]
            if error.kind in PASSING:
                self._postponed.add()
                log.warning("execution postponed", schedule=str(job.key), slot=slot.isoformat(), error=reason)
                return _Answer(None, reason)
            self._failed.add()
            log.warning("execution refused", schedule=str(job.key), slot=slot.isoformat(), error=reason)
            return _Answer(Outcome.FAILED, reason)
        self._successful.add()
        self._delay.observe(max(0.0, (self._clock.now() - slot).total_seconds()))
        return _Answer(Outcome.FIRED)

    def _back_off(self, job: _Job) -> float:
        """Seconds until the next attempt: twice as long each time, shortened by up to a half at random."""
        retry = self._section.retry
        job.attempts += 1
        longest = min(retry.longest.total_seconds(), retry.first.total_seconds() * 2.0 ** min(job.attempts - 1, 30))
        return longest * self._jitter.uniform(0.5, 1.0)


def execution_request(known: Scheduled, slot: datetime) -> ExecutionCreateRequest:
    """What the control plane is asked for a slot.  Source: spec/datacatalog-scheduler-notifier.md, section B.6."""
    key = known.plan.key
    request = ExecutionCreateRequest(project=key.project, domain=key.domain, name=execution_name(key, slot))
    launch_plan = request.spec.launch_plan
    launch_plan.resource_type = ResourceType.LAUNCH_PLAN
    launch_plan.project, launch_plan.domain = key.project, key.domain
    launch_plan.name, launch_plan.version = key.name, key.version
    request.spec.metadata.mode = ExecutionMetadata.SCHEDULED
    request.spec.metadata.scheduled_at.FromDatetime(slot)
    if known.plan.kickoff_arg:
        primitive = request.inputs.literals[known.plan.kickoff_arg].scalar.primitive
        primitive.datetime.FromDatetime(slot)
    return request
