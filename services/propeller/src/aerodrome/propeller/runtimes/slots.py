"""Who may run now: slots, the memory that was asked for, and who gives a slot back.

Pure.  There is a slot for each core, and one for the moment in which an attempt ends and the next one begins; memory
counts only where it was asked for; who came first goes first.  An attempt whose processes want next to no CPU for a
while waits for something (its children, a server), and gives its slot back until it works again, even if that is one
more at work than there are slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

IDLE_SHARE = 0.1
"""An attempt that wants less than this part of one core is idle: asking a server every second or two is no work."""
IDLE_AFTER_SECONDS = 2.0
"""It has to want less, on average, for at least this long to give its slot back."""


class Activity:
    """The CPU that one attempt wants, sampled now and then; tells whether it is idle.

    What it wants is what it uses and what it waits for: a task on a crowded machine gets little and is not idle.
    """

    def __init__(self, *, gives_way: bool = False) -> None:
        """`gives_way`: its work is to wait for what it launched, so it is idle whatever that costs."""
        self._gives_way = gives_way
        self._wanted_seconds = 0.0
        self._latest: tuple[float, float] | None = None
        self._samples: deque[tuple[float, float]] = deque()
        """When, and what was wanted until then; only the first is older than the time that decides."""

    def observe(self, now: float, cpu_seconds: float, waited_seconds: float = 0.0) -> bool:
        """Take a sample.  Returns whether the attempt is idle.

        Args:
            now: Seconds on a clock that only goes on.
            cpu_seconds: What all its processes have used since they began.
            waited_seconds: How long they were able to run and had no processor.
        """
        if self._latest is not None:
            used, waited = self._latest
            # A process that ends takes what it used out of the sum: what it did in between is not known to be nothing.
            self._wanted_seconds += abs(cpu_seconds - used) + max(0.0, waited_seconds - waited)
        self._latest = cpu_seconds, waited_seconds
        self._samples.append((now, self._wanted_seconds))
        while len(self._samples) > 1 and self._samples[1][0] <= now - IDLE_AFTER_SECONDS:
            self._samples.popleft()
        since, wanted = self._samples[0]
        if now - since < IDLE_AFTER_SECONDS:
            return False
        return self._gives_way or (self._wanted_seconds - wanted) < IDLE_SHARE * (now - since)


@dataclass(frozen=True, slots=True)
class Holder:
    """An attempt that was admitted and has not ended."""

    idle: bool
    memory_bytes: int


def may_enter(holders: Iterable[Holder], slots: int, memory_bytes: int, wanted_bytes: int) -> bool:
    """Whether one more attempt, which asks for `wanted_bytes`, may start among `holders` now.

    Memory stays taken while its holder is idle.  An attempt that asked for all there is enters when nobody else asked.
    """
    busy = taken = 0
    for holder in holders:
        busy += not holder.idle
        taken += holder.memory_bytes
    if busy >= slots:
        return False
    return wanted_bytes == 0 or taken == 0 or taken + wanted_bytes <= memory_bytes
