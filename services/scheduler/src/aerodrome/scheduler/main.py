"""The scheduler, put together: the one file that knows all of its parts.

`Scheduler` is the service without a door: whoever composes it serves `services()` and keeps `run()` running.  `serve`
is the stand-alone process with a gRPC server of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from aerodrome.idl.scheduler.v1.scheduler_pb2_grpc import add_SchedulerServiceServicer_to_server
from aerodrome.scheduler.config import SchedulerConfig
from aerodrome.scheduler.control_plane import ControlPlane
from aerodrome.scheduler.managers.answering import AnsweringManager
from aerodrome.scheduler.managers.firing import FiringManager
from aerodrome.scheduler.managers.leading import Leadership, NotLeading
from aerodrome.scheduler.managers.learning import LearningManager
from aerodrome.scheduler.repositories.schedules import CHANNEL, ScheduleRepository
from aerodrome.scheduler.rpc.schedules import SchedulerRpcs
from aerodrome.stdlib import logger
from aerodrome.stdlib.clock import Clock, SystemClock, sleep_unless
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.config import open_database
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.postgres.notify import Listener
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.opening import open_bus
from aerodrome.stdlib.rpc.client import Tls, network_channel
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.service import Operations, check_exposure, serve_until_told
from aerodrome.stdlib.telemetry import Telemetry
from aerodrome.stdlib.telemetry.metrics import Metrics

log = get_logger(__name__)

MIGRATIONS = "aerodrome.scheduler.migrations"
SERVICE = "scheduler"
"""The name under which the migrations are recorded."""
TOPIC = "launch_plans.changed"
"""Where the control plane announces changes of state: flyteidl.admin.LaunchPlanUpdateRequest."""
GROUP = "scheduler"
"""The group of subscribers to that topic."""

_HOUSEKEEPING = timedelta(minutes=10)
_BACKFILLS_KEPT = timedelta(days=30)
_PRUNED_AT_ONCE = 1_000
_TROUBLE_SECONDS = 1.0


class Scheduler:
    """Schedules, on a database whose tables exist (MIGRATIONS, SERVICE) and a channel to the control plane.

    Announcements arrive by `launch_plan_changed`, or over `bus` if one is given.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        *,
        database: Database,
        channel: grpc.aio.Channel,
        clock: Clock,
        bus: Bus | None = None,
        telemetry: Telemetry | None = None,
        holder: str | None = None,
    ) -> None:
        section = config.scheduler
        self.config = config
        self._db = database
        self._clock = clock
        self._bus = bus
        self._listener = Listener(database.dsn)
        self._changed: set[int] = set()
        self._everything_changed = False
        self._change = asyncio.Event()
        self._wake = asyncio.Event()
        metrics = Metrics() if telemetry is None else telemetry.metrics
        control_plane = ControlPlane(channel, section.call_timeout)
        self.leadership = Leadership(database, clock, holder=holder or _holder(), term=section.lease.term)
        self._firing = FiringManager(section, database, control_plane, clock, self.leadership, metrics)
        self._learning = LearningManager(section, database, control_plane, clock, self._note)
        self._answering = AnsweringManager(section, database, clock, self._note)
        self._resync_errors = metrics.counter(f"{section.metrics_scope}flytescheduler:resync_error_counter")

    def services(self) -> list[tuple[Callable[[Any, Any], None], object]]:
        """The servicers, each with the generated function that adds it to a server."""
        return [(add_SchedulerServiceServicer_to_server, SchedulerRpcs(self._answering))]

    async def prepare(self) -> None:
        """Make what has to exist before announcements are sent: the group that hears them."""
        if self._bus is not None:
            await self._bus.declare(TOPIC, GROUP)

    async def launch_plan_changed(self, message: bytes) -> None:
        """Handle an announcement (TOPIC); any replica may get it, and may get it again.

        Raises Unavailable and its like if the launch plan cannot be read now: deliver it again.
        """
        await self._learning.launch_plan_changed(message)

    async def resync(self) -> None:
        """Read all active launch plans.  Raises Unavailable and its like."""
        await self._learning.resync()

    async def tick(self) -> bool:
        """Do everything that is due, if this replica leads or can; False if another one does.  Raises Unavailable."""
        if not self.leadership.holds and not await self.leadership.take():
            return False
        if not self._firing.is_loaded:
            await self._firing.load()
        await self._reload()
        try:
            await self._firing.tick()
        except NotLeading:
            return False
        return True

    async def run(self) -> None:
        """Everything that works in the background, until cancelled; then the lead is given back."""
        async with self._listener:
            try:
                async with asyncio.TaskGroup() as group:
                    for name, part in (
                        ("firing", self._fire()),
                        ("lead", self._keep_lead()),
                        ("changes", self._hear()),
                        ("reload", self._keep_up_to_date()),
                        ("resync", self._keep_in_sync()),
                        ("housekeeping", self._keep_house()),
                    ):
                        group.create_task(part, name=f"scheduler {name}")
                    if self._bus is not None:
                        group.create_task(self._subscribe(self._bus), name="scheduler announcements")
            finally:
                try:
                    async with asyncio.timeout(5):
                        await self.leadership.release()
                except (AerodromeError, TimeoutError) as error:
                    log.warning("lead not given back; its term runs out", error=str(error))

    # The parts of run

    async def _fire(self) -> None:
        while True:
            self._wake.clear()
            seconds = self.leadership.pause.total_seconds()
            try:
                if await self.tick():
                    seconds = self._firing.sleep_seconds()
            except AerodromeError as error:
                log.warning("scheduler waits", error=error.message)
                seconds = _TROUBLE_SECONDS
            except Exception:
                log.exception("scheduler failed")
                seconds = _TROUBLE_SECONDS
            await sleep_unless(self._clock, seconds, self._wake)

    async def _keep_lead(self) -> None:
        """Renew the lease, since firing may take longer than its term."""
        while True:
            await self._clock.sleep(self.leadership.pause.total_seconds())
            if not self.leadership.epoch:
                continue
            try:
                await self.leadership.take()
            except AerodromeError as error:
                log.warning("lease not renewed", error=error.message)

    async def _hear(self) -> None:
        """What other replicas announce."""
        async with self._listener.subscribe(CHANNEL) as wakeups:
            async for payload in wakeups:
                self._note(int(payload) if payload.isdigit() else None)

    async def _keep_up_to_date(self) -> None:
        while True:
            await self._change.wait()
            if self._firing.is_loaded:
                try:
                    await self._reload()
                except AerodromeError as error:
                    log.warning("changes not read yet", error=error.message)
                    self._note(None)
                    await self._clock.sleep(_TROUBLE_SECONDS)
            else:
                self._change.clear()  # whoever begins to lead reads everything
            self._wake.set()

    async def _keep_in_sync(self) -> None:
        while True:
            seconds = self.config.scheduler.resync.total_seconds()
            if self.leadership.holds:
                try:
                    await self.resync()
                except AerodromeError as error:
                    self._resync_errors.add()
                    log.warning("launch plans not read", error=error.message)
                    seconds = _TROUBLE_SECONDS
            else:
                seconds = min(seconds, self.leadership.pause.total_seconds())
            await self._clock.sleep(seconds)

    async def _keep_house(self) -> None:
        while True:
            await self._clock.sleep(_HOUSEKEEPING.total_seconds())
            if not self.leadership.holds:
                continue
            try:
                await self.prune()
            except AerodromeError as error:
                log.warning("old decisions not removed", error=error.message)

    async def prune(self) -> None:
        """Forget old decisions, and orders that were finished long ago.  Raises Unavailable."""
        async with self._db.connection() as conn:
            schedules = ScheduleRepository(conn)
            for above in range(0, await schedules.last_id(), _PRUNED_AT_ONCE):
                await schedules.prune(self.config.scheduler.decisions_kept, above, above + _PRUNED_AT_ONCE)
            await schedules.prune_backfills(self._clock.now() - _BACKFILLS_KEPT)

    async def _subscribe(self, bus: Bus) -> None:
        """Hear announcements; while the bus is away, all launch plans are still read now and then."""
        while True:
            try:
                await self.prepare()
                await self._hear_announcements(bus)
            except AerodromeError as error:
                log.warning("announcements are not heard", error=error.message)
                await asyncio.sleep(_TROUBLE_SECONDS)

    async def _hear_announcements(self, bus: Bus) -> None:
        async with bus.subscribe(TOPIC, GROUP) as subscription:
            while True:
                message = await subscription.next()
                try:
                    await self.launch_plan_changed(message.body)
                except AerodromeError as error:
                    log.warning("announcement postponed", error=error.message)
                    await subscription.nack(message, timedelta(seconds=_TROUBLE_SECONDS))
                else:
                    await subscription.ack(message)

    def _note(self, schedule_id: int | None) -> None:
        """Something changed: a schedule, or anything."""
        if schedule_id is None:
            self._everything_changed = True
        else:
            self._changed.add(schedule_id)
        self._change.set()

    async def _reload(self) -> None:
        if not self._change.is_set():
            return
        self._change.clear()
        everything, self._everything_changed = self._everything_changed, False
        ids, self._changed = self._changed, set()
        await self._firing.reload(None if everything else ids)


async def serve(files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Serve the scheduler over gRPC until SIGTERM or SIGINT, then give back the lead.

    Raises ConfigError, FailedPrecondition for what cannot be served safely, Unavailable if the port is taken.
    """
    config = load(SchedulerConfig, files, overrides=overrides)
    logger.configure(config.logger)
    section = config.scheduler
    check_exposure(section.server.host, insecure_bind=section.server.insecure_bind, section="scheduler.server")
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(config.database, name="aerodrome-scheduler"))
        await migrate(database, MIGRATIONS, service=SERVICE)
        telemetry = Telemetry(config.otel)
        stack.push_async_callback(telemetry.aclose)
        database.use_meter(QueryMeter(telemetry.metrics, service=SERVICE))
        tls = None if config.admin.in_plain_text else Tls()
        channel = await stack.enter_async_context(network_channel(config.admin.endpoint, tls=tls))
        bus = await stack.enter_async_context(open_bus(config.bus, database=database))
        scheduler = Scheduler(config, database=database, channel=channel, clock=clock, bus=bus, telemetry=telemetry)
        server = RpcServer(address=f"{section.server.host}:{section.server.port}")
        for add_to_server, servicer in scheduler.services():
            server.add(add_to_server, servicer)
        at = Operations(telemetry, config, section.server.host, section.profiler_port, "scheduler.profilerPort")
        await serve_until_told(server, "scheduler", scheduler.run, at, grace=timedelta(seconds=10))


def _holder() -> str:
    """A name that no other process goes by."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
