"""The port for messages between services.

What every adapter promises, and the contract suite in the tests checks:

- A group gets every message of a topic that is published after the group was first declared (or subscribed);
messages of a topic that has no group yet are kept for the first one, the newest `UNCLAIMED` of them.
- Members of a group share its messages.  Each is delivered at least once: what is not acknowledged comes back, when its
  subscription ends or after `ack_wait`.  Receivers drop repeats by `Message.id`.
- Messages with the same key are delivered in order, the next one after the acknowledgement of the one before; an
empty key keeps no order.
- After `max_attempts` deliveries a message becomes a dead letter of its group: it waits to be looked at, and no longer
  holds back its key.
- Everything is bounded: what a subscription holds by `prefetch`, what waits by the adapter, and then `publish` waits.
"""

# ruff: noqa: A002 - the port names a message's id `id`

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.outbox import Outgoing

MAX_ATTEMPTS = 10
ACK_WAIT = timedelta(seconds=30)
UNCLAIMED = 10_000
MAX_BODY_BYTES = 16 * 1024 * 1024
NOW = timedelta(0)


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a message."""

    id: str
    """The same at each repeat; unique within the topic."""
    topic: str
    key: str
    body: bytes
    published_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    """How often it has been delivered to the group, this time included."""


class Subscription(Protocol):
    """A member of a group, for as long as its block lasts."""

    async def next(self) -> Message:
        """The next message; waits for one, and for room when `prefetch` messages are not acknowledged yet."""
        ...

    async def ack(self, message: Message) -> None:
        """It was handled, for good; repeating this changes nothing."""
        ...

    async def nack(self, message: Message, delay: timedelta = NOW) -> None:
        """It was not handled: deliver it again after `delay`, holding back its key until then."""
        ...

    async def extend(self, message: Message) -> None:
        """It is still being handled: `ack_wait` begins anew."""
        ...


class Bus(Protocol):
    """Topics and their groups."""

    async def declare(self, topic: str, group: str) -> None:
        """Make the group, so that it gets what is published from now on; nothing happens if it exists."""
        ...

    async def publish(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        """Accept a message and return its id (made, if none is given); waits when too much waits already.

        A message whose id is already waiting in the topic is accepted and dropped.  Raises InvalidArgument if it is too
        large, and Unavailable if the adapter's server is away.
        """
        ...

    async def deliver(
        self, topic: str, body: bytes, *, key: str = "", headers: Mapping[str, str] | None = None, id: str | None = None
    ) -> str:
        """As `publish`, but returns only when the message is safe although this process ends: stored, or handled."""
        ...

    def subscribe(self, topic: str, group: str, *, prefetch: int = 16) -> AbstractAsyncContextManager[Subscription]:
        """Join the group; what was delivered and not acknowledged when the block ends comes back at once."""
        ...

    async def dead_letters(self, topic: str, group: str, limit: int = 100) -> Sequence[Message]:
        """Messages that were given up, the oldest first."""
        ...

    async def revive(self, topic: str, group: str, id: str) -> None:
        """Deliver a dead letter again, with attempts counted from the start; raises NotFound if there is none."""
        ...


def from_outbox(bus: Bus) -> Callable[[Outgoing], Awaitable[object]]:
    """What an OutboxRelay publishes with: the row's id becomes the message's, and the row stays until it is safe.

    With the in-process bus that means until it was handled, so give the relay enough `parallel` for all that may wait.
    """

    async def publish(outgoing: Outgoing) -> object:
        return await bus.deliver(
            outgoing.topic, outgoing.payload, key=outgoing.key, headers=outgoing.headers, id=outgoing.message_id
        )

    return publish


def check(topic: str, group: str | None = None, body: bytes = b"", prefetch: int = 1) -> None:
    """Refuse what no adapter can carry."""
    if not topic or len(topic) > 200:
        raise InvalidArgument("a topic's name has 1 to 200 characters")
    if group is not None and (not group or len(group) > 200):
        raise InvalidArgument("a group's name has 1 to 200 characters")
    if len(body) > MAX_BODY_BYTES:
        raise InvalidArgument(
            f"a message of {len(body)} bytes is larger than {MAX_BODY_BYTES}: send a reference instead"
        )
    if prefetch < 1:
        raise InvalidArgument("prefetch is at least 1")
