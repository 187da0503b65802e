"""The bus on NATS JetStream: a stream for each topic, and for each group one consumer per lane.

JetStream keeps no order among the members of a group, so messages with a key go to one of `lanes` subjects by a hash of
the key, and of each lane a group has at most one message under way.  The order is therefore kept for all keys of a lane
together; a key that waits for another attempt holds back its lane.  Messages without a key have a subject of their own,
without that limit.

A stream drops what every group has handled and refuses more than `backlog` messages, so that publishers wait.  Members
ask for one message at a time, since what one member took ahead of need would be kept from the others; plain NATS
messages that name the lane tell them when to ask.
"""

# ruff: noqa: A002 - the port names a message's id `id`

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from aerodrome.stdlib.errors import AerodromeError, InvalidArgument, NotFound, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.pubsub.bus import ACK_WAIT, MAX_ATTEMPTS, NOW, UNCLAIMED, Message, check
from aerodrome.stdlib.pubsub.encoding import fields_of, message_of
from aerodrome.stdlib.pubsub.pulled import Pulled

log = get_logger(__name__)

T = TypeVar("T")

LANES = 16
_DEAD = "AERODROME_DEAD"
_DEAD_DAYS = 30
_FULL = 10077
"""JetStream's code for a stream that has as many messages as it may."""
_NONE_YET = "none-yet"
"""Name of the consumer that keeps what is published before the first group."""
_HEADER = "Aerodrome-Message"
_ONE = b'{"batch":1,"no_wait":true,"expires":3000000}'
"""Asks for one message, and waits 3 ms for it: without an end, a lane that has one under way lets the asker wait."""
_TIMEOUT_SECONDS = 5.0


class NatsBus:
    """Topics on NATS servers with JetStream; open it with `async with`.

    `poll` is how often a waiting subscription asks without being told to, which it needs only for leases of others that
    ran out and for hints that were lost.  Raises Unavailable when no server answers.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ack_wait: timedelta = ACK_WAIT,
        max_attempts: int = MAX_ATTEMPTS,
        poll: timedelta = timedelta(seconds=5),
        backlog: int = 1_000_000,
        lanes: int = LANES,
    ) -> None:
        self.ack_wait = ack_wait
        self.max_attempts = max_attempts
        self.poll = poll
        self.lanes = lanes
        self._servers = list(servers)
        self._user, self._password, self._token = user, password, token
        self._backlog = backlog
        self._streams: set[str] = set()
        self._kept: dict[str, bool] = {}
        self._client = Client()
        self._unclaimed = 0

    async def __aenter__(self) -> NatsBus:
        async def report(error: Exception) -> None:
            log.debug("nats", error=repr(error))

        await _reach(
            self._client.connect(
                servers=self._servers,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                connect_timeout=5,
                allow_reconnect=True,
                error_cb=report,
                user=self._user,
                password=self._password,
                token=self._token,
            ),
            seconds=10,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(nats_errors.Error, TimeoutError):
            await self._client.close()

    @property
    def js(self) -> JetStreamContext:
        """JetStream of the open connection."""
        return self._client.jetstream(timeout=_TIMEOUT_SECONDS)

    @property
    def client(self) -> Client:
        """The open connection."""
        return self._client

    async def declare(self, topic: str, group: str) -> None:
        check(topic, group)
        await self._ensure(topic)
        stream = _stream(topic)
        known = {info.name for info in await _reach(self._consumers(stream))}
        wanted = [_consumer(group, lane) for lane in self.lane_names]
        if known.issuperset(wanted):
            return
        first = known <= {_NONE_YET}
        for lane, name in zip(self.lane_names, wanted, strict=True):
            await _reach(
                self.js.add_consumer(
                    stream,
                    api.ConsumerConfig(
                        durable_name=name,
                        deliver_policy=api.DeliverPolicy.ALL if first else api.DeliverPolicy.NEW,
                        ack_policy=api.AckPolicy.EXPLICIT,
                        ack_wait=self.ack_wait.total_seconds(),
                        filter_subject=_revived(topic, group) if lane == "back" else _subject(topic, lane),
                        max_ack_pending=1 if lane.startswith("k") else -1,
                    ),
                )
            )
        if _NONE_YET in known:
            with contextlib.suppress(NotFound):
                await _reach(self.js.delete_consumer(stream, _NONE_YET))

    async def publish(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        check(topic, body=body)
        if len(body) + 4096 > self._client.max_payload:
            raise InvalidArgument(
                f"a message of {len(body)} bytes is larger than the NATS server takes ({self._client.max_payload} "
                "bytes): raise its max_payload"
            )
        await self._ensure(topic)
        message_id = id or str(uuid.uuid4())
        lane = self.lane_of(key)
        described = _described(Message(message_id, topic, key, body, datetime.now(UTC), dict(headers or {})))
        pause = 0.01
        while True:
            try:
                await _reach(
                    self.js.publish(
                        _subject(topic, lane), body, headers={_HEADER: described, "Nats-Msg-Id": message_id}
                    )
                )
                break
            except _Full:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except NotFound:  # somebody removed the stream
                self._streams.discard(topic)
                await self._ensure(topic)
        await self.hint(topic, lane)
        await self._forget_unclaimed(topic)
        return message_id

    async def deliver(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        return await self.publish(topic, body, key=key, headers=headers, id=id)

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str, *, prefetch: int = 16) -> AsyncIterator[_NatsSubscription]:
        check(topic, group, prefetch=prefetch)
        await self.declare(topic, group)
        subscription = _NatsSubscription(self, topic, group, prefetch)

        async def hinted(message: Msg) -> None:
            subscription.hinted(message.data.decode())

        hints = await _reach(self._client.subscribe(_hints(topic), cb=hinted))
        try:
            yield subscription
        finally:
            with contextlib.suppress(nats_errors.Error):
                await hints.unsubscribe()
            await subscription.release()

    async def dead_letters(self, topic: str, group: str, limit: int = 100) -> Sequence[Message]:
        check(topic, group)
        await self._ensure(topic)
        found: list[Message] = []
        sequence = 1
        while len(found) < limit:
            try:
                raw = await _reach(self.js.get_msg(_DEAD, seq=sequence, subject=f"{_dead(topic, group)}.*", next=True))
            except NotFound:
                break
            assert raw.seq is not None
            sequence = raw.seq + 1
            found.append(_read(topic, raw.data or b"", raw.headers or {}))
        return found

    async def revive(self, topic: str, group: str, id: str) -> None:
        subject = f"{_dead(topic, group)}.{_digest(id)}"
        try:
            await self._ensure(topic)
            raw = await _reach(self.js.get_last_msg(_DEAD, subject))
        except NotFound:
            raise NotFound(f"{group} has no dead letter {id} of {topic}") from None
        message = _read(topic, raw.data or b"", raw.headers or {})
        described = _described(message)
        await _reach(self.js.publish(_revived(topic, group), message.body, headers={_HEADER: described}))
        assert raw.seq is not None
        await _reach(self.js.delete_msg(_DEAD, raw.seq))
        await self.hint(topic, "back")

    async def send_plainly(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish to a subject that is not a topic of this bus, and wait until the server has it.

        If a stream of JetStream keeps the subject, it is stored there; without one, who does not listen now misses it.
        """
        if subject not in self._kept:
            try:
                await _reach(self.js.find_stream_name_by_subject(subject))
                self._kept[subject] = True
            except NotFound:
                self._kept[subject] = False
        if self._kept[subject]:
            await _reach(self.js.publish(subject, body, headers=dict(headers)))
        else:
            await _reach(self._client.publish(subject, body, headers=dict(headers)))
            await _reach(self._client.flush(int(_TIMEOUT_SECONDS)))

    async def bury(self, message: Message, group: str) -> None:
        """Keep a message that was given up."""
        described = _described(message, message.attempt)
        await _reach(
            self.js.publish(
                f"{_dead(message.topic, group)}.{_digest(message.id)}", message.body, headers={_HEADER: described}
            )
        )
        log.warning("message given up", topic=message.topic, group=group, id=message.id, attempts=message.attempt)

    async def hint(self, topic: str, lane: str) -> None:
        """Tell members to look at a lane; a lost hint costs them `poll`."""
        with contextlib.suppress(nats_errors.Error):
            await self._client.publish(_hints(topic), lane.encode())

    @property
    def lane_names(self) -> list[str]:
        """All subjects of a topic below its name, and `back` for what was revived for one group."""
        return ["free", "back", *(f"k{number}" for number in range(self.lanes))]

    def lane_of(self, key: str) -> str:
        """The lane of a key."""
        if not key:
            return "free"
        return f"k{int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], 'big') % self.lanes}"

    async def _ensure(self, topic: str) -> None:
        """Make the topic's stream, and the one for dead letters, unless they are known to exist."""
        if topic in self._streams:
            return
        with contextlib.suppress(_Exists):
            await _reach(
                self.js.add_stream(
                    api.StreamConfig(
                        name=_DEAD,
                        subjects=["aerodrome.dead.>"],
                        retention=api.RetentionPolicy.LIMITS,
                        max_age=_DEAD_DAYS * 86_400,
                        storage=api.StorageType.FILE,
                    )
                )
            )
        stream = _stream(topic)
        try:
            await _reach(self.js.stream_info(stream))
        except NotFound:
            with contextlib.suppress(_Exists):
                await _reach(
                    self.js.add_stream(
                        api.StreamConfig(
                            name=stream,
                            description=topic,
                            subjects=[f"{_subject(topic, '>')}"],
                            retention=api.RetentionPolicy.INTEREST,
                            max_msgs=self._backlog,
                            discard=api.DiscardPolicy.NEW,
                            storage=api.StorageType.FILE,
                            duplicate_window=120,
                        )
                    )
                )
                await _reach(
                    self.js.add_consumer(
                        stream,
                        api.ConsumerConfig(durable_name=_NONE_YET, ack_policy=api.AckPolicy.EXPLICIT),
                    )
                )
        self._streams.add(topic)

    async def _consumers(self, stream: str) -> list[api.ConsumerInfo]:
        found: list[api.ConsumerInfo] = []
        while True:
            page = await self.js.consumers_info(stream, offset=len(found))
            found += page
            if len(page) < 256:
                return found

    async def _forget_unclaimed(self, topic: str) -> None:
        """Of a topic without groups, only the newest messages are kept."""
        self._unclaimed += 1
        if self._unclaimed % 1_000:
            return
        stream = _stream(topic)
        if any(info.name != _NONE_YET for info in await _reach(self._consumers(stream))):
            return
        await _reach(self.js.purge_stream(stream, keep=UNCLAIMED))


class _NatsSubscription:
    """Asks the lanes one after the other, those first of which it was told."""

    def __init__(self, bus: NatsBus, topic: str, group: str, prefetch: int) -> None:
        self._bus = bus
        self._topic = topic
        self._group = group
        self._prefetch = prefetch
        self._held: dict[str, tuple[float, Msg, str]] = {}
        """When the lease of each message ends in seconds of `time.monotonic`, the delivery, and its lane; by id."""
        self._due: dict[str, float] = {}
        """Lanes in which something that was refused is ready again, and when."""
        self._look: dict[str, None] = dict.fromkeys(bus.lane_names)
        self._told = asyncio.Event()
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._pulled = Pulled(self._turn, self._give_back, self._told.set)

    def hinted(self, lane: str) -> None:
        """There may be something in the lane."""
        self._look[lane] = None
        self._told.set()

    async def next(self) -> Message:
        async with self._turn:
            while True:
                await self._room()
                if self._pulled:
                    return self._pulled.pop()
                self._look_at_due()
                while self._look:
                    lane = next(iter(self._look))
                    del self._look[lane]
                    if self._has(lane):
                        continue  # its acknowledgement or refusal leads here again
                    pulling = asyncio.ensure_future(self._pull(lane))
                    try:
                        found = await asyncio.shield(pulling)
                    except asyncio.CancelledError:
                        pulling.add_done_callback(self._pulled.keep)
                        self._look[lane] = None
                        raise
                    except Unavailable as error:
                        log.debug("bus is away", topic=self._topic, error=error.message)
                        self._look[lane] = None
                        await asyncio.sleep(0.2)
                        continue
                    if found is not None:
                        self._look[lane] = None  # there may be more
                        return found
                await self._wait()

    async def ack(self, message: Message) -> None:
        held = self._held.pop(message.id, None)
        self._freed.set()
        if held is None:
            return
        _, delivery, lane = held
        await _reach(delivery.ack_sync(timeout=_TIMEOUT_SECONDS))
        await self._bus.hint(self._topic, lane)

    async def nack(self, message: Message, delay: timedelta = NOW) -> None:
        held = self._held.pop(message.id, None)
        if held is None or held[0] <= time.monotonic():
            return
        await self._refuse(message, held[1], held[2], delay)

    async def extend(self, message: Message) -> None:
        held = self._held.get(message.id)
        if held is not None:
            until = self._lease()
            await _reach(held[1].in_progress())
            self._held[message.id] = (until, *held[1:])

    async def release(self) -> None:
        """The block ended: what it holds comes back at once."""
        for _, delivery, lane in list(self._held.values()):
            with contextlib.suppress(AerodromeError):  # the leases run out by themselves
                await self._refuse(_read(self._topic, delivery.data, delivery.headers or {}, delivery), delivery, lane)
        self._held.clear()

    async def _refuse(self, message: Message, delivery: Msg, lane: str, delay: timedelta = NOW) -> None:
        self._held.pop(message.id, None)
        self._freed.set()
        if message.attempt >= self._bus.max_attempts:
            await self._bus.bury(message, self._group)
            await _reach(delivery.term())
        else:
            await _reach(delivery.nak(delay.total_seconds() or None))
            self._due[lane] = time.monotonic() + delay.total_seconds()
        await _reach(self._bus.client.flush(int(_TIMEOUT_SECONDS)))
        await self._bus.hint(self._topic, lane)

    async def _give_back(self, message: Message) -> None:
        held = self._held.pop(message.id, None)
        if held is not None:
            with contextlib.suppress(AerodromeError):  # its lease runs out by itself
                await _reach(held[1].nak())
                await self._bus.hint(self._topic, held[2])

    async def _pull(self, lane: str) -> Message | None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{_stream(self._topic)}.{_consumer(self._group, lane)}"
        while True:
            until = self._lease()
            # A delivery keeps its own subject, by which the client's shared inbox cannot tell whose answer it is.
            delivery = await _reach(self._bus.client.request(subject, _ONE, timeout=_TIMEOUT_SECONDS, old_style=True))
            headers = delivery.headers or {}
            if "Status" in headers:
                if headers["Status"] == "503":
                    raise Unavailable("no NATS server answers for the consumer")
                return None
            message = _read(self._topic, delivery.data, headers, delivery)
            if message.attempt <= self._bus.max_attempts:
                self._held[message.id] = (until, delivery, lane)
                return message
            # Its last reader neither acknowledged nor refused it.
            await self._bus.bury(replace(message, attempt=self._bus.max_attempts), self._group)
            await _reach(delivery.term())

    async def _room(self) -> None:
        while True:
            now = time.monotonic()
            for expired in [each for each, (until, _, _) in self._held.items() if until <= now]:
                self._look[self._held[expired][2]] = None  # it belongs to the group again; a late ack still counts
            live = [until for until, _, _ in self._held.values() if until > now]
            if len(live) - len(self._pulled) < self._prefetch:
                return
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(live) - now + 0.001):
                    await self._freed.wait()

    def _has(self, lane: str) -> bool:
        """Whether this member has the one message of the lane that may be under way."""
        now = time.monotonic()
        return lane.startswith("k") and any(on == lane and until > now for until, _, on in self._held.values())

    def _look_at_due(self) -> None:
        now = time.monotonic()
        for lane in [lane for lane, due in self._due.items() if due <= now]:
            del self._due[lane]
            self._look[lane] = None

    async def _wait(self) -> None:
        now = time.monotonic()
        seconds = min([self._bus.poll.total_seconds(), *(max(due - now, 0.0) + 0.002 for due in self._due.values())])
        self._told.clear()
        if self._look or self._pulled:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            if seconds == self._bus.poll.total_seconds():
                self._look.update(dict.fromkeys(self._bus.lane_names))

    def _lease(self) -> float:
        return time.monotonic() + self._bus.ack_wait.total_seconds()


class _Full(AerodromeError):
    """The stream has as many messages as it may."""


class _Exists(AerodromeError):
    """A stream of the name exists, with other settings."""


async def _reach(awaitable: Awaitable[T], *, seconds: float = _TIMEOUT_SECONDS * 2) -> T:
    """The client's errors in our words."""
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except js_errors.NotFoundError as error:
        raise NotFound(str(error.description or error)) from error
    except js_errors.APIError as error:
        if error.err_code == _FULL:
            raise _Full("the topic is full") from error
        if error.err_code == 10058:
            raise _Exists(str(error.description)) from error
        raise Unavailable(f"JetStream refused: {error.description or error}") from error
    except (nats_errors.Error, js_errors.Error, OSError, TimeoutError) as error:
        raise Unavailable(f"the NATS servers cannot be reached: {error!r}") from error


def _described(message: Message, attempt: int | None = None) -> str:
    """Everything of a message but its body, in one header of ASCII."""
    return json.dumps(fields_of(message, attempt))


def _read(topic: str, body: bytes, headers: Mapping[str, str], delivery: Msg | None = None) -> Message:
    attempt = None if delivery is None else delivery.metadata.num_delivered
    return message_of(topic, body, json.loads(headers[_HEADER]), attempt)


def _name(text: str) -> str:
    """A name as NATS takes it: readable, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text)[:40].strip("_")
    return f"{plain}_{_digest(text)[:12]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _stream(topic: str) -> str:
    return f"aerodrome_{_name(topic)}"


def _subject(topic: str, lane: str) -> str:
    return f"aerodrome.topic.{_name(topic)}.{lane}"


def _revived(topic: str, group: str) -> str:
    return _subject(topic, f"back.{_name(group)}")


def _dead(topic: str, group: str) -> str:
    return f"aerodrome.dead.{_name(topic)}.{_name(group)}"


def _hints(topic: str) -> str:
    return f"aerodrome.hint.{_name(topic)}"


def _consumer(group: str, lane: str) -> str:
    return f"{_name(group)}-{lane}"
