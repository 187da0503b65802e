"""Time as a port: the system's clock, and one that tests turn by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where code gets the time from."""

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        ...

    def boottime(self) -> float:
        """Seconds that never go backwards and that go on while the machine is suspended; leases count on it."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of this clock have passed."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boottime(self) -> float:
        return time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until a test advances it; sleepers wake in the order of their time."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._boottime = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._now

    def boottime(self) -> float:
        return self._boottime

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._boottime + seconds, next(self._order), waiter))
        await waiter

    def set(self, now: datetime) -> None:
        """Jump the wall clock without any time passing, as a corrected system clock does."""
        self._now = now

    async def advance(self, by: timedelta | float) -> None:
        """Let time pass; returns after everything that this wakes has had a chance to run."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        target = self._boottime + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            at, _, waiter = heapq.heappop(self._sleepers)
            self._step(at)
            if not waiter.done():
                waiter.set_result(None)
            await self._settle()
        self._step(target)
        await self._settle()

    def _step(self, boottime: float) -> None:
        self._now += timedelta(seconds=boottime - self._boottime)
        self._boottime = boottime

    @staticmethod
    async def _settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def sleep_unless(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return once so many seconds have passed, or `event` is set, whatever comes first."""
    waits = [asyncio.create_task(clock.sleep(seconds)), asyncio.create_task(event.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
