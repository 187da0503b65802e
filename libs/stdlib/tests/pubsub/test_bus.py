"""What a bus promises: one contract for every adapter."""

import asyncio
import signal
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats import connect

from aerodrome.stdlib.errors import InvalidArgument, NotFound, Unavailable
from aerodrome.stdlib.postgres.outbox import OUTBOX_DDL, Outbox, OutboxRelay
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.pubsub.aws import AwsBus, AwsSettings
from aerodrome.stdlib.pubsub.bus import Bus, Message, Subscription, from_outbox
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.pubsub.nats import NatsBus
from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables
from aerodrome.stdlib.pubsub.testing import NatsServer

QUICK = timedelta(milliseconds=20)


async def soon(subscription: Subscription) -> Message:
    async with asyncio.timeout(20):
        return await subscription.next()


async def nothing_comes(subscription: Subscription) -> bool:
    """Whether no message is ready now; the short wait lets adapters look a few times."""
    try:
        async with asyncio.timeout(0.08):
            message = await subscription.next()
    except TimeoutError:
        return True
    raise AssertionError(f"{message} came")


class BusContract:
    """TestMemoryBus and TestPostgresBus inherit these."""

    async def test_a_message_arrives_as_it_was_sent(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            sent = await bus.publish("t", b"\x00body", key="k", headers={"a": "b"})
            got = await soon(reader)
            assert (got.id, got.topic, got.key, got.body, got.headers, got.attempt) == (
                sent, "t", "k", b"\x00body", {"a": "b"}, 1,
            )  # fmt: skip
            assert got.published_at.tzinfo is not None
            await reader.ack(got)
            assert await nothing_comes(reader)

    async def test_an_unacked_message_comes_back_when_its_reader_leaves(self, bus: Bus) -> None:
        await bus.publish("t", b"hello", key="a")
        async with bus.subscribe("t", "reader") as first:
            await soon(first)
        async with bus.subscribe("t", "reader") as again:
            got = await soon(again)
            assert (got.body, got.attempt) == (b"hello", 2)

    async def test_an_unacked_message_comes_back_after_the_wait_and_a_late_ack_still_counts(self, quick: Bus) -> None:
        async with quick.subscribe("t", "g") as one, quick.subscribe("t", "g") as two:
            await quick.publish("t", b"x")
            first = await soon(one)
            second = await soon(two)
            assert (second.id, second.attempt) == (first.id, 2)
            await one.ack(first)
            assert await nothing_comes(one)

    async def test_a_message_that_is_still_handled_can_be_extended(self, unhurried: Bus) -> None:
        async with unhurried.subscribe("t", "g") as one, unhurried.subscribe("t", "g") as two:
            await unhurried.publish("t", b"x")
            message = await soon(one)
            waiting = asyncio.create_task(soon(two))
            for _ in range(6):  # longer in total than a message is waited for
                await asyncio.wait([waiting], timeout=0.25)
                await one.extend(message)
            assert not waiting.done()
            await one.ack(message)
            waiting.cancel()

    async def test_every_group_gets_every_message_and_members_share(self, bus: Bus) -> None:
        await bus.declare("t", "a")
        await bus.declare("t", "b")
        for number in range(20):
            await bus.publish("t", str(number).encode())
        async with bus.subscribe("t", "a", prefetch=10) as one, bus.subscribe("t", "a", prefetch=10) as two:
            shared = [(await soon(one)).body for _ in range(10)] + [(await soon(two)).body for _ in range(10)]
        async with bus.subscribe("t", "b", prefetch=20) as alone:
            own = [(await soon(alone)).body for _ in range(20)]
        assert sorted(shared) == sorted(own) == sorted(str(n).encode() for n in range(20))

    async def test_messages_before_any_group_are_kept_for_the_first(self, bus: Bus) -> None:
        await bus.publish("t", b"early")
        await bus.declare("t", "first")
        await bus.declare("t", "second")
        await bus.publish("t", b"late")
        async with bus.subscribe("t", "first") as first, bus.subscribe("t", "second") as second:
            assert [(await soon(first)).body, (await soon(first)).body] == [b"early", b"late"]
            assert (await soon(second)).body == b"late"

    async def test_a_key_keeps_its_order_until_each_is_acked(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as one, bus.subscribe("t", "g") as two:
            for body in (b"1", b"2"):
                await bus.publish("t", body, key="k")
            await bus.publish("t", b"other", key="o")
            first, other = await soon(one), await soon(two)
            assert {first.body, other.body} == {b"1", b"other"}
            assert await nothing_comes(one)
            holder, message = (one, first) if first.body == b"1" else (two, other)
            await holder.ack(message)
            assert (await soon(two)).body == b"2"

    async def test_the_next_of_a_key_follows_the_ack_at_once(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            for number in range(50):
                await bus.publish("t", str(number).encode(), key="k")
            seen = []
            for _ in range(50):
                message = await soon(reader)
                seen.append(int(message.body))
                await reader.ack(message)
            assert seen == list(range(50))

    async def test_a_refused_message_comes_again_after_its_delay_and_holds_its_key(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            await bus.publish("t", b"1", key="k")
            await bus.publish("t", b"2", key="k")
            first = await soon(reader)
            await reader.nack(first, timedelta(milliseconds=200))
            assert await nothing_comes(reader)
            again = await soon(reader)
            assert (again.body, again.attempt) == (b"1", 2)
            await reader.ack(again)
            assert (await soon(reader)).body == b"2"

    async def test_after_the_last_attempt_a_message_is_dead_and_frees_its_key(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            poison = await bus.publish("t", b"poison", key="k")
            await bus.publish("t", b"fine", key="k")
            for attempt in (1, 2, 3):
                message = await soon(reader)
                assert (message.body, message.attempt) == (b"poison", attempt)
                await reader.nack(message)
            fine = await soon(reader)
            assert fine.body == b"fine"
            await reader.ack(fine)
            dead = await bus.dead_letters("t", "g")
            assert [(each.id, each.body, each.attempt) for each in dead] == [(poison, b"poison", 3)]
            await bus.revive("t", "g", poison)
            again = await soon(reader)
            assert (again.body, again.attempt) == (b"poison", 1)
            await reader.ack(again)
            assert list(await bus.dead_letters("t", "g")) == []
            with pytest.raises(NotFound):
                await bus.revive("t", "g", poison)

    async def test_readers_that_only_leave_or_time_out_use_up_the_attempts_too(self, quick: Bus) -> None:
        await quick.declare("t", "g")
        await quick.publish("t", b"poison")
        for _ in range(2):
            async with quick.subscribe("t", "g") as reader:
                await soon(reader)
        async with quick.subscribe("t", "g") as reader:
            await soon(reader)
            assert await nothing_comes(reader)
            async with asyncio.timeout(10):
                while not await quick.dead_letters("t", "g"):
                    assert await nothing_comes(reader)

    async def test_a_reader_holds_no_more_than_its_prefetch(self, bus: Bus) -> None:
        for number in range(5):
            await bus.publish("t", str(number).encode())
        async with bus.subscribe("t", "g", prefetch=2) as reader:
            first, _ = await soon(reader), await soon(reader)
            assert await nothing_comes(reader)
            await reader.ack(first)
            assert (await soon(reader)).body == b"2"

    async def test_a_repeated_id_is_dropped_while_the_first_waits(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            assert await bus.publish("t", b"1", id="same") == "same"
            assert await bus.publish("t", b"2", id="same") == "same"
            assert (await soon(reader)).body == b"1"
            assert await nothing_comes(reader)

    async def test_a_waiting_reader_is_woken(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            waiting = asyncio.create_task(soon(reader))
            await asyncio.sleep(0)
            await bus.publish("t", b"x")
            assert (await waiting).body == b"x"

    async def test_cancelling_a_wait_loses_nothing(self, bus: Bus) -> None:
        async with bus.subscribe("t", "g") as reader:
            for _ in range(5):
                assert await nothing_comes(reader)
            await bus.publish("t", b"x")
            assert (await soon(reader)).body == b"x"

    async def test_publishers_wait_while_too_much_waits(self, small: Bus) -> None:
        await small.declare("t", "g")
        for _ in range(3):
            await small.publish("t", b"x")
        full = asyncio.create_task(small.publish("t", b"last"))
        done, _ = await asyncio.wait([full], timeout=0.1)
        assert not done
        async with small.subscribe("t", "g") as reader:
            await reader.ack(await soon(reader))
            async with asyncio.timeout(20):
                await full

    async def test_what_cannot_be_carried_is_refused(self, bus: Bus) -> None:
        for awaitable in (
            bus.publish("", b"x"),
            bus.publish("t", bytes(17 * 1024 * 1024)),
            bus.declare("t", ""),
            bus.declare("t" * 201, "g"),
        ):
            with pytest.raises(InvalidArgument):
                await awaitable

    async def test_whatever_readers_do_every_message_is_handled_in_the_order_of_its_key(self, bus: Bus) -> None:
        """Random acks, refusals and departures; each key's messages are acknowledged in the order of publishing."""

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.lists(st.sampled_from(["ack", "nack", "leave"]), max_size=25), st.integers(0, 10**9))
        def choose(moves: list[str], seed: int) -> None:
            scripts.append((moves, seed))

        scripts: list[tuple[list[str], int]] = []
        choose()
        for moves, seed in scripts:
            await self._play(bus, moves, f"t{seed}-{len(moves)}-{id(moves)}")

    async def _play(self, bus: Bus, moves: list[str], topic: str) -> None:
        await bus.declare(topic, "g")
        for number in range(9):
            await bus.publish(topic, str(number).encode(), key=f"k{number % 3}")
        handled: dict[str, list[int]] = defaultdict(list)
        script = iter(moves)
        refused: set[bytes] = set()
        while sum(map(len, handled.values())) < 9:
            async with bus.subscribe(topic, "g", prefetch=2) as reader:
                while sum(map(len, handled.values())) < 9:
                    message = await soon(reader)
                    move = next(script, "ack") if message.body not in refused else "ack"
                    if move == "ack":
                        handled[message.key].append(int(message.body))
                        await reader.ack(message)
                        continue
                    refused.add(message.body)  # once each, so that none runs out of attempts
                    if move == "leave":
                        break
                    await reader.nack(message)
        assert all(numbers == sorted(numbers) for numbers in handled.values())


class TestMemoryBus(BusContract):
    @pytest.fixture
    async def bus(self) -> Bus:
        return MemoryBus(max_attempts=3)

    @pytest.fixture
    async def quick(self) -> Bus:
        return MemoryBus(max_attempts=3, ack_wait=timedelta(milliseconds=50))

    @pytest.fixture
    async def unhurried(self) -> Bus:
        return MemoryBus(max_attempts=3, ack_wait=timedelta(seconds=1))

    @pytest.fixture
    async def small(self) -> Bus:
        return MemoryBus(backlog=3)

    async def test_deliver_returns_when_every_group_has_handled_it(self, bus: Bus) -> None:
        async with bus.subscribe("t", "a") as one, bus.subscribe("t", "b") as two:
            delivering = asyncio.create_task(bus.deliver("t", b"x"))
            await one.ack(await soon(one))
            message = await soon(two)
            assert not delivering.done()
            await two.ack(message)
            await delivering
        await bus.deliver("nobody", b"x")


class TestPostgresBus(BusContract):
    @pytest.fixture
    async def bus(self, postgres_server: ServerForTests) -> AsyncIterator[Bus]:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            async with PostgresBus(database, max_attempts=3, poll=QUICK) as bus:
                yield bus

    @pytest.fixture
    async def quick(self, postgres_server: ServerForTests) -> AsyncIterator[Bus]:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            async with PostgresBus(database, max_attempts=3, poll=QUICK, ack_wait=timedelta(milliseconds=50)) as bus:
                yield bus

    @pytest.fixture
    async def unhurried(self, postgres_server: ServerForTests) -> AsyncIterator[Bus]:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            async with PostgresBus(database, max_attempts=3, poll=QUICK, ack_wait=timedelta(seconds=1)) as bus:
                yield bus

    @pytest.fixture
    async def small(self, postgres_server: ServerForTests) -> AsyncIterator[Bus]:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            async with PostgresBus(database, poll=QUICK, backlog=3) as bus:
                yield bus

    async def test_handled_and_unclaimed_messages_do_not_pile_up(self, postgres_server: ServerForTests) -> None:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            async with PostgresBus(database, poll=QUICK) as bus:
                async with bus.subscribe("t", "a") as one, bus.subscribe("t", "b") as two:
                    await bus.publish("t", b"x")
                    await asyncio.gather(one.ack(await soon(one)), two.ack(await soon(two)))
                await database.execute("UPDATE pubsub_messages SET published_at = now() - interval '1 hour'")
                await bus.sweep()
                assert await database.fetchval("SELECT count(*) FROM pubsub_messages") == 0

    async def test_two_processes_share_a_group_through_wakeups_alone(self, postgres_server: ServerForTests) -> None:
        async with fresh_database(postgres_server) as database:
            await ensure_tables(database)
            slow = timedelta(seconds=60)
            async with (
                PostgresBus(database, poll=slow) as here,
                PostgresBus(database, poll=slow) as there,
                there.subscribe("t", "g") as reader,
            ):
                waiting = asyncio.create_task(soon(reader))
                await asyncio.sleep(0.02)
                await here.publish("t", b"x")
                assert (await waiting).body == b"x"


class TestNatsBus(BusContract):
    @pytest.fixture
    async def server(self, nats: NatsServer) -> NatsServer:
        """The server without any stream: names of topics repeat from test to test."""
        client = await connect(nats.url)
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            await jetstream.delete_stream(str(stream.config.name))
        await client.close()
        return nats

    @pytest.fixture
    async def bus(self, server: NatsServer) -> AsyncIterator[Bus]:
        async with NatsBus([server.url], max_attempts=3, poll=QUICK) as bus:
            yield bus

    @pytest.fixture
    async def quick(self, server: NatsServer) -> AsyncIterator[Bus]:
        async with NatsBus([server.url], max_attempts=3, poll=QUICK, ack_wait=timedelta(milliseconds=50)) as bus:
            yield bus

    @pytest.fixture
    async def unhurried(self, server: NatsServer) -> AsyncIterator[Bus]:
        async with NatsBus([server.url], max_attempts=3, poll=QUICK, ack_wait=timedelta(seconds=1)) as bus:
            yield bus

    @pytest.fixture
    async def small(self, server: NatsServer) -> AsyncIterator[Bus]:
        async with NatsBus([server.url], poll=QUICK, backlog=3) as bus:
            yield bus

    async def test_nothing_is_lost_when_the_server_is_killed_and_comes_back(self, server: NatsServer) -> None:
        async with NatsBus([server.url], poll=QUICK) as bus, bus.subscribe("t", "g") as reader:
            await bus.publish("t", b"1", key="k")
            await bus.publish("t", b"2", key="k")
            server.stop(signal.SIGKILL)
            with pytest.raises(Unavailable):
                await bus.publish("t", b"lost and said so", key="k")
            server.start()
            async with asyncio.timeout(60):
                while True:
                    try:
                        await bus.publish("t", b"3", key="k", id="third")
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)
            bodies: list[bytes] = []
            while b"3" not in bodies:
                message = await soon(reader)
                bodies.append(message.body)
                await reader.ack(message)
            assert [body for body in bodies if len(body) == 1] == [b"1", b"2", b"3"]


class TestAwsBus(BusContract):
    """Each test has names of its own on the one server, since queues cannot be emptied for certain."""

    @pytest.fixture
    def settings(self, aws: str) -> AwsSettings:
        return AwsSettings("us-east-1", aws, "key", "secret", prefix=f"a{uuid.uuid4().hex[:6]}")

    @pytest.fixture
    async def bus(self, settings: AwsSettings) -> AsyncIterator[Bus]:
        async with AwsBus(settings, max_attempts=3, poll=QUICK) as bus:
            yield bus

    @pytest.fixture
    async def quick(self, settings: AwsSettings) -> AsyncIterator[Bus]:
        async with AwsBus(settings, max_attempts=3, poll=QUICK, ack_wait=timedelta(seconds=1)) as bus:
            yield bus

    @pytest.fixture
    async def unhurried(self, settings: AwsSettings) -> AsyncIterator[Bus]:
        async with AwsBus(settings, max_attempts=3, poll=QUICK, ack_wait=timedelta(seconds=1)) as bus:
            yield bus

    @pytest.fixture
    async def small(self, settings: AwsSettings) -> AsyncIterator[Bus]:
        async with AwsBus(settings, poll=QUICK, backlog=3) as bus:
            yield bus


@pytest.mark.parametrize("kind", ["memory", "postgres"])
async def test_what_was_committed_reaches_its_handler_through_outbox_and_bus(
    kind: str, postgres_server: ServerForTests
) -> None:
    async with fresh_database(postgres_server) as database:
        await database.execute(OUTBOX_DDL)
        await ensure_tables(database)
        async with PostgresBus(database, poll=QUICK) as shared:
            bus: Bus = MemoryBus() if kind == "memory" else shared
            await bus.declare("t", "g")
            relay = OutboxRelay(database, from_outbox(bus), interval=QUICK)
            running = asyncio.create_task(relay.run())
            async with database.transaction() as conn:
                for number in range(50):
                    await Outbox(conn).add("t", f"k{number % 5}", str(number).encode())
            relay.wake()
            seen = []
            async with bus.subscribe("t", "g") as reader:
                for _ in range(50):
                    message = await soon(reader)
                    seen.append(int(message.body))
                    await reader.ack(message)
            assert sorted(seen) == list(range(50))
            async with asyncio.timeout(10):
                while await database.fetchval("SELECT count(*) FROM outbox"):  # noqa: ASYNC110 - the relay's own work
                    await asyncio.sleep(0.005)
            running.cancel()
            await asyncio.wait([running])
