"""Limits of launch plans on how many of their executions are in progress.  Source: spec/control-plane.md, section 3.6.

Whether there is room is decided in the transaction that makes the execution exist, under a lock on the launch plan's
name: the limit holds for any number of callers and processes.  One that has to wait exists, is QUEUED, and is leased to
nobody.  The end of an execution makes room, and whoever recorded it lets the next one begin; a slow look at all that
wait is the safety net, for ends that were recorded by a process that died right after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier, WorkflowExecutionIdentifier

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.concurrency import WAITS_FOR, Behavior, Policy, waits_for
from aerodrome.admin.managers.recording import Abort, Told, record_within
from aerodrome.admin.repositories.concurrency import ConcurrencyRepository, Live
from aerodrome.admin.repositories.executions import ExecutionRepository, NewExecution
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, Conflict, DeadlineExceeded, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)

_BEGIN_AT_ONCE = 100


class LimitReached(AlreadyExists):
    """The launch plan's limit is reached, and it says that further executions are skipped."""


class WorkAnnouncer(Protocol):
    """Who is told that there is something to lease."""

    def work_available(self, cluster: str) -> None: ...


class ConcurrencyManager:
    """Admits executions of limited launch plans, and lets those begin that wait; `run` has to be running for that."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: AdminConfig,
        *,
        announcer: WorkAnnouncer,
        tell: Callable[[Told], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._db = database
        self._clock = clock
        self._interval_seconds = config.limits.waiting_interval.total_seconds()
        self._announcer = announcer
        self._tell = tell
        scope = f"{config.flyteadmin.metrics_scope}admin:execution_manager"
        self._check = (metrics or Metrics()).stopwatch(f"{scope}:concurrency_check_duration_ms")
        self._room = asyncio.Event()
        self._names: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()

    async def insert(self, new: NewExecution, plan: Identifier, policy: Policy, principal: str) -> bool:
        """Make an execution of `plan` exist, if its limit permits; returns whether it may be leased at once.

        Raises LimitReached, and AlreadyExists if the name is taken.
        """
        told: Told | None = None
        async with self._locked(plan) as conn:
            with self._check.time():
                waits, surplus = await self._judge(conn, new, plan, policy)
            if waits:
                new.closure.phase = WorkflowExecution.QUEUED
            if not await ExecutionRepository(conn).insert(new, waiting=waits):
                raise name_taken(new.key)
            if waits:
                shown = ExecutionSpec()
                shown.annotations.values[WAITS_FOR] = waits_for(plan, policy.most)
                await ConcurrencyRepository(conn).put_waiting(new.execution_id, plan, policy.most, shown)
            if surplus:
                told = await self._replace(conn, surplus, new.key, plan, policy, principal)
        if told is not None:
            self._tell(told)
        if waits:
            self._room.set()  # what it waits for may have ended already
        return not waits

    def told(self, told: Told) -> None:
        """Hear what was recorded; subscribe this to the journal."""
        if told.ended:
            self._room.set()

    async def run(self) -> None:
        """Let executions begin as room appears, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_now_and_then(), name="look for room now and then")
            while True:
                await self._room.wait()
                self._room.clear()
                try:
                    await self.begin()
                except (Unavailable, DeadlineExceeded, Conflict) as error:
                    log.warning("executions that wait were not looked at", error=error.message)

    async def begin(self) -> int:
        """Let those executions begin for which there is room; returns how many."""
        async with self._db.connection() as conn:
            plans = await ConcurrencyRepository(conn).list_names()
        begun = 0
        for plan in plans:
            try:
                begun += await self._begin(plan)
            except (Unavailable, DeadlineExceeded):
                raise
            except AerodromeError as error:  # one launch plan's trouble stays its own
                log.warning("executions of a launch plan go on waiting", launch_plan=plan.name, error=error.message)
        return begun

    async def _look_now_and_then(self) -> None:
        while True:
            self._room.set()
            await self._clock.sleep(self._interval_seconds)

    async def _judge(
        self, conn: Connection, new: NewExecution, plan: Identifier, policy: Policy
    ) -> tuple[bool, list[Live]]:
        """Whether the execution has to wait, and which others are aborted for it.  Raises LimitReached."""
        limited = ConcurrencyRepository(conn)
        failed = new.closure.HasField("error")  # it is over already, and takes nobody's place
        if policy.behavior is Behavior.SKIP:
            if await limited.count_running(plan) < policy.most:
                return False, []
            if await ExecutionRepository(conn).find_source(new.key) is not None:
                raise name_taken(new.key)
            raise LimitReached(
                f"concurrency limit ({policy.most}) reached for launch plan {plan.name}; skipping execution"
            )
        if failed:
            return False, []
        if policy.behavior is Behavior.WAIT:
            return await limited.somebody_waits(plan) or await limited.count_started(plan) >= policy.most, []
        live = await limited.list_live(plan)
        going = [each for each in live if not each.aborting]
        surplus = going[: max(0, len(going) + 1 - policy.most)]
        started = sum(not each.waiting for each in live)
        wait_on = any(each.waiting for each in going[len(surplus) :])
        return wait_on or started >= policy.most, surplus

    async def _replace(
        self,
        conn: Connection,
        surplus: list[Live],
        key: WorkflowExecutionIdentifier,
        plan: Identifier,
        policy: Policy,
        principal: str,
    ) -> Told:
        cause = (
            f"replaced by execution {key.project}:{key.domain}:{key.name}: at most {policy.most} executions of launch "
            f"plan {plan.name} are in progress at a time"
        )
        aborts = [Abort(each.execution_id, cause, principal) for each in surplus]
        outcomes, told = await record_within(conn, aborts, self._clock.now())
        for abort, outcome in zip(aborts, outcomes, strict=True):
            if isinstance(outcome, AerodromeError):  # it ended by itself meanwhile, which makes room as well
                log.debug("nothing to replace", execution_id=abort.execution_id, reason=outcome.message)
        return told

    async def _begin(self, plan: Identifier) -> int:
        begun = 0
        while True:
            async with self._locked(plan) as conn:
                limited = ConcurrencyRepository(conn)
                await limited.forget_those_that_do_not_wait(plan)
                waiting = await limited.list_next(plan, _BEGIN_AT_ONCE)
                if not waiting:
                    return begun
                started = await limited.count_started(plan)
                chosen: list[int] = []
                for each in waiting:
                    if not each.aborting and started >= each.most:
                        break
                    chosen.append(each.execution_id)
                    started += 1
                clusters = await limited.begin(chosen) if chosen else set()
            for cluster in clusters:
                self._announcer.work_available(cluster)
            begun += len(chosen)
            if len(chosen) < _BEGIN_AT_ONCE:
                return begun

    @asynccontextmanager
    async def _locked(self, plan: Identifier) -> AsyncIterator[Connection]:
        """A transaction that alone decides about `plan`.

        Callers of this process wait for each other before they take a connection: a burst on one launch plan would
        otherwise take all connections, only to wait with them.
        """
        name = (plan.project, plan.domain, plan.name)
        lock = self._names.setdefault(name, asyncio.Lock())
        async with lock, self._db.transaction() as conn:
            await ConcurrencyRepository(conn).lock(plan)
            yield conn


def name_taken(key: WorkflowExecutionIdentifier) -> AlreadyExists:
    """The error for an execution whose name is in use."""
    return AlreadyExists(f"value with matching already exists (execution {key.project}:{key.domain}:{key.name})")
