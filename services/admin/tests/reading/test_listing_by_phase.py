"""Nodes by phase: the same rows as without the index of them, and few looked at in an execution of many."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin.common_pb2 import Sort

from aerodrome.admin.domain.phases import NODE_NAMES
from aerodrome.admin.repositories.listing import Ask, Page, Scope, list_page
from aerodrome.admin.repositories.sources import NODE_EXECUTIONS
from aerodrome.stdlib.postgres.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
PHASES = sorted(filter(None, NODE_NAMES.values()))
ORDERS = (
    Sort(key="created_at", direction=Sort.ASCENDING),
    Sort(key="created_at", direction=Sort.DESCENDING),
    Sort(key="started_at", direction=Sort.DESCENDING),
    Sort(key="started_at", direction=Sort.ASCENDING),
    Sort(key="deleted_at", direction=Sort.DESCENDING),
)


def of(execution: int, parent: str | None) -> Scope:
    """The scopes that the rpc has: the top level, or below a parent."""
    if parent is None:
        scope = Scope(execution_id=execution).where_null("parent_node_id")
    else:
        scope = Scope(execution_id=execution, parent_node_id=parent)
    return scope.where("ne.parent_task_execution_id IS NULL")


async def walk(
    database: Database, scope: Scope, filters: str, sort: Sort, limit: int, token: str = ""
) -> Iterator[str]:
    """The nodes of all pages from `token` on."""
    found: list[str] = []
    while True:
        page: Page = await list_page(
            database, NODE_EXECUTIONS, scope, Ask("ListThings", limit, token=token, filters=filters, sort_by=sort)
        )
        assert len(page.rows) == limit or not page.token
        found += [row["node_id"] for row in page.rows]
        token = page.token
        if not token:
            return iter(found)


async def test_a_list_of_phases_is_every_node_of_them_once_and_in_order(database: Database, rows: Any) -> None:
    dice = random.Random(11)
    execution, other = await rows.execution("e"), await rows.execution("other")
    nodes: dict[str, str] = {}
    for number in range(30):
        phase, node = dice.choice(PHASES), f"n{number:02}"
        for parent, prefix in ((None, ""), ("n00", "child-")):
            nodes[prefix + node] = phase
            await rows.node(
                execution, prefix + node, phase=phase, parent_node_id=parent,
                created_at=START + timedelta(seconds=dice.randrange(20)),
                started_at=dice.choice([None, START + timedelta(seconds=dice.randrange(5))]),
            )  # fmt: skip
        await rows.node(other, node, phase=phase)
    lists = [["FAILED"], ["RUNNING", "QUEUED"], ["FAILED", "FAILED", "ABORTED", "SKIPPED"], ["SUCCEEDED", "FAILED"],
             ["nothing"], ["FAILED", "nothing"], PHASES, [each for each in PHASES if each != "SUCCEEDED"]]  # fmt: skip
    for phases, sort, parent in dice.sample(list(itertools.product(lists, ORDERS, (None, "n00"))), 24):
        scope, asked = of(execution, parent), f"value_in(phase,{';'.join(phases)})"
        # the same question in words that no index has an answer to
        every = list(await walk(database, scope, "", sort, 100))
        wanted = [each for each in every if nodes[each] in phases]
        assert list(await walk(database, scope, asked, sort, 100)) == wanted
        assert list(await walk(database, scope, asked, sort, 3)) == wanted, (phases, sort)
        assert list(await walk(database, scope, asked, sort, 4, token="2")) == wanted[2:]
        both = [each for each in wanted if "1" in each]
        assert list(await walk(database, scope, f"{asked}+contains(node_id,1)", sort, 4)) == both


async def fill_wide(database: Database, rows: Any, phases: str) -> int:
    """An execution of 10,000 nodes with `phases`, an expression of SQL over `n`, among others that are as usual."""
    execution = await rows.execution("wide")
    await database.execute(
        f"""
        INSERT INTO node_executions (execution_id, node_id, phase, created_at, closure, node_execution_metadata)
        SELECT $1, 'n' || n, {phases}, now() + n * interval '1 ms', convert_to(repeat('x', 300), 'UTF8'), ''
        FROM generate_series(1, 10000) AS n
        """,
        execution,
    )
    ordinary = await rows.execution("ordinary")
    await database.execute(
        """
        INSERT INTO node_executions (execution_id, node_id, phase, closure, node_execution_metadata)
        SELECT $1, 'n' || n, (ARRAY['FAILED', 'RUNNING', 'ABORTED', 'QUEUED', 'SUCCEEDED'])[1 + n % 5], '', ''
        FROM generate_series(1, 2000) AS n
        """,
        ordinary,
    )
    await database.execute("VACUUM ANALYZE node_executions")
    return int(execution)


@pytest.mark.parametrize(
    ("phases", "asked", "count"),
    [
        ("'SUCCEEDED'", "value_in(phase,FAILED)", 0),
        ("'SUCCEEDED'", "eq(phase,RUNNING)", 0),
        ("'SUCCEEDED'", "value_in(phase,RUNNING;QUEUED;FAILED;ABORTED)", 0),
        ("CASE n % 2500 WHEN 7 THEN 'FAILED' ELSE 'SUCCEEDED' END", "value_in(phase,FAILED;RUNNING)", 4),
        ("'QUEUED'", "value_in(phase,RUNNING;QUEUED)", 25),  # almost all: the first ones are enough
        ("'FAILED'", "value_in(phase,FAILED;ABORTED;TIMED_OUT)", 25),
        ("'SKIPPED'", "eq(phase,FAILED)", 0),
        ("'RECOVERED'", "value_in(phase,SUCCEEDED;RUNNING)", 0),
        ("CASE WHEN n < 8000 THEN 'RECOVERED' ELSE 'SUCCEEDED' END", "eq(phase,SUCCEEDED)", 25),
    ],
)
@pytest.mark.parametrize("direction", [Sort.ASCENDING, Sort.DESCENDING])
async def test_what_matches_few_nodes_of_many_is_found_without_a_look_at_them_all(
    database: Database, explained: Any, rows: Any, phases: str, asked: str, count: int, direction: Any
) -> None:
    execution = await fill_wide(database, rows, phases)
    ask = Ask("ListThings", 25, filters=asked, sort_by=Sort(key="created_at", direction=direction))
    page = await list_page(explained, NODE_EXECUTIONS, of(execution, None), ask)
    assert len(page.rows) == count
    assert explained.blocks < 200, explained.plans  # all of them lie on more than five hundred
