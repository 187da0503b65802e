"""Every setting of the control plane, as one tree.  Source: spec/control-plane.md section 14, design.md section 7."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from aerodrome.admin.external_config import CloudEventsConfig, ExternalEventsConfig
from aerodrome.admin.journal_config import JournalConfig
from aerodrome.admin.limits_config import LimitsConfig
from aerodrome.stdlib.config import (
    Duration,
    LoggerConfig,
    Quantity,
    Section,
    StorageConfig,
    TelemetryConfig,
)
from aerodrome.stdlib.postgres.config import DatabaseConfig
from aerodrome.stdlib.pubsub.config import BusConfig


class FeatureGates(Section):
    enable_artifacts: bool = False


class FlyteAdminConfig(Section):
    """The `flyteadmin` section: defaults of executions, and what belongs to the service as a whole."""

    role_name_key: str = ""
    """Annotation key under which the data plane puts an execution's IAM role."""
    metrics_scope: str = "flyte:"
    metrics_keys: tuple[str, ...] = (
        "project", "domain", "wf", "task", "phase", "tasktype", "runtime_type", "runtime_version", "app_name",
    )  # fmt: skip
    profiler_port: int = Field(default=10254, ge=0, le=65535)
    """The operational port: /metrics, /healthz, /readyz, /version, /config; 0 for none."""
    gauge_interval: Duration = timedelta(seconds=30)
    """How often executions, nodes and attempts in progress are counted for /metrics; zero never counts them."""
    metadata_storage_prefix: tuple[str, ...] = ("metadata", "admin")
    """Where workflow closures are stored, as path elements below the storage's base."""
    event_version: int = 2
    async_events_buffer_size: int = 100
    max_parallelism: int = Field(default=25, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    envs: dict[str, str] = Field(default_factory=dict)
    interruptible: bool = False
    overwrite_cache: bool = False
    assumable_iam_role: str = ""
    k8s_service_account: str = ""
    output_location_prefix: str = ""
    use_offloaded_workflow_closure: bool = False
    use_offloaded_inputs: bool = False
    feature_gates: FeatureGates = FeatureGates()
    console_url: str = ""
    inject_identity_annotations: bool = False
    identity_annotation_prefix: str = "flyte.org"
    identity_annotation_keys: tuple[str, ...] = ()


class GrpcConfig(Section):
    port: int = Field(default=8089, ge=0, le=65535)
    server_reflection: bool = True
    max_message_size_bytes: int = Field(default=64 * 2**20, ge=0)
    """Largest message that is received; 0 means 64 MiB."""
    enable_grpc_latency_metrics: bool = False
    max_concurrent_streams: int = Field(default=0, ge=0)


class UploadConfig(Section):
    max_size: Quantity = "6Mi"
    max_expires_in: Duration = timedelta(hours=1)
    default_file_name_length: int = Field(default=20, ge=1, le=200)
    storage_prefix: str = ""


class DownloadConfig(Section):
    max_expires_in: Duration = timedelta(hours=1)


class DataProxyConfig(Section):
    upload: UploadConfig = UploadConfig()
    download: DownloadConfig = DownloadConfig()
    public_url: str = ""
    """The address in signed URLs of a local store, if it is not the one that is listened on."""
    signing_key_path: Path | None = None
    """File with the secret behind signed URLs of a local store; made beside the store if it is not set."""


class SslConfig(Section):
    certificate_file: str = ""
    key_file: str = ""


class SecurityConfig(Section):
    secure: bool = False
    ssl: SslConfig = SslConfig()
    use_auth: bool = False
    insecure_cookie_header: bool = False
    allow_cors: bool = False
    allowed_origins: tuple[str, ...] = ()
    allowed_headers: tuple[str, ...] = ("Content-Type", "flyte-authorization")


class ServerConfig(Section):
    """The `server` section, also written `application`."""

    aliases: ClassVar[Mapping[str, str]] = {
        "grpcport": "grpc.port",
        "grpcserverreflection": "grpc.server_reflection",
        "secure": "security.secure",
    }

    host: str = "127.0.0.1"
    """The address to listen on; the loopback unless told otherwise."""
    insecure_bind: bool = False
    """Permits an address that other machines reach although callers are not authenticated."""
    http_port: int = Field(default=8088, ge=0, le=65535)
    grpc: GrpcConfig = GrpcConfig()
    security: SecurityConfig = SecurityConfig()
    data_proxy: DataProxyConfig = DataProxyConfig()
    read_header_timeout_seconds: int = 32
    graceful_shutdown_timeout_seconds: int = 10


class SignedUrlsConfig(Section):
    enabled: bool = False
    duration_minutes: int = Field(default=0, ge=0)
    signing_principal: str = ""


class RemoteDataConfig(Section):
    scheme: str = "none"
    region: str = ""
    signed_urls: SignedUrlsConfig = SignedUrlsConfig()
    max_size_in_bytes: int = Field(default=2 * 2**20, ge=0)
    inline_event_data_policy: Literal["Offload", "StoreInline", 0, 1] = "Offload"


class DomainConfig(Section):
    id: str
    name: str = ""

    @property
    def shown_name(self) -> str:
        """The name, or the id of a domain that has none."""
        return self.name or self.id


class TaskResourceSet(Section):
    """Kubernetes quantities; empty is unset, and `0` means the same: no default, no limit."""

    cpu: Quantity | Literal[""] = ""
    memory: Quantity | Literal[""] = ""
    gpu: Quantity | Literal[""] = ""
    ephemeral_storage: Quantity | Literal[""] = ""


class TaskResourceDefaults(TaskResourceSet):
    cpu: Quantity | Literal[""] = "2"
    memory: Quantity | Literal[""] = "200Mi"


class TaskResourceLimits(TaskResourceSet):
    cpu: Quantity | Literal[""] = "2"
    memory: Quantity | Literal[""] = "1Gi"
    gpu: Quantity | Literal[""] = "1"


class TaskResourcesConfig(Section):
    defaults: TaskResourceDefaults = TaskResourceDefaults()
    limits: TaskResourceLimits = TaskResourceLimits()


class WhitelistEntry(Section):
    project: str = ""
    domain: str = ""


class RegistrationConfig(Section):
    max_workflow_nodes: int = Field(default=100_000, ge=0)
    """Most nodes of a workflow's own level; 0 is no limit."""
    max_label_entries: int = Field(default=0, ge=0)
    max_annotation_entries: int = Field(default=0, ge=0)
    workflow_size_limit: Quantity | Literal[""] = ""
    """Largest serialized workflow closure, as a quantity of bytes; empty is no limit."""
    max_entity_bytes: int = Field(default=16 * 2**20, ge=0)
    """Largest task or launch plan, serialized; 0 is no limit."""
    max_execution_spec_bytes: int = Field(default=2**20, ge=0)
    """Largest specification of an execution, without its inputs; 0 is no limit."""
    inline_compile_bytes: int = Field(default=40_000, ge=0)
    """Requests larger than this are compiled in a process of their own, so that the service goes on answering."""
    compile_workers: int = Field(default=1, ge=1)
    """How many such processes there are at most."""


class ExecutionQueue(Section):
    dynamic: str = ""
    attributes: tuple[str, ...] = ()


class WorkflowQueueConfig(Section):
    domain: str = ""
    project: str = ""
    workflow_name: str = ""
    tags: tuple[str, ...] = ()


class QueuesConfig(Section):
    execution_queues: tuple[ExecutionQueue, ...] = ()
    workflow_configs: tuple[WorkflowQueueConfig, ...] = ()


class NamespaceMapping(Section):
    template: str = "{{ project }}-{{ domain }}"


class ClusterAuth(Section):
    type: str = ""
    enabled: bool = False
    token_path: str = ""
    cert_path: str = ""


class KubeClientConfig(Section):
    qps: float = 100
    burst: int = 25
    timeout: Duration = timedelta(seconds=30)


class ClusterConfig(Section):
    name: str
    endpoint: str = ""
    enabled: bool = False
    in_cluster: bool = False
    auth: ClusterAuth = ClusterAuth()
    kube_client_config: KubeClientConfig = KubeClientConfig()


class WeightedCluster(Section):
    id: str
    weight: float = Field(default=1.0, ge=0)


class ClustersConfig(Section):
    """Which data planes there are.  A plain list of clusters is accepted too."""

    cluster_configs: tuple[ClusterConfig, ...] = ()
    label_cluster_map: dict[str, tuple[WeightedCluster, ...]] = Field(default_factory=dict)
    default_execution_label: str = ""
    default_cluster: str = "local"
    """The only cluster while none is configured."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, data: Any) -> Any:
        return {"cluster_configs": data} if isinstance(data, list | tuple) else data


class ClusterPool(Section):
    pool: str = ""


class ClusterPoolsConfig(Section):
    cluster_pool_assignments: dict[str, ClusterPool] = Field(default_factory=dict)


class EventSchedulerConfig(Section):
    scheme: str = "local"


class SchedulerConfig(Section):
    event_scheduler: EventSchedulerConfig = EventSchedulerConfig()


class SeedProject(Section):
    name: str
    description: str = ""


class SingleBinaryAdmin(Section):
    seed_projects: tuple[str, ...] = ("flytesnacks",)
    """Projects that exist from the first start on."""
    seed_projects_with_details: tuple[SeedProject, ...] = ()
    disabled: bool = False


class SingleBinary(Section):
    admin: SingleBinaryAdmin = SingleBinaryAdmin()


class RetentionConfig(Section):
    """How executions are deleted that policies say are due; without a policy nothing is."""

    sweep_interval: Duration = timedelta(hours=1)
    """How often it is looked for what is due."""
    retry_interval: Duration = timedelta(seconds=30)
    """How often deletions that could not be finished are continued; each waits longer the more often it failed."""
    pause: Duration = timedelta(milliseconds=20)
    """Between two executions of a sweep, so that it takes only a part of what the database and the store can do."""
    metadata_prefix: str = "metadata/propeller"
    """Where data planes keep the data of executions: what their `propeller.metadata-prefix` says."""
    raw_output_prefix: str = "data"
    """Where tasks put raw outputs unless a user says otherwise: what `propeller.rawoutput-prefix` says."""


class CatalogClientConfig(Section):
    """`catalog-cache`, as data planes have it: where the data catalog is, which is told what is deleted."""

    endpoint: str = ""
    """Empty if there is none: then what is cached of a deleted execution is found to be gone when it is asked for."""
    insecure: bool = False


class AdminConfig(Section):
    """The control plane's configuration."""

    aliases: ClassVar[Mapping[str, str]] = {"application": "server"}

    flyteadmin: FlyteAdminConfig = FlyteAdminConfig()
    server: ServerConfig = ServerConfig()
    database: DatabaseConfig = DatabaseConfig()
    storage: StorageConfig = StorageConfig()
    remote_data: RemoteDataConfig = RemoteDataConfig()
    domains: tuple[DomainConfig, ...] = (
        DomainConfig(id="development", name="development"),
        DomainConfig(id="staging", name="staging"),
        DomainConfig(id="production", name="production"),
    )
    task_resources: TaskResourcesConfig = TaskResourcesConfig()
    task_type_whitelist: dict[str, tuple[WhitelistEntry, ...]] = Field(default_factory=dict)
    registration: RegistrationConfig = RegistrationConfig()
    queues: QueuesConfig = QueuesConfig()
    namespace_mapping: NamespaceMapping = NamespaceMapping()
    clusters: ClustersConfig = ClustersConfig()
    cluster_pools: ClusterPoolsConfig = ClusterPoolsConfig()
    journal: JournalConfig = JournalConfig()
    limits: LimitsConfig = LimitsConfig()
    retention: RetentionConfig = RetentionConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    bus: BusConfig = BusConfig()
    catalog_cache: CatalogClientConfig = CatalogClientConfig()
    external_events: ExternalEventsConfig = ExternalEventsConfig()
    cloud_events: CloudEventsConfig = CloudEventsConfig()
    logger: LoggerConfig = LoggerConfig()
    otel: TelemetryConfig = TelemetryConfig()
    flyte: SingleBinary = SingleBinary()

    @field_validator("domains")
    @classmethod
    def _domains_differ(cls, domains: tuple[DomainConfig, ...]) -> tuple[DomainConfig, ...]:
        ids = [domain.id for domain in domains]
        if not ids or len(set(ids)) != len(ids) or not all(ids):
            raise ValueError("domains must be a list of different, non-empty ids")
        return domains
