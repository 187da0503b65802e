"""Processes for what would hold up the event loop: spawned when first needed, ended when idle.

Source: design.md, section 2, "The loop stays free".
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import ParamSpec, TypeVar

from aerodrome.stdlib.errors import AerodromeError

P = ParamSpec("P")
T = TypeVar("T")

IDLE = timedelta(seconds=20)


class Workers:
    """Runs functions in up to `most` other processes; the functions and what they take and give must be picklable.

    The processes end when nothing ran for `idle`, and with them the memory that large messages took.  `ended` makes the
    error for work whose process ended before it was done.
    """

    def __init__(self, most: int, *, ended: Callable[[], AerodromeError], idle: timedelta = IDLE) -> None:
        self._most = most
        self._ended = ended
        self._idle_seconds = idle.total_seconds()
        self._pool: ProcessPoolExecutor | None = None
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` gives, or raises.  Only positional arguments."""
        assert not kwargs
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._most, mp_context=context, initializer=_end_with_parent)
        pool = self._pool
        self._running += 1
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, function, *args)
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = None
            pool.shutdown(wait=False)
            raise self._ended() from error
        finally:
            self._running -= 1
            if self._running == 0:
                self._timer = loop.call_later(self._idle_seconds, self._end_idle)

    async def close(self) -> None:
        """End the processes; what they still compute is given up."""
        if self._timer is not None:
            self._timer.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _end_idle(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


def _end_with_parent() -> None:
    """End this process when the one ends that it works for: killed, that one cannot say so, and it would wait on."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # it was spawned

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
