"""How long it takes from the outbox to the recipient of a notification, and how many go out in a second.

A real PostgreSQL (fsync on), the outbox's relay, the bus, the whole notifier, and a real HTTP endpoint with signed
webhooks, all on this machine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.notifier.config import NotifierConfig
from aerodrome.notifier.main import MIGRATIONS, SERVICE, TOPIC, Notifier
from aerodrome.notifier.testing import Endpoint, endpoint
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.postgres.outbox import OUTBOX_DDL, Outbox, OutboxRelay
from aerodrome.stdlib.pubsub.bus import Bus, from_outbox
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables

ONE_BY_ONE = 40
AT_ONCE = 500


@dataclass(frozen=True)
class Measured:
    """One kind of bus."""

    kind: str
    latency_ms: list[float]
    """From the commit of the end to the request at the endpoint, one at a time; sorted."""
    per_second: float
    """Delivered, of many that end at once."""

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latency_ms)

    @property
    def p95_ms(self) -> float:
        return self.latency_ms[int(len(self.latency_ms) * 0.95)]


async def measure() -> list[Measured]:
    """With the bus of a single process, and with that of a database."""
    found = []
    with tempfile.TemporaryDirectory(prefix="aerodrome-notifying-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "pg")
        async with AsyncExitStack() as stack:
            dsn = await postgres.start()
            stack.push_async_callback(postgres.stop)
            database = await stack.enter_async_context(Database(dsn, min_size=2, max_size=16, application_name="bench"))
            await migrate(database, MIGRATIONS, service=SERVICE)
            await database.execute(OUTBOX_DDL)
            await ensure_tables(database)
            for kind in ("memory", "postgres"):
                with endpoint() as hook:
                    async with _bus(kind, database) as bus:
                        found.append(await _measure(kind, database, bus, hook))
    return found


@asynccontextmanager
async def _bus(kind: str, database: Database) -> AsyncIterator[Bus]:
    if kind == "memory":
        yield MemoryBus()
        return
    async with PostgresBus(database) as bus:
        yield bus


async def _measure(kind: str, database: Database, bus: Bus, hook: Endpoint) -> Measured:
    section = {
        "channels": {"hook": {"type": "webhook", "url": hook.url, "secret": "x"}},
        "rules": [{"name": "all", "channels": ["hook"]}],
        "network": {"allow": ["127.0.0.0/8"]},
    }
    config = NotifierConfig.model_validate({"notifier": section})
    notifier = Notifier(config, database=database, bus=bus, clock=SystemClock())
    await notifier.prepare()
    relay = OutboxRelay(database, from_outbox(bus), parallel=512)
    running = [asyncio.create_task(notifier.run()), asyncio.create_task(relay.run())]
    try:
        taken = []
        for number in range(ONE_BY_ONE):
            await _end(database, f"{kind}-{number}")
            begun = time.perf_counter()
            relay.wake()
            requests = await asyncio.to_thread(hook.wait, number + 1)
            taken.append((requests[number].at - begun) * 1000)
        await _end(database, *(f"{kind}-many-{number}" for number in range(AT_ONCE)))
        begun = time.perf_counter()
        relay.wake()
        await asyncio.to_thread(hook.wait, ONE_BY_ONE + AT_ONCE)
        return Measured(kind, sorted(taken), AT_ONCE / (time.perf_counter() - begun))
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _end(database: Database, *names: str) -> None:
    """What the control plane commits when executions end."""
    async with database.transaction() as conn:
        for name in names:
            ended = ExecutionEnded(execution_id=1, project="p", domain="d", name=name, phase="FAILED")
            await Outbox(conn).add(TOPIC, name, ended.SerializeToString())
