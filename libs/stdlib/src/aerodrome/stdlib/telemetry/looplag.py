"""How late the event loop runs what is due: the measure of whether something holds it up."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left

INTERVAL_SECONDS = 0.05

_BOUNDS = tuple(0.0001 * 1.1**step for step in range(130))
"""Upper bounds of the buckets in seconds: from 0.1 ms to 20 s, each a tenth above the one before."""


class LoopLag:
    """Samples how much later than asked for the loop wakes a sleeper, every `interval_seconds`.

    A hold-up shorter than the interval is seen if a sample falls due within it, and then from that moment on: the
    figures are what a random event on the loop experiences.  Use a short interval to see every hold-up.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval = interval_seconds
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._samples = 0
        self._max = 0.0

    @property
    def samples(self) -> int:
        """How many measurements there are since `reset`."""
        return self._samples

    @property
    def max_seconds(self) -> float:
        """The longest lag since `reset`."""
        return self._max

    def percentile_seconds(self, percent: float) -> float:
        """The lag that `percent` of the samples do not exceed, within a tenth; 0 if there is none."""
        wanted = percent / 100 * self._samples
        seen = 0
        for bound, count in zip((*_BOUNDS, self._max), self._counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return min(bound, self._max)
        return self._max

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.perf_counter() + self._interval
            await asyncio.sleep(self._interval)
            self.record(time.perf_counter() - due)

    def record(self, seconds: float) -> None:
        """Take one measurement into account."""
        lag = max(0.0, seconds)
        self._counts[bisect_left(_BOUNDS, lag)] += 1
        self._samples += 1
        self._max = max(self._max, lag)
