"""Processes for conversions that would hold up the event loop; started when first needed, ended when idle."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import TypeVar

from aerodrome.stdlib.errors import Internal

T = TypeVar("T")


class Offload:
    """Runs functions elsewhere; they and what they take and give must be picklable.

    The processes end when nothing ran for `idle`, and with them the memory that large messages took.
    """

    def __init__(self, *, workers: int = 1, idle: timedelta = timedelta(seconds=20)) -> None:
        self._workers = workers
        self._idle_seconds = idle.total_seconds()
        self._pool: ProcessPoolExecutor | None = None
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What `function` gives, or raises; Internal if its process ends."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, mp_context=multiprocessing.get_context("spawn"))
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
            raise Internal(
                "the process that converted the message ended before it was done, perhaps for lack of memory; ask for "
                "less, or for application/octet-stream, which needs no conversion"
            ) from error
        finally:
            self._running -= 1
            if self._running == 0:
                self._timer = loop.call_later(self._idle_seconds, self.close)

    def close(self) -> None:
        """End the processes once they have done what they are at."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
