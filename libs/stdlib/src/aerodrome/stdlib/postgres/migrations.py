"""Numbered, forward-only migrations: `0001_executions.sql`, `0002_...` in a package's resources.

Each runs in one transaction under an advisory lock, so replicas that start together do it once, and is recorded with
its checksum in `schema_migrations`.  A database that is newer than the code is accepted: the previous release keeps
working after each migration, by the rule of how they are written (add, backfill, switch, drop later).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources

from aerodrome.stdlib.errors import AerodromeError, Conflict, FailedPrecondition, InvalidArgument
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database

log = get_logger(__name__)

_FILE = re.compile(r"^(?P<number>\d{4})_[a-z0-9_]+\.sql$")
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


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name with the number, its statements, and the SHA-256 of them."""

    number: int
    name: str
    sql: str
    checksum: str


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
    while True:  # one transaction each; what is missing is read again under the lock
        name = await _apply_next(database, wanted, service, lock_timeout)
        if name is None:
            return applied
        applied.append(name)
        log.info("migration applied", service=service, migration=name)


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
        found[number] = Migration(number, entry.name, sql, hashlib.sha256(sql.encode()).hexdigest())
    for expected, number in enumerate(found, start=1):
        if number != expected:
            raise FailedPrecondition(f"{package}: migration {expected:04} is missing before {found[number].name}")
    return tuple(found.values())


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


async def _apply_next(
    database: Database, wanted: Sequence[Migration], service: str, lock_timeout: timedelta
) -> str | None:
    try:
        async with database.transaction() as conn:
            await conn.execute(
                f"SET LOCAL lock_timeout = {round(lock_timeout.total_seconds() * 1000)}; SET LOCAL "
                "statement_timeout = 0"
            )
            await conn.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY, timeout=lock_timeout.total_seconds() + 10)
            await conn.execute(_TABLE)
            missing = _missing(service, wanted, await _read(conn, service))
            if not missing:
                return None
            migration = missing[0]
            try:
                await conn.execute(migration.sql, timeout=_PATIENCE_SECONDS)
            except Conflict:
                raise
            except AerodromeError as error:
                raise FailedPrecondition(
                    f"{service}: {migration.name} failed and changed nothing: {error.message}"
                ) from error
            await conn.execute(
                "INSERT INTO schema_migrations (service, number, name, checksum) VALUES ($1, $2, $3, $4)",
                service, migration.number, migration.name, migration.checksum,
            )  # fmt: skip
            return migration.name
    except Conflict as error:
        raise Conflict(
            f"{service}: migrations waited longer than {lock_timeout.total_seconds():g} s for a lock"
        ) from error


_PATIENCE_SECONDS = 24 * 3600.0
"""A backfill may take long; the server's statement timeout is off for it."""
