"""Opens the bus that the configuration names.  The adapters' libraries are loaded only where they are used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from aerodrome.stdlib.config import Section
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.memory import MemoryBus


class NatsConfig(Section):
    """`bus.nats`."""

    servers: list[str] = ["nats://127.0.0.1:4222"]
    user: str = ""
    password: SecretStr = SecretStr("")
    password_path: Path | None = None
    """A file with the password, instead of the password itself."""
    token: SecretStr = SecretStr("")
    token_path: Path | None = None


class AwsBusConfig(Section):
    """`bus.aws`: SNS and SQS; what is empty is left to the environment's AWS configuration."""

    region: str = ""
    endpoint: str = ""
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    prefix: str = "aerodrome"
    """Begins the names of topics and queues."""


class BusConfig(Section):
    """`bus`: how services tell each other what happened."""

    type: Literal["memory", "postgres", "nats", "aws"] = "postgres"
    """`memory` works only where all services are one process."""
    nats: NatsConfig = NatsConfig()
    aws: AwsBusConfig = AwsBusConfig()


def open_bus(config: BusConfig, *, database: Database | None = None) -> AbstractAsyncContextManager[Bus]:
    """The configured bus, open for the length of the block.

    `database` is where a `postgres` bus keeps its tables, which are made if they are missing; services that talk to
    each other by it share the database.
    Raises FailedPrecondition where the configuration cannot work, and Unavailable when the servers are away.
    """
    opening: Callable[[], AbstractAsyncContextManager[Bus]]
    match config.type:
        case "memory":
            opening = _memory
        case "postgres":
            if database is None:
                raise FailedPrecondition("bus.type is postgres, and this service has no database for it")
            return _postgres(database)
        case "nats":
            return _nats(config.nats)
        case "aws":
            return _aws(config.aws)
    return opening()


@asynccontextmanager
async def _memory() -> AsyncIterator[Bus]:
    yield MemoryBus()


@asynccontextmanager
async def _postgres(database: Database) -> AsyncIterator[Bus]:
    from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables

    await ensure_tables(database)
    async with PostgresBus(database) as bus:
        yield bus


@asynccontextmanager
async def _nats(config: NatsConfig) -> AsyncIterator[Bus]:
    from aerodrome.stdlib.pubsub.nats import NatsBus

    if not config.servers:
        raise InvalidArgument("bus.nats.servers is empty: name at least one server, like nats://nats:4222")
    async with NatsBus(
        config.servers,
        user=config.user or None,
        password=secret(config.password, config.password_path, "bus.nats.password-path") or None,
        token=secret(config.token, config.token_path, "bus.nats.token-path") or None,
    ) as bus:
        yield bus


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
