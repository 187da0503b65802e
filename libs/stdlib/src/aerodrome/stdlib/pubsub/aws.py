"""The bus on AWS: a FIFO topic of SNS for each topic, and for each group a FIFO queue of SQS that is subscribed to it.

The order of a key is that of SQS's message groups; messages without a key are groups of their own.  What is published
before a topic has a group waits in a queue that the first group then takes for its own.  Attempts and dead letters are
kept by this adapter, so that they mean the same as everywhere; dead letters wait in a queue beside the group's.

SNS and SQS carry text of up to 256 KiB: bodies travel as base64, and larger messages are refused.  SQS drops a repeated
id for five minutes.
"""

# ruff: noqa: A002 - the port names a message's id `id`

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from aerodrome.stdlib.errors import AerodromeError, InvalidArgument, NotFound, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.pubsub.bus import ACK_WAIT, MAX_ATTEMPTS, NOW, Message, check
from aerodrome.stdlib.pubsub.encoding import fields_of, message_of
from aerodrome.stdlib.pubsub.pulled import Pulled

if TYPE_CHECKING:
    from types_aiobotocore_sns.client import SNSClient
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

log = get_logger(__name__)

T = TypeVar("T")

MAX_TEXT_BYTES = 256 * 1024 - 2048
"""Of a message as text, attributes included."""
_LONGEST_POLL_SECONDS = 20
_GROUP_TAG = "aerodrome-group"
_PEEK_SECONDS = 5
_MISSING = frozenset(
    (
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "NotFound",
        "NotFoundException",
        "ResourceNotFound",
    )
)


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """How to reach SNS and SQS; empty texts leave a choice to botocore (AWS, the environment's credentials)."""

    region: str = ""
    endpoint: str = ""
    access_key: str = ""
    secret_key: str = ""
    prefix: str = "aerodrome"
    """Begins the names of topics and queues."""


class AwsBus:
    """Topics on SNS and SQS; open it with `async with`.

    `poll` is how long a member that found nothing waits: whole seconds are waited inside of the request to SQS.
    """

    def __init__(
        self,
        settings: AwsSettings,
        *,
        ack_wait: timedelta = ACK_WAIT,
        max_attempts: int = MAX_ATTEMPTS,
        poll: timedelta = timedelta(seconds=_LONGEST_POLL_SECONDS),
        backlog: int = 100_000,
    ) -> None:
        self.ack_wait = ack_wait
        self.max_attempts = max_attempts
        self.poll = poll
        self._settings = settings
        self._backlog = backlog
        self._exits = AsyncExitStack()
        self._topics: dict[str, str] = {}
        self._queues: dict[tuple[str, str], str] = {}
        self._plain: dict[str, str] = {}
        self._counted: dict[str, tuple[float, int]] = {}
        self._wakeups: dict[str, set[asyncio.Event]] = {}
        self._sns: SNSClient | None = None
        self._sqs: SQSClient | None = None

    async def __aenter__(self) -> AwsBus:
        settings = self._settings
        session = get_session()
        options: dict[str, Any] = {
            "region_name": settings.region or None,
            "endpoint_url": settings.endpoint or None,
            "aws_access_key_id": settings.access_key or None,
            "aws_secret_access_key": settings.secret_key or None,
        }
        config = AioConfig(retries={"max_attempts": 3, "mode": "standard"}, connect_timeout=5, read_timeout=60)
        self._sns = await self._exits.enter_async_context(session.create_client("sns", config=config, **options))
        self._sqs = await self._exits.enter_async_context(session.create_client("sqs", config=config, **options))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    @property
    def sns(self) -> SNSClient:
        """The open client."""
        assert self._sns is not None, "the bus is not open"
        return self._sns

    @property
    def sqs(self) -> SQSClient:
        """The open client."""
        assert self._sqs is not None, "the bus is not open"
        return self._sqs

    async def declare(self, topic: str, group: str) -> None:
        check(topic, group)
        await self._queue(topic, group)

    async def publish(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        check(topic, body=body)
        message = Message(id or str(uuid.uuid4()), topic, key, bytes(body), datetime.now(UTC), dict(headers or {}))
        text = _written(message)
        if len(text) > MAX_TEXT_BYTES:
            raise InvalidArgument(
                f"a message of {len(body)} bytes is too large for SNS, which carries {MAX_TEXT_BYTES * 3 // 4} at "
                "most: send a reference instead"
            )
        arn = await self._topic(topic)
        await self._room(topic)
        await _reach(
            self.sns.publish(
                TopicArn=arn,
                Message=text,
                MessageGroupId=_token(key or message.id),
                MessageDeduplicationId=_token(message.id),
            )
        )
        self.wake(topic)
        return message.id

    async def deliver(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        return await self.publish(topic, body, key=key, headers=headers, id=id)

    @asynccontextmanager
    async def subscribe(self, topic: str, group: str, *, prefetch: int = 16) -> AsyncIterator[_AwsSubscription]:
        check(topic, group, prefetch=prefetch)
        url = await self._queue(topic, group)
        woken = asyncio.Event()
        self._wakeups.setdefault(topic, set()).add(woken)
        subscription = _AwsSubscription(self, topic, group, url, prefetch, woken)
        try:
            yield subscription
        finally:
            self._wakeups[topic].discard(woken)
            await subscription.release()

    async def dead_letters(self, topic: str, group: str, limit: int = 100) -> Sequence[Message]:
        check(topic, group)
        url = await self._make_queue(_name(topic, group, "dead"))
        found = await self._peek(url, limit)
        return [_read(topic, raw, dead=True) for raw in found]

    async def revive(self, topic: str, group: str, id: str) -> None:
        url = await self._make_queue(_name(topic, group, "dead"))
        for raw in await self._peek(url, None):
            message = _read(topic, raw, dead=True)
            if message.id == id:
                await self._send(await self._queue(topic, group), message)
                await _reach(self.sqs.delete_message(QueueUrl=url, ReceiptHandle=raw["ReceiptHandle"]))
                self.wake(topic)
                return
        raise NotFound(f"{group} has no dead letter {id} of {topic}")

    async def send_plainly(self, topic: str, text: str, attributes: Mapping[str, str]) -> None:
        """Publish text to a standard SNS topic that is not one of this bus, by ARN or by name (made if missing)."""
        arn = topic
        if not topic.startswith("arn:"):
            arn = (
                self._plain.get(topic)
                or (await _reach(self.sns.create_topic(Name=topic.replace(".", "-"))))["TopicArn"]
            )
            self._plain[topic] = arn
        await _reach(
            self.sns.publish(
                TopicArn=arn,
                Message=text,
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
                },
            )
        )

    async def bury(self, message: Message, group: str) -> None:
        """Keep a message that was given up."""
        await self._send(await self._make_queue(_name(message.topic, group, "dead")), message, attempt=message.attempt)
        log.warning("message given up", topic=message.topic, group=group, id=message.id, attempts=message.attempt)

    def wake(self, topic: str) -> None:
        """Let members in this process look now; others find out by polling."""
        for woken in self._wakeups.get(topic, ()):
            woken.set()

    async def _send(self, url: str, message: Message, attempt: int | None = None) -> None:
        """Put a message into one queue alone.  What was sent before under its id must not hide it."""
        await _reach(
            self.sqs.send_message(
                QueueUrl=url,
                MessageBody=_written(message, attempt),
                MessageGroupId=_token(message.key or message.id),
                MessageDeduplicationId=uuid.uuid4().hex,
            )
        )

    async def _topic(self, topic: str) -> str:
        arn = self._topics.get(topic)
        if arn is None:
            answer = await _reach(
                self.sns.create_topic(
                    Name=f"{self._settings.prefix}-{_short(topic)}.fifo",
                    Attributes={"FifoTopic": "true", "ContentBasedDeduplication": "false"},
                )
            )
            arn = answer["TopicArn"]
            if not await self._subscribed(arn):
                await self._subscribe(arn, await self._make_queue(_name(topic, "", "first")))
            self._topics[topic] = arn
        return arn

    async def _subscribed(self, arn: str) -> bool:
        answer = await _reach(self.sns.list_subscriptions_by_topic(TopicArn=arn))
        return bool(answer["Subscriptions"])

    async def _queue(self, topic: str, group: str) -> str:
        """The group's queue: the one that has waited for the first group, if that is this one, or one of its own."""
        url = self._queues.get((topic, group))
        if url is not None:
            return url
        arn = await self._topic(topic)
        first = await self._make_queue(_name(topic, "", "first"))
        owner = (await _reach(self.sqs.list_queue_tags(QueueUrl=first))).get("Tags", {}).get(_GROUP_TAG)
        if owner is None:
            await _reach(self.sqs.tag_queue(QueueUrl=first, Tags={_GROUP_TAG: group}))
            owner = group
        if owner == group:
            url = first
        else:
            url = await self._make_queue(_name(topic, group, "queue"))
            await self._subscribe(arn, url)
        self._queues[topic, group] = url
        return url

    async def _subscribe(self, arn: str, url: str) -> None:
        answer = await _reach(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]))
        await _reach(
            self.sns.subscribe(
                TopicArn=arn,
                Protocol="sqs",
                Endpoint=answer["Attributes"]["QueueArn"],
                Attributes={"RawMessageDelivery": "true"},
            )
        )

    async def _make_queue(self, name: str) -> str:
        full = f"{self._settings.prefix}-{name}.fifo"
        with contextlib.suppress(NotFound):
            return (await _reach(self.sqs.get_queue_url(QueueName=full)))["QueueUrl"]
        answer = await _reach(
            self.sqs.create_queue(
                QueueName=full,
                Attributes={
                    "FifoQueue": "true",
                    "ContentBasedDeduplication": "false",
                    "MessageRetentionPeriod": "1209600",
                },
            )
        )
        url = answer["QueueUrl"]
        known = await _reach(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]))
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": known["Attributes"]["QueueArn"],
                    "Condition": {"ArnLike": {"aws:SourceArn": f"arn:aws:sns:*:*:{self._settings.prefix}-*"}},
                }
            ],
        }
        await _reach(self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)}))
        return url

    async def _peek(self, url: str, limit: int | None) -> list[MessageTypeDef]:
        """What is in a queue; it is out of sight while this looks, and back after."""
        found: list[MessageTypeDef] = []
        try:
            while limit is None or len(found) < limit:
                answer = await _reach(
                    self.sqs.receive_message(
                        QueueUrl=url, MaxNumberOfMessages=min(10, (limit or 10)), VisibilityTimeout=_PEEK_SECONDS
                    )
                )
                page = answer.get("Messages", [])
                found += page
                if not page:
                    break
            return found[:limit]
        finally:
            for raw in found:
                with contextlib.suppress(AerodromeError):  # it comes back by itself
                    await _reach(
                        self.sqs.change_message_visibility(
                            QueueUrl=url, ReceiptHandle=raw["ReceiptHandle"], VisibilityTimeout=0
                        )
                    )

    async def _room(self, topic: str) -> None:
        """Wait while a group of the topic that this process knows has too much waiting.

        What waits is counted at most once a second.
        """
        for known, group in list(self._queues):
            if known != topic:
                continue
            url = self._queues[known, group]
            while True:
                looked, waiting = self._counted.get(url, (0.0, 0))
                if time.monotonic() - looked > min(1.0, self.poll.total_seconds()):
                    answer = await _reach(
                        self.sqs.get_queue_attributes(
                            QueueUrl=url,
                            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
                        )
                    )
                    waiting = sum(int(value) for value in answer["Attributes"].values())
                    looked = time.monotonic()
                if waiting < self._backlog:
                    self._counted[url] = (looked, waiting + 1)
                    break
                self._counted[url] = (looked, waiting)
                await asyncio.sleep(min(1.0, self.poll.total_seconds()))


class _AwsSubscription:
    """Takes one message at a time: what one member took ahead of need would be kept from the others."""

    def __init__(self, bus: AwsBus, topic: str, group: str, url: str, prefetch: int, woken: asyncio.Event) -> None:
        self._bus = bus
        self._topic = topic
        self._group = group
        self._url = url
        self._prefetch = prefetch
        self._woken = woken
        self._held: dict[str, tuple[float, str]] = {}
        """When the lease of each message ends in seconds of `time.monotonic`, and its receipt; by id."""
        self._expired: dict[str, str] = {}
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._pulled = Pulled(self._turn, self._give_back)

    async def next(self) -> Message:
        async with self._turn:
            while True:
                await self._room()
                if self._pulled:
                    return self._pulled.pop()
                self._woken.clear()
                pulling = asyncio.ensure_future(self._pull())
                try:
                    message = await asyncio.shield(pulling)
                except asyncio.CancelledError:
                    pulling.add_done_callback(self._pulled.keep)
                    raise
                except Unavailable as error:
                    log.debug("bus is away", topic=self._topic, error=error.message)
                    await asyncio.sleep(0.2)
                    continue
                if message is not None:
                    return message
                await self._wait()

    async def ack(self, message: Message) -> None:
        held = self._held.pop(message.id, None)
        receipt = self._expired.pop(message.id, None) if held is None else held[1]
        self._freed.set()
        if receipt is not None:
            await _reach(self._bus.sqs.delete_message(QueueUrl=self._url, ReceiptHandle=receipt))
            self._bus.wake(self._topic)

    async def nack(self, message: Message, delay: timedelta = NOW) -> None:
        held = self._held.pop(message.id, None)
        self._freed.set()
        if held is not None:
            await self._refuse(message, held[1], delay)

    async def extend(self, message: Message) -> None:
        held = self._held.get(message.id)
        if held is not None:
            until = self._lease()
            await self._visible_in(held[1], self._bus.ack_wait)
            self._held[message.id] = (until, held[1])

    async def release(self) -> None:
        """The block ended: what it holds comes back at once."""
        for message_id, (_, receipt) in list(self._held.items()):
            del self._held[message_id]
            with contextlib.suppress(AerodromeError):  # the leases run out by themselves
                await self._visible_in(receipt, NOW)
        self._bus.wake(self._topic)

    async def _refuse(self, message: Message, receipt: str, delay: timedelta) -> None:
        if message.attempt >= self._bus.max_attempts:
            await self._bus.bury(message, self._group)
            await _reach(self._bus.sqs.delete_message(QueueUrl=self._url, ReceiptHandle=receipt))
        else:
            await self._visible_in(receipt, delay)
        self._bus.wake(self._topic)

    async def _visible_in(self, receipt: str, delay: timedelta) -> None:
        """SQS counts whole seconds; a shorter delay is rounded up."""
        seconds = -int(-delay.total_seconds() // 1)
        await _reach(
            self._bus.sqs.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=min(seconds, 43_200)
            )
        )

    async def _give_back(self, message: Message) -> None:
        held = self._held.pop(message.id, None)
        if held is not None:
            with contextlib.suppress(AerodromeError):  # its lease runs out by itself
                await self._visible_in(held[1], NOW)
            self._bus.wake(self._topic)

    async def _pull(self) -> Message | None:
        while True:
            until = self._lease()
            answer = await _reach(
                self._bus.sqs.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=1,
                    MessageSystemAttributeNames=["ApproximateReceiveCount"],
                    WaitTimeSeconds=min(int(self._bus.poll.total_seconds()), _LONGEST_POLL_SECONDS),
                    VisibilityTimeout=max(1, -int(-self._bus.ack_wait.total_seconds() // 1)),
                )
            )
            for raw in answer.get("Messages", []):
                message = _read(self._topic, raw)
                if message.attempt > self._bus.max_attempts:  # its last reader neither acknowledged nor refused it
                    await self._refuse(replace(message, attempt=self._bus.max_attempts), raw["ReceiptHandle"], NOW)
                    break
                self._held[message.id] = (until, raw["ReceiptHandle"])
                return message
            else:
                return None

    async def _room(self) -> None:
        while True:
            now = time.monotonic()
            for message_id in [each for each, (until, _) in self._held.items() if until <= now]:
                self._expired[message_id] = self._held.pop(message_id)[1]  # a late acknowledgement may still count
                while len(self._expired) > 1_000:
                    del self._expired[next(iter(self._expired))]
            if len(self._held) - len(self._pulled) < self._prefetch:
                return
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(until for until, _ in self._held.values()) - now + 0.001):
                    await self._freed.wait()

    async def _wait(self) -> None:
        seconds = self._bus.poll.total_seconds()
        if seconds < 1:  # longer waits happen inside of the request
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()

    def _lease(self) -> float:
        return time.monotonic() + max(1.0, self._bus.ack_wait.total_seconds())


async def _reach(awaitable: Awaitable[T]) -> T:
    """botocore's errors in our words."""
    try:
        return await awaitable
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = error.response.get("Error", {}).get("Message", code)
        if code in _MISSING:
            raise NotFound(said) from error
        raise Unavailable(f"AWS refused: {said}") from error
    except (BotoCoreError, OSError, TimeoutError) as error:
        raise Unavailable(f"AWS cannot be reached: {error!r}") from error


def _written(message: Message, attempt: int | None = None) -> str:
    return json.dumps({**fields_of(message, attempt), "body": base64.b64encode(message.body).decode()})


def _read(topic: str, raw: MessageTypeDef, *, dead: bool = False) -> Message:
    fields = json.loads(raw["Body"])
    attempt = None if dead else int(raw["Attributes"]["ApproximateReceiveCount"])
    return message_of(topic, base64.b64decode(fields["body"]), fields, attempt)


def _token(text: str) -> str:
    """Any text as an id of a message group, or of a repeat."""
    return text if re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", text) else hashlib.sha256(text.encode()).hexdigest()


def _short(text: str) -> str:
    """Readable, short, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text)[:18].strip("-")
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _name(topic: str, group: str, kind: str) -> str:
    """A queue's name; SQS permits 80 characters with the prefix and `.fifo`."""
    return f"{_short(topic)}-{_short(group)}-{kind}" if group else f"{_short(topic)}-{kind}"
