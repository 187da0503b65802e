"""Wake-ups between processes through LISTEN and NOTIFY: hints that a loop should look, never the record of anything.

`Listener` holds one connection for all channels of a process and reconnects by itself; after each reconnect every
subscriber is woken once with an empty payload, because what was sent in between is gone.  `Announcer` sends from one
connection of its own, coalesced: NOTIFY inside the transactions of the journal would serialise their commits.
Source: design.md, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres import driver

log = get_logger(__name__)

MAX_PAYLOAD_BYTES = 7_999
"""PostgreSQL's own limit for a notification."""

MAX_CHANNEL_BYTES = 63

_PENDING = 1_000
"""Different wake-ups that may wait in one place before they become a single empty one."""

_PAUSE_SECONDS = 0.002
"""Least time between two notifications of a process: each takes a lock of the whole server at its commit, and what is
announced meanwhile goes into one."""
_CONNECTING_SECONDS = 10
_CHECK_SECONDS = 30.0
_LOSSES = (OSError, driver.PostgresError, driver.InterfaceError, driver.InternalClientError, TimeoutError)


class Wakeups:
    """What one subscriber has still to hear: payloads in order, each at most once; iterate, or wait for `next`."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}
        self._arrived = asyncio.Event()

    def wake(self, payload: str = "") -> None:
        """Add a payload unless it is waiting already; too many of them become one that is empty: look at everything."""
        if len(self._waiting) >= _PENDING:
            self._waiting = {"": None}
        else:
            self._waiting[payload] = None
        self._arrived.set()

    async def next(self, timeout: timedelta | None = None) -> str | None:
        """The next payload; empty: something may have changed anywhere; None: nothing came within `timeout`."""
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                while not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        payload = next(iter(self._waiting))
        del self._waiting[payload]
        return payload

    def drain(self) -> list[str]:
        """Everything that waits, at once."""
        payloads, self._waiting = list(self._waiting), {}
        return payloads

    def __aiter__(self) -> AsyncIterator[str]:
        return self._all()

    async def _all(self) -> AsyncIterator[str]:
        while (payload := await self.next()) is not None:
            yield payload


class Listener:
    """Hears notifications; open it with `async with`, and `subscribe` at any time.

    A channel is heard from when its `subscribe` block begins, or, while the server is away, from the reconnect on,
    which wakes everybody.
    """

    def __init__(self, dsn: str, *, retry: timedelta = timedelta(milliseconds=100)) -> None:
        self._dsn = dsn
        self._retry_seconds = retry.total_seconds()
        self._subscribers: dict[str, set[Wakeups]] = {}
        self._connection: Any = None
        self._lock = asyncio.Lock()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="database listener")
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._disconnect()

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Wakeups]:
        """The wake-ups of `channel` while the block lasts; listening has begun when it is entered."""
        _check_channel(channel)
        wakeups = Wakeups()
        async with self._lock:
            first = channel not in self._subscribers
            self._subscribers.setdefault(channel, set()).add(wakeups)
            if first and self._connection is not None:
                await self._try(self._connection.add_listener(channel, self._heard))
        try:
            yield wakeups
        finally:
            async with self._lock:
                self._subscribers[channel].discard(wakeups)
                if not self._subscribers[channel]:
                    del self._subscribers[channel]
                    if self._connection is not None:
                        await self._try(self._connection.remove_listener(channel, self._heard))

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                async with self._lock:
                    await self._try(self._connection.execute("SELECT 1"))  # finds a connection that died silently
                continue
            await self._disconnect()
            log.info("database listener reconnects")
            while not await self._try_to_connect():  # noqa: ASYNC110 - each look is an attempt
                await asyncio.sleep(self._retry_seconds)

    async def _try_to_connect(self) -> bool:
        try:
            await self._connect()
        except _LOSSES:
            return False
        return True

    async def _connect(self) -> None:
        async with self._lock:
            connection: Any = await driver.connect(
                self._dsn,
                timeout=_CONNECTING_SECONDS,
                command_timeout=_CONNECTING_SECONDS,
                server_settings={"application_name": "aerodrome listener"},
            )
            try:
                for channel in self._subscribers:
                    await connection.add_listener(channel, self._heard)
                self._lost.clear()
                connection.add_termination_listener(self._ended)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        for subscribers in self._subscribers.values():
            for wakeups in subscribers:
                wakeups.wake()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _try(self, command: Awaitable[object]) -> None:
        """Run it; what fails because the connection is lost is made good by the reconnect."""
        try:
            await command
        except _LOSSES:
            self._lost.set()

    def _ended(self, connection: Any) -> None:
        if connection is self._connection:
            self._lost.set()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        for wakeups in self._subscribers.get(channel, ()):
            wakeups.wake(payload)


class Announcer:
    """Sends notifications from one connection of its own; open it with `async with`.

    `announce` never waits and never fails because of the database: equal wake-ups that wait are sent once, and while
    the server is away they wait (bounded: past `_PENDING`, a channel's become a single empty one).
    """

    def __init__(self, dsn: str, *, retry: timedelta = timedelta(milliseconds=100)) -> None:
        self._dsn = dsn
        self._retry_seconds = retry.total_seconds()
        self._waiting: dict[tuple[str, str], None] = {}
        self._arrived = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None

    def announce(self, channel: str, payload: str = "") -> None:
        """Wake the listeners of `channel` soon; raises InvalidArgument for a name or payload that is too long."""
        _check_channel(channel)
        if len(payload.encode()) > MAX_PAYLOAD_BYTES or "\0" in payload:
            raise InvalidArgument(f"a notification's payload is text of at most {MAX_PAYLOAD_BYTES} bytes")
        if len(self._waiting) >= _PENDING:
            self._waiting = {(each, ""): None for each, _ in self._waiting}
            payload = ""
        self._waiting[channel, payload] = None
        self._sent.clear()
        self._arrived.set()

    async def flush(self, timeout: timedelta = timedelta(seconds=5)) -> bool:
        """Wait until everything announced so far was sent; False if that took too long."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._sent.wait()
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> Announcer:
        self._task = asyncio.create_task(self._run(), name="database announcer")
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            await self.flush(timedelta(seconds=1))
            task.cancel()
            await asyncio.wait([task])
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._waiting = self._waiting, {}
            while not await self._send(batch):  # noqa: ASYNC110 - each look is an attempt
                await asyncio.sleep(self._retry_seconds)
            if not self._waiting:
                self._sent.set()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, batch: dict[tuple[str, str], None]) -> bool:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await driver.connect(
                    self._dsn,
                    timeout=_CONNECTING_SECONDS,
                    command_timeout=_CONNECTING_SECONDS,
                    server_settings={"application_name": "aerodrome announcer"},
                )
            channels, payloads = [each for each, _ in batch], [each for _, each in batch]
            await self._connection.execute(_NOTIFY, channels, payloads)
        except _LOSSES as error:
            log.warning("announcement delayed", error=repr(error))
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.terminate()
            return False
        return True


_NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS waiting (channel, payload)"


def _check_channel(channel: str) -> None:
    if not channel or len(channel.encode()) > MAX_CHANNEL_BYTES:
        raise InvalidArgument(f"{channel!r} cannot be a channel: its name has 1 to {MAX_CHANNEL_BYTES} bytes")
