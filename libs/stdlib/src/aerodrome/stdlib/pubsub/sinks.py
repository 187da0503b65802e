"""Where events go that are not for us: plain subjects of NATS, topics of SNS, or our own bus.

Unlike a Bus, nothing here knows who listens.  Each `send` returns when the receiving server has the message.
"""

# ruff: noqa: A002 - as in the bus, a message's id is `id`

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.config import NatsConfig

if TYPE_CHECKING:
    from aerodrome.stdlib.pubsub.aws import AwsBus
    from aerodrome.stdlib.pubsub.nats import NatsBus


class BusSink:
    """Our own bus, so that a sandbox's events can be read there."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def send(self, topic: str, id: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish; whoever subscribes first gets the newest ones that waited."""
        await self._bus.publish(topic, body, headers=headers, id=id)


@asynccontextmanager
async def nats_sink(config: NatsConfig) -> AsyncIterator[NatsSink]:
    """Open for the length of the block.  Raises Unavailable when no server answers."""
    from aerodrome.stdlib.pubsub.opening import nats_bus

    async with nats_bus(config) as bus:
        yield NatsSink(bus)


class NatsSink:
    """A subject of NATS; a stream of JetStream may store it, and drops repeats by the id."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus

    async def send(self, topic: str, id: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish, and wait until the server has it."""
        await self._bus.send_plainly(topic, body, {**headers, "Nats-Msg-Id": id})


@asynccontextmanager
async def sns_sink(region: str, endpoint: str = "") -> AsyncIterator[SnsSink]:
    """Open for the length of the block; credentials are those of the environment."""
    from aerodrome.stdlib.pubsub.aws import AwsBus, AwsSettings

    async with AwsBus(AwsSettings(region=region, endpoint=endpoint)) as bus:
        yield SnsSink(bus)


class SnsSink:
    """A topic of SNS, by its ARN or by its name, which is made if it is missing."""

    def __init__(self, bus: AwsBus) -> None:
        self._bus = bus

    async def send(self, topic: str, id: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish text."""
        await self._bus.send_plainly(topic, body.decode(), {**headers, "id": id})
