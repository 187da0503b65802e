"""The items of an array node (a map task): who runs, who waits, and what the whole comes to.  Pure.

Each item has attempts and budgets of its own.  An item is a number; what is known of all of them lies in flat arrays,
so that a map of a hundred thousand costs a few bytes an item.  Source: spec/data-plane.md, 3.7.
"""

from __future__ import annotations

import heapq
import math
from array import array
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from flyteidl.core import catalog_pb2
from google.protobuf import struct_pb2

from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo
from aerodrome.propeller.engine.budget import Limits, Retry, decide
from aerodrome.propeller.engine.phases import TaskPhase

_OVER = frozenset({TaskPhase.SUCCEEDED, TaskPhase.FAILED, TaskPhase.ABORTED})
_LIVE = bytes(
    phase not in _OVER and phase not in (TaskPhase.UNDEFINED, TaskPhase.RETRYABLE_FAILED) for phase in range(256)
)
"""By phase: whether an attempt in it is under way."""
_MESSAGES = 10
"""How many failed items the error of the whole names."""
_MESSAGE_CHARS = 2_000
"""Characters of each that it repeats; longer ones keep head and tail."""


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """How an array node is to be run."""

    size: int
    concurrency: int = 0
    """Items that may run at once; 0 is all of them."""
    min_successes: int | None = None
    min_success_ratio: float | None = None

    def needed(self) -> int:
        """How many items must succeed."""
        if self.min_successes is not None:
            return min(self.min_successes, self.size)
        if self.min_success_ratio is not None:
            return math.ceil(self.min_success_ratio * self.size)
        return self.size

    def described(self) -> PhaseInfo:
        """What the array's own attempt says of it, for whoever counts."""
        custom = struct_pb2.Struct()
        custom.update({"size": self.size, "concurrency": self.concurrency, "min_successes": self.needed()})
        return PhaseInfo(Phase.QUEUED, custom_info=custom)


@dataclass(frozen=True, slots=True)
class ItemInfo:
    """What is said of an item beside its phase."""

    cache_status: int = 0
    """Number of the flyteidl.core.CatalogCacheStatus."""
    catalog_key: catalog_pb2.CatalogMetadata | None = None
    """Of the entry that the status is about."""
    deck_uri: str = ""
    log_uri: str = ""
    recovered: bool = False
    """Its outputs are those of another execution."""
    said: PhaseInfo | None = None
    """By the plugin."""


@dataclass(frozen=True, slots=True)
class SavedItem:
    """An item, or all items up to `last`, as the last durable transition left them."""

    index: int
    phase: TaskPhase
    attempt: int = 0
    system_failures: int = 0
    failure: Failure | None = None
    last: int | None = None
    """Index of the last item of a range; None: there is only the one."""
    failed_ago: float = 0.0
    """How long ago, in seconds, the attempt before failed, of an item whose next one may have to wait for a while."""
    changed_ago: float = 0.0
    """For how long, in seconds, it has been in its phase, if its attempt is under way; less is safe, more is not."""


class Items:
    """The state of all items of one node."""

    __slots__ = (
        "attempts",
        "changed_ago",
        "failed",
        "failed_ago",
        "failures",
        "needed",
        "phases",
        "plan",
        "promised",
        "running",
        "succeeded",
        "systems",
        "waiting",
    )

    def __init__(self, plan: ItemPlan) -> None:
        self.plan = plan
        self.needed = plan.needed()
        self.phases = bytearray(plan.size)
        self.attempts = array("I", bytes(4 * plan.size))
        self.systems = array("I", bytes(4 * plan.size))
        self.waiting = list(range(plan.size))
        """A heap: the lowest index begins first."""
        self.promised: list[int] = []
        """After a restart: items whose next attempt has to be recorded before it begins."""
        self.failed_ago: dict[int, float] = {}
        """After a restart: seconds since the last failure of items that may wait for their next attempt."""
        self.changed_ago: dict[int, float] = {}
        """After a restart: seconds for which attempts have been under way at least."""
        self.running = 0
        self.succeeded = 0
        self.failed = 0
        self.failures: list[tuple[int, Failure]] = []
        """Of the first items that failed for good, by index: what their last attempt ended with, as it is recorded."""

    def restore(self, saved: Iterable[SavedItem]) -> None:
        """Put what is known into a fresh state."""
        for item in saved:
            end = item.index + 1 if item.last is None else item.last + 1
            count = end - item.index
            attempt, phase = item.attempt, item.phase
            if phase is TaskPhase.RETRYABLE_FAILED:
                attempt, phase = attempt + 1, TaskPhase.QUEUED
                self.promised.extend(range(item.index, end))
            if phase is TaskPhase.QUEUED and attempt:
                self.failed_ago.update(dict.fromkeys(range(item.index, end), item.failed_ago))
            if item.changed_ago and _LIVE[phase]:
                self.changed_ago.update(dict.fromkeys(range(item.index, end), item.changed_ago))
            self.phases[item.index : end] = bytes([phase]) * count
            self.attempts[item.index : end] = array("I", [attempt]) * count
            self.systems[item.index : end] = array("I", [item.system_failures]) * count
            if phase is TaskPhase.SUCCEEDED:
                self.succeeded += count
            elif phase in _OVER:
                self.failed += count
                if item.failure is not None:
                    self.failures.extend((index, item.failure) for index in range(item.index, end))
                    del self.failures[_MESSAGES:]
            elif phase is not TaskPhase.UNDEFINED:
                self.running += count
        if TaskPhase.ABORTED in self.phases:
            self.waiting = []  # the node was being ended, and what ends it comes again
            return
        self.waiting = [index for index, phase in enumerate(self.phases) if phase == TaskPhase.UNDEFINED]

    def take_over(self, index: int) -> None:
        """The outputs of an item that never began are in place."""
        assert self.phases[index] == TaskPhase.UNDEFINED
        self.phases[index] = TaskPhase.SUCCEEDED
        self.succeeded += 1

    def begin(self) -> Iterator[int]:
        """The items that begin now; they count as running from here on."""
        most = self.plan.concurrency or self.plan.size
        while self.waiting and self.running < most and not self.hopeless:
            index = heapq.heappop(self.waiting)
            if self.phases[index] != TaskPhase.UNDEFINED:
                continue  # it was taken over
            self.phases[index] = TaskPhase.QUEUED
            self.running += 1
            yield index

    def current(self, index: int, attempt: int) -> bool:
        """Whether this attempt of this item is the one under way."""
        return 0 <= index < self.plan.size and self.attempts[index] == attempt and bool(_LIVE[self.phases[index]])

    def succeed(self, index: int) -> None:
        """The item's outputs are in place."""
        self.phases[index] = TaskPhase.SUCCEEDED
        self.succeeded += 1
        self.running -= 1

    def fail(self, index: int, failure: Failure, *, max_attempts: int, limits: Limits) -> bool:
        """The item's attempt failed; whether another follows (and counts as running already)."""
        verdict = decide(
            failure,
            attempts=self.attempts[index],
            system_failures=self.systems[index],
            max_attempts=max_attempts,
            limits=limits,
        )
        if isinstance(verdict, Retry):
            self.systems[index] += verdict.spends_system
            self.attempts[index] += 1
            self.phases[index] = TaskPhase.QUEUED
            return True
        self.phases[index] = TaskPhase.FAILED
        self.failed += 1
        self.running -= 1
        if len(self.failures) < _MESSAGES or index < self.failures[-1][0]:
            insort(self.failures, (index, failure), key=itemgetter(0))
            del self.failures[_MESSAGES:]
        return False

    @property
    def hopeless(self) -> bool:
        """Too many have failed for the whole to succeed."""
        return self.plan.size - self.failed < self.needed

    @property
    def done(self) -> bool:
        """Every item is over, and enough succeeded."""
        return not self.running and not self.waiting and self.succeeded >= self.needed

    def live(self) -> Iterator[int]:
        """The items whose attempt is under way."""
        return (index for index, phase in enumerate(self.phases) if _LIVE[phase])

    def abort(self) -> list[int]:
        """End the items whose attempt is under way, and let none begin any more; which ones were ended."""
        ended = list(self.live())
        for index in ended:
            self.phases[index] = TaskPhase.ABORTED
        self.running -= len(ended)
        self.waiting.clear()
        return ended

    def failure(self, node_id: str) -> Failure:
        """What the node fails with once it is hopeless."""
        lines = []
        for index, failure in self.failures:
            which = f"[{index}], attempt {self.attempts[index] + 1}" if self.attempts[index] else f"[{index}]"
            lines.append(f"{which}: {failure.code}: {_shortened(failure.message)}")
        more = self.failed - len(lines)
        if more > 0:
            lines.append(f"… and {more} more")
        kind = self.failures[0][1].kind if self.failures else ErrorKind.UNKNOWN
        message = f"{self.failed} of {self.plan.size} items of {node_id} failed, and {self.needed} have to succeed"
        return Failure("ArrayNodeFailed", "\n".join([message, *lines]), kind, retryable=False)


def _shortened(message: str) -> str:
    if len(message) <= _MESSAGE_CHARS:
        return message
    half = _MESSAGE_CHARS // 2
    return f"{message[:half]} … {message[-half:]}"
