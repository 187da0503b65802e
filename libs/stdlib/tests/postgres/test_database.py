import asyncio
from datetime import timedelta

import pytest
from asyncpg.exceptions import InternalClientError

from aerodrome.stdlib.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Unavailable,
)
from aerodrome.stdlib.postgres.database import Database, create_if_missing
from aerodrome.stdlib.postgres.testing import ServerForTests


@pytest.fixture
async def numbers(database: Database) -> Database:
    await database.execute("CREATE TABLE numbers (id integer PRIMARY KEY, note text NOT NULL DEFAULT '')")
    return database


async def test_a_block_that_ends_is_committed_and_one_that_raises_is_rolled_back(numbers: Database) -> None:
    async with numbers.transaction() as conn:
        await conn.execute("INSERT INTO numbers VALUES (1)")

    async def fail() -> None:
        async with numbers.transaction() as conn:
            await conn.execute("INSERT INTO numbers VALUES (2)")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fail()
    assert [row["id"] for row in await numbers.fetch("SELECT id FROM numbers")] == [1]


async def test_a_second_value_under_a_unique_key_already_exists(numbers: Database) -> None:
    await numbers.execute("INSERT INTO numbers VALUES (1)")
    with pytest.raises(AlreadyExists, match=r"^value with matching already exists \(duplicate key .*numbers_pkey"):
        await numbers.execute("INSERT INTO numbers VALUES (1)")


async def test_an_error_is_translated_inside_the_block_and_a_savepoint_lets_the_rest_go_on(numbers: Database) -> None:
    async with numbers.transaction() as conn:
        await conn.execute("INSERT INTO numbers VALUES (1)")
        with pytest.raises(AlreadyExists):
            async with conn.savepoint():
                await conn.execute("INSERT INTO numbers VALUES (1)")
        await conn.execute("INSERT INTO numbers VALUES (2)")
    assert await numbers.fetchval("SELECT count(*) FROM numbers") == 2


async def test_an_unknown_table_is_an_invalid_argument(database: Database) -> None:
    with pytest.raises(InvalidArgument, match=r"^cannot query with specified table attributes: .*nowhere"):
        await database.fetch("SELECT * FROM nowhere")


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("SELECT 'x'::int", ()),
        ("SELECT 'never'::timestamptz", ()),
        ("SELECT '2026-13-45'::date", ()),
        ("SELECT '99999999999'::int", ()),
        ("SELECT $1::int", (2**40,)),
        ("SELECT $1::int", ("seven",)),
        ("SELECT $1::text", ("zero\x00byte",)),
    ],
)
async def test_a_value_that_cannot_be_cast_is_an_invalid_argument(
    database: Database, query: str, args: tuple[object, ...]
) -> None:
    with pytest.raises(InvalidArgument, match=r"^failed database operation with "):
        await database.fetch(query, *args)


async def test_other_database_errors_are_internal_and_keep_their_cause(database: Database) -> None:
    with pytest.raises(Internal, match=r"^failed database operation with division by zero") as caught:
        await database.fetch("SELECT 1/0")
    assert caught.value.__cause__ is not None


async def test_a_statement_that_takes_too_long_exceeds_its_deadline(postgres_server: ServerForTests) -> None:
    limit = timedelta(milliseconds=50)
    async with Database(postgres_server.dsn, statement_timeout=limit) as database:
        with pytest.raises(DeadlineExceeded):
            await database.fetch("SELECT pg_sleep(10)")
        assert await database.fetchval("SELECT 1") == 1


async def test_a_deadlock_is_a_conflict_for_one_and_success_for_the_other(numbers: Database) -> None:
    await numbers.execute("INSERT INTO numbers VALUES (1), (2)")
    both = asyncio.Barrier(2)

    async def cross(first: int, second: int) -> str:
        try:
            async with numbers.transaction() as conn:
                await conn.execute("SELECT FROM numbers WHERE id = $1 FOR UPDATE", first)
                await both.wait()
                await conn.execute("SELECT FROM numbers WHERE id = $1 FOR UPDATE", second)
        except Conflict:
            return "conflict"
        return "done"

    assert sorted(await asyncio.gather(cross(1, 2), cross(2, 1))) == ["conflict", "done"]


async def test_waiting_for_a_connection_is_bounded(postgres_server: ServerForTests) -> None:
    patience = timedelta(milliseconds=50)
    async with Database(postgres_server.dsn, max_size=1, acquire_timeout=patience) as database:
        async with database.connection():
            with pytest.raises(Unavailable, match="all 1 are in use"):
                await database.fetchval("SELECT 1")
        assert await database.fetchval("SELECT 1") == 1


async def test_a_cancelled_query_leaves_the_pool_usable(postgres_server: ServerForTests) -> None:
    async with Database(postgres_server.dsn, max_size=1) as database:
        started = asyncio.Event()

        async def slow() -> None:
            async with database.transaction() as conn:
                started.set()
                await conn.execute("SELECT pg_sleep(30)")

        task = asyncio.create_task(slow())
        await started.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await database.fetchval("SELECT 1") == 1


async def test_a_connection_cut_by_the_server_is_replaced(database: Database) -> None:
    async with database.connection() as conn:
        pid = await conn.fetchval("SELECT pg_backend_pid()")
        await database.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable):
            await conn.fetchval("SELECT 1")
    for _ in range(10):
        assert await database.fetchval("SELECT 1") == 1


async def test_a_transaction_that_loses_its_connection_says_that_the_database_is_away(database: Database) -> None:
    async def cut() -> None:
        async with database.transaction() as conn:
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            await database.execute("SELECT pg_terminate_backend($1)", pid)
            await conn.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await cut()
    with pytest.raises(Unavailable, match="another operation"):
        async with database.transaction():
            raise InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert await database.fetchval("SELECT 1") == 1


async def test_a_missing_database_is_created_once_even_by_two_at_a_time(postgres_server: ServerForTests) -> None:
    name = 'od"d näme'
    made = await asyncio.gather(*(create_if_missing(postgres_server.dsn, name) for _ in range(3)))
    assert len(set(made)) == 1
    async with Database(made[0]) as database:
        assert await database.fetchval("SELECT current_database()") == name
    await postgres_server.drop(made[0].replace("od%22d%20n%C3%A4me", "unused"))


async def test_a_server_that_is_not_there_is_unavailable_within_the_bound(tmp_path: object) -> None:
    dsn = "postgresql://nobody@/postgres?host=%2Fnowhere&port=5432"
    with pytest.raises(Unavailable):
        async with Database(dsn, acquire_timeout=timedelta(milliseconds=60)):
            pass
    with pytest.raises(Unavailable):
        await create_if_missing(dsn, "x")


async def test_rows_stream_through_a_cursor_and_many_are_copied_in(numbers: Database) -> None:
    async with numbers.transaction() as conn:
        await conn.copy_records("numbers", [(n, str(n)) for n in range(500)], ["id", "note"])
        seen = [row["id"] async for row in conn.cursor("SELECT id FROM numbers ORDER BY id", prefetch=50)]
    assert seen == list(range(500))


async def test_errors_of_the_blocks_own_work_stay_as_they_are(database: Database) -> None:
    async def fail(error: Exception) -> None:
        async with database.transaction():
            raise error

    for error in (FileNotFoundError("mine"), TimeoutError("mine"), ConnectionResetError("mine")):
        with pytest.raises(type(error), match="mine"):
            await fail(error)


async def test_statements_are_never_compiled_whatever_the_server_is_set_to(database: Database) -> None:
    row = await database.fetchrow("SELECT setting, source FROM pg_settings WHERE name = 'jit'")
    assert row is not None
    assert tuple(row.values()) == ("off", "client")
