"""Pages: every row once, in order, for every sort key; and nothing a caller writes becomes SQL."""

from __future__ import annotations

import base64
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from flyteidl.admin.common_pb2 import Sort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.admin.domain.filters import COLUMNS, JOINABLE, Function, Kind
from aerodrome.admin.repositories.listing import Ask, Page, Scope, Source, list_page
from aerodrome.admin.repositories.sources import (
    DESCRIPTION_ENTITIES,
    EXECUTIONS,
    IDENTIFIERS,
    LAUNCH_PLANS,
    NODE_EXECUTIONS,
    TASK_EXECUTIONS,
    TASKS,
    WORKFLOWS,
    named_entities,
)
from aerodrome.stdlib.errors import InvalidArgument, ResourceExhausted
from aerodrome.stdlib.postgres.database import Database

SOURCES = {
    "executions": EXECUTIONS,
    "node executions": NODE_EXECUTIONS,
    "task executions": TASK_EXECUTIONS,
    "tasks": TASKS,
    "workflows": WORKFLOWS,
    "launch plans": LAUNCH_PLANS,
    "description entities": DESCRIPTION_ENTITIES,
    "task ids": IDENTIFIERS["tasks"],
    "workflow ids": IDENTIFIERS["workflows"],
    "launch plan ids": IDENTIFIERS["launch_plans"],
    "named tasks": named_entities(1),
    "named workflows": named_entities(2),
    "named launch plans": named_entities(3),
}


async def fill(rows: Any) -> None:
    """Rows with few different values in each column, and some without."""
    dice = random.Random(7)
    instants = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=each) for each in range(3)]
    workflow = 0
    for name, version in itertools.product("abc", "12345"):
        kept = {"short_description": dice.choice(["", "é", "x"]), "created_at": dice.choice(instants)}
        await rows.task(name, version, **kept, type=dice.choice("xy"))
        workflow = await rows.workflow(name, version, **kept)
        await rows.description(1, name, version, **kept)
        await rows.launch_plan(workflow, name, version, created_at=dice.choice(instants))
    await rows.named_entity(1, "b", state=1, description="ü")
    for number in range(13):
        execution = await rows.execution(
            f"e{number}",
            created_at=dice.choice(instants),
            started_at=dice.choice([None, *instants]),
            duration=dice.choice([None, 0, 1]),
            error_kind=dice.choice([None, "USER", "SYSTEM"]),
            task_id=dice.choice([None, 1, 2]),
            abort_cause=dice.choice(["", "long " * 300]),
            user=dice.choice(["alice", "bob"]),
            workflow_id=workflow,
        )
        if number:
            continue
        parents = [None, "n0", "n1"]
        for node in range(11):
            await rows.node(
                execution,
                f"n{node}",
                created_at=dice.choice(instants),
                started_at=dice.choice([None, *instants]),
                duration=dice.choice([None, 5]),
                parent_node_id=dice.choice(parents),
                cache_status=dice.choice([None, "CACHE_HIT"]),
            )
            await rows.task_execution(
                execution, "n0", node, created_at=dice.choice(instants), duration=dice.choice([None, 5])
            )


def keys(row: Any) -> tuple[Any, ...]:
    return tuple(value for name, value in row.items() if name.startswith("key_"))


async def page(database: Database, source: Source, **ask: Any) -> Page:
    return await list_page(database, source, Scope(), Ask("ListThings", **ask))


async def test_pages_hold_every_row_once_and_in_order(database: Database, rows: Any) -> None:
    await fill(rows)
    for source in SOURCES.values():
        for key, direction in itertools.product(COLUMNS[source.entity], (Sort.ASCENDING, Sort.DESCENDING)):
            sort = Sort(key=key, direction=direction)
            whole = await page(database, source, limit=1000, sort_by=sort)
            assert whole.token == ""
            expected = [keys(row) for row in whole.rows]
            assert len(set(expected)) == len(expected) > 2
            first = [each[0] for each in expected]
            present = [value for value in first if value is not None]
            assert present == sorted(present, reverse=direction == Sort.DESCENDING), (source.entity, key)
            absent = [None] * (len(first) - len(present))
            assert first == (absent + present if direction == Sort.DESCENDING else present + absent)
            for limit in (1, 4):
                seen: list[tuple[Any, ...]] = []
                token = ""
                while True:
                    part = await page(database, source, limit=limit, sort_by=sort, token=token)
                    assert len(part.rows) == limit or not part.token
                    seen += [keys(row) for row in part.rows]
                    token = part.token
                    if not token:
                        break
                assert seen == expected, (source.entity, key, direction, limit)


async def test_a_bare_decimal_is_an_offset_and_pages_go_on_from_it(database: Database, rows: Any) -> None:
    await fill(rows)
    whole = [row["execution_name"] for row in (await page(database, EXECUTIONS, limit=100)).rows]
    second = await page(database, EXECUTIONS, limit=3, token="3")
    third = await page(database, EXECUTIONS, limit=3, token=second.token)
    assert [row["execution_name"] for row in second.rows + third.rows] == whole[3:9]
    assert (await page(database, EXECUTIONS, limit=3, token="100")).rows == []
    assert (await page(database, EXECUTIONS, limit=3, token="9" * 18)).rows == []


async def test_rows_that_arrive_meanwhile_neither_repeat_nor_hide_others(database: Database, rows: Any) -> None:
    for number in range(6):
        await rows.execution(f"e{number}")
    newest_first = Sort(key="created_at", direction=Sort.DESCENDING)
    first = await page(database, EXECUTIONS, limit=3, sort_by=newest_first)
    await rows.execution("late")
    second = await page(database, EXECUTIONS, limit=3, sort_by=newest_first, token=first.token)
    names = [row["execution_name"] for row in first.rows + second.rows]
    assert names == ["e5", "e4", "e3", "e2", "e1", "e0"]


async def test_a_token_belongs_to_its_question(database: Database, rows: Any) -> None:
    for number in range(3):
        await rows.execution(f"e{number}")
    token = (await page(database, EXECUTIONS, limit=1)).token
    ask = Ask("ListThings", limit=1, token=token)
    assert (await list_page(database, EXECUTIONS, Scope(), ask)).rows
    for scope, other in (
        (Scope(execution_project="q"), ask),
        (Scope(), Ask("ListOthers", limit=1, token=token)),
        (Scope(), Ask("ListThings", limit=1, token=token, filters="eq(mode,0)")),
        (Scope(), Ask("ListThings", limit=1, token=token, sort_by=Sort(key="created_at"))),
        (Scope(), Ask("ListThings", limit=1, token=token, sort_by=Sort(key="phase", direction=Sort.ASCENDING))),
    ):
        with pytest.raises(InvalidArgument, match=f"^invalid pagination token {token} for {other.rpc}$"):
            await list_page(database, EXECUTIONS, scope, other)


async def test_a_forged_token_is_refused_or_a_mere_position(database: Database, rows: Any) -> None:
    for number in range(3):
        await rows.execution(f"e{number}")
    token = (await page(database, EXECUTIONS, limit=1)).token
    fingerprint, passed, *key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bodies: list[Any] = [
        [fingerprint, passed],
        [fingerprint, passed, None, 1],
        [fingerprint, passed, "x", 1],
        [fingerprint, passed, key[0], "x"],
        [fingerprint, passed, key[0], 2**70],
        [fingerprint, passed, 2**62, 1],
        [fingerprint, passed, True, 1],
        [fingerprint, passed, key[0], 1.5],
        {"a": 1},
        fingerprint,
        [[[]]],
    ]
    forged = [base64.urlsafe_b64encode(json.dumps(body).encode()).decode() for body in bodies]
    for each in (*forged, token[:-3], token + "A", "é", "-5", "1.5", "[" * 5000, "A" * 100_000):
        with pytest.raises(InvalidArgument, match=r"^invalid pagination token"):
            await page(database, EXECUTIONS, limit=1, token=each)


async def test_a_page_ends_at_the_most_rows_and_bytes_that_one_may_hold(database: Database, rows: Any) -> None:
    for number in range(130):
        await rows.execution(f"e{number:03}")

    async def walk(**limits: Any) -> list[list[str]]:
        pages, token = [], ""
        while True:
            ask = Ask("ListThings", limit=4_000_000_000, token=token)
            found = await list_page(database, EXECUTIONS, Scope(), ask, **limits)
            pages.append([row["execution_name"] for row in found.rows])
            token = found.token
            if not token:
                return pages

    expected = [f"e{number:03}" for number in range(130)]
    assert await walk() == [expected]
    by_rows = await walk(max_rows=120)
    assert [len(each) for each in by_rows] == [120, 10]
    by_bytes = await walk(max_bytes=500)
    assert len(by_bytes) > 3
    for pages in (by_rows, by_bytes):
        assert list(itertools.chain(*pages)) == expected


class Recorded:
    """Stands in for a database: remembers statements and knows no rows."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, Sequence[object]]] = []

    @asynccontextmanager
    async def transaction(self, *, readonly: bool) -> AsyncIterator[Recorded]:
        assert readonly
        yield self

    async def execute(self, statement: str) -> None:
        assert statement.startswith("SET LOCAL")

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        self.statements.append((statement, values))
        return []


_words = st.text(st.characters(exclude_characters="+,;\n)(\x00", exclude_categories=["Cs"]), min_size=1)


@given(st.data())
async def test_values_are_bound_and_never_part_of_the_statement(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([each for each in SOURCES.values() if JOINABLE[each.entity]]))
    fields = [
        (entity, column)
        for entity in JOINABLE[source.entity]
        for column, kind in COLUMNS[entity].items()
        if kind is Kind.TEXT
    ]
    entity, column = data.draw(st.sampled_from(fields))
    function = data.draw(st.sampled_from(Function)).value
    statements = []
    for value in (data.draw(_words), "'; DROP TABLE executions; --".replace(";", "")):
        database = Recorded()
        prefix = "" if entity is source.entity else f"{entity.prefix}."
        ask = Ask("ListThings", limit=5, filters=f"{function}({prefix}{column},{value})")
        await list_page(cast(Database, database), source, Scope(), ask)
        ((statement, bound),) = database.statements
        statements.append(statement)
        meant = value[1:] if len(value) > 1 and value[0] in " \t\f\r" else value
        assert any(each in (meant, f"%{meant}%", [meant]) for each in bound)
    assert statements[0] == statements[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
async def test_the_database_understands_every_filter_that_is_accepted(database: Database, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([each for each in SOURCES.values() if JOINABLE[each.entity]]))
    values = {
        Kind.TEXT: st.one_of(st.sampled_from(["\\", "%", "_", "'"]), _words),
        Kind.INTEGER: st.integers(-(2**63), 2**63 - 1).map(str),
        Kind.INSTANT: st.datetimes().map(datetime.isoformat),
        Kind.DURATION: st.one_of(st.integers(-(10**9), 10**9).map(str), st.just("1h2m3.5s")),
    }
    written = []
    for _ in range(data.draw(st.integers(1, 4))):
        entity = data.draw(st.sampled_from(JOINABLE[source.entity]))
        column = data.draw(st.sampled_from(sorted(COLUMNS[entity])))
        function = data.draw(st.sampled_from(Function))
        value = data.draw(values[COLUMNS[entity][column]])
        if function.takes_list:
            value = f"{value};{data.draw(values[COLUMNS[entity][column]])}"
        prefix = "" if entity is source.entity else f"{entity.prefix}."
        written.append(f"{function.value}({prefix}{column},{value})")
    key = data.draw(st.sampled_from(sorted(COLUMNS[source.entity])))
    try:
        await page(database, source, limit=3, filters="+".join(written), sort_by=Sort(key=key))
    except InvalidArgument as error:
        assert "compares texts" in error.message  # noqa: PT017  # the only refusal left


async def test_the_executions_of_a_name_are_the_same_with_and_without_a_join(database: Database, rows: Any) -> None:
    await fill(rows)
    for name, version in itertools.product("ab", "12"):
        workflow = await rows.workflow(f"{name}x", version)
        plan = await rows.launch_plan(workflow, f"{name}y", version)
        task = await rows.task(f"{name}z", version)
        await rows.execution(f"{name}{version}p", workflow_id=workflow, launch_plan_id=plan)
        await rows.execution(f"{name}{version}t", workflow_id=workflow, task_id=task, launch_entity="task")
    for entity, name in (("workflow", "ax"), ("launch_plan", "ay"), ("task", "az")):
        key = f"eq({entity}.project,p)+eq({entity}.domain,d)+eq({entity}.name,{name})"
        numbered = await page(database, EXECUTIONS, limit=100, filters=key)
        joined = await page(database, EXECUTIONS, limit=100, filters=f"{key}+ne({entity}.version,none)")
        one = await page(database, EXECUTIONS, limit=100, filters=f"{key}+eq({entity}.version,1)")
        names = [row["execution_name"] for row in numbered.rows]
        assert names == [row["execution_name"] for row in joined.rows] != []
        assert {row["execution_name"] for row in one.rows} == {each for each in names if "1" in each}
        other = await page(database, EXECUTIONS, limit=100, filters=key.replace(f"{name})", "nothing)"))
        assert other.rows == []


async def test_a_question_that_takes_too_long_is_answered_with_what_to_ask_instead(
    database: Database, rows: Any
) -> None:
    await rows.execution("e", cluster="x")
    await database.execute(
        "CREATE FUNCTION slow(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1 FROM pg_sleep(60)'"
    )
    slow = replace(EXECUTIONS, select=f"{EXECUTIONS.select}, slow(e.phase)")
    async with Database(database.dsn, max_size=1, statement_timeout=timedelta(milliseconds=200)) as impatient:
        for limit in (10, 1000):
            ask = Ask("ListThings", limit, filters="eq(cluster,x)", sort_by=Sort(key="user"))
            with pytest.raises(ResourceExhausted, match=r"eq\(cluster,x\).*user.*add an eq filter on") as caught:
                await list_page(impatient, slow, Scope(), ask)
            assert "phase" in caught.value.message


async def test_rows_that_began_before_an_instant_are_all_found_by_creation(database: Database, rows: Any) -> None:
    """Also those that claim to have begun before they were created, on every page and from an offset."""
    dice = random.Random(3)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(60):
        created = start + timedelta(hours=dice.randrange(240))
        began = dice.choice(
            [None, created, created + timedelta(hours=30), created - timedelta(hours=dice.randrange(99))]
        )
        await rows.execution(f"e{number:02}", created_at=created, started_at=began)
    newest_first = Sort(key="created_at", direction=Sort.DESCENDING)
    for hours, function in itertools.product((0, 50, 130, 400), ("lt", "lte")):
        bound = start + timedelta(hours=hours)
        comparison = "<" if function == "lt" else "<="
        wanted = [
            row["execution_name"]
            for row in await database.fetch(
                f"SELECT execution_name FROM executions WHERE started_at {comparison} $1 "
                "ORDER BY created_at DESC, execution_id DESC",
                bound,
            )
        ]
        ask = {"filters": f"{function}(started_at,{bound.isoformat().replace('+00:00', 'Z')})", "sort_by": newest_first}
        found: list[str] = []
        token = ""
        while True:
            part = await page(database, EXECUTIONS, limit=7, token=token, **ask)
            found += [row["execution_name"] for row in part.rows]
            token = part.token
            if not token:
                break
        assert found == wanted
        skipped = await page(database, EXECUTIONS, limit=100, token="5", **ask)
        assert [row["execution_name"] for row in skipped.rows] == wanted[5:]
