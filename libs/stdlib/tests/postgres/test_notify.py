import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.notify import Announcer, Listener, Wakeups

SOON = timedelta(seconds=10)
QUICK = timedelta(milliseconds=10)


@pytest.fixture
async def listener(database: Database) -> AsyncIterator[Listener]:
    async with Listener(database.dsn, retry=QUICK) as listener:
        yield listener


@pytest.fixture
async def announcer(database: Database) -> AsyncIterator[Announcer]:
    async with Announcer(database.dsn, retry=QUICK) as announcer:
        yield announcer


async def cut(database: Database, application: str) -> None:
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", application
    )


async def test_what_is_announced_is_heard_by_all_who_subscribed(listener: Listener, announcer: Announcer) -> None:
    async with (
        listener.subscribe("work") as one,
        listener.subscribe("work") as two,
        listener.subscribe("Öther") as other,
    ):
        announcer.announce("work", "a")
        announcer.announce("Öther", "b")
        assert await one.next(SOON) == "a"
        assert await two.next(SOON) == "a"
        assert await other.next(SOON) == "b"


async def test_who_left_hears_nothing_and_may_come_back(listener: Listener, announcer: Announcer) -> None:
    async with listener.subscribe("work") as first:
        pass
    announcer.announce("work", "lost")
    await announcer.flush()
    async with listener.subscribe("work") as second:
        announcer.announce("work", "kept")
        assert await second.next(SOON) == "kept"
    assert first.drain() == []


async def test_equal_wakeups_are_heard_once(listener: Listener, announcer: Announcer) -> None:
    async with listener.subscribe("work") as wakeups:
        for _ in range(100):
            announcer.announce("work", "same")
        announcer.announce("work", "end")
        assert await wakeups.next(SOON) == "same"
        assert await wakeups.next(SOON) == "end"


async def test_a_lost_connection_is_replaced_and_wakes_everybody_once(
    database: Database, listener: Listener, announcer: Announcer
) -> None:
    async with listener.subscribe("work") as wakeups:
        await cut(database, "aerodrome listener")
        assert await wakeups.next(SOON) == ""
        announcer.announce("work", "after")
        assert await wakeups.next(SOON) == "after"


async def test_an_announcement_outlives_the_announcers_connection(
    database: Database, listener: Listener, announcer: Announcer
) -> None:
    async with listener.subscribe("work") as wakeups:
        announcer.announce("work", "1")
        assert await wakeups.next(SOON) == "1"
        await cut(database, "aerodrome announcer")
        announcer.announce("work", "2")
        assert await wakeups.next(SOON) == "2"


async def test_too_many_announcements_become_one_that_says_look_at_everything(database: Database) -> None:
    announcer = Announcer(database.dsn)
    async with Listener(database.dsn) as listener, listener.subscribe("work") as wakeups:
        for number in range(1_500):  # before it runs, so that they pile up
            announcer.announce("work", str(number))
        async with announcer:
            assert await wakeups.next(SOON) == ""


async def test_waiting_for_a_wakeup_is_bounded() -> None:
    wakeups = Wakeups()
    assert await wakeups.next(timedelta(milliseconds=5)) is None
    for number in range(5_000):
        wakeups.wake(str(number))
    assert len(wakeups.drain()) <= 1_000
    wakeups.wake("x")
    async for payload in wakeups:
        assert payload == "x"
        break


@pytest.mark.parametrize(("channel", "payload"), [("", "x"), ("c" * 64, "x"), ("c", "x" * 8_000), ("c", "\0")])
async def test_what_postgresql_cannot_carry_is_refused(database: Database, channel: str, payload: str) -> None:
    with pytest.raises(InvalidArgument):
        Announcer(database.dsn).announce(channel, payload)


async def test_channels_of_one_listener_may_be_subscribed_concurrently(
    listener: Listener, announcer: Announcer
) -> None:
    async def hear(channel: str) -> str | None:
        async with listener.subscribe(channel) as wakeups:
            announcer.announce(channel, channel)
            return await wakeups.next(SOON)

    assert await asyncio.gather(*(hear(f"c{n}") for n in range(20))) == [f"c{n}" for n in range(20)]
