"""Short blocking calls beside an event loop: made right on it while they are quick, and else by threads, many at once.

Handing a call to a thread costs more than most accesses to a local disk.  As soon as calls take longer than
`SLOW_SECONDS` (a cold or distant disk), all of them go to threads for a while; the time in which one only waited for a
processor does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from aerodrome.stdlib.errors import FailedPrecondition

P = ParamSpec("P")
R = TypeVar("R")

SLOW_SECONDS = 0.005
"""A call on the event loop that takes longer than this sends the following ones to threads."""

SLOW_IN_A_ROW = 3
"""How many slow calls, with fewer than `QUICK_BETWEEN` quick ones between them, are no accident."""

QUICK_BETWEEN = 100

VERY_SLOW_SECONDS = 0.05
"""A call this slow is enough by itself."""

CAUTION_SECONDS = 10.0
"""For how long."""

LANES = 8
"""Threads that carry out short calls at the same time while everything goes to threads."""

LANE_BATCH = 32
"""How many of them one thread takes at once."""

LANE_SECONDS = 0.002
"""How long what a thread takes at once may last, by what such calls last now: handing it over costs as much as several
quick ones, and of slow ones as many as possible should go on at the same time."""


class Pace:
    """Decides whether a short blocking call runs on the event loop or in a thread."""

    def __init__(self) -> None:
        self._careful_until = 0.0
        self._spent = 0.0
        self._lanes = Lanes()
        self._slow = 0
        self._quick = 0
        self._statistics = -1

    def open(self) -> None:
        """To be called in the thread of the loop: what it waits for is watched."""
        with contextlib.suppress(OSError):  # another kernel, or no /proc: then every delay counts
            self._statistics = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Nobody will ask any more."""
        statistics, self._statistics = self._statistics, -1
        if statistics >= 0:
            os.close(statistics)

    def _queued(self) -> float:
        """Seconds that the loop's thread has been ready and had no processor, ever; 0 if nobody tells."""
        if self._statistics < 0:
            return 0.0
        try:
            return int(os.pread(self._statistics, 96, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # the thread is gone, or the kernel does not count
            self.close()
            return 0.0

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `call` gives or raises; it blocks, but shortly as a rule."""
        started = time.perf_counter()
        if started < self._careful_until:
            return await self._lanes.run(partial(call, *args, **kwargs))
        if self._spent > SLOW_SECONDS:  # many quick calls in a row hold the loop up just as well
            self._spent = 0.0
            await asyncio.sleep(0)
            started = time.perf_counter()
        queued = self._queued()
        try:
            return call(*args, **kwargs)
        finally:
            took = time.perf_counter() - started
            self._spent += took
            if took > SLOW_SECONDS:
                took -= self._queued() - queued  # a machine with much to do says nothing about its disk
            if took > SLOW_SECONDS:
                self._slow = 1 if self._quick >= QUICK_BETWEEN else self._slow + 1
                self._quick = 0
                if self._slow >= SLOW_IN_A_ROW or took > VERY_SLOW_SECONDS:
                    self._slow = 0
                    self._careful_until = started + CAUTION_SECONDS
            else:
                self._quick += 1


class Lanes:
    """Runs short blocking calls in a few threads, many per hand-over: a hand-over costs more than most of the calls."""

    def __init__(self, *, lanes: int = LANES, seconds: float = LANE_SECONDS) -> None:
        """`lanes` threads at most are at work, each for about `seconds` at a time."""
        self._lanes = lanes
        self._seconds = seconds
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._busy = 0
        self._usual_seconds = seconds

    async def run(self, call: Callable[[], R]) -> R:
        """What `call` returns or raises.  Once begun it is carried out, whoever waits for it."""
        return await self.submit(call)

    def submit(self, call: Callable[[], R]) -> asyncio.Future[R]:
        """Settled with what `call` returns or raises; cancelled before `call` has begun, it never begins."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((call, future))
        if self._busy < self._lanes:
            self._busy += 1
            loop.call_soon(self._next, loop)  # after others of this turn have come
        return future

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        share = max(1, min(int(self._seconds / max(self._usual_seconds, 1e-6)), LANE_BATCH))
        batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < share:
            each = self._waiting.popleft()
            if not each[1].cancelled():
                batch.append(each)
        if not batch:
            self._busy -= 1
            return
        done = loop.run_in_executor(None, _carried_out, [call for call, _ in batch])
        done.add_done_callback(lambda done: self._finish(loop, [future for _, future in batch], done))
        if self._waiting and self._busy < self._lanes:
            self._busy += 1
            loop.call_soon(self._next, loop)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: list[asyncio.Future[Any]],
        done: asyncio.Future[tuple[list[tuple[Any, BaseException | None]], float]],
    ) -> None:
        if not done.cancelled() and done.exception() is None:
            results, seconds = done.result()
            self._usual_seconds += (seconds / len(results) - self._usual_seconds) / 8
        else:
            results = [(None, FailedPrecondition("the platform is stopping"))] * len(futures)
        for future, (result, error) in zip(futures, results, strict=True):
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._next(loop)


def _carried_out(calls: list[Callable[[], Any]]) -> tuple[list[tuple[Any, BaseException | None]], float]:
    """What each of them gave or raised, and the seconds that they took together."""
    started = time.perf_counter()
    results: list[tuple[Any, BaseException | None]] = []
    for call in calls:
        try:
            results.append((call(), None))
        except Exception as error:  # noqa: BLE001  (whoever asked gets it)
            results.append((None, error))
    return results, time.perf_counter() - started
