"""Asks the database for many keys at once when many callers ask for one each.

A statement for one row costs the process more than the row: a round trip of its own, and the turns of the loop around
it.  So what is asked while a statement is under way waits and goes into the next one, all together.  Who asks while
nothing is under way does not wait.  There is no task behind it: one of those who wait leads, which is to ask for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_KEYS = 200
"""Most keys in one statement."""


class _Waiting(Generic[K, V]):
    __slots__ = ("key", "turn")

    def __init__(self, key: K) -> None:
        self.key = key
        # what was found; None: it is this one's turn to ask
        self.turn: asyncio.Future[Mapping[K, V] | None] = asyncio.get_running_loop().create_future()


class Together(Generic[K, V]):
    """Finds values by their keys with `fetch`, which is given many of them and returns those that exist.

    What a caller gets was read after it asked.  An error of `fetch` is that of all who were in it.
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
