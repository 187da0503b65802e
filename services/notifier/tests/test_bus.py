"""From the bus to the recipient: at least once, whatever goes away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from aerodrome.notifier.config import NotifierConfig
from aerodrome.notifier.main import GROUP, MIGRATIONS, SERVICE, TOPIC, Notifier
from aerodrome.notifier.testing import Endpoint
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.outbox import OUTBOX_DDL, Outbox, OutboxRelay
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.pubsub.bus import Bus, from_outbox
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.pubsub.nats import NatsBus
from aerodrome.stdlib.pubsub.testing import nats_server

from .conftest import LOCAL, World, ended, until


@asynccontextmanager
async def running(database: Database, bus: Bus, endpoint: Endpoint) -> AsyncIterator[Notifier]:
    """A notifier in the time that passes by itself."""
    section = {
        "channels": {"hook": {"type": "webhook", "url": endpoint.url, "secret": "x"}},
        "rules": [{"name": "all", "channels": ["hook"]}],
        **LOCAL,
    }
    config = NotifierConfig.model_validate({"notifier": section})
    notifier = Notifier(config, database=database, bus=bus, clock=SystemClock())
    await notifier.prepare()
    task = asyncio.create_task(notifier.run())
    try:
        yield notifier
    finally:
        task.cancel()
        await asyncio.wait([task])


async def wait(endpoint: Endpoint, count: int) -> None:
    await asyncio.to_thread(endpoint.wait, count)


async def test_the_bus_may_be_restarted_while_messages_are_under_way(
    postgres_server: ServerForTests, receiver: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "nats").mkdir()
    with nats_server(tmp_path / "nats") as server:
        async with (
            fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database,
            NatsBus([server.url]) as bus,
            running(database, bus, receiver) as notifier,
        ):
            await database.execute(OUTBOX_DDL)
            relay = OutboxRelay(database, from_outbox(bus))
            relaying = asyncio.create_task(relay.run())

            async def happen(numbers: range) -> None:
                for number in numbers:
                    async with database.transaction() as conn:
                        body = ended(f"a{number}", number=number).SerializeToString()
                        await Outbox(conn).add(TOPIC, str(number), body)
                relay.wake()

            try:
                await happen(range(3))
                await wait(receiver, 3)
                await happen(range(3, 6))
                server.stop()
                await happen(range(6, 9))
                server.start()
                await until(lambda: len({each.headers["idempotency-key"] for each in receiver.requests}) == 9, 60)
            finally:
                relaying.cancel()
                await asyncio.wait([relaying])
            await notifier.tick()
            assert await database.fetchval("SELECT count(*) FROM notifier_deliveries") == 9


async def test_what_cannot_be_read_becomes_a_dead_letter_and_what_can_is_handled_later(world: World) -> None:
    bus = MemoryBus(max_attempts=2)
    world.bus = bus
    notifier = world.notifier()
    running = asyncio.create_task(notifier.run())
    try:
        await bus.declare(TOPIC, GROUP)
        await bus.publish(TOPIC, b"\xff", id="bad", key="k")
        await bus.publish(TOPIC, ended().SerializeToString(), id="good", key="k")  # behind the bad one
        await wait(world.endpoint, 1)
        assert [each.id for each in await bus.dead_letters(TOPIC, GROUP)] == ["bad"]
        assert await notifier.revive() == 0
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_dead_letter_that_can_be_read_is_handled_and_taken_away(world: World) -> None:
    bus = MemoryBus(max_attempts=1)
    world.bus = bus
    notifier = world.notifier()
    await notifier.prepare()
    await bus.publish(TOPIC, ended().SerializeToString(), id="m")
    async with bus.subscribe(TOPIC, GROUP) as subscription:
        await subscription.nack(await subscription.next())
    assert len(await bus.dead_letters(TOPIC, GROUP)) == 1
    assert await notifier.revive() == 1
    assert await bus.dead_letters(TOPIC, GROUP) == []
    assert await notifier.tick() == 1
    async with bus.subscribe(TOPIC, GROUP) as subscription:
        message = await subscription.next()
        assert await notifier.execution_ended(message.id, message.body) == 0


async def test_while_the_database_does_not_answer_messages_wait(
    postgres_server: ServerForTests, receiver: Endpoint
) -> None:
    bus = MemoryBus(max_attempts=1)
    async with fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database:
        impatient = Database(database.dsn, min_size=1, max_size=8, statement_timeout=timedelta(milliseconds=100))
        with capture() as lines:
            async with impatient, running(impatient, bus, receiver):
                async with database.transaction() as conn:
                    await conn.execute("LOCK TABLE notifier_messages")
                    await bus.publish(TOPIC, ended().SerializeToString(), id="m")
                    await until(lambda: [each for each in lines if each["msg"] == "announcement postponed"])
                await wait(receiver, 1)
                assert await bus.dead_letters(TOPIC, GROUP) == []
