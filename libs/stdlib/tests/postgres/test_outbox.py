import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.outbox import OUTBOX_DDL, Outbox, OutboxRelay, Outgoing

QUICK = timedelta(milliseconds=5)


@pytest.fixture
async def store(database: Database) -> Database:
    await database.execute(OUTBOX_DDL)
    return database


class Receiver:
    """Takes messages; refuses what `refuse` says."""

    def __init__(self) -> None:
        self.got: list[Outgoing] = []
        self.refuse: Callable[[Outgoing], bool] = lambda _: False
        self._changed = asyncio.Condition()

    async def __call__(self, message: Outgoing) -> None:
        if self.refuse(message):
            raise Unavailable("not now")
        async with self._changed:
            self.got.append(message)
            self._changed.notify_all()

    async def until(self, enough: Callable[[list[Outgoing]], bool]) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: enough(self.got))


@asynccontextmanager
async def relaying(store: Database, receiver: Receiver) -> AsyncIterator[OutboxRelay]:
    relay = OutboxRelay(store, receiver, interval=QUICK, retry=QUICK)
    task = asyncio.create_task(relay.run())
    yield relay
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def empty(store: Database) -> None:
    async with asyncio.timeout(20):
        while await store.fetchval("SELECT count(*) FROM outbox"):  # noqa: ASYNC110 - another connection's work
            await asyncio.sleep(0.005)


async def put(store: Database, *messages: tuple[str, str, bytes]) -> None:
    async with store.transaction() as conn:
        for topic, key, payload in messages:
            await Outbox(conn).add(topic, key, payload, {"n": "1"})


async def test_what_was_committed_is_published_and_then_gone(store: Database) -> None:
    receiver = Receiver()
    await put(store, ("t", "k", b"one"))
    async with relaying(store, receiver) as relay:
        await put(store, ("t", "k", b"two"))
        relay.wake()
        await receiver.until(lambda got: len(got) == 2)
        await empty(store)
    assert [(m.topic, m.key, m.payload, m.headers) for m in receiver.got] == [
        ("t", "k", b"one", {"n": "1"}),
        ("t", "k", b"two", {"n": "1"}),
    ]
    assert len({m.message_id for m in receiver.got}) == 2


async def test_what_was_rolled_back_is_never_published(store: Database) -> None:
    async def fail() -> None:
        async with store.transaction() as conn:
            await Outbox(conn).add("t", "k", b"never")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fail()
    receiver = Receiver()
    async with relaying(store, receiver):
        await put(store, ("t", "k", b"yes"))
        await receiver.until(lambda got: bool(got))
    assert [m.payload for m in receiver.got] == [b"yes"]


async def test_each_key_keeps_its_order(store: Database) -> None:
    receiver = Receiver()
    await put(store, *(("t", f"k{n % 7}", str(n).encode()) for n in range(1_000)))
    async with relaying(store, receiver):
        await receiver.until(lambda got: len(got) >= 1_000)
        await empty(store)
    lanes: dict[str, list[int]] = defaultdict(list)
    for message in receiver.got:
        lanes[message.key].append(int(message.payload))
    assert len(receiver.got) == 1_000
    assert all(numbers == sorted(numbers) for numbers in lanes.values())


async def test_a_message_that_cannot_be_published_holds_back_its_key_alone(store: Database) -> None:
    receiver = Receiver()
    receiver.refuse = lambda message: message.payload == b"bad"
    await put(
        store,
        ("t", "a", b"bad"),
        *(("t", "a", b"behind") for _ in range(400)),
        ("t", "b", b"free"),
        ("t", "", b"no key"),
    )
    async with relaying(store, receiver):
        await receiver.until(lambda got: {m.payload for m in got} == {b"free", b"no key"})
        receiver.refuse = lambda _: False
        await receiver.until(lambda got: len(got) == 403)
        await empty(store)
    assert [m.payload for m in receiver.got if m.key == "a"] == [b"bad", *[b"behind"] * 400]


async def test_a_relay_that_ends_leaves_its_work_to_the_next(store: Database) -> None:
    stuck = Receiver()
    stuck.refuse = lambda _: True
    await put(store, *(("t", "k", str(n).encode()) for n in range(10)))
    async with relaying(store, stuck):
        await asyncio.sleep(0)
    receiver = Receiver()
    async with relaying(store, receiver):
        await receiver.until(lambda got: len(got) == 10)
    assert [int(m.payload) for m in receiver.got] == list(range(10))


async def test_of_two_relays_one_works_and_the_other_takes_over(store: Database) -> None:
    first, second = Receiver(), Receiver()
    async with relaying(store, first):
        await put(store, ("t", "k", b"1"))
        await first.until(lambda got: bool(got))
        async with relaying(store, second):
            await put(store, *(("t", "k", b"2") for _ in range(20)))
            await first.until(lambda got: len(got) == 21)
            assert second.got == []
            await store.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
            await put(store, *(("t", "k", b"3") for _ in range(20)))
            async with asyncio.timeout(20):
                while len({id(m) for m in (*first.got, *second.got) if m.payload == b"3"}) < 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await empty(store)
