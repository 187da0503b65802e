"""Settings of a service's database.  Source: spec/control-plane.md, section 14.1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlencode

from pydantic import Field

from aerodrome.stdlib.config import Duration, SecretText, Section
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.database import Database, create_if_missing


class PostgresConfig(Section):
    """`database.postgres`: where the server is, and who asks."""

    host: str = "localhost"
    port: int = 30001
    dbname: str = "postgres"
    username: str = "postgres"
    password: SecretText = SecretText("")
    password_path: Path | None = None
    """File that holds the password, from a mounted secret; wins over `password`."""
    options: str = "sslmode=disable"
    read_replica_host: str = ""
    debug: bool = False

    def dsn(self, database: str | None = None) -> str:
        """How to connect to a database of this server, by default the configured one.

        Raises FailedPrecondition if the password's file cannot be read.
        """
        password = self.password.get_secret_value()
        if self.password_path is not None:
            try:
                password = self.password_path.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise FailedPrecondition(
                    f"the database's password cannot be read from {self.password_path}: {error.strerror}"
                ) from error
        name = quote(database or self.dbname, safe="")
        login = quote(self.username, safe="") + (f":{quote(password, safe='')}" if password else "")
        options: dict[str, str] = dict(option.split("=", 1) for option in self.options.split() if "=" in option)
        if self.host.startswith("/"):
            options = {"host": self.host, "port": str(self.port)} | options
            return f"postgresql://{login}@/{name}?{urlencode(options)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{login}@{host}:{self.port}/{name}?{urlencode(options)}"


class DatabaseConfig(Section):
    """`database`; the keys of `postgres` may also stand directly in it."""

    aliases: ClassVar[Mapping[str, str]] = {
        name: f"postgres.{name}" for name in ("host", "port", "dbname", "username", "password", "options", "debug")
    } | {"passwordpath": "postgres.password_path", "readreplicahost": "postgres.read_replica_host"}

    postgres: PostgresConfig = PostgresConfig()
    max_idle_connections: int = Field(default=2, ge=0)
    """Connections that are kept open while nothing happens."""
    max_open_connections: int = Field(default=20, ge=1)
    conn_max_life_time: Duration = timedelta(hours=1)
    statement_timeout: Duration = timedelta(seconds=15)
    """Longest a statement may run before the server cancels it."""


@asynccontextmanager
async def open_database(config: DatabaseConfig, *, name: str) -> AsyncIterator[Database]:
    """The configured database, made if it is missing, with connections that say they are `name`'s."""
    dsn = await create_if_missing(config.postgres.dsn("postgres"), config.postgres.dbname)
    async with Database(
        dsn,
        min_size=min(config.max_idle_connections, config.max_open_connections),
        max_size=config.max_open_connections,
        statement_timeout=config.statement_timeout,
        application_name=name,
    ) as database:
        yield database
