"""SIGKILL of the notifier, again and again: no notification is lost, each keeps its key, and the log tells of all.

`CHAOS_KILLS` says how often (`make chaos`: 500; a few in `make test`); each moment follows from a seed that is printed,
and `CHAOS_SEED=...` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.notifier.domain.deliveries import Outcome, Status
from aerodrome.notifier.main import GROUP, MIGRATIONS, SERVICE, TOPIC
from aerodrome.notifier.testing import Answer, Endpoint, Request, endpoint
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables
from tests.e2e.instance import is_alive, kill

from .notifying import Nursery

__all__ = ["postgres_server"]

SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
KILLS = int(os.environ.get("CHAOS_KILLS") or 12)
ENDS_PER_KILL = 3
PATIENCE_SECONDS = 60


class Killer:
    """Kills the notifier that lives: when its n-th request arrives, or after a while."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self.pid = 0
        self.while_sending = 0
        self._requests_left = -1

    def revive(self, requests: int) -> None:
        """Start another one, which dies at its request of that number (negative: not by a request)."""
        self._requests_left = requests
        self.pid = self._nursery.start()

    def arrived(self, _: Request) -> Answer:
        """What the endpoint does before it answers: a process that dies here has sent, and has not recorded."""
        if self._requests_left == 0 and kill(self.pid):
            self.while_sending += 1
        self._requests_left -= 1
        return Answer()


@asynccontextmanager
async def nursery(database: Database, hook: Endpoint, log: Path) -> AsyncIterator[Nursery]:
    made = await asyncio.to_thread(Nursery, database.dsn, hook.url, log)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


@pytest.mark.timeout(60 + 2 * KILLS)
async def test_no_notification_is_lost_however_often_the_notifier_is_killed(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    os.write(1, f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}\n".encode())
    with endpoint() as hook:
        async with (
            fresh_database(postgres_server, MIGRATIONS, service=SERVICE) as database,
            nursery(database, hook, tmp_path / "log") as forks,
        ):
            await ensure_tables(database)
            async with PostgresBus(database) as bus:
                await bus.declare(TOPIC, GROUP)
                killer = Killer(forks)
                hook.answer = killer.arrived
                ends = 0
                for number in range(KILLS):
                    by_request = number % 2 == 0
                    await asyncio.to_thread(killer.revive, rng.randint(0, 2) if by_request else -1)
                    delay = rng.uniform(0, 0.25)
                    for _ in range(ENDS_PER_KILL):
                        ends += 1
                        await bus.publish(TOPIC, end(ends), key=str(ends), id=f"m{ends}")
                        await asyncio.sleep(rng.uniform(0, 0.02))
                    if by_request:
                        await dead(killer.pid)
                    else:
                        await asyncio.sleep(delay)
                        kill(killer.pid)
                await asyncio.to_thread(killer.revive, -1)
                await settle(database, ends)
            await check(database, hook, ends, killer.while_sending)


async def dead(pid: int) -> None:
    """Wait for the end of a process; whoever could not be killed by a request within a while is killed then."""
    deadline = time.monotonic() + 5
    while is_alive(pid):
        if time.monotonic() > deadline:
            kill(pid)
        await asyncio.sleep(0.002)


async def settle(database: Database, ends: int) -> None:
    """Wait until all is delivered."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        rows = await database.fetch("SELECT status, count(*) AS count FROM notifier_deliveries GROUP BY status")
        found = {Status(row["status"]).name: row["count"] for row in rows}
        if found == {"DELIVERED": ends}:
            return
        assert time.monotonic() < deadline, f"CHAOS_SEED={SEED}: {ends} ends, and {found}"
        await asyncio.sleep(0.05)


async def check(database: Database, hook: Endpoint, ends: int, while_sending: int) -> None:
    """What must hold after all of it."""
    story = f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}"
    rows = await database.fetch("SELECT id, idempotency_key, execution, attempts FROM notifier_deliveries")
    assert len({row["execution"] for row in rows}) == len(rows) == ends, story
    arrived = Counter(request.headers["idempotency-key"] for request in hook.requests)
    assert set(arrived) == {row["idempotency_key"] for row in rows}, f"{story}: something never arrived"
    bodies = {(request.headers["idempotency-key"], request.body) for request in hook.requests}
    assert len(bodies) == ends, f"{story}: a repeat differs"
    logged: Counter[int] = Counter()
    interrupted = 0
    for row in await database.fetch("SELECT delivery_id, outcome FROM notifier_attempts"):
        logged[row["delivery_id"]] += 1
        interrupted += row["outcome"] == Outcome.INTERRUPTED
        assert row["outcome"] != Outcome.OPEN, story
    for row in rows:
        assert logged[row["id"]] == row["attempts"] >= arrived[row["idempotency_key"]], f"{story}: the log lacks some"
    assert interrupted >= while_sending > 0, f"{story}: {while_sending} were killed while they sent"


def end(number: int) -> bytes:
    """The end of an execution."""
    message = ExecutionEnded(execution_id=number, project="p", domain="d", name=f"run{number}", phase="FAILED")
    message.ended_at.FromSeconds(1_700_000_000 + number)
    return message.SerializeToString()
