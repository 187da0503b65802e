from collections.abc import Iterator

import pytest

from aerodrome.stdlib.postgres.testing import postgres_server
from aerodrome.stdlib.pubsub.testing import NatsServer, nats_server

__all__ = ["nats", "postgres_server"]


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server
