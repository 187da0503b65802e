"""The bus on PostgreSQL: messages and deliveries are rows, taken with SKIP LOCKED; LISTEN and NOTIFY shorten the waits.

A delivery's `due_at` is both its lease (taken: due again after `ack_wait`) and its delay.  Publishing and the first
declaration of a group meet on an advisory lock per topic, so that no message falls between them.
"""

# ruff: noqa: A002 - the port names a message's id `id`

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database, Record
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.postgres.notify import Announcer, Listener, Wakeups
from aerodrome.stdlib.postgres.queries import load_queries
from aerodrome.stdlib.pubsub.bus import ACK_WAIT, MAX_ATTEMPTS, NOW, UNCLAIMED, Message, check

log = get_logger(__name__)

_SQL = load_queries(__package__ or "aerodrome.stdlib.pubsub", "postgres.sql")

MIGRATIONS = f"{__package__ or 'aerodrome.stdlib.pubsub'}.migrations"
SERVICE = "pubsub"
"""The name under which the migrations are recorded."""


async def ensure_tables(database: Database) -> None:
    """Make the bus's tables where they are missing."""
    await migrate(database, MIGRATIONS, service=SERVICE)


class PostgresBus:
    """Topics in a database; open it with `async with`.  Several processes and members share them.

    `poll` is how often a waiting subscription looks without being woken, which it needs only for leases of others that
    ran out and for lost wake-ups.  When a topic has `backlog` messages waiting, publishers wait.
    """

    def __init__(
        self,
        database: Database,
        *,
        ack_wait: timedelta = ACK_WAIT,
        max_attempts: int = MAX_ATTEMPTS,
        poll: timedelta = timedelta(seconds=1),
        backlog: int = 1_000_000,
        sweep: timedelta = timedelta(minutes=1),
    ) -> None:
        self.database = database
        self.ack_wait = ack_wait
        self.max_attempts = max_attempts
        self.poll = poll
        self._backlog = backlog
        self._sweep_seconds = sweep.total_seconds()
        self._listener = Listener(database.dsn)
        self._announcer = Announcer(database.dsn)
        self._waiting: dict[str, tuple[float, int]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PostgresBus:
        await self._listener.__aenter__()
        await self._announcer.__aenter__()
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="pubsub sweeper")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        await self._announcer.__aexit__()
        await self._listener.__aexit__()

    async def declare(self, topic: str, group: str) -> None:
        check(topic, group)
        await self.database.execute(_SQL.declare, topic, group)

    async def publish(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        check(topic, body=body)
        await self._room(topic)
        message_id = id or str(uuid.uuid4())
        await self.database.execute(_SQL.publish, topic, message_id, key, body, json.dumps(dict(headers or {})))
        self.announce(topic)
        return message_id

    async def deliver(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        return await self.publish(topic, body, key=key, headers=headers, id=id)

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str, *, prefetch: int = 16) -> AsyncIterator[_PostgresSubscription]:
        check(topic, group, prefetch=prefetch)
        await self.declare(topic, group)
        async with self._listener.subscribe(_channel(topic)) as wakeups:
            subscription = _PostgresSubscription(self, topic, group, prefetch, wakeups)
            try:
                yield subscription
            finally:
                await subscription.release()

    async def dead_letters(self, topic: str, group: str, limit: int = 100) -> Sequence[Message]:
        check(topic, group)
        return [_message(row) for row in await self.database.fetch(_SQL.dead_letters, topic, group, limit)]

    async def revive(self, topic: str, group: str, id: str) -> None:
        if await self.database.fetchval(_SQL.revive, topic, group, id) is None:
            raise NotFound(f"{group} has no dead letter {id} of {topic}")
        self.announce(topic)

    async def sweep(self) -> None:
        """Remove messages that nobody waits for; done now and then while the bus is open."""
        await self.database.execute(_SQL.sweep_handled)
        await self.database.execute(_SQL.sweep_unclaimed, UNCLAIMED)

    def announce(self, topic: str) -> None:
        """Wake the topic's subscriptions, here and elsewhere."""
        self._announcer.announce(_channel(topic))

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self.sweep()
            except AerodromeError as error:
                log.warning("pubsub sweep failed", error=error.message)

    async def _room(self, topic: str) -> None:
        """Wait while the topic is full; what waits is counted at most once a second."""
        while True:
            looked, waiting = self._waiting.get(topic, (0.0, 0))
            if time.monotonic() - looked > 1.0:
                waiting = int(await self.database.fetchval(_SQL.count_waiting, topic, self._backlog) or 0)
                self._waiting[topic] = (time.monotonic(), waiting)
            if waiting < self._backlog:
                self._waiting[topic] = (self._waiting[topic][0], waiting + 1)
                return
            await asyncio.sleep(self.poll.total_seconds())


class _PostgresSubscription:
    """Takes one message at a time: what one member took ahead of need would be kept from the others."""

    def __init__(self, bus: PostgresBus, topic: str, group: str, prefetch: int, wakeups: Wakeups) -> None:
        self._bus = bus
        self._topic = topic
        self._group = group
        self._prefetch = prefetch
        self._wakeups = wakeups
        self._held: dict[str, float] = {}
        """When the lease of each message ends, by its id, in seconds of `time.monotonic`."""
        self._due: list[float] = []
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()

    async def next(self) -> Message:
        async with self._turn:
            while True:
                await self._room()
                until = self._lease()
                row = await self._bus.database.fetchrow(
                    _SQL.take, self._topic, self._group, self._bus.ack_wait, self._bus.max_attempts
                )
                if row is not None:
                    message = _message(row)
                    self._held[message.id] = until
                    return message
                await self._wait()

    async def ack(self, message: Message) -> None:
        await self._bus.database.execute(_SQL.ack, self._topic, self._group, message.id)
        self._let_go(message)
        if message.key:
            self._wakeups.wake()
            self._bus.announce(self._topic)  # the next of the key is ready, perhaps for another member

    async def nack(self, message: Message, delay: timedelta = NOW) -> None:
        if message.id not in self._held:
            return
        dead = await self._bus.database.fetchval(
            _SQL.nack, self._topic, self._group, message.id, delay, self._bus.max_attempts, message.attempt
        )
        self._let_go(message)
        if dead:
            log.warning(
                "message given up", topic=self._topic, group=self._group, id=message.id, attempts=message.attempt
            )
        self._due.append(time.monotonic() + delay.total_seconds())
        self._wakeups.wake()
        self._bus.announce(self._topic)

    async def extend(self, message: Message) -> None:
        if message.id in self._held:
            until = self._lease()
            await self._bus.database.execute(_SQL.extend, self._topic, self._group, message.id, self._bus.ack_wait)
            self._held[message.id] = until

    async def release(self) -> None:
        """The block ended: what it holds comes back at once."""
        held = list(self._held)
        self._held.clear()
        if held:
            with contextlib.suppress(AerodromeError):  # the leases run out by themselves
                await self._bus.database.execute(_SQL.release, self._topic, self._group, held, self._bus.max_attempts)
                self._bus.announce(self._topic)

    async def _room(self) -> None:
        while True:
            now = time.monotonic()
            for expired in [each for each, until in self._held.items() if until <= now]:
                del self._held[expired]  # it belongs to the group again
            if len(self._held) < self._prefetch:
                return
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._held.values()) - now + 0.001):
                    await self._freed.wait()

    async def _wait(self) -> None:
        now = time.monotonic()
        self._due = [due for due in self._due if due > now]
        seconds = min([self._bus.poll.total_seconds(), *(due - now for due in self._due)])
        await self._wakeups.next(timedelta(seconds=seconds))

    def _lease(self) -> float:
        return time.monotonic() + self._bus.ack_wait.total_seconds()

    def _let_go(self, message: Message) -> None:
        self._held.pop(message.id, None)
        self._freed.set()


def _message(row: Record) -> Message:
    return Message(
        row["id"],
        row["topic"],
        row["key"],
        row["body"],
        row["published_at"],
        json.loads(row["headers"]),
        row["attempts"],
    )


def _channel(topic: str) -> str:
    return "pubsub_" + hashlib.sha256(topic.encode()).hexdigest()[:40]
