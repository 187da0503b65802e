import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from aerodrome.stdlib.errors import Conflict, FailedPrecondition, Unavailable
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


INDEXED = {
    **FIRST,
    "0002_index.sql": """-- What lists need.

-- step: what was there before
DO $$
BEGIN
    UPDATE things SET id = id WHERE id = 1;
    COMMIT;  -- only outside of a transaction
END
$$;

-- step: things by parity
CREATE INDEX CONCURRENTLY IF NOT EXISTS things_by_parity
    ON things ((id % 2), id) WHERE id > 0;
""",
}
PARTS = "CREATE TABLE things_a PARTITION OF things FOR VALUES FROM (0) TO (100);"
PARTITIONED = {
    "0001_things.sql": f"CREATE TABLE things (id int PRIMARY KEY) PARTITION BY RANGE (id); {PARTS} "
    "CREATE TABLE other PARTITION OF things FOR VALUES FROM (100) TO (200); INSERT INTO things VALUES (1), (101);",
    "0002_index.sql": INDEXED["0002_index.sql"],
}
VALID = "SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid::regclass::text LIKE 'things_by_parity%'"


@asynccontextmanager
async def building(database: Database, package: str) -> AsyncIterator[asyncio.Task[Sequence[str]]]:
    """A migration that builds its index and waits for a transaction that has written; the block is while it waits."""
    async with database.transaction() as conn:
        # into the partition, where there are some: what the whole table must be locked for is tried in short turns
        table = await conn.fetchval("SELECT coalesce(to_regclass('things_a'), 'things'::regclass)::text")
        await conn.execute(f"INSERT INTO {table} VALUES (99)")
        task = asyncio.create_task(migrate(database, package, service="a"))
        try:
            async with asyncio.timeout(20):
                while not await database.fetchval(
                    "SELECT count(*) FROM pg_stat_progress_create_index WHERE lockers_total > 0"
                ):
                    if task.done():
                        break
                    await asyncio.sleep(0.01)
            yield task
        except BaseException:
            task.cancel()
            raise


async def kill_migration(database: Database) -> None:
    killed = await database.fetchval("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_progress_create_index")
    assert killed == 1


@pytest.mark.parametrize("files", [INDEXED, PARTITIONED], ids=["plain", "partitioned"])
async def test_steps_run_outside_of_a_transaction_and_once(
    database: Database, package: Package, files: dict[str, str]
) -> None:
    both = package(files)
    settings = "SELECT string_agg(current_setting(name), ' ') FROM unnest($1::text[]) AS name"
    names = ["synchronous_commit", "statement_timeout", "lock_timeout"]
    before = await database.fetchval(settings, names)
    assert await migrate(database, both, service="a") == ["0001_things.sql", "0002_index.sql"]
    assert list(await migrate(database, both, service="a")) == []
    assert await database.fetchval(VALID)
    assert await database.fetchval(settings, names) == before
    assert await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_writers_go_on_while_an_index_is_built(database: Database, package: Package) -> None:
    await migrate(database, package(FIRST), service="a")
    async with building(database, package(INDEXED)) as task:
        async with asyncio.timeout(5):  # an index that locks the table would not let them in before the block ends
            for number in range(2, 50):
                await database.execute("INSERT INTO things VALUES ($1)", number)
            await database.execute("DELETE FROM things WHERE id = 2")
        assert not task.done()
    assert list(await task) == ["0002_index.sql"]
    assert await database.fetchval(VALID)
    async with database.transaction() as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        found = [row["id"] for row in await conn.fetch("SELECT id FROM things WHERE id % 2 = 0 AND id > 0 ORDER BY id")]
    assert found == list(range(4, 50, 2))


@pytest.mark.parametrize("files", [INDEXED, PARTITIONED], ids=["plain", "partitioned"])
async def test_the_next_start_repairs_what_a_kill_in_the_middle_has_left(
    database: Database, package: Package, files: dict[str, str]
) -> None:
    await migrate(database, package({"0001_things.sql": files["0001_things.sql"]}), service="a")
    both = package(files)
    async with building(database, both) as task:
        await kill_migration(database)
        with pytest.raises(Unavailable):
            await task
    assert await database.fetchval("SELECT max(number) FROM schema_migrations") == 1
    assert await database.fetchval(VALID) is False
    assert await migrate(database, both, service="a") == ["0002_index.sql"]
    assert await database.fetchval(VALID)


async def test_a_partition_that_appears_between_two_attempts_has_the_index_too(
    database: Database, package: Package
) -> None:
    await migrate(database, package({"0001_things.sql": PARTITIONED["0001_things.sql"]}), service="a")
    both = package(PARTITIONED)
    async with building(database, both) as task:
        await kill_migration(database)
        with pytest.raises(Unavailable):
            await task
    await database.execute("CREATE TABLE late PARTITION OF things FOR VALUES FROM (200) TO (300)")
    assert await migrate(database, both, service="a") == ["0002_index.sql"]
    definitions = await database.fetch(
        "SELECT indexdef FROM pg_indexes WHERE tablename = ANY($1) AND indexdef LIKE '%(id %'",
        ["things_a", "other", "late"],
    )
    assert len(definitions) == 3
    assert await database.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'things_by_parity'::regclass")


async def test_replicas_that_start_together_build_an_index_once_and_without_a_deadlock(
    database: Database, package: Package
) -> None:
    await migrate(database, package(FIRST), service="a")
    both = package(INDEXED)
    applied = await asyncio.gather(*(migrate(database, both, service="a") for _ in range(5)))
    assert [name for names in applied for name in names] == ["0002_index.sql"]


async def test_waiting_for_other_migrations_is_bounded(database: Database, package: Package) -> None:
    await migrate(database, package(FIRST), service="a")
    both = package(INDEXED)
    async with building(database, both) as task:
        with pytest.raises(Conflict, match=r"longer than 0\.05 s"):
            await migrate(database, both, service="a", lock_timeout=timedelta(milliseconds=50))
    assert list(await task) == ["0002_index.sql"]


async def test_a_failing_step_is_named_and_those_before_it_stay(database: Database, package: Package) -> None:
    broken = {**FIRST, "0002_b.sql": "-- step: one\nCREATE TABLE IF NOT EXISTS one ();\n-- step: two\nSELECT 1/0;"}
    with pytest.raises(FailedPrecondition, match=r"0002_b\.sql failed at the step `two`.*division by zero"):
        await migrate(database, package(broken), service="a")
    assert await database.fetchval("SELECT to_regclass('one') IS NOT NULL")
    mended = {**broken, "0002_b.sql": broken["0002_b.sql"].replace("1/0", "1")}
    assert await migrate(database, package(mended), service="a") == ["0002_b.sql"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;\n-- step: a\nSELECT 1;", "a statement precedes"),
        ("-- step: a\n-- nothing\n-- step: b\nSELECT 1;", "the step `a` is empty"),
        ("-- step: a\nCREATE INDEX CONCURRENTLY i ON things (id);", "IF NOT EXISTS name ON"),
    ],
)
async def test_steps_that_could_not_be_repeated_are_refused(
    database: Database, package: Package, text: str, message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await migrate(database, package({"0001_a.sql": text}), service="a")
