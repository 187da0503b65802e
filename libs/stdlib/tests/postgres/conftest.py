from collections.abc import AsyncIterator

import pytest

from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server

__all__ = ["database", "postgres_server"]


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server) as database:
        yield database
