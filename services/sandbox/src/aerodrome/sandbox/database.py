"""The database of an instance: the embedded one, unless the configuration names another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aerodrome.sandbox.config import SandboxConfig
from aerodrome.stdlib.postgres.database import create_if_missing
from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres

_NAME = "aerodrome"


@asynccontextmanager
async def database(config: SandboxConfig, embedded: EmbeddedPostgres | None = None) -> AsyncIterator[str]:
    """The DSN of a database that exists; one that was started here is restarted if it dies, and stopped at the end.

    `embedded` is the embedded one, if somebody has begun to make it.
    """
    if not config.embedded_database:
        postgres = config.admin.database.postgres
        yield await create_if_missing(postgres.dsn("postgres"), postgres.dbname)
        return
    async with embedded or EmbeddedPostgres(config.data_dir / "postgres") as server:
        watch = asyncio.create_task(server.run(), name="postgres")
        try:
            yield await create_if_missing(server.dsn(), _NAME)
        finally:
            watch.cancel()
            await asyncio.wait([watch])
