"""Opens the bus that the configuration names.  The adapters' libraries are loaded only where they are used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.config import AwsBusConfig, BusConfig, NatsConfig
from aerodrome.stdlib.pubsub.memory import MemoryBus

if TYPE_CHECKING:
    from aerodrome.stdlib.pubsub.nats import NatsBus


def open_bus(config: BusConfig, *, database: Database | None = None) -> AbstractAsyncContextManager[Bus]:
    """The configured bus, open for the length of the block.

    `database` is where a `postgres` bus keeps its tables, which are made if they are missing; services that talk to
    each other by it share the database.
    Raises FailedPrecondition where the configuration cannot work, and Unavailable when the servers are away.
    """
    match config.type:
        case "memory":
            return _memory()
        case "postgres":
            if database is None:
                raise FailedPrecondition("bus.type is postgres, and this service has no database for it")
            return _postgres(database)
        case "nats":
            return nats_bus(config.nats)
        case "aws":
            return _aws(config.aws)


@asynccontextmanager
async def _memory() -> AsyncIterator[Bus]:
    yield MemoryBus()


@asynccontextmanager
async def _postgres(database: Database) -> AsyncIterator[Bus]:
    from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables

    await ensure_tables(database)
    async with PostgresBus(database) as bus:
        yield bus


def nats_bus(config: NatsConfig) -> NatsBus:
    """A bus on the configured servers, not open yet.  Raises FailedPrecondition if the login cannot be read."""
    from aerodrome.stdlib.pubsub.nats import NatsBus

    if not config.servers:
        raise InvalidArgument("nats.servers is empty: name at least one server, like nats://nats:4222")
    return NatsBus(
        config.servers,
        user=config.user or None,
        password=secret(config.password, config.password_path, "nats.password-path") or None,
        token=secret(config.token, config.token_path, "nats.token-path") or None,
    )


@asynccontextmanager
async def _aws(config: AwsBusConfig) -> AsyncIterator[Bus]:
    from aerodrome.stdlib.pubsub.aws import AwsBus, AwsSettings

    settings = AwsSettings(
        region=config.region or os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", ""),
        endpoint=config.endpoint,
        access_key=config.access_key,
        secret_key=config.secret_key.get_secret_value(),
        prefix=config.prefix,
    )
    async with AwsBus(settings) as bus:
        yield bus


def secret(value: SecretStr, path: Path | None, setting: str) -> str:
    """The secret itself, or what its file holds; raises FailedPrecondition naming `setting` if that cannot be read."""
    if path is None:
        return value.get_secret_value()
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FailedPrecondition(f"{setting}: {path} cannot be read: {error.strerror}") from error
