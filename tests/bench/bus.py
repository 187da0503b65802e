"""Messages a second over each adapter of the bus, and how long one takes from the outbox to its handler."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aerodrome.stdlib.postgres.outbox import OUTBOX_DDL, Outbox, OutboxRelay
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.pubsub.aws import AwsBus, AwsSettings
from aerodrome.stdlib.pubsub.bus import Bus, from_outbox
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.pubsub.nats import NatsBus
from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables
from aerodrome.stdlib.pubsub.testing import aws_server, nats_server

MESSAGES = {"memory": 20_000, "postgres": 1_000, "nats": 1_000, "aws": 150}
_BODY = b"x" * 500
_AT_ONCE = 16
_OUTBOX = 40


@dataclass(frozen=True)
class Measured:
    """One adapter."""

    kind: str
    per_second: float
    """Published, handled and acknowledged, by one process with 16 under way at once."""
    outbox_ms: float
    """Median from the commit to the handler, one message at a time."""


async def measure() -> list[Measured]:
    """All adapters, one after the other."""
    found = []
    with tempfile.TemporaryDirectory(prefix="aerodrome-bus-") as name:
        directory = Path(name)
        server = ServerForTests(directory / "postgres")
        await asyncio.to_thread(server.start)
        try:
            for kind in MESSAGES:
                async with _open(kind, directory, server) as bus:
                    rate = await _throughput(bus, MESSAGES[kind])
                    found.append(Measured(kind, rate, await _latency(bus, server) * 1000))
        finally:
            await asyncio.to_thread(server.stop)
    return found


@asynccontextmanager
async def _open(kind: str, directory: Path, server: ServerForTests) -> AsyncIterator[Bus]:
    async with AsyncExitStack() as stack:
        match kind:
            case "memory":
                yield MemoryBus()
            case "postgres":
                database = await stack.enter_async_context(fresh_database(server))
                await ensure_tables(database)
                yield await stack.enter_async_context(PostgresBus(database))
            case "nats":
                url = stack.enter_context(nats_server(directory)).url
                yield await stack.enter_async_context(NatsBus([url]))
            case _:
                address = stack.enter_context(aws_server())
                yield await stack.enter_async_context(AwsBus(AwsSettings("us-east-1", address, "key", "secret")))


async def _throughput(bus: Bus, count: int) -> float:
    await bus.declare("t", "g")
    waiting = iter(range(count))
    handled = 0
    done = asyncio.Event()

    async def publish() -> None:
        for number in waiting:
            await bus.publish("t", _BODY, key=f"k{number}")

    async def handle() -> None:
        nonlocal handled
        async with bus.subscribe("t", "g") as reader:
            while True:
                await reader.ack(await reader.next())
                handled += 1
                if handled == count:
                    done.set()

    begun = time.perf_counter()
    readers = [asyncio.create_task(handle()) for _ in range(_AT_ONCE)]
    await asyncio.gather(*(publish() for _ in range(_AT_ONCE)))
    await done.wait()
    taken = time.perf_counter() - begun
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    return count / taken


async def _latency(bus: Bus, server: ServerForTests) -> float:
    async with fresh_database(server) as database:
        await database.execute(OUTBOX_DDL)
        await bus.declare("from-outbox", "g")
        relay = OutboxRelay(database, from_outbox(bus))
        running = asyncio.create_task(relay.run())
        taken = []
        async with bus.subscribe("from-outbox", "g") as reader:
            for number in range(_OUTBOX):
                async with database.transaction() as conn:
                    await Outbox(conn).add("from-outbox", f"k{number}", _BODY)
                begun = time.perf_counter()
                relay.wake()
                await reader.ack(await reader.next())
                taken.append(time.perf_counter() - begun)
        running.cancel()
        await asyncio.wait([running])
    return statistics.median(taken)
