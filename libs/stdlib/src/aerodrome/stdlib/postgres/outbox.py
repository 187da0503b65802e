"""The transactional outbox: what must be announced is written with the rows that it is about, and relayed after the
commit.

`Outbox(conn).add(...)` inserts in the caller's transaction.  `OutboxRelay` publishes the rows in order and deletes each
after the publisher returned, so a message is never lost and may be repeated; it carries an id to drop repeats by.

One relay works at a time per database, by an advisory lock on its own connection; others stand by.  That keeps the
order per key without leases, and a killed relay's successor begins at once where it left off.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from aerodrome.stdlib.errors import AerodromeError, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database
from aerodrome.stdlib.postgres.notify import Wakeups

log = get_logger(__name__)

OUTBOX_DDL = """
CREATE TABLE outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text        NOT NULL,
    key        text        NOT NULL DEFAULT '',
    payload    bytea       NOT NULL,
    headers    jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
"""
"""For the service's own migrations."""

_ADD = "INSERT INTO outbox (topic, key, payload, headers) VALUES ($1, $2, $3, $4::jsonb) RETURNING id"
_NEXT = """
SELECT id, topic, key, payload, headers, created_at FROM outbox
 WHERE id <> ALL ($1::bigint[])
   AND (topic, key) NOT IN (SELECT topic, key FROM unnest($2::text[], $3::text[]) AS busy (topic, key))
 ORDER BY id
 LIMIT $4
"""
_DONE = "DELETE FROM outbox WHERE id = ANY ($1::bigint[])"
_LOCK_KEY = 0x6F75_7462
_BATCH = 256
_POSTPONED = 1_000
"""Lanes that may wait for another try; when there are more, nothing works, and new ones are not even begun."""


class _Executes(Protocol):
    async def fetchval(self, query: str, *args: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A row of the outbox on its way."""

    id: int
    topic: str
    key: str
    payload: bytes
    headers: Mapping[str, str]
    created_at: datetime

    @property
    def lane(self) -> tuple[str, str | int]:
        """What is kept in order: the topic and the key, or, without a key, this message alone."""
        return self.topic, self.key or self.id

    @property
    def message_id(self) -> str:
        """The same at each repeat."""
        return f"outbox-{self.id}"


Publish = Callable[[Outgoing], Awaitable[object]]
"""Hands a message on and returns when the receiver has it durably; raising AerodromeError means: later again."""


class Outbox:
    """The outbox as part of a transaction."""

    def __init__(self, conn: Connection | _Executes) -> None:
        self._conn = conn

    async def add(self, topic: str, key: str, payload: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Send `payload` to `topic` if and when the transaction commits, in order with others of the same `key`.

        Returns the row's id.  An empty key keeps no order.
        """
        return int(await self._conn.fetchval(_ADD, topic, key, payload, json.dumps(dict(headers or {}))))


class OutboxRelay:
    """Moves what is in the outbox to `publish`.

    `wakeups` (for example a Listener's) shorten the wait between looks, which happen every `interval` anyway.  At most
    `parallel` keys are under way at once, each in order.  What cannot be published holds back its key alone, and is
    tried again after `retry`, then with growing pauses.
    """

    def __init__(
        self,
        database: Database,
        publish: Publish,
        *,
        wakeups: Wakeups | None = None,
        interval: timedelta = timedelta(seconds=1),
        parallel: int = 64,
        retry: timedelta = timedelta(milliseconds=200),
        longest_retry: timedelta = timedelta(seconds=30),
    ) -> None:
        self._database = database
        self._publish = publish
        self._wakeups = wakeups if wakeups is not None else Wakeups()
        self._interval_seconds = interval.total_seconds()
        self._parallel = parallel
        self._retry_seconds = retry.total_seconds()
        self._longest_retry_seconds = longest_retry.total_seconds()

    def wake(self) -> None:
        """Look now: something was committed in this process."""
        self._wakeups.wake()

    async def run(self) -> None:
        """Relay until cancelled; what is under way then is published again by the next relay."""
        while True:
            try:
                async with self._database.connection() as conn:
                    if await conn.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
                        try:
                            await self._lead(conn)
                        finally:
                            await self._step_down(conn)
            except* Unavailable as errors:
                log.warning("outbox waits for the database", error=str(errors.exceptions[0]))
            await self._wakeups.next(timedelta(seconds=self._interval_seconds))

    async def _step_down(self, conn: Connection) -> None:
        try:
            await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)
        except AerodromeError:
            conn.raw.terminate()  # and the lock with it

    async def _lead(self, conn: Connection) -> None:
        """Be the one relay, on the connection that holds the lock, until it is lost or we are cancelled."""
        flight = _Flight()
        listening: asyncio.Task[object] | None = None
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    done = flight.take_done()
                    if done:
                        await conn.execute(_DONE, done)
                    room = self._parallel - len(flight.running)
                    if room > 0 and len(flight.postponed) < _POSTPONED:
                        for messages in await self._next(conn, flight, room):
                            task = group.create_task(self._deliver(messages, flight))
                            flight.running[task] = messages
                            task.add_done_callback(flight.landed)
                    if flight.done:
                        continue
                    if listening is None or listening.done():
                        listening = group.create_task(self._wakeups.next())
                    due = min(flight.postponed.values(), default=None)
                    now = asyncio.get_running_loop().time()
                    seconds = (
                        self._interval_seconds if due is None else min(self._interval_seconds, max(0.0, due[0] - now))
                    )
                    await asyncio.wait(
                        {listening, *flight.running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                    )
            finally:
                for each in (*flight.running, *([listening] if listening is not None else [])):
                    each.cancel()

    async def _next(self, conn: Connection, flight: _Flight, room: int) -> list[list[Outgoing]]:
        """Up to `room` keys that are free, each with its first messages in order."""
        flight.forget_due(asyncio.get_running_loop().time())
        ids, topics, keys = flight.busy()
        found: dict[tuple[str, str | int], list[Outgoing]] = {}
        for row in await conn.fetch(_NEXT, ids, topics, keys, _BATCH):
            message = Outgoing(
                row["id"], row["topic"], row["key"], row["payload"], json.loads(row["headers"]), row["created_at"]
            )
            if message.lane in found:
                found[message.lane].append(message)
            elif len(found) < room:
                found[message.lane] = [message]
        return list(found.values())

    async def _deliver(self, messages: list[Outgoing], flight: _Flight) -> None:
        """Publish one after the other until one fails, which is then postponed with all behind it."""
        for message in messages:
            try:
                await self._publish(message)
            except Exception as error:  # noqa: BLE001 - whatever the publisher met, the message must not be lost
                pause = flight.postpone(message, self._retry_seconds, self._longest_retry_seconds)
                said = error.message if isinstance(error, AerodromeError) else repr(error)
                log.warning("outbox message postponed", topic=message.topic, id=message.id, error=said, seconds=pause)
                return
            flight.finish(message)


class _Flight:
    """What one relay has under way."""

    def __init__(self) -> None:
        self.running: dict[asyncio.Task[None], list[Outgoing]] = {}
        self.done: list[int] = []
        self.postponed: dict[tuple[str, str | int], tuple[float, float]] = {}
        """When each lane may be tried again, and the pause that led to it, both in seconds of the loop's clock."""
        self._pauses: dict[tuple[str, str | int], float] = {}

    def take_done(self) -> list[int]:
        done, self.done = self.done, []
        return done

    def landed(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)

    def finish(self, message: Outgoing) -> None:
        self._pauses.pop(message.lane, None)
        self.done.append(message.id)

    def postpone(self, message: Outgoing, first: float, longest: float) -> float:
        pause = min(longest, self._pauses.get(message.lane, first / 2) * 2)
        self._pauses[message.lane] = pause
        self.postponed[message.lane] = (asyncio.get_running_loop().time() + pause, pause)
        return pause

    def forget_due(self, now: float) -> None:
        for lane in [lane for lane, (due, _) in self.postponed.items() if due <= now]:
            del self.postponed[lane]

    def busy(self) -> tuple[list[int], list[str], list[str]]:
        """Ids that must not be taken again, and the (topic, key) pairs whose turn it is not."""
        ids = list(self.done)
        lanes = list(self.postponed)
        for messages in self.running.values():
            ids += [message.id for message in messages]
            lanes.append(messages[0].lane)
        ids += [key for _, key in lanes if isinstance(key, int)]
        keyed = [(topic, key) for topic, key in lanes if isinstance(key, str)]
        return ids, [topic for topic, _ in keyed], [key for _, key in keyed]
