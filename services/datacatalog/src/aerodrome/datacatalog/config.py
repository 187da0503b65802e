"""Every setting of the data catalog, as one tree.  Source: spec/datacatalog-scheduler-notifier.md, A.10."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from aerodrome.stdlib.config import Duration, LoggerConfig, Section, StorageConfig, TelemetryConfig
from aerodrome.stdlib.postgres.config import DatabaseConfig, PostgresConfig


class CatalogSection(Section):
    """The `datacatalog` section."""

    storage_prefix: str = "metadata"
    """Where literals are stored, below the storage's container."""
    metrics_scope: str = "datacatalog"
    profiler_port: int = Field(default=10254, ge=0, le=65535)
    """The operational port: /metrics, /healthcheck, /version, /config; 0 for none."""
    heartbeat_grace_period_multiplier: int = Field(default=3, ge=1)
    """A reservation ends after so many heartbeats without an extension; less than 2 leaves no room for a late one."""
    max_reservation_heartbeat: Duration = timedelta(seconds=10)
    """Longest interval between two extensions that is granted, whatever is asked for."""
    inline_data_bytes: int = Field(default=4096, ge=0)
    """Literals up to this size are kept in the database, larger ones in the store."""
    max_page_size: int = Field(default=1000, ge=1)
    """Most datasets or artifacts of one page, whatever limit is asked for."""
    upkeep_interval: Duration = timedelta(minutes=10)
    """How often dead reservations and blobs without an artifact are removed."""


class ApplicationConfig(Section):
    """The `application` section: how the service listens."""

    host: str = "127.0.0.1"
    """The address to listen on; the loopback unless told otherwise."""
    insecure_bind: bool = False
    """Permits an address that other machines reach although callers are not authenticated."""
    grpc_port: int = Field(default=8091, ge=0, le=65535)
    grpc_server_reflection: bool = True
    grpc_max_recv_msg_size_mbs: int = Field(default=0, ge=0)
    """Largest message that is received, in MiB; 0 means 64."""
    graceful_shutdown_timeout_seconds: int = Field(default=10, ge=0)


class CatalogPostgresConfig(PostgresConfig):
    """`database.postgres`, with a database of its own."""

    dbname: str = "datacatalog"


class CatalogDatabaseConfig(DatabaseConfig):
    """`database`."""

    postgres: CatalogPostgresConfig = CatalogPostgresConfig()


class AdminClientConfig(Section):
    """`admin`: where the control plane is, which Explain asks about nodes."""

    endpoint: str = ""
    insecure: bool = False


class CatalogConfig(Section):
    """Everything that the data catalog reads."""

    datacatalog: CatalogSection = CatalogSection()
    application: ApplicationConfig = ApplicationConfig()
    database: CatalogDatabaseConfig = CatalogDatabaseConfig()
    storage: StorageConfig = StorageConfig()
    logger: LoggerConfig = LoggerConfig()
    otel: TelemetryConfig = TelemetryConfig()
    admin: AdminClientConfig = AdminClientConfig()
