"""What a task wants to run, whichever way it says so: a container, a pod, or the older forms of sidecar tasks.

Source: spec/data-plane.md, sections 2.7 (steps 1 to 3) and 5.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flyteidl.core import literals_pb2, tasks_pb2

from aerodrome.plugins import names
from aerodrome.plugins.api import ErrorKind, Failure, PluginError, TaskContext, V1Pod, bad_task
from aerodrome.plugins.pods.documents import check_spec, find_container, from_struct

SIDECAR: Final = "sidecar"
RAW_CONTAINER: Final = "raw-container"
PRIMARY_NAME: Final = "primary_container_name"
"""Key of a task's config, and annotation of its pod: the container whose end is the task's end."""


@dataclass(frozen=True, slots=True)
class Target:
    """The pod spec as its author wrote it, and what belongs to it."""

    spec: V1Pod
    primary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    data_config: tasks_pb2.DataLoadingConfig | None = None
    """Set if helper containers have to move the task's inputs and outputs."""


def read_target(context: TaskContext) -> Target:
    """The task's target with the node's pod-template override applied.  Raises PluginError."""
    target = _own_target(context)
    if context.overrides is None or not context.overrides.HasField("pod_template"):
        return target
    override = context.overrides.pod_template
    spec, primary = target.spec, target.primary
    if override.pod_spec.fields:
        where = f"{context.describe()}: pod_template.pod_spec"
        spec = check_spec(from_struct(override.pod_spec, where), where)
        primary = override.primary_container_name or primary
    _require_primary(context, spec, primary)
    return Target(
        spec,
        primary,
        {**target.labels, **override.metadata.labels},
        {**target.annotations, **override.metadata.annotations},
        target.data_config,
    )


def container_name(generated: str) -> str:
    """Name of a task's only container: the generated name if Kubernetes takes it, else one derived from it."""
    if names.is_dns_label(generated):
        return generated
    return "c" + names.base32(names.fnv1a(generated.encode(), 32).to_bytes(4, "big"))


def _own_target(context: TaskContext) -> Target:
    task = context.task
    match task.WhichOneof("target"):
        case "container":
            return _container_target(context)
        case "k8s_pod":
            return _pod_target(context)
    if task.type == SIDECAR and task.task_type_version in (0, 1):
        return _sidecar_target(context)
    raise PluginError(
        Failure(
            "PluginNotFound",
            f"{context.describe()}: its type {task.type!r} has no plugin of its own here, and it has no container to "
            f"run. Install and enable a plugin for {task.type!r} (tasks.task-plugins.enabled-plugins, "
            f"tasks.task-plugins.default-for-task-types), name a connector that runs it "
            f"(plugins.connector-service.connectors), or give the task a container or a pod",
            ErrorKind.USER,
            retryable=False,
        )
    )


def _container_target(context: TaskContext) -> Target:
    container = context.task.container
    name = container_name(context.generated_name)
    document: dict[str, Any] = {"name": name, "image": container.image}
    if container.command:
        document["command"] = list(container.command)
    if container.args:
        document["args"] = list(container.args)
    if container.env:
        document["env"] = [_variable(pair) for pair in container.env]
    if (resources := declared_resources(container.resources)) != {}:
        document["resources"] = resources
    wanted = container.data_config.enabled
    return Target({"containers": [document]}, name, data_config=container.data_config if wanted else None)


def _pod_target(context: TaskContext) -> Target:
    pod = context.task.k8s_pod
    where = f"{context.describe()}: pod_spec"
    spec = check_spec(from_struct(pod.pod_spec, where), where)
    primary = context.task.config.get(PRIMARY_NAME, "") or pod.primary_container_name
    _require_primary(context, spec, primary)
    return Target(
        spec,
        primary,
        dict(pod.metadata.labels),
        dict(pod.metadata.annotations),
        pod.data_config if pod.data_config.enabled else None,
    )


def _sidecar_target(context: TaskContext) -> Target:
    where = f"{context.describe()}: custom"
    custom = from_struct(context.task.custom, where)
    if context.task.task_type_version == 0:
        spec = check_spec(custom.get("podSpec"), f"{where}.podSpec")
        primary = custom.get("primaryContainerName")
        labels, annotations = (_texts(context, custom, member) for member in ("labels", "annotations"))
    else:
        spec = check_spec(custom, where)
        primary = context.task.config.get(PRIMARY_NAME, "")
        labels, annotations = {}, {}
    _require_primary(context, spec, primary)
    return Target(spec, str(primary), labels, annotations)


def declared_resources(resources: tasks_pb2.Resources) -> dict[str, dict[str, str]]:
    """Resources in Kubernetes' form; members without entries are left out.

    STORAGE is the size of a raw container's volumes and no resource of a container.
    """
    sides = {"requests": resources.requests, "limits": resources.limits}
    named = {
        side: {_RESOURCE_NAMES[entry.name]: entry.value for entry in entries if entry.name in _RESOURCE_NAMES}
        for side, entries in sides.items()
    }
    return {side: entries for side, entries in named.items() if entries}


_RESOURCE_NAMES: Final = {
    tasks_pb2.Resources.CPU: "cpu",
    tasks_pb2.Resources.MEMORY: "memory",
    tasks_pb2.Resources.EPHEMERAL_STORAGE: "ephemeral-storage",
    tasks_pb2.Resources.GPU: "gpu",
}


def _require_primary(context: TaskContext, spec: V1Pod, primary: Any) -> None:
    known = ", ".join(container["name"] for container in spec["containers"])
    if not primary or not isinstance(primary, str):
        raise bad_task(
            f"{context.describe()}: it does not say which container is the primary one "
            f"({PRIMARY_NAME} in the task's config); containers: {known}"
        )
    if find_container(spec, primary) is None:
        raise bad_task(
            f"{context.describe()}: no container is called {primary!r}, the primary one; containers: {known}"
        )


def _texts(context: TaskContext, custom: Mapping[str, Any], member: str) -> dict[str, str]:
    value = custom.get(member) or {}
    if not isinstance(value, Mapping):
        raise bad_task(f"{context.describe()}: custom.{member} has to be an object")
    return {key: str(text) for key, text in value.items()}


def _variable(pair: literals_pb2.KeyValuePair) -> dict[str, str]:
    return {"name": pair.key, "value": pair.value}
