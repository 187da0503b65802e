"""How much a project may ask for at a time, and whose turn it is: plain values, no clock and no loop of their own."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Generic, TypeVar

from aerodrome.admin.limits_config import RequestBudget

T = TypeVar("T")

MOST_BUCKETS = 10_000
"""How many projects' budgets are remembered; one that was not used for longest is full again anyway."""
PRESENT_SECONDS = 5.0
"""For how long a project that asked for something is taken to be there."""
FEW = 2
"""How many requests of a project begin at once beside others': fewer at a time are no crowd."""
STEP_SECONDS = 0.02
"""After which time a crowd's next request begins although the one before has not ended: it waits for something slow."""


class Present:
    """Who asked for something within `PRESENT_SECONDS`; times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, float] = OrderedDict()
        """When each asked last; the latest is last."""

    def ask(self, who: str, now_seconds: float) -> None:
        """Somebody asks."""
        self._asked[who] = now_seconds
        self._asked.move_to_end(who)

    def count(self, now_seconds: float, *, besides: str | None = None) -> int:
        """How many there are, `besides` not counted."""
        while self._asked and now_seconds - next(iter(self._asked.values())) >= PRESENT_SECONDS:
            self._asked.popitem(last=False)
        return len(self._asked) - (besides in self._asked)


class Bucket:
    """What a project has left of its budget: it fills at a rate, up to what may be saved up."""

    def __init__(self, budget: RequestBudget, now_seconds: float) -> None:
        self.budget = budget
        self._left = float(budget.burst)
        self._at_seconds = now_seconds

    def take(self, cost: float, now_seconds: float) -> float:
        """Take `cost` out of it; returns 0.0, or, having taken nothing, in how many seconds there will be enough."""
        rate, burst = self.budget.requests_per_second, float(self.budget.burst)
        if rate <= 0:
            return 0.0
        cost = min(cost, burst)  # what costs more than can ever be saved up still has to be possible
        self._left = min(burst, self._left + max(0.0, now_seconds - self._at_seconds) * rate)
        self._at_seconds = now_seconds
        if self._left >= cost:
            self._left -= cost
            return 0.0
        return (cost - self._left) / rate


class Budgets:
    """The buckets of all projects."""

    def __init__(self, usual: RequestBudget, own: Mapping[str, RequestBudget]) -> None:
        self._usual = usual
        self._own = dict(own)
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, project: str) -> RequestBudget:
        """The budget that holds for a project."""
        return self._own.get(project, self._usual)

    def take(self, project: str, cost: float, now_seconds: float) -> float:
        """As `Bucket.take`, of that project."""
        if self.of(project).requests_per_second <= 0:
            return 0.0
        bucket = self._buckets.get(project)
        if bucket is None:
            bucket = self._buckets[project] = Bucket(self.of(project), now_seconds)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(project)
        return bucket.take(cost, now_seconds)


class Turns(Generic[T]):
    """Who may work and who waits: at most `most` at a time, and projects in turn.

    A project that is alone has three quarters of the places, so that there are some for whoever comes.  While others
    are there, which is `PRESENT_SECONDS` from their last request, it has a quarter.  And while one of them has nobody
    waiting, those who wait go one at a time, or `STEP_SECONDS` after each other where that takes longer: what one
    project has under way is what another's request shares the process with, at each of its steps.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._share_alone = max(1, 3 * most // 4)
        self._share = max(1, most // 4)
        self._present = Present()
        self._busy: dict[str, int] = {}
        self._began: dict[str, float] = {}
        """When the latest one of each that is busy began."""
        self._total = 0
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        """Those whose turn is next are first."""

    @property
    def busy(self) -> int:
        """How many work now."""
        return self._total

    def waiting(self, project: str) -> int:
        """How many of a project wait."""
        return len(self._waiting.get(project, ()))

    def share(self, project: str, now_seconds: float) -> int:
        """How many of `project` may work now."""
        return self._share if self._present.count(now_seconds, besides=project) else self._share_alone

    def begin(self, project: str, now_seconds: float) -> bool:
        """Whether somebody of `project` may work at once, and then does."""
        self._present.ask(project, now_seconds)
        if self._waiting.get(project) or not self._has_room(project, now_seconds):
            return False
        if self._busy.get(project, 0) >= FEW and self._held_seconds(project, now_seconds) > 0:
            return False
        self._take(project, now_seconds)
        return True

    def wait(self, project: str, who: T) -> None:
        """Let somebody wait whom `begin` refused."""
        self._waiting.setdefault(project, deque()).append(who)

    def give_up(self, project: str, who: T) -> bool:
        """Let somebody wait no longer; False if it is not waiting any more."""
        queue = self._waiting.get(project)
        if queue is None or who not in queue:
            return False
        queue.remove(who)
        if not queue:
            del self._waiting[project]
        return True

    def end(self, project: str, now_seconds: float) -> list[T]:
        """Somebody of `project` is done; returns those who work from now on."""
        self._total -= 1
        left = self._busy[project] - 1
        if left:
            self._busy[project] = left
        else:
            del self._busy[project]
            del self._began[project]
        return self.go_on(now_seconds)

    def go_on(self, now_seconds: float) -> list[T]:
        """Those who waited and work from now on."""
        begun: list[T] = []
        while True:
            following = next(
                (
                    each
                    for each in self._waiting
                    if self._has_room(each, now_seconds) and self._held_seconds(each, now_seconds) <= 0
                ),
                None,
            )
            if following is None:
                return begun
            queue = self._waiting[following]
            begun.append(queue.popleft())
            self._take(following, now_seconds)
            if queue:
                self._waiting.move_to_end(following)
            else:
                del self._waiting[following]

    def pause(self, now_seconds: float) -> float | None:
        """In how many seconds to `go_on`, where somebody waits for nothing else; None: whoever ends comes first."""
        return min(
            (self._held_seconds(each, now_seconds) for each in self._waiting if self._has_room(each, now_seconds)),
            default=None,
        )

    def _has_room(self, project: str, now_seconds: float) -> bool:
        return self._total < self._most and self._busy.get(project, 0) < self.share(project, now_seconds)

    def _held_seconds(self, project: str, now_seconds: float) -> float:
        """For how long a crowd's next request waits, unless the one before ends; where all are crowds, turns do."""
        began = self._began.get(project)
        if began is None:
            return 0.0
        crowds = len(self._waiting) - (project in self._waiting)
        if self._present.count(now_seconds, besides=project) <= crowds:
            return 0.0
        return max(0.0, began + STEP_SECONDS - now_seconds)

    def _take(self, project: str, now_seconds: float) -> None:
        self._total += 1
        self._busy[project] = self._busy.get(project, 0) + 1
        self._began[project] = now_seconds
