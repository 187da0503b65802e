"""The notifier, put together: the one file that knows all of its parts.

`Notifier` is the service without a door: whoever composes it serves `services()` and keeps `run()` running.  `serve`
is the stand-alone process with a gRPC server of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aerodrome.idl.notifier.v1.notifier_pb2_grpc import add_NotifierServiceServicer_to_server
from aerodrome.notifier.config import ChannelConfig, NotifierConfig
from aerodrome.notifier.domain.planning import Channel, Texts
from aerodrome.notifier.managers.answering import AnsweringManager
from aerodrome.notifier.managers.delivering import DeliveringManager
from aerodrome.notifier.managers.receiving import ReceivingManager
from aerodrome.notifier.repositories.deliveries import DeliveryRepository
from aerodrome.notifier.rpc.deliveries import NotifierRpcs
from aerodrome.notifier.senders.mail import NoMail, SesSender, SmtpSender
from aerodrome.notifier.senders.port import Sender
from aerodrome.notifier.senders.web import PAGERDUTY_URL, WebSender
from aerodrome.stdlib import logger
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import (
    AerodromeError,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.config import open_database
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.pubsub.bus import Bus, Message, Subscription
from aerodrome.stdlib.pubsub.opening import open_bus
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.service import Operations, check_exposure, serve_until_told
from aerodrome.stdlib.telemetry import Telemetry
from aerodrome.stdlib.telemetry.metrics import Metrics

log = get_logger(__name__)

MIGRATIONS = "aerodrome.notifier.migrations"
SERVICE = "notifier"
"""The name under which the migrations are recorded."""
TOPIC = "executions.terminal"
"""Where the control plane announces ends: aerodrome.messages.v1.ExecutionEnded."""
GROUP = "notifier"
"""The group of subscribers to that topic."""

_READERS = 4
_HOUSEKEEPING = timedelta(minutes=10)
_DEAD_LETTERS = timedelta(minutes=1)
_PRUNED_AT_ONCE = 1_000
_TROUBLE_SECONDS = 1.0


class Notifier:
    """Notifications, on a database whose tables exist (MIGRATIONS, SERVICE) and the bus that tells of ends.

    `public_url` is where people open the console if the configuration does not say.
    """

    def __init__(
        self,
        config: NotifierConfig,
        *,
        database: Database,
        bus: Bus,
        clock: Clock,
        telemetry: Telemetry | None = None,
        public_url: Callable[[], str] | None = None,
    ) -> None:
        section = config.notifier
        self.config = config
        self._db = database
        self._bus = bus
        self._clock = clock
        metrics = Metrics() if telemetry is None else telemetry.metrics
        rules = [each.as_rule() for each in section.rules]
        channels = {name: _channel(each) for name, each in section.channels.items()}
        emailer = config.notifications.emailer
        texts = Texts(emailer.subject, emailer.body)

        def console() -> str:
            return section.console_url or ("" if public_url is None else public_url())

        web = WebSender(section.channels, section.network.networks, clock)
        self._senders: list[Sender] = [web, _mail(config)]
        kinds: dict[str, Sender] = dict.fromkeys(("slack", "teams", "pagerduty", "webhook"), web)
        kinds["email"] = self._senders[1]
        self._delivering = DeliveringManager(section, database, clock, kinds, metrics)
        self._receiving = ReceivingManager(database, clock, rules, channels, texts, console, self._delivering.wake)
        self._answering = AnsweringManager(database, clock, self._delivering, channels, texts, console)
        scope = f"{section.metrics_scope}notifier:"
        self._messages = metrics.counter(f"{scope}message_total")
        self._handled = metrics.counter(f"{scope}message_ok")
        self._undecodable = metrics.counter(f"{scope}message_decoding_error")
        self._troubles = metrics.counter(f"{scope}message_processing_error")

    def services(self) -> list[tuple[Callable[[Any, Any], None], object]]:
        """The servicers, each with the generated function that adds it to a server."""
        return [(add_NotifierServiceServicer_to_server, NotifierRpcs(self._answering))]

    async def prepare(self) -> None:
        """Make what has to exist before ends are announced: the group that hears of them."""
        await self._bus.declare(TOPIC, GROUP)

    async def execution_ended(self, message_id: str, body: bytes) -> int:
        """Handle an announcement (TOPIC); any replica may get it, and may get it again: how many deliveries are new.

        Raises InvalidArgument if it cannot be read, and Unavailable and its like: deliver it again.
        """
        return await self._receiving.execution_ended(message_id, body)

    async def tick(self) -> int:
        """Send everything that is due, and wait for the outcome: how many attempts.  Raises Unavailable."""
        return await self._delivering.tick()

    async def run(self) -> None:
        """Everything that works in the background, until cancelled; then attempts that have begun are finished."""
        await self.prepare()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_READERS):
                    group.create_task(self._subscribe(), name=f"notifier messages {number}")
                group.create_task(self._delivering.run(), name="notifier deliveries")
                group.create_task(self._revive(), name="notifier dead letters")
                group.create_task(self._keep_house(), name="notifier housekeeping")
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections to others; `run` does so when it ends."""
        for sender in self._senders:
            await sender.aclose()

    async def revive(self) -> int:
        """Have dead letters delivered again that can be read: they were given up because something was away too long.

        How many they are.  Raises Unavailable.
        """
        count = 0
        for message in await self._bus.dead_letters(TOPIC, GROUP):
            try:
                await self._receiving.execution_ended(message.id, message.body)
            except InvalidArgument:
                continue  # it was logged when it was given up, and waits for somebody to look at it
            try:
                await self._bus.revive(TOPIC, GROUP, message.id)
            except NotFound:
                continue  # somebody was faster
            count += 1
        return count

    async def prune(self) -> None:
        """Forget what was finished long ago.  Raises Unavailable."""
        before = self._clock.now() - self.config.notifier.deliveries_kept
        while True:
            async with self._db.transaction() as conn:
                if await DeliveryRepository(conn).prune(before, _PRUNED_AT_ONCE) < _PRUNED_AT_ONCE:
                    return

    # The parts of run

    async def _subscribe(self) -> None:
        while True:
            try:
                async with self._bus.subscribe(TOPIC, GROUP) as subscription:
                    while True:
                        await self._handle(subscription, await subscription.next())
            except AerodromeError as error:
                log.warning("notifier waits for the bus", error=error.message)
            await self._clock.sleep(_TROUBLE_SECONDS)

    async def _handle(self, subscription: Subscription, message: Message) -> None:
        """Handle a message, however long the database is away; what cannot be handled becomes a dead letter."""
        self._messages.add()
        while True:
            try:
                await self._receiving.execution_ended(message.id, message.body)
            except InvalidArgument as error:
                self._undecodable.add()
                log.error("announcement cannot be read", id=message.id, attempt=message.attempt, error=error.message)
                await subscription.nack(message, timedelta(seconds=_TROUBLE_SECONDS))
                return
            except (Unavailable, DeadlineExceeded, Conflict) as error:
                self._troubles.add()
                log.warning("announcement postponed", id=message.id, error=error.message)
                await self._clock.sleep(_TROUBLE_SECONDS)
                await subscription.extend(message)
                continue
            except AerodromeError as error:
                self._troubles.add()
                log.error("announcement not handled", id=message.id, attempt=message.attempt, error=error.message)
                await subscription.nack(message, timedelta(seconds=_TROUBLE_SECONDS))
                return
            except Exception:  # a defect that one message met must not stop the others
                self._troubles.add()
                log.exception("announcement not handled", id=message.id, attempt=message.attempt)
                await subscription.nack(message, timedelta(seconds=_TROUBLE_SECONDS))
                return
            await subscription.ack(message)
            self._handled.add()
            return

    async def _revive(self) -> None:
        while True:
            try:
                await self.revive()
            except AerodromeError as error:
                log.warning("dead letters not looked at", error=error.message)
            await self._clock.sleep(_DEAD_LETTERS.total_seconds())

    async def _keep_house(self) -> None:
        while True:
            await self._clock.sleep(_HOUSEKEEPING.total_seconds())
            try:
                await self.prune()
            except AerodromeError as error:
                log.warning("old deliveries not removed", error=error.message)


def _channel(config: ChannelConfig) -> Channel:
    """What planning has to know; of an address only the host, since the rest may be secret."""
    if config.type == "email":
        return Channel("email", config.recipients)
    url = config.url.get_secret_value() or (PAGERDUTY_URL if config.type == "pagerduty" else "")
    return Channel(config.type, (urlsplit(url).hostname or "by its secret address",))


def _mail(config: NotifierConfig) -> Sender:
    notifications = config.notifications
    server = notifications.emailer.email_server_config
    sender = notifications.emailer.sender
    match notifications.provider:
        case "ses":
            return SesSender(notifications.aws.region or notifications.region, notifications.aws.endpoint, sender)
        case "smtp":
            return SmtpSender(server, sender, config.mail_password)
        case _:
            return NoMail()


async def serve(files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Serve the notifier over gRPC until SIGTERM or SIGINT, then finish what has begun.

    Raises ConfigError, FailedPrecondition for what cannot be served safely, Unavailable if the port is taken.
    """
    config = load(NotifierConfig, files, overrides=overrides)
    logger.configure(config.logger)
    section = config.notifier
    check_exposure(section.server.host, insecure_bind=section.server.insecure_bind, section="notifier.server")
    if config.bus.type == "memory":
        raise FailedPrecondition(
            "bus.type is memory, which reaches nobody outside of this process: name the bus of the control plane"
        )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(config.database, name="aerodrome-notifier"))
        await migrate(database, MIGRATIONS, service=SERVICE)
        telemetry = Telemetry(config.otel)
        stack.push_async_callback(telemetry.aclose)
        database.use_meter(QueryMeter(telemetry.metrics, service=SERVICE))
        bus = await stack.enter_async_context(open_bus(config.bus, database=database))
        notifier = Notifier(config, database=database, bus=bus, clock=SystemClock(), telemetry=telemetry)
        server = RpcServer(address=f"{section.server.host}:{section.server.port}", health_names=("", "notifier"))
        for add_to_server, servicer in notifier.services():
            server.add(add_to_server, servicer)
        at = Operations(telemetry, config, section.server.host, section.profiler_port, "notifier.profilerPort")
        await serve_until_told(server, "notifier", notifier.run, at, grace=timedelta(seconds=10))
