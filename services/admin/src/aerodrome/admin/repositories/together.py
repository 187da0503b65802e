"""Asks the database for many keys, or hands it many rows, at once when many callers have one each.

A statement for one row costs the process more than the row: a round trip of its own, and the turns of the loop around
it; one that writes costs a flush of the database's log besides.  So what is asked while a statement is under way waits
and goes into the next one, all together.  Who asks while nothing is under way does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from aerodrome.stdlib.errors import AerodromeError, DeadlineExceeded, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

MOST_KEYS = 200
"""Most keys in one statement."""
MOST_ROWS = 64
"""Most rows in one statement that writes."""
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


class _Row(Generic[T, R]):
    __slots__ = ("row", "written")

    def __init__(self, row: T) -> None:
        self.row = row
        self.written: asyncio.Future[R] = asyncio.get_running_loop().create_future()


class WrittenTogether(Generic[T, R]):
    """Writes rows with `write`, which is given several and returns an outcome for each; all of them or none.

    Once a statement is under way it is carried out, whichever of its callers gives up: what becomes of one row is the
    business of all.  If it fails and certainly wrote nothing, each of its rows is written by itself, so that an error
    is only that of the row that brought it about.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        size_bytes: Callable[[T], int],
        most_rows: int = MOST_ROWS,
        most_bytes: int = MOST_ROW_BYTES,
    ) -> None:
        self._write = write
        self._size_bytes = size_bytes
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._waiting: deque[_Row[T, R]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, row: T) -> R:
        """What `write` says of `row`.  Raises what it raises."""
        mine: _Row[T, R] = _Row(row)
        self._waiting.append(mine)
        if self._writing is None:  # in a context of its own: it works for others than this caller
            self._writing = asyncio.get_running_loop().create_task(self._write_all(), context=Context())
        return await mine.written

    async def _write_all(self) -> None:
        batch: list[_Row[T, R]] = []
        try:
            await asyncio.sleep(0)  # whoever comes in this turn of the loop comes along
            while batch := self._next():
                await self._write_batch(batch)
        finally:
            self._writing = None
            for each in (*batch, *self._waiting):  # some are left only where the loop itself ends
                if not each.written.done():
                    each.written.cancel()

    def _next(self) -> list[_Row[T, R]]:
        batch: list[_Row[T, R]] = []
        size_bytes = 0
        while self._waiting and len(batch) < self._most_rows:
            first = self._waiting[0]
            if not first.written.done():  # otherwise its caller has given up
                size_bytes += self._size_bytes(first.row)
                if batch and size_bytes > self._most_bytes:
                    break
                batch.append(first)
            self._waiting.popleft()
        return batch

    async def _write_batch(self, batch: Sequence[_Row[T, R]]) -> None:
        try:
            outcomes = await self._write([each.row for each in batch])
        except (Unavailable, DeadlineExceeded) as error:  # it may have been carried out all the same
            _fail(batch, error)
        except AerodromeError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for each in batch:
                await self._write_batch([each])
        except Exception as error:  # noqa: BLE001  (those who wait hear of it)
            _fail(batch, error)
        else:
            for each, outcome in zip(batch, outcomes, strict=True):
                if not each.written.done():
                    each.written.set_result(outcome)


def _fail(batch: Sequence[_Row[T, R]], error: Exception) -> None:
    for each in batch:
        if not each.written.done():
            each.written.set_exception(error)
