"""Numbered, forward-only migrations: `0001_executions.sql`, `0002_...` in a package's resources.

They run under an advisory lock, so replicas that start together do it once, and each is recorded with its checksum in
`schema_migrations`.  A database that is newer than the code is accepted: the previous release keeps working after each
migration, by the rule of how they are written (add, backfill, switch, drop later).

A file is one transaction, unless it has steps:

    -- step: the executions of a user
    CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_user ON executions ("user", created_at);

A step is one statement outside of a transaction, so that nobody waits while it works on a large table: an index that
is built while others write, or a `DO` block that commits after each batch of a backfill.  After a crash the file runs
again from its first step, so each must be harmless when repeated.  An index that a crash left invalid is built anew;
that of a partitioned table is built partition by partition, which PostgreSQL does not do by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources

from aerodrome.stdlib.errors import AerodromeError, Conflict, FailedPrecondition, InvalidArgument, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database, quote_name

log = get_logger(__name__)

_FILE = re.compile(r"^(?P<number>\d{4})_[a-z0-9_]+\.sql$")
_STEP = re.compile(r"^--\s*step:\s*(?P<name>\S.*?)\s*$", re.MULTILINE)
_INDEX = re.compile(
    r"CREATE\s+(?P<unique>UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(?P<name>[a-z0-9_]+)\s+"
    r"ON\s+(?P<table>[a-z0-9_]+)\s*(?P<rest>\(.*)",
    re.DOTALL,
)
_CONCURRENTLY = re.compile(r"^\s*(CREATE|DROP|REINDEX)\b.*\bCONCURRENTLY\b", re.DOTALL)
_LOCK_KEY = 0x6165_726F  # one for all services of a database: their first migrations share the table
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    service    text        NOT NULL,
    number     integer     NOT NULL CHECK (number > 0),
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, number)
)
"""
_PATIENCE_SECONDS = 24 * 3600.0
"""A backfill may take long; the server's statement timeout is off for it."""
_BRIEF = timedelta(milliseconds=300)
"""How long a lock that others queue behind is waited for at a time."""


@dataclass(frozen=True)
class Step:
    """A statement that runs outside of a transaction, and what it is for."""

    name: str
    sql: str


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name with the number, its statements, and the SHA-256 of them."""

    number: int
    name: str
    sql: str
    checksum: str
    steps: tuple[Step, ...] = ()
    """What the file consists of, if it is not one transaction."""


async def migrate(
    database: Database, package: str, *, service: str, lock_timeout: timedelta = timedelta(seconds=30)
) -> Sequence[str]:
    """Bring `service`'s tables up to what `package` describes; returns the names of what was applied, in order.

    Raises FailedPrecondition when an applied migration was changed or the numbers have a gap, and Conflict when another
    migration, or a lock on a table that one needs, lasted longer than `lock_timeout`.
    """
    wanted = load_migrations(package)
    if not _missing(service, wanted, await _recorded(database, service)):
        return ()
    applied: list[str] = []
    try:
        async with _alone(database, lock_timeout) as conn:
            await conn.execute(_TABLE)
            for migration in _missing(service, wanted, await _read(conn, service)):
                await _apply(conn, service, migration, lock_timeout)
                applied.append(migration.name)
                log.info("migration applied", service=service, migration=migration.name)
    except Conflict as error:
        raise Conflict(
            f"{service}: migrations waited longer than {lock_timeout.total_seconds():g} s for a lock"
        ) from error
    return applied


@cache
def load_migrations(package: str) -> tuple[Migration, ...]:
    """The migrations in `package`'s resources, in order; raises FailedPrecondition for gaps, repeats and odd names."""
    found: dict[int, Migration] = {}
    for entry in sorted(resources.files(package).iterdir(), key=lambda each: each.name):
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.match(entry.name)
        if match is None:
            raise FailedPrecondition(f"{package}/{entry.name}: a migration is named like 0001_executions.sql")
        number = int(match["number"])
        if number in found:
            raise FailedPrecondition(f"{package}: two migrations have the number {number:04}")
        sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found[number] = Migration(number, entry.name, sql, checksum, _steps(f"{package}/{entry.name}", sql))
    for expected, number in enumerate(found, start=1):
        if number != expected:
            raise FailedPrecondition(f"{package}: migration {expected:04} is missing before {found[number].name}")
    return tuple(found.values())


def _steps(source: str, sql: str) -> tuple[Step, ...]:
    marks = list(_STEP.finditer(sql))
    if not marks:
        return ()
    if any(line.strip() and not line.lstrip().startswith("--") for line in sql[: marks[0].start()].splitlines()):
        raise FailedPrecondition(f"{source}: a statement precedes the first `-- step:` line")
    steps = []
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(sql)
        statement = "\n".join(
            line for line in sql[mark.end() : end].splitlines() if not line.lstrip().startswith("--")
        ).strip()
        if not statement:
            raise FailedPrecondition(f"{source}: the step `{mark['name']}` is empty")
        if _CONCURRENTLY.match(statement) and statement.startswith("CREATE") and not _INDEX.match(statement):
            raise FailedPrecondition(
                f"{source}: the step `{mark['name']}` must begin with CREATE INDEX CONCURRENTLY IF NOT EXISTS name ON "
                "table (, so that it can be repeated"
            )
        steps.append(Step(mark["name"], statement.rstrip(";").rstrip()))
    return tuple(steps)


async def _recorded(database: Database, service: str) -> Mapping[int, str] | None:
    """Checksums by number, None if the table does not exist yet."""
    async with database.connection() as conn:
        try:
            return await _read(conn, service)
        except InvalidArgument:  # 42P01: no such table
            return None


async def _read(conn: Connection, service: str) -> dict[int, str]:
    rows = await conn.fetch(
        "SELECT number, checksum FROM schema_migrations WHERE service = $1 ORDER BY number", service
    )
    return {row["number"]: row["checksum"] for row in rows}


def _missing(service: str, wanted: Sequence[Migration], recorded: Mapping[int, str] | None) -> Sequence[Migration]:
    """What is still to be applied; numbers beyond the code's own are those of a newer release."""
    recorded = recorded or {}
    for migration in wanted:
        checksum = recorded.get(migration.number)
        if checksum is None:
            if any(number > migration.number for number in recorded):
                raise FailedPrecondition(
                    f"{service}: the database has migrations after {migration.name} but not that one; it belongs "
                    "to another "
                    "line of releases, and this one cannot use it"
                )
            return [later for later in wanted if later.number >= migration.number]
        if checksum != migration.checksum:
            raise FailedPrecondition(
                f"{service}: {migration.name} was changed after it had been applied to this database; restore the "
                "file and put "
                "the change into a new migration"
            )
    return ()


@asynccontextmanager
async def _alone(database: Database, lock_timeout: timedelta) -> AsyncIterator[Connection]:
    """A connection outside of a transaction whose session holds the lock of all migrations.

    Whoever waits asks again and again: a statement that waits for the lock would have a snapshot, and an index that is
    built concurrently waits until there is no older one.  Raises Conflict when that takes longer than `lock_timeout`.
    """
    async with database.connection() as conn:
        deadline = time.monotonic() + lock_timeout.total_seconds()
        while not await conn.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_KEY):
            if time.monotonic() > deadline:
                raise Conflict("other migrations of this database are still running")
            await asyncio.sleep(0.05)
        try:
            await conn.execute(f"SET statement_timeout = 0; SET lock_timeout = {_milliseconds(lock_timeout)}")
            yield conn
        finally:
            try:
                await conn.execute("RESET statement_timeout; RESET lock_timeout; RESET synchronous_commit")
                await conn.fetchval("SELECT pg_advisory_unlock($1)", _LOCK_KEY)
            except Unavailable:
                conn.raw.terminate()  # the server gives the lock back when it sees that


async def _apply(conn: Connection, service: str, migration: Migration, lock_timeout: timedelta) -> None:
    if migration.steps:
        # a crash may take back the last steps, which are then repeated; the record below waits for the disk
        await conn.execute("SET synchronous_commit = off")
        for step in migration.steps:
            log.info("migration step", service=service, migration=migration.name, step=step.name)
            try:
                await _run_step(conn, step, lock_timeout)
            except (Conflict, Unavailable):
                raise
            except AerodromeError as error:
                raise FailedPrecondition(
                    f"{service}: {migration.name} failed at the step `{step.name}`; the steps before it stay, and all "
                    f"are repeated at the next start: {error.message}"
                ) from error
        await conn.execute("RESET synchronous_commit")
        await _record(conn, service, migration)
        return
    async with conn.savepoint():  # outside of a transaction it is one
        try:
            await conn.execute(migration.sql, timeout=_PATIENCE_SECONDS)
        except Conflict:
            raise
        except AerodromeError as error:
            raise FailedPrecondition(
                f"{service}: {migration.name} failed and changed nothing: {error.message}"
            ) from error
        await _record(conn, service, migration)


async def _record(conn: Connection, service: str, migration: Migration) -> None:
    await conn.execute(
        "INSERT INTO schema_migrations (service, number, name, checksum) VALUES ($1, $2, $3, $4)",
        service, migration.number, migration.name, migration.checksum,
    )  # fmt: skip


async def _run_step(conn: Connection, step: Step, lock_timeout: timedelta) -> None:
    index = _INDEX.match(step.sql)
    if index is not None:
        await _build_index(conn, index, lock_timeout)
    elif _CONCURRENTLY.match(step.sql):
        await _patiently(conn, step.sql, lock_timeout)
    else:
        await conn.execute(step.sql, timeout=_PATIENCE_SECONDS)


async def _build_index(conn: Connection, index: re.Match[str], lock_timeout: timedelta) -> None:
    """Build an index while others write, whatever an earlier attempt has left."""
    unique, name, table, rest = index["unique"] or "", index["name"], index["table"], index["rest"]
    partitioned = await conn.fetchval("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass($1)", table)
    if not partitioned:
        await _drop_if_invalid(conn, name, lock_timeout)
    if not await conn.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):
        await _briefly(conn, f"CREATE {unique}INDEX IF NOT EXISTS {name} ON {table} {rest}", lock_timeout)
    elif not partitioned:
        await _patiently(
            conn, f"CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {rest}", lock_timeout
        )
    if partitioned:
        # of the table alone: nothing is built, and it becomes valid when the last partition's index is attached
        await _briefly(conn, f"CREATE {unique}INDEX IF NOT EXISTS {name} ON ONLY {table} {rest}", lock_timeout)
        for row in await conn.fetch(_PARTITIONS_WITHOUT, table, name):
            partition = str(row["partition"])
            ending = partition.removeprefix(table) if partition.startswith(f"{table}_") else f"_{partition}"
            part = quote_name(f"{name}{ending}")
            await _drop_if_invalid(conn, f"{name}{ending}", lock_timeout)
            await _patiently(
                conn,
                f"CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS {part} ON {quote_name(partition)} {rest}",
                lock_timeout,
            )
            await _briefly(conn, f"ALTER INDEX {name} ATTACH PARTITION {part}", lock_timeout)


_PARTITIONS_WITHOUT = """
SELECT child.relname AS partition
FROM pg_inherits AS part
JOIN pg_class AS child ON child.oid = part.inhrelid
WHERE part.inhparent = to_regclass($1)
    AND NOT EXISTS (
        SELECT FROM pg_inherits AS attached
        JOIN pg_index AS own ON own.indexrelid = attached.inhrelid
        WHERE attached.inhparent = to_regclass($2) AND own.indrelid = child.oid
    )
ORDER BY child.relname
"""


async def _drop_if_invalid(conn: Connection, name: str, lock_timeout: timedelta) -> None:
    """Remove what an interrupted build has left: it is kept up to date and answers nothing."""
    invalid = await conn.fetchval(
        "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", quote_name(name)
    )
    if invalid:
        log.warning("building an index anew that was left unfinished", index=name)
        await _patiently(conn, f"DROP INDEX CONCURRENTLY IF EXISTS {quote_name(name)}", lock_timeout)


async def _patiently(conn: Connection, statement: str, lock_timeout: timedelta) -> None:
    """Run what waits for the transactions of others without making anybody wait but other migrations."""
    await conn.execute("SET lock_timeout = 0")
    await conn.execute(statement, timeout=_PATIENCE_SECONDS)
    await conn.execute(f"SET lock_timeout = {_milliseconds(lock_timeout)}")


async def _briefly(conn: Connection, statement: str, lock_timeout: timedelta) -> None:
    """Run what is done at once but needs a lock that writers queue behind while it is waited for.

    Raises Conflict if that lock was not to be had within `lock_timeout`.
    """
    deadline = time.monotonic() + lock_timeout.total_seconds()
    await conn.execute(f"SET lock_timeout = {_milliseconds(min(_BRIEF, lock_timeout))}")
    while True:
        try:
            await conn.execute(statement)
            break
        except Conflict:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_BRIEF.total_seconds())  # let those go on that queued behind us
    await conn.execute(f"SET lock_timeout = {_milliseconds(lock_timeout)}")


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
