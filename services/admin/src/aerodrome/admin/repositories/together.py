"""Asks the database for many keys, or hands it many rows, at once when many callers have one each.

A statement for one row costs the process more than the row: a round trip of its own, and the turns of the loop around
it; one that writes costs a flush of the database's log besides.  So what is asked while a statement is under way waits
and goes into the next one, all together.  Who asks while nothing is under way does not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from aerodrome.admin.domain.budgets import Present
from aerodrome.stdlib.errors import AerodromeError, DeadlineExceeded, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

MOST_KEYS = 200
"""Most keys in one statement."""
MOST_ROWS = 64
"""Most rows in one statement that callers share."""
MOST_ROWS_BESIDE_OTHERS = 16
"""Most rows of one group in a statement while another group asks too."""
MOST_STATEMENTS = 3
"""How many such statements are under way at a time."""
MOST_ROW_BYTES = 2**20
"""How large the rows of such a statement are together, unless it is a single one."""


class _Waiting(Generic[K, V]):
    __slots__ = ("key", "turn")

    def __init__(self, key: K) -> None:
        self.key = key
        # what was found; None: it is this one's turn to ask
        self.turn: asyncio.Future[Mapping[K, V] | None] = asyncio.get_running_loop().create_future()


class Together(Generic[K, V]):
    """Finds values by their keys with `fetch`, which is given many of them and returns those that exist.

    What a caller gets was read after it asked.  An error of `fetch` is that of all who were in it.  There is no task
    behind it: one of those who wait leads, which is to ask for all.
    """

    def __init__(self, fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, most_keys: int = MOST_KEYS) -> None:
        self._fetch = fetch
        self._most_keys = most_keys
        self._waiting: list[_Waiting[K, V]] = []
        self._led = False

    async def find(self, key: K) -> V | None:
        """The value of `key`; None if there is none."""
        mine: _Waiting[K, V] = _Waiting(key)
        self._waiting.append(mine)
        if self._led:
            try:
                found = await mine.turn
            except asyncio.CancelledError:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    if mine.turn.done() and not mine.turn.cancelled():  # it was to lead
                        self._pass_on()
                raise
            if found is not None:
                return found.get(key)
        self._led = True
        return await self._lead(mine)

    async def _lead(self, mine: _Waiting[K, V]) -> V | None:
        batch: list[_Waiting[K, V]] = [mine]
        try:
            await asyncio.sleep(0)  # whoever asks in this turn of the loop comes along
            batch = self._waiting[: self._most_keys]
            del self._waiting[: self._most_keys]
            found = await self._fetch([each.key for each in batch])
        except asyncio.CancelledError:  # only this caller gave up
            if mine in self._waiting:
                self._waiting.remove(mine)
            self._waiting[:0] = [each for each in batch if each is not mine and not each.turn.done()]
            raise
        except Exception as error:
            for each in batch:
                if each is not mine and not each.turn.done():
                    each.turn.set_exception(error)
            raise
        else:
            for each in batch:
                if each is not mine and not each.turn.done():
                    each.turn.set_result(found)
            return found.get(mine.key)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the next one lead who still waits."""
        while self._waiting and self._waiting[0].turn.done():
            self._waiting.pop(0)
        if self._waiting:
            self._waiting[0].turn.set_result(None)
        else:
            self._led = False


def most_of_a_group(most_rows: int, groups: int) -> int:
    """Rows of one group that a statement may have, where so many `groups` ask.

    Whoever is in a statement waits until all of it is carried out, and whoever comes next until all of its callers have
    been answered, who go on in the same turn of the loop.  So a crowd's rows are divided as soon as there is somebody
    whom that keeps waiting; a group that is alone keeps nobody waiting but itself.
    """
    return most_rows if groups <= 1 else min(most_rows, MOST_ROWS_BESIDE_OTHERS)


class _Row(Generic[T, R]):
    __slots__ = ("outcome", "row")

    def __init__(self, row: T) -> None:
        self.row = row
        self.outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()


class SharedStatements(Generic[T, R]):
    """Puts what callers bring into few statements: `run` is given several rows and returns an outcome for each.

    Each caller belongs to a group, such as a project.  A group's rows go into one statement at a time, and what comes
    meanwhile into the next one; other groups do not wait for it while fewer than `parallel` statements are under way,
    and take turns where not all rows fit.  See `most_of_a_group` for how many rows of a group go into one.

    Once a statement is under way it is carried out, whichever of its callers gives up: what becomes of one row is the
    business of all.  If it fails and certainly did nothing, each of its rows gets a statement of its own, so that an
    error is only that of the row that brought it about.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        size_bytes: Callable[[T], int] | None = None,
        parallel: int = MOST_STATEMENTS,
        most_rows: int = MOST_ROWS,
        most_bytes: int = MOST_ROW_BYTES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._now = now
        self._size_bytes = size_bytes
        self._parallel = parallel
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._waiting: OrderedDict[str, deque[_Row[T, R]]] = OrderedDict()
        """By group; those whose turn is next are first."""
        self._present = Present()
        self._under_way: set[str] = set()
        self._working = 0
        self._tasks: set[asyncio.Task[None]] = set()
        """So that they live; one that is done here is in it a little longer."""
        self._starting = False

    async def add(self, row: T, group: str) -> R:
        """What `run` gives for `row`.  Raises what it raises."""
        mine: _Row[T, R] = _Row(row)
        self._waiting.setdefault(group, deque()).append(mine)
        self._present.ask(group, self._now())
        if not self._starting and group not in self._under_way and self._working < self._parallel:
            self._starting = True
            self._working += 1
            # in a context of its own: it works for others than this caller
            task = asyncio.get_running_loop().create_task(self._work(), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await mine.outcome

    async def _work(self) -> None:
        """Run statements as long as there is something for them."""
        try:
            await asyncio.sleep(0)  # whoever comes in this turn of the loop comes along
            self._starting = False
            while True:
                groups, batch = self._next()
                if not batch:
                    return
                self._under_way |= groups
                try:
                    await self._run_one(batch)
                finally:
                    self._under_way -= groups
                    for each in batch:  # some have no outcome only where the loop itself ends
                        if not each.outcome.done():
                            each.outcome.cancel()
        finally:
            self._working -= 1  # now, and not when the task is done: whoever comes next has to start another one

    def _next(self) -> tuple[set[str], list[_Row[T, R]]]:
        """What the next statement is about: rows of all groups that have none under way, one of each in turn."""
        groups: set[str] = set()
        batch: list[_Row[T, R]] = []
        size_bytes = 0
        turn = deque(group for group in self._waiting if group not in self._under_way)
        most = most_of_a_group(self._most_rows, self._present.count(self._now()))
        taken: Counter[str] = Counter()
        while turn and len(batch) < self._most_rows:
            group = turn.popleft()
            queue = self._waiting[group]
            first = queue[0]
            if not first.outcome.done():  # otherwise its caller has given up
                size_bytes += self._size_bytes(first.row) if self._size_bytes is not None else 0
                if batch and size_bytes > self._most_bytes:
                    break
                batch.append(first)
                groups.add(group)
                taken[group] += 1
            queue.popleft()
            if queue:
                self._waiting.move_to_end(group)
                if taken[group] < most:
                    turn.append(group)
            else:
                del self._waiting[group]
        return groups, batch

    async def _run_one(self, batch: Sequence[_Row[T, R]]) -> None:
        try:
            outcomes = await self._run([each.row for each in batch])
        except (Unavailable, DeadlineExceeded) as error:  # it may have been carried out all the same
            _fail(batch, error)
        except AerodromeError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for each in batch:
                await self._run_one([each])
        except Exception as error:  # noqa: BLE001  (those who wait hear of it)
            _fail(batch, error)
        else:
            for each, outcome in zip(batch, outcomes, strict=True):
                if not each.outcome.done():
                    each.outcome.set_result(outcome)


def _fail(batch: Sequence[_Row[T, R]], error: Exception) -> None:
    for each in batch:
        if not each.outcome.done():
            each.outcome.set_exception(error)
