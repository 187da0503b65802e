"""Settings of the bus."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from aerodrome.stdlib.config import Section


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
