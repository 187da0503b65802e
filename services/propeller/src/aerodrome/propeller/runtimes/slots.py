"""Who may run now: slots, the memory that was asked for, and who gives a slot back.

Pure.  There is a slot for each core; memory counts only where it was asked for; who came first goes first.  An attempt
whose processes used next to no CPU for a while waits for something (its children, a server), and gives its slot back
until it works again, even if that is one more at work than there are slots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

IDLE_SHARE = 0.02
"""An attempt that uses less than this part of one core is idle."""
IDLE_AFTER_SECONDS = 2.0
"""It has to be idle for longer than this to give its slot back."""


class Activity:
    """The CPU that one attempt uses, sampled now and then; tells whether it is idle."""

    def __init__(self, now: float) -> None:
        self._sampled_at = now
        self._cpu_seconds: float | None = None
        self._busy_at = now

    def observe(self, now: float, cpu_seconds: float) -> bool:
        """Take a sample: what all its processes have used since they began.  Returns whether it is idle."""
        elapsed = now - self._sampled_at
        if self._cpu_seconds is None or (elapsed > 0 and abs(cpu_seconds - self._cpu_seconds) / elapsed >= IDLE_SHARE):
            self._busy_at = now
        self._sampled_at, self._cpu_seconds = now, cpu_seconds
        return now - self._busy_at > IDLE_AFTER_SECONDS


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
