from collections.abc import Iterator

import pytest

from aerodrome.stdlib.postgres.testing import postgres_server
from aerodrome.stdlib.pubsub.testing import NatsServer, aws_server, nats_server

__all__ = ["aws", "nats", "postgres_server"]


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    with aws_server() as address:
        yield address
