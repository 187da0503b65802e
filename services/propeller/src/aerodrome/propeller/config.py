"""Propeller's settings.  Source: spec/data-plane.md, section 8; the keys are the reference's where it has them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from aerodrome.plugins.config import EchoConfig, K8sPluginConfig, LogConfig, TasksConfig
from aerodrome.plugins.connectors.config import AgentServiceConfig, ConnectorServiceConfig
from aerodrome.propeller.engine.budget import RETRY_KEYS, Limits, RetryPolicy
from aerodrome.stdlib.config import Duration, LoggerConfig, Section, StorageConfig, TelemetryConfig, format_duration
from aerodrome.stdlib.errors import InvalidArgument


class DeadlineConfig(Section):
    """Time limits of nodes that set none; zero is no limit."""

    node_execution_deadline: Duration = timedelta(0)
    node_active_deadline: Duration = timedelta(0)


class ArrayNodeConfig(Section):
    """`propeller.array-node-config`: map tasks."""

    event_version: int = Field(default=0, ge=0, le=1)
    """0: the items of a map are external resources of its one attempt; 1: each has a node execution of its own too."""
    default_parallelism_behavior: Literal["unlimited", "hybrid", "workflow"] = "unlimited"
    """How many items run at once where the map does not say: all; as many as the workflow's parallelism permits if
    nothing is set, and all if 0 is; as many as the workflow's parallelism permits in both cases."""
    use_map_plugin_logs: bool = False
    """Accepted for the reference's sake: the links of an item's logs are those of its pod."""
    max_delta_timestamp: Duration = timedelta(hours=72)
    """Accepted for the reference's sake: starts of items are kept as they are."""
    max_items: int = Field(default=1_000_000, ge=1)
    """Most items of one map; the control plane keeps no more of one (`journal.max_items`)."""
    max_output_mbs: int = Field(default=256, ge=1)
    """Most that the outputs of all items of a map may come to, in MiB."""
    max_items_at_once: int = Field(default=200, ge=1)
    """Most items of one map that are queued at the runtime at a time, whatever the map permits."""


class RetryBackoffConfig(Section):
    """When retries begin that say nothing themselves (`propeller.node-config.retry-backoff`)."""

    backoff: Duration = timedelta(0)
    """Before the first retry; zero lets every retry begin at once."""
    factor: float = 2.0
    """By how much it grows from retry to retry."""
    max_backoff: Duration = timedelta(minutes=5)
    jitter: float = 0.2
    """Up to which part of itself a pause is shortened."""
    memory_factor: float = 1.0
    """By how much the memory grows after each out-of-memory kill; 1 leaves it."""
    memory_limit: str = ""
    """Most memory that retries may ask for."""

    def policy(self) -> RetryPolicy:
        """As the engine takes it.  Raises InvalidArgument naming what is wrong."""
        settings = {
            "backoff": format_duration(self.backoff),
            "factor": str(self.factor),
            "max-backoff": format_duration(self.max_backoff),
            "jitter": str(self.jitter),
            "memory-factor": str(self.memory_factor),
        }
        if self.memory_limit:
            settings["memory-limit"] = self.memory_limit
        try:
            return RetryPolicy().with_settings({f"{RETRY_KEYS}{key}": text for key, text in settings.items()})
        except ValueError as error:
            raise InvalidArgument(f"propeller.node-config.retry-backoff: {error}") from error


class NodeConfig(Section):
    """`propeller.node-config`."""

    max_node_retries_system_failures: int = 3
    interruptible_failure_threshold: int = -1
    default_max_attempts: int = 1
    ignore_retry_cause: bool = False
    default_deadlines: DeadlineConfig = DeadlineConfig()
    retry_backoff: RetryBackoffConfig = RetryBackoffConfig()

    def limits(self) -> Limits:
        """As the engine takes them."""
        return Limits(
            max_system_failures=self.max_node_retries_system_failures,
            ignore_retry_cause=self.ignore_retry_cause,
            interruptible_failure_threshold=self.interruptible_failure_threshold,
            default_execution_deadline=self.default_deadlines.node_execution_deadline.total_seconds(),
            default_active_deadline=self.default_deadlines.node_active_deadline.total_seconds(),
            retry=self.retry_backoff.policy(),
        )


class LocalRuntimeConfig(Section):
    """The local runtime: tasks as processes of this machine."""

    directory: Path | None = None
    """Where pods, logs and working directories are; one runtime per directory."""
    slots: int | None = None
    """Tasks that run at once; if not set, one more than there are cores, as long as memory is not scarce."""
    python: Path | None = None
    """Python that runs tasks whose image names no environment; the platform's own if not set."""
    images: dict[str, Path] = {}
    """Python (or root of an environment) by image name."""
    grace: Duration = timedelta(seconds=10)
    """How long a stop waits for running tasks."""
    outlive: Duration = timedelta(seconds=60)
    """How long tasks go on without the platform, for a restart to take them over."""
    keep_logs: Duration = timedelta(0)
    """How long logs of attempts stay that are over.  Zero keeps them: in `aerodrome up` until their execution is
    deleted, and for good where the control plane is another process, which cannot reach them."""


class PropellerSection(Section):
    """`propeller`."""

    cluster_id: str = "local"
    """The cluster whose executions this propeller takes."""
    metadata_prefix: str = "metadata/propeller"
    rawoutput_prefix: str = ""
    """Where raw outputs go that the execution gives no place for; below the container if relative."""
    prof_port: int = Field(default=10254, ge=0, le=65535)
    """The operational port: /metrics, /healthz, /readyz, /version, /config; 0 for none."""
    host: str = "127.0.0.1"
    """The address of the operational port; the loopback unless told otherwise."""
    insecure_bind: bool = False
    """Permits an address that other machines reach although callers are not authenticated."""
    metrics_prefix: str = "flyte"
    """What the names of metrics begin with, before `:propeller:all`."""
    capacity: int = 10_000
    """Executions that one process drives at once."""
    node_config: NodeConfig = NodeConfig()
    array_node_config: ArrayNodeConfig = ArrayNodeConfig()
    runtime: LocalRuntimeConfig = LocalRuntimeConfig()


class AdminClientConfig(Section):
    """`admin`: where the control plane is."""

    endpoint: str = "localhost:8089"
    insecure: bool = False


class CatalogCacheConfig(Section):
    """`catalog-cache`: where results of tasks are kept."""

    type: Literal["datacatalog", "noop"] = "noop"
    """`noop` caches nothing.  The sandbox has a catalog of its own, unless it is told `noop`."""
    endpoint: str = "localhost:8091"
    insecure: bool = False
    max_cache_age: Duration = timedelta(0)
    """A result that is older counts as a miss, and is replaced; zero is any age."""
    reservation_heartbeat: Duration = timedelta(seconds=10)
    """How often a reservation is extended; the catalog may want it sooner."""


class PluginsConfig(Section):
    """`plugins`."""

    k8s: K8sPluginConfig = K8sPluginConfig()
    logs: LogConfig = LogConfig(kubernetes_enabled=False)
    echo: EchoConfig = EchoConfig()
    agent_service: AgentServiceConfig = AgentServiceConfig()
    connector_service: ConnectorServiceConfig = ConnectorServiceConfig()


class SecretsConfig(Section):
    """`secrets`: where the secrets are that tasks of the local runtime ask for."""

    secrets_prefix: Path | None = None
    """Directory with a file `<group>/<key>` for each, which only its owner may read; none if not set."""
    env_prefix: str = "FLYTE_SECRET_"
    """What the names of the platform's own environment variables begin with that hold secrets."""


class PropellerConfig(Section):
    """Everything that propeller reads."""

    propeller: PropellerSection = PropellerSection()
    admin: AdminClientConfig = AdminClientConfig()
    storage: StorageConfig = StorageConfig()
    logger: LoggerConfig = LoggerConfig()
    plugins: PluginsConfig = PluginsConfig()
    catalog_cache: CatalogCacheConfig = CatalogCacheConfig()
    tasks: TasksConfig = TasksConfig()
    secrets: SecretsConfig = SecretsConfig()
    otel: TelemetryConfig = TelemetryConfig()
