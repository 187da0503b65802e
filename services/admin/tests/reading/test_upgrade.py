"""A database with executions of an older release: lists find them after the migrations, while others go on writing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin.common_pb2 import Sort

from aerodrome.admin.repositories.listing import Ask, Scope, list_page
from aerodrome.admin.repositories.sources import EXECUTIONS, NODE_EXECUTIONS
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database

MIGRATIONS = "aerodrome.admin.migrations"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with the migrations before those that number names."""
    package = tmp_path / "migrations_before_lists"
    package.mkdir()
    for entry in resources.files(MIGRATIONS).iterdir():
        if entry.name[:4] in ("0001", "0002", "0003") or entry.name == "__init__.py":
            (package / entry.name).write_text(entry.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    return package.name


@pytest.fixture
async def database(postgres_server: ServerForTests, older: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server) as database:
        await migrate(database, older, service="admin")
        yield database


async def names(database: Database, filters: str) -> list[str]:
    scope = Scope(execution_project="p", execution_domain="d")
    newest = Sort(key="created_at", direction=Sort.DESCENDING)
    page = await list_page(database, EXECUTIONS, scope, Ask("ListThings", 100, filters=filters, sort_by=newest))
    return [row["execution_name"] for row in page.rows]


async def test_what_was_there_before_is_found_by_every_list(database: Database, rows: Any) -> None:
    workflow = await rows.workflow("w")
    plan = await rows.launch_plan(workflow, "lp")
    task = await rows.task("t")
    for number in range(5):
        await rows.execution(f"plan{number}", workflow_id=workflow, launch_plan_id=plan, tags=["old"])
        await rows.execution(f"task{number}", workflow_id=workflow, task_id=task, launch_entity="task")
    wide = await rows.execution("wide", workflow_id=workflow)
    for number in range(5):
        await rows.node(wide, f"n{number}", phase="FAILED" if number == 3 else "SUCCEEDED")
    before = asyncio.create_task(_go_on(database, rows, workflow, plan))
    applied = await migrate(database, MIGRATIONS, service="admin")
    assert len(applied) >= 5
    began, created = await before
    later = [f"new{number}" for number in reversed(range(created))]
    assert created > 0
    assert began < 5  # longest that one of them took, in seconds

    def named(kind: str, name: str) -> str:
        return f"eq({kind}.project,p)+eq({kind}.domain,d)+eq({kind}.name,{name})"

    old = [f"plan{number}" for number in reversed(range(5))]
    assert await names(database, named("launch_plan", "lp")) == later + old
    assert await names(database, named("task", "t")) == [f"task{number}" for number in reversed(range(5))]
    assert len(await names(database, named("workflow", "w"))) == created + 11
    assert await names(database, "eq(execution_tag.key,old)") == later + old
    failed = await list_page(
        database, NODE_EXECUTIONS, Scope(execution_id=wide), Ask("ListThings", 10, filters="eq(phase,FAILED)")
    )
    assert [row["node_id"] for row in failed.rows] == ["n3"]
    invalid = await database.fetch("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    assert invalid == []


async def _go_on(database: Database, rows: Any, workflow: int, plan: int) -> tuple[float, int]:
    """Create executions, as the older release does, until the last migration is there: longest wait, and how many."""
    loop, longest, number = asyncio.get_running_loop(), 0.0, 0
    newest = max(int(entry.name[:4]) for entry in resources.files(MIGRATIONS).iterdir() if entry.name[:4].isdigit())
    while await database.fetchval("SELECT max(number) FROM schema_migrations") < newest:
        if number < 50:
            began = loop.time()
            await rows.execution(f"new{number}", workflow_id=workflow, launch_plan_id=plan, tags=["old"])
            longest, number = max(longest, loop.time() - began), number + 1
        await asyncio.sleep(0.002)
    return longest, number
