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
async def database(config: SandboxConfig) -> AsyncIterator[str]:
    """The DSN of a database that exists; one that was started here is restarted if it dies, and stopped at the end."""
    if not config.embedded_database:
        postgres = config.admin.database.postgres
        yield await create_if_missing(postgres.dsn("postgres"), postgres.dbname)
        return
    async with EmbeddedPostgres(config.data_dir / "postgres") as embedded:
        watch = asyncio.create_task(embedded.run(), name="postgres")
        try:
            yield await create_if_missing(embedded.dsn(), _NAME)
        finally:
            watch.cancel()
            await asyncio.wait([watch])
