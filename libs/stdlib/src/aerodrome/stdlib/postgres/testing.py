"""Real PostgreSQL for tests: one server per test run, and for each test its own database cloned from a migrated
template.

In a package's `conftest.py`:

    from aerodrome.stdlib.postgres.testing import fresh_database, postgres_server

    @pytest.fixture
    async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
        async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
            yield database

The server forgets durability (`fsync` off): a test that kills it starts its own `EmbeddedPostgres`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aerodrome.stdlib.postgres import driver
from aerodrome.stdlib.postgres.database import Database, quote_name, with_database
from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.rpc.runtime_dir import runtime_dir

_T = TypeVar("_T")

_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "1GB",
    "max_connections": "200",
    "checkpoint_timeout": "1h",
}


_WATCH = """
while kill -0 "$1" 2>/dev/null; do sleep 1; done
kill -INT "$2" 2>/dev/null
while kill -0 "$2" 2>/dev/null; do sleep 1; done
rmdir "$3-pg" "$3" 2>/dev/null
"""
"""Ends the server of a test run that was killed before it could."""


class ServerForTests:
    """A running server, and the templates that were made on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "pg"
        self._postgres = EmbeddedPostgres(self._directory, settings=_FAST)
        self._templates: dict[tuple[tuple[str, str], ...], str] = {}
        self._names = itertools.count(1)
        self._watcher: subprocess.Popen[bytes] | None = None
        self.dsn = ""
        """How to connect to the server's own database."""

    def start(self) -> None:
        """Start the server; works with and without a running event loop."""
        self.dsn = _in_a_thread(self._postgres.start())
        sockets = runtime_dir(self._directory)
        words = ["sh", "-c", _WATCH, "sh", str(os.getpid()), str(self._postgres.pid), str(sockets)]
        self._watcher = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(self) -> None:
        """Stop the server."""
        if self._watcher is not None:
            os.killpg(self._watcher.pid, signal.SIGKILL)
            self._watcher.wait()
        _in_a_thread(self._postgres.stop())

    async def create(self, *migrations: tuple[str, str]) -> str:
        """A new database with the tables of each (package, service), cloned from a template; returns its DSN."""
        template = self._templates.get(migrations)
        if template is None:
            template = await self._make_template(migrations)
            self._templates[migrations] = template
        name = f"test_{os.getpid()}_{next(self._names)}"
        await self._command(f"CREATE DATABASE {quote_name(name)} TEMPLATE {quote_name(template)} STRATEGY file_copy")
        return with_database(self.dsn, name)

    async def drop(self, dsn: str) -> None:
        """Remove a database that `create` made, whoever is connected to it."""
        name = dsn.split("?")[0].rsplit("/", 1)[1]
        await self._command(f"DROP DATABASE IF EXISTS {quote_name(name)} WITH (FORCE)")

    async def _make_template(self, migrations: Sequence[tuple[str, str]]) -> str:
        if not migrations:
            return "template0"
        name = f"template_{os.getpid()}_{next(self._names)}"
        await self._command(f"CREATE DATABASE {quote_name(name)} TEMPLATE template0 STRATEGY file_copy")
        async with Database(with_database(self.dsn, name), min_size=1, max_size=1) as database:
            for package, service in migrations:
                await migrate(database, package, service=service)
        return name

    async def _command(self, sql: str) -> None:
        connection: Any = await driver.connect(self.dsn, timeout=10)
        try:
            await connection.execute(sql)
        finally:
            await connection.close(timeout=5)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerForTests]:
    """The test run's server; import this name into a conftest.py."""
    server = ServerForTests(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def fresh_database(
    server: ServerForTests, *packages: str, service: str = "test", min_size: int = 1, max_size: int = 8
) -> AsyncIterator[Database]:
    """A database of one's own with the migrations of `packages`, open for the block and removed after it."""
    dsn = await server.create(*((package, service) for package in packages))
    try:
        async with Database(dsn, min_size=min_size, max_size=max_size, application_name="test") as database:
            yield database
    finally:
        await server.drop(dsn)


def _in_a_thread(work: Coroutine[Any, Any, _T]) -> _T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
