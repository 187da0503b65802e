"""Settings of the built-in task plugins: the sections `plugins.k8s`, `plugins.logs` and `tasks.task-plugins`.

Keys and defaults are those of Flyte 1.  Kubernetes values (tolerations, affinities, security contexts) are plain JSON
in Kubernetes' own camelCase.  Source: spec/data-plane.md, sections 2.12, 5.1, 8.2 and 8.3.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from aerodrome.plugins.api import MAX_PHASE_VERSIONS
from aerodrome.stdlib.config import Duration, Quantity, Section


class CoPilotConfig(Section):
    """The helper containers that move inputs and outputs of raw containers."""

    name: str = "flyte-copilot-"
    """Prefix of the names of both helper containers."""
    image: str = "cr.flyte.org/flyteorg/flytecopilot:v0.0.15"
    default_input_path: str = "/var/flyte/inputs"
    default_output_path: str = "/var/flyte/outputs"
    input_vol_name: str = "flyte-inputs"
    output_vol_name: str = "flyte-outputs"
    cpu: Quantity = "500m"
    memory: Quantity = "128Mi"
    timeout: Duration = timedelta(hours=1)
    """Longest that uploading outputs may take; also the pod's grace period."""
    start_timeout: Duration = timedelta(0)
    """Accepted for compatibility; the uploader is a native sidecar, whose start needs no limit."""
    storage: str = ""
    """Size limit of the volumes unless the task sets one, such as `10Gi`."""


class K8sPluginConfig(Section):
    """What every pod gets (`plugins.k8s`)."""

    default_annotations: dict[str, str] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    default_labels: dict[str, str] = {}
    default_env_vars: dict[str, str] = {}
    default_env_vars_from_env: dict[str, str] = {}
    """Variable in the task -> variable of the platform's process whose value it gets."""
    default_env_from_configmaps: tuple[str, ...] = ()
    default_env_from_secrets: tuple[str, ...] = ()
    default_cpus: Quantity = "1000m"
    default_memory: Quantity = "1024Mi"
    default_tolerations: tuple[dict[str, Any], ...] = ()
    default_node_selector: dict[str, str] = {}
    default_affinity: dict[str, Any] = {}

    interruptible_tolerations: tuple[dict[str, Any], ...] = ()
    interruptible_node_selector: dict[str, str] = {}
    interruptible_node_selector_requirement: dict[str, Any] = {}
    non_interruptible_node_selector_requirement: dict[str, Any] = {}
    resource_tolerations: dict[str, tuple[dict[str, Any], ...]] = {}
    """Resource name -> tolerations of the pods that request it."""

    image_pull_policy: str = ""
    scheduler_name: str = ""
    default_security_context: dict[str, Any] = {}
    default_pod_security_context: dict[str, Any] = {}
    default_pod_dns_config: dict[str, Any] = {}
    enable_host_networking_pod: bool | None = None
    default_pod_template_name: str = ""
    default_pod_template_resync: Duration = timedelta(seconds=30)

    create_container_error_grace_period: Duration = timedelta(minutes=3)
    create_container_config_error_grace_period: Duration = timedelta(0)
    image_pull_backoff_grace_period: Duration = timedelta(minutes=3)
    pod_pending_timeout: Duration = timedelta(0)
    """Longest a pod may be pending; 0 is for ever."""

    gpu_device_node_label: str = "k8s.amazonaws.com/accelerator"
    gpu_partition_size_node_label: str = "k8s.amazonaws.com/gpu-partition-size"
    gpu_resource_name: str = "nvidia.com/gpu"
    gpu_unpartitioned_node_selector_requirement: dict[str, Any] = {}
    gpu_unpartitioned_toleration: dict[str, Any] = {}
    add_tolerations_for_extended_resources: tuple[str, ...] = ()

    inject_finalizer: bool = False
    delete_resource_on_finalize: bool = False
    update_base_backoff_duration: int = 10
    """Milliseconds."""
    update_backoff_retries: int = 5
    send_object_events: bool = False
    enable_distributed_error_aggregation: bool = False
    co_pilot: CoPilotConfig = CoPilotConfig()

    plain_failures_as_system: bool = False
    """Judge failed pods as Flyte 1 does: a plain non-zero exit code counts against the system's retry budget."""


class LogTemplateConfig(Section):
    """A link that each task gets."""

    display_name: str = ""
    template_uris: tuple[str, ...] = ()
    dynamic_template_uris: tuple[str, ...] = ()
    message_format: Literal["unknown", "csv", "json"] | int = "unknown"
    show_while_pending: bool = False
    hide_once_finished: bool = False


class LogConfig(Section):
    """Where people read the logs of pods (`plugins.logs`)."""

    kubernetes_enabled: bool = True
    kubernetes_url: str = ""
    """Base of a Kubernetes dashboard; without a template, links to its log page are made from it."""
    kubernetes_template_uri: str = ""
    cloudwatch_enabled: bool = False
    cloudwatch_region: str = ""
    cloudwatch_log_group: str = ""
    cloudwatch_template_uri: str = ""
    stackdriver_enabled: bool = False
    gcp_project: str = ""
    stackdriver_logresourcename: str = ""
    stackdriver_template_uri: str = ""
    templates: tuple[LogTemplateConfig, ...] = ()
    dynamic_log_links: dict[str, LogTemplateConfig] = {}
    """Name of a link -> its templates; tasks choose by the key `link_type` of their config."""


class EchoConfig(Section):
    """Tasks that give their inputs back (`plugins.echo`)."""

    sleep_duration: Duration = timedelta(0)
    """How long each takes."""


class TaskPluginsConfig(Section):
    """Which plugin runs which task type (`tasks.task-plugins`)."""

    enabled_plugins: tuple[str, ...] = ()
    """Ids of the plugins that may be used; none named means all."""
    default_for_task_types: dict[str, str] = {}


class TasksConfig(Section):
    """The section `tasks`."""

    task_plugins: TaskPluginsConfig = TaskPluginsConfig()
    max_plugin_phase_versions: int = MAX_PHASE_VERSIONS
