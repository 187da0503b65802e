"""The bus within one process.

It remembers nothing when the process ends: `deliver` therefore returns only after every group has handled the
message, and an outbox relay that publishes with it keeps its row until then.
"""

# ruff: noqa: A002 - the port names a message's id `id`

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from aerodrome.stdlib.errors import NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.pubsub.bus import ACK_WAIT, MAX_ATTEMPTS, NOW, UNCLAIMED, Message, check

log = get_logger(__name__)


class MemoryBus:
    """Topics in memory; belongs to one event loop.

    A group holds at most `backlog` messages, then publishers to its topic wait; at most `dead` dead letters are
    kept, the newest.
    """

    def __init__(
        self,
        *,
        ack_wait: timedelta = ACK_WAIT,
        max_attempts: int = MAX_ATTEMPTS,
        backlog: int = 100_000,
        dead: int = 10_000,
    ) -> None:
        self._ack_wait_seconds = ack_wait.total_seconds()
        self._max_attempts = max_attempts
        self._backlog = backlog
        self._dead = dead
        self._topics: dict[str, _Topic] = {}

    async def declare(self, topic: str, group: str) -> None:
        check(topic, group)
        self._group(topic, group)

    async def publish(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        message = await self._accept(topic, body, key, headers, id)
        return message.id

    async def deliver(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        message = await self._accept(topic, body, key, headers, id)
        for group in list(self._topic(topic).groups.values()):
            await group.settled(message.id)
        return message.id

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str, *, prefetch: int = 16) -> AsyncIterator[_MemorySubscription]:
        check(topic, group, prefetch=prefetch)
        subscription = _MemorySubscription(self._group(topic, group), prefetch)
        try:
            yield subscription
        finally:
            subscription.release()

    async def dead_letters(self, topic: str, group: str, limit: int = 100) -> Sequence[Message]:
        check(topic, group)
        return [entry.message for entry in list(self._group(topic, group).dead.values())[:limit]]

    async def revive(self, topic: str, group: str, id: str) -> None:
        entry = self._group(topic, group).dead.pop(id, None)
        if entry is None:
            raise NotFound(f"{group} has no dead letter {id} of {topic}")
        self._group(topic, group).add(replace(entry.message, attempt=0))

    async def _accept(
        self, topic: str, body: bytes, key: str, headers: Mapping[str, str] | None, id: str | None
    ) -> Message:
        check(topic, body=body)
        message = Message(
            id or str(uuid.uuid4()), topic, key, bytes(body), datetime.now(UTC), dict(headers or {}), attempt=0
        )
        found = self._topic(topic)
        if not found.groups:
            found.unclaimed[message.id] = message
            while len(found.unclaimed) > UNCLAIMED:
                found.unclaimed.popitem(last=False)
            return message
        for group in list(found.groups.values()):
            await group.room()
        for group in list(found.groups.values()):  # together, so that all groups see one order
            group.add(message)
        return message

    def _topic(self, name: str) -> _Topic:
        return self._topics.setdefault(name, _Topic())

    def _group(self, topic: str, name: str) -> _Group:
        found = self._topic(topic)
        group = found.groups.get(name)
        if group is None:
            group = found.groups[name] = _Group(
                f"{topic}/{name}", self._ack_wait_seconds, self._max_attempts, self._backlog, self._dead
            )
            for message in found.unclaimed.values():
                group.add(message)
            found.unclaimed.clear()
        return group


class _Topic:
    def __init__(self) -> None:
        self.groups: dict[str, _Group] = {}
        self.unclaimed: OrderedDict[str, Message] = OrderedDict()


class _Entry:
    """A message of a group, and who has it."""

    __slots__ = ("holder", "message", "timer")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.holder: _MemorySubscription | None = None
        self.timer: asyncio.TimerHandle | None = None


class _Group:
    """The messages that a group has not handled yet; of each key, the first is ready or taken and the rest wait."""

    def __init__(self, name: str, ack_wait_seconds: float, max_attempts: int, backlog: int, dead: int) -> None:
        self._name = name
        self._ack_wait_seconds = ack_wait_seconds
        self._max_attempts = max_attempts
        self._backlog = backlog
        self._max_dead = dead
        self._entries: dict[str, _Entry] = {}
        self._lanes: dict[str, deque[_Entry]] = {}
        self._ready: deque[_Entry] = deque()
        self._changed = asyncio.Event()
        self.dead: OrderedDict[str, _Entry] = OrderedDict()

    def add(self, message: Message) -> None:
        if message.id in self._entries:
            return
        entry = self._entries[message.id] = _Entry(message)
        if message.key:
            lane = self._lanes.setdefault(message.key, deque())
            lane.append(entry)
            if len(lane) > 1:
                return
        self._ready.append(entry)
        self._wake()

    async def room(self) -> None:
        """Until there is room for another message."""
        while len(self._entries) >= self._backlog:
            await self._change()

    async def settled(self, id: str) -> None:
        """Until the message is handled or given up."""
        while id in self._entries:
            await self._change()

    async def take(self, holder: _MemorySubscription) -> Message:
        """The next ready message, given to `holder` when it has room."""
        while not self._ready or len(holder.held) >= holder.prefetch:
            await self._change()
        entry = self._ready.popleft()
        entry.message = replace(entry.message, attempt=entry.message.attempt + 1)
        entry.holder = holder
        holder.held[entry.message.id] = entry
        self._start(entry)
        return entry.message

    def extend(self, entry: _Entry) -> None:
        self._start(entry)

    def finish(self, id: str) -> None:
        """Handled, or given up."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        self._let_go(entry)
        if entry in self._ready:
            self._ready.remove(entry)
        lane = self._lanes.get(entry.message.key)
        if lane is not None and entry.message.key:
            first = lane[0] is entry
            lane.remove(entry)
            if not lane:
                del self._lanes[entry.message.key]
            elif first:
                self._ready.append(lane[0])
        self._wake()

    def give_back(self, entry: _Entry, delay_seconds: float) -> None:
        """Not handled: ready again after the delay, or given up if that was the last attempt."""
        self._let_go(entry)
        if entry.message.attempt >= self._max_attempts:
            self.dead[entry.message.id] = entry
            while len(self.dead) > self._max_dead:
                self.dead.popitem(last=False)
            log.warning("message given up", group=self._name, id=entry.message.id, attempts=entry.message.attempt)
            self.finish(entry.message.id)
        elif delay_seconds > 0:
            entry.timer = asyncio.get_running_loop().call_later(delay_seconds, self._again, entry)
            self._wake()
        else:
            self._again(entry)

    def _again(self, entry: _Entry) -> None:
        entry.timer = None
        self._ready.appendleft(entry)
        self._wake()

    def _start(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = asyncio.get_running_loop().call_later(self._ack_wait_seconds, self.give_back, entry, 0.0)

    def _let_go(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.holder is not None:
            entry.holder.held.pop(entry.message.id, None)
            entry.holder = None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()


class _MemorySubscription:
    def __init__(self, group: _Group, prefetch: int) -> None:
        self._group = group
        self.prefetch = prefetch
        self.held: dict[str, _Entry] = {}

    async def next(self) -> Message:
        return await self._group.take(self)

    async def ack(self, message: Message) -> None:
        self._group.finish(message.id)

    async def nack(self, message: Message, delay: timedelta = NOW) -> None:
        entry = self.held.get(message.id)
        if entry is not None:
            self._group.give_back(entry, delay.total_seconds())

    async def extend(self, message: Message) -> None:
        entry = self.held.get(message.id)
        if entry is not None:
            self._group.extend(entry)

    def release(self) -> None:
        """The block ended: what it holds comes back, the oldest first."""
        for entry in reversed(list(self.held.values())):
            self._group.give_back(entry, 0.0)
