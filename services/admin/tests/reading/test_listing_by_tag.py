"""Executions by tag: each once and in order, however many of its tags match; few looked at, however many there are."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin.common_pb2 import Sort

from aerodrome.admin.repositories.listing import Ask, Scope, list_page
from aerodrome.admin.repositories.sources import EXECUTIONS
from aerodrome.stdlib.postgres.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
NEWEST = Sort(key="created_at", direction=Sort.DESCENDING)
OLDEST = Sort(key="created_at", direction=Sort.ASCENDING)


async def walk(database: Database, filters: str, sort: Sort, limit: int, token: str = "") -> list[str]:
    """The executions of project p, domain d on all pages from `token` on."""
    found: list[str] = []
    while True:
        scope = Scope(execution_project="p", execution_domain="d")
        ask = Ask("ListThings", limit, token=token, filters=filters, sort_by=sort)
        page = await list_page(database, EXECUTIONS, scope, ask)
        found += [row["execution_name"] for row in page.rows]
        token = page.token
        if not token:
            return found


Tags = dict[str, list[tuple[str, str]]]


@pytest.fixture
async def tags(database: Database, rows: Any) -> Tags:
    """Executions with up to five tags, by name."""
    dice = random.Random(5)
    made: Tags = {}
    for number in range(40):
        own = {(dice.choice("abc"), dice.choice(["", "1", "2"])) for _ in range(dice.randrange(6))}
        place = {"execution_project": "q"} if number % 9 == 0 else {}
        name = f"e{number:02}"
        if not place:
            made[name] = sorted(own)
        await rows.execution(
            name, tags=[f"{key}={value}" for key, value in own], mode=dice.randrange(2),
            created_at=START + timedelta(seconds=dice.randrange(8)), **place,
        )  # fmt: skip
    return made


QUESTIONS = (
    ("eq(execution_tag.key,a)", lambda own: any(key == "a" for key, _ in own)),
    ("value_in(execution_tag.key,a)", lambda own: any(key == "a" for key, _ in own)),
    ("value_in(execution_tag.key,a;b;a)", lambda own: any(key in "ab" for key, _ in own)),
    ("eq(admin_tag.name,b)", lambda own: any(key == "b" for key, _ in own)),
    ("value_in(admin_tag.name,b;c;nothing)", lambda own: any(key in "bc" for key, _ in own)),
    ("eq(execution_tag.key,a)+eq(execution_tag.value,2)", lambda own: ("a", "2") in own),
    (
        "value_in(execution_tag.key,a;b)+ne(execution_tag.value,1)",
        lambda own: any(key in "ab" and value != "1" for key, value in own),
    ),
    ("value_in(execution_tag.key,a;b)+value_in(execution_tag.key,b;c)", lambda own: any(k == "b" for k, _ in own)),
    ("eq(execution_tag.key,a)+eq(admin_tag.name,b)", lambda own: {"a", "b"} <= {key for key, _ in own}),
    ("eq(execution_tag.key,a)+eq(execution_tag.execution_name,e07)", None),
    ("eq(execution_tag.key,a)+lt(execution_tag.deleted_at,2030-01-01)", lambda own: False),
    ("eq(execution_tag.key,nothing)", lambda own: False),
)  # fmt: skip


async def test_every_execution_with_a_tag_is_listed_once_and_in_order(database: Database, tags: Tags) -> None:
    for sort in (NEWEST, OLDEST, Sort(key="execution_name", direction=Sort.ASCENDING)):
        every = await walk(database, "", sort, 100)
        for filters, holds in QUESTIONS:
            if holds is None:
                wanted = [each for each in every if each == "e07" and any(key == "a" for key, _ in tags[each])]
            else:
                wanted = [each for each in every if holds(tags[each])]
            assert await walk(database, filters, sort, 100) == wanted, filters
            assert await walk(database, filters, sort, 4) == wanted, filters
            assert await walk(database, filters, sort, 3, token="2") == wanted[2:], filters
        both = "eq(mode,1)+value_in(execution_tag.key,a;c)"
        modes = {row[0] for row in await database.fetch("SELECT execution_name FROM executions WHERE mode = 1")}
        assert await walk(database, both, sort, 3) == [
            each for each in every if each in modes and any(key in "ac" for key, _ in tags[each])
        ]


@pytest.mark.parametrize("filters", ["eq(execution_tag.key,often)", "value_in(admin_tag.name,often;rare)"])
async def test_the_first_page_of_a_tag_looks_at_few_of_its_executions(
    database: Database, explained: Any, rows: Any, filters: str
) -> None:
    await rows.execution("e", tags=["rare"])
    await database.execute(
        """
        INSERT INTO executions (
            execution_project, execution_domain, execution_name, created_at, phase, spec, closure, workflow_id,
            launch_entity, execution_created_at, execution_updated_at
        )
        SELECT 'p', 'd', 'x' || n, now() - n * interval '1 s', 'SUCCEEDED', '', convert_to(repeat('x', 300), 'UTF8'), 1,
            'launch_plan', now(), now()
        FROM generate_series(1, 5000) AS n
        """
    )
    await database.execute(
        "INSERT INTO execution_tags (execution_id, key) SELECT execution_id, 'often' FROM executions "
        "WHERE execution_name LIKE 'x%'"
    )
    await database.execute("VACUUM ANALYZE executions, execution_tags")
    scope, ask = (
        Scope(execution_project="p", execution_domain="d"),
        Ask("ListThings", 10, filters=filters, sort_by=NEWEST),
    )
    assert len((await list_page(explained, EXECUTIONS, scope, ask)).rows) == 10
    assert explained.blocks < 150, explained.plans  # a look at all of them takes 15,000


async def test_a_tag_of_what_is_created_knows_where_and_when(database: Database, rows: Any) -> None:
    for number, (project, created) in enumerate(itertools.product("pq", (START, START + timedelta(days=1)))):
        await rows.execution(f"e{number}", execution_project=project, created_at=created, tags=["t"])
    different = await database.fetchval(
        "SELECT count(*) FROM execution_tags t JOIN executions e USING (execution_id) "
        "WHERE (t.execution_project, t.execution_domain, t.execution_created_at) "
        "IS DISTINCT FROM (e.execution_project, e.execution_domain, e.created_at)"
    )
    assert different == 0
