"""Statements that launches share: each caller gets its own outcome, whoever else fails, waits or gives up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.admin.repositories.together import MOST_ROWS_BESIDE_OTHERS, SharedStatements, most_of_a_group
from aerodrome.stdlib.errors import InvalidArgument, Unavailable


class Table:
    """Keeps rows; negative ones are refused, and whatever is in one statement with them."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.rows: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.away = False

    async def insert(self, rows: Sequence[int]) -> list[str]:
        self.statements.append(list(rows))
        await asyncio.sleep(0)
        await self.go.wait()
        if self.away:
            raise Unavailable("away")
        if any(row < 0 for row in rows):
            raise InvalidArgument(f"{min(rows)} is negative")
        self.rows += rows
        return [f"row {row}" for row in rows]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_together_goes_together_and_the_rest_in_the_next_one() -> None:
    table = Table()
    shared = SharedStatements(table.insert, most_rows=3)
    outcomes = await asyncio.gather(*(shared.add(number, "a") for number in range(5)))
    assert outcomes == [f"row {number}" for number in range(5)]
    assert table.statements == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("parallel", [1, 2])
async def test_who_comes_again_at_once_is_served_again(parallel: int) -> None:
    table = Table()
    shared = SharedStatements(table.insert, parallel=parallel)

    async def several(group: str) -> None:
        for number in range(5):
            await shared.add(number, group)

    async with asyncio.timeout(10):
        await asyncio.gather(*map(several, "abc"))
    assert Counter(table.rows) == Counter([*range(5)] * 3)


async def test_large_rows_are_not_put_together() -> None:
    table = Table()
    shared = SharedStatements(table.insert, size_bytes=lambda row: row, most_bytes=100)
    await asyncio.gather(*(shared.add(number, "a") for number in (60, 50, 40, 300, 10)))
    assert table.statements == [[60], [50, 40], [300], [10]]


async def test_a_group_waits_for_its_own_statement_and_no_other_group_does() -> None:
    table = Table()
    shared = SharedStatements(table.insert, parallel=2)
    table.go.clear()
    first = [asyncio.ensure_future(shared.add(number, "crowd")) for number in range(3)]
    await settled()
    first += [asyncio.ensure_future(shared.add(number, "crowd")) for number in range(3, 6)]
    first += [asyncio.ensure_future(shared.add(10, "few"))]
    await settled()
    assert table.statements == [[0, 1, 2], [10]]
    first += [asyncio.ensure_future(shared.add(number, "third")) for number in (20, 21)]
    await settled()
    assert len(table.statements) == 2  # no more at a time
    table.go.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*first)
    assert Counter(table.rows) == Counter([*range(6), 10, 20, 21])
    assert len(table.statements) <= 4


async def test_groups_take_turns_where_not_all_fit() -> None:
    table = Table()
    shared = SharedStatements(table.insert, most_rows=4)
    waiting = [asyncio.ensure_future(shared.add(number, "crowd")) for number in range(6)]
    waiting += [asyncio.ensure_future(shared.add(10, "few"))]
    await asyncio.gather(*waiting)
    assert table.statements[0] == [0, 10, 1, 2]


@given(most_rows=st.integers(1, 200), groups=st.integers(0, 50))
def test_a_group_that_is_alone_fills_a_statement_and_others_have_room_in_it(most_rows: int, groups: int) -> None:
    most = most_of_a_group(most_rows, groups)
    assert 1 <= most <= most_rows
    assert most == most_rows if groups <= 1 else most <= MOST_ROWS_BESIDE_OTHERS


async def test_a_crowd_is_divided_while_somebody_else_asks_too() -> None:
    table = Table()
    now = 0.0
    shared = SharedStatements(table.insert, now=lambda: now)

    async def crowd() -> list[int]:
        """Sizes of the statements that forty callers at once share."""
        table.statements.clear()
        await asyncio.gather(*(shared.add(number, "crowd") for number in range(40)))
        return [len(statement) for statement in table.statements]

    assert await crowd() == [40]
    await shared.add(0, "few")
    assert await crowd() == [16, 16, 8]
    now = 4.9
    assert await crowd() == [16, 16, 8]
    now = 5.1
    assert await crowd() == [40]


async def test_a_row_that_is_refused_takes_no_other_with_it() -> None:
    table = Table()
    shared = SharedStatements(table.insert)
    outcomes = await asyncio.gather(*(shared.add(row, "a") for row in (1, -2, 3)), return_exceptions=True)
    assert [outcomes[0], outcomes[2]] == ["row 1", "row 3"]
    assert isinstance(outcomes[1], InvalidArgument)
    assert table.rows == [1, 3]


async def test_what_may_have_happened_is_not_done_again() -> None:
    table = Table()
    shared = SharedStatements(table.insert)
    table.away = True
    outcomes = await asyncio.gather(*(shared.add(row, "a") for row in (1, 2)), return_exceptions=True)
    assert [type(each) for each in outcomes] == [Unavailable, Unavailable]
    assert table.statements == [[1, 2]]
    table.away = False
    assert await shared.add(3, "a") == "row 3"


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    table = Table()
    shared = SharedStatements(table.insert)
    table.go.clear()
    under_way = [asyncio.ensure_future(shared.add(row, "a")) for row in (1, 2)]
    await settled()
    waiting = [asyncio.ensure_future(shared.add(row, "a")) for row in (3, 4)]
    await settled()
    under_way[0].cancel()
    waiting[0].cancel()
    table.go.set()
    async with asyncio.timeout(10):
        assert await under_way[1] == "row 2"
        assert await waiting[1] == "row 4"
    assert table.rows == [1, 2, 4]  # a statement under way is carried out; who only waited is left out


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.booleans(), st.sampled_from([0, 0, 0, 1])), max_size=40
    ),
    parallel=st.integers(1, 3),
    most_rows=st.integers(1, 4),
)
def test_every_row_has_one_outcome_and_those_of_a_group_keep_their_order(
    steps: list[tuple[str, int, bool, int]], parallel: int, most_rows: int
) -> None:
    async def run() -> None:
        table = Table()
        shared = SharedStatements(table.insert, parallel=parallel, most_rows=most_rows)
        calls: dict[int, tuple[str, bool, asyncio.Future[str]]] = {}
        for number, (group, turns, cancelled, refused) in enumerate(steps, 1):
            row = -number if refused else number
            calls[row] = (group, cancelled, asyncio.ensure_future(shared.add(row, group)))
            for _ in range(turns):
                await asyncio.sleep(0)
            if cancelled:
                calls[row][2].cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([call for _, _, call in calls.values()] or [asyncio.ensure_future(asyncio.sleep(0))])
        await settled()
        for row, (_, cancelled, call) in calls.items():
            if not call.cancelled():
                assert isinstance(call.exception(), InvalidArgument) if row < 0 else call.result() == f"row {row}"
            else:
                assert cancelled
        assert max(Counter(table.rows).values(), default=1) == 1
        for group in "abcd":
            own = [row for row in table.rows if calls[row][0] == group]
            assert own == sorted(own)

    asyncio.run(run())


@pytest.fixture
async def ready(platform: Any, build: Any) -> Any:
    """A control plane that knows something to launch."""
    await platform.stub.CreateTask(build.task_request())
    await platform.stub.CreateWorkflow(build.workflow_request())
    await platform.stub.CreateLaunchPlan(build.launch_plan_request())
    return platform


async def test_of_launches_under_one_name_exactly_one_wins_and_the_others_leave_nothing(ready: Any, build: Any) -> None:
    refused: list[grpc.aio.AioRpcError] = []

    async def create(name: str) -> bool:
        try:
            await ready.stub.CreateExecution(build.execution_request(name))
        except grpc.aio.AioRpcError as error:
            refused.append(error)
            return False
        return True

    await create("f0")
    await ready.database.execute(
        "INSERT INTO execution_tombstones (execution_project, execution_domain, execution_name, execution_id) "
        "VALUES ('flytesnacks', 'development', 'f1', 1)"
    )
    names = [f"f{number}" for number in range(8)] * 3
    async with asyncio.timeout(30):
        made = Counter(name for name, won in zip(names, await asyncio.gather(*map(create, names)), strict=True) if won)
    assert made == Counter(f"f{number}" for number in range(2, 8))
    assert {error.code() for error in refused} == {grpc.StatusCode.ALREADY_EXISTS}
    assert all("(execution flytesnacks:development:f" in str(error.details()) for error in refused)
    rows = await ready.database.fetch(
        "SELECT e.execution_name, e.inputs_uri, l.state FROM executions e JOIN leases l USING (execution_id)"
    )
    assert {row["execution_name"] for row in rows} == {"f0", *made}
    assert {row["state"] for row in rows} == {"open"}
    stored = {each async for each, _ in ready.storage.list(ready.storage.join("metadata", "flytesnacks"))}
    assert stored == {row["inputs_uri"] for row in rows}
