"""Many callers, one statement: each gets its own answer, whoever else fails or gives up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.admin.repositories.together import Together
from aerodrome.stdlib.errors import Unavailable


class Source:
    """Doubles what is not negative; waits for as many turns of the loop as it is told."""

    def __init__(self, turns: int = 3) -> None:
        self.asked: list[list[int]] = []
        self.turns = turns
        self.fails = 0

    async def fetch(self, keys: Sequence[int]) -> dict[int, int]:
        self.asked.append(list(keys))
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise Unavailable("away")
        return {key: 2 * key for key in keys if key >= 0}


async def test_who_asks_together_is_answered_together() -> None:
    source = Source()
    together = Together(source.fetch)
    assert await asyncio.gather(*map(together.find, [1, 2, -3, 1])) == [2, 4, None, 2]
    assert source.asked == [[1, 2, -3, 1]]
    assert await together.find(5) == 10
    assert len(source.asked) == 2


async def test_who_asks_meanwhile_waits_for_the_next_and_no_more_go_than_may() -> None:
    source = Source()
    together = Together(source.fetch, most_keys=2)
    assert await asyncio.gather(*map(together.find, range(5))) == [0, 2, 4, 6, 8]
    assert source.asked == [[0, 1], [2, 3], [4]]


async def test_an_error_is_of_those_who_were_in_it() -> None:
    source = Source()
    source.fails = 1
    together = Together(source.fetch, most_keys=2)
    outcomes = await asyncio.gather(*map(together.find, range(4)), return_exceptions=True)
    assert [isinstance(each, Unavailable) for each in outcomes[:2]] == [True, True]
    assert outcomes[2:] == [4, 6]
    with pytest.raises(Unavailable):
        raise outcomes[0]  # type: ignore[misc]  # it is one, as was asserted


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 4))
async def test_whoever_gives_up_all_others_are_answered(seed: int, most_keys: int, turns: int) -> None:
    dice = random.Random(seed)
    source = Source(turns)
    source.fails = dice.randrange(3)
    together = Together(source.fetch, most_keys=most_keys)
    tasks: dict[asyncio.Task[int | None], int] = {}
    given_up = set()
    for key in range(30):
        tasks[asyncio.create_task(together.find(key))] = key
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        if dice.random() < 0.4:
            given_up.add(dice.choice(list(tasks)))
            for each in given_up:
                each.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait(tasks)
    for task, key in tasks.items():
        if task.cancelled():
            assert task in given_up
        elif (error := task.exception()) is not None:
            assert isinstance(error, Unavailable)
        else:
            assert task.result() == 2 * key
    assert await together.find(7) == 14
