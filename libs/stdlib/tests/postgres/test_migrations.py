import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aerodrome.stdlib.errors import Conflict, FailedPrecondition
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.migrations import migrate

FIRST = {"0001_things.sql": "CREATE TABLE things (id int PRIMARY KEY);\nINSERT INTO things VALUES (1);"}
SECOND = {**FIRST, "0002_names.sql": "ALTER TABLE things ADD COLUMN name text NOT NULL DEFAULT '';"}

Package = Callable[[dict[str, str]], str]


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Package]:
    """Makes an importable package out of files; each one has its own name, as each release has its own content."""
    made: list[str] = []
    sys.path.insert(0, str(tmp_path))

    def make(files: dict[str, str]) -> str:
        name = f"migrations_{abs(hash(request.node.nodeid))}_{len(made)}"
        (tmp_path / name).mkdir()
        for file, text in {"__init__.py": "", **files}.items():
            (tmp_path / name / file).write_text(text)
        made.append(name)
        return name

    yield make
    sys.path.remove(str(tmp_path))
    for name in made:
        sys.modules.pop(name, None)


async def test_migrations_apply_in_order_once_and_are_recorded(database: Database, package: Package) -> None:
    both = package(SECOND)
    assert await migrate(database, both, service="a") == ["0001_things.sql", "0002_names.sql"]
    assert list(await migrate(database, both, service="a")) == []
    rows = await database.fetch("SELECT service, number, name, length(checksum) AS sum FROM schema_migrations")
    assert [tuple(row.values()) for row in rows] == [("a", 1, "0001_things.sql", 64), ("a", 2, "0002_names.sql", 64)]


async def test_a_later_release_applies_only_what_is_new(database: Database, package: Package) -> None:
    await migrate(database, package(FIRST), service="a")
    assert await migrate(database, package(SECOND), service="a") == ["0002_names.sql"]


async def test_an_older_release_accepts_a_newer_database(database: Database, package: Package) -> None:
    await migrate(database, package(SECOND), service="a")
    assert list(await migrate(database, package(FIRST), service="a")) == []


async def test_replicas_that_start_together_migrate_once(database: Database, package: Package) -> None:
    both = package(SECOND)
    applied = await asyncio.gather(*(migrate(database, both, service="a") for _ in range(5)))
    assert sorted(name for names in applied for name in names) == ["0001_things.sql", "0002_names.sql"]


async def test_services_share_a_database_without_meeting(database: Database, package: Package) -> None:
    other = package({"0001_x.sql": "CREATE TABLE x ()"})
    await asyncio.gather(migrate(database, package(FIRST), service="a"), migrate(database, other, service="b"))
    assert await database.fetchval("SELECT count(*) FROM schema_migrations") == 2


async def test_a_changed_migration_is_refused(database: Database, package: Package) -> None:
    await migrate(database, package(FIRST), service="a")
    changed = package({"0001_things.sql": "CREATE TABLE things (id bigint PRIMARY KEY)"})
    with pytest.raises(FailedPrecondition, match=r"0001_things\.sql was changed after"):
        await migrate(database, changed, service="a")


async def test_a_hole_in_what_was_applied_is_refused(database: Database, package: Package) -> None:
    await migrate(database, package(SECOND), service="a")
    await database.execute("DELETE FROM schema_migrations WHERE number = 1")
    with pytest.raises(FailedPrecondition, match="another line of releases"):
        await migrate(database, package(SECOND), service="a")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0001_a.sql": "SELECT 1", "0003_b.sql": "SELECT 1"}, "migration 0002 is missing"),
        ({"0002_a.sql": "SELECT 1"}, "migration 0001 is missing"),
        ({"0001_a.sql": "SELECT 1", "0001_b.sql": "SELECT 1"}, "two migrations have the number 0001"),
        ({"first.sql": "SELECT 1"}, "a migration is named like"),
    ],
)
async def test_files_that_do_not_count_up_are_refused(
    database: Database, package: Package, files: dict[str, str], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await migrate(database, package(files), service="a")


async def test_a_failing_migration_changes_nothing_and_earlier_ones_stay(database: Database, package: Package) -> None:
    broken = package({**FIRST, "0002_bad.sql": "CREATE TABLE half (); SELECT 1/0;"})
    with pytest.raises(FailedPrecondition, match=r"0002_bad\.sql failed and changed nothing: .*division by zero"):
        await migrate(database, broken, service="a")
    assert await database.fetchval("SELECT count(*) FROM schema_migrations") == 1
    assert await database.fetchval("SELECT to_regclass('half')") is None


async def test_waiting_for_a_lock_is_bounded(database: Database, package: Package) -> None:
    await migrate(database, package(FIRST), service="a")
    async with database.transaction() as conn:
        await conn.execute("LOCK TABLE things")
        with pytest.raises(Conflict, match=r"longer than 0\.05 s"):
            await migrate(database, package(SECOND), service="a", lock_timeout=timedelta(milliseconds=50))


async def test_nothing_to_do_takes_less_than_ten_milliseconds(database: Database, package: Package) -> None:
    both = package(SECOND)
    await migrate(database, both, service="a")
    took = []
    for _ in range(20):
        began = time.perf_counter()
        await migrate(database, both, service="a")
        took.append(time.perf_counter() - began)
    assert min(took) < 0.010
