"""Accelerators and shared memory that a task asks for.

Source: spec/data-plane.md, section 2.7 (extended resources).
"""

from __future__ import annotations

from typing import Any, Final

from flyteidl.core import tasks_pb2

from aerodrome.plugins import quantity
from aerodrome.plugins.api import TaskContext, V1Pod, bad_task
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.documents import containers_of, find_container, quantity_text
from aerodrome.plugins.pods.scheduling import require_node, tolerate

_SHARED_MEMORY_NAME: Final = "flyte-shared-memory"
_SHARED_MEMORY_PATH: Final = "/dev/shm"


def extend(spec: V1Pod, primary: str, context: TaskContext, config: K8sPluginConfig) -> None:
    """Complete `spec` with what the task's extended resources need.  Raises PluginError."""
    wanted = wanted_resources(context)
    if wanted.HasField("gpu_accelerator") and _has_gpu(spec, config):
        _accelerate(spec, wanted.gpu_accelerator, config)
    if wanted.HasField("shared_memory"):
        _share_memory(spec, primary, wanted.shared_memory, context)
    for resource in config.add_tolerations_for_extended_resources:
        if any(resource in container.get("resources", {}).get("requests", {}) for container in containers_of(spec)):
            tolerate(spec, {"key": resource, "operator": "Exists", "effect": "NoSchedule"})


def wanted_resources(context: TaskContext) -> tasks_pb2.ExtendedResources:
    """The task's extended resources; each part that the node overrides is the node's."""
    wanted = tasks_pb2.ExtendedResources()
    wanted.CopyFrom(context.task.extended_resources)
    if context.overrides is not None:
        for part in ("gpu_accelerator", "shared_memory"):
            if context.overrides.extended_resources.HasField(part):
                getattr(wanted, part).CopyFrom(getattr(context.overrides.extended_resources, part))
    return wanted


def _has_gpu(spec: V1Pod, config: K8sPluginConfig) -> bool:
    return any(
        config.gpu_resource_name in container.get("resources", {}).get("limits", {})
        for container in containers_of(spec)
    )


def _accelerate(spec: V1Pod, accelerator: tasks_pb2.GPUAccelerator, config: K8sPluginConfig) -> None:
    device_label, partition_label = config.gpu_device_node_label, config.gpu_partition_size_node_label
    if accelerator.device:
        require_node(spec, {"key": device_label, "operator": "In", "values": [accelerator.device]})
        tolerate(spec, _equals(device_label, accelerator.device))
    match accelerator.WhichOneof("partition_size_value"):
        case "partition_size":
            require_node(spec, {"key": partition_label, "operator": "In", "values": [accelerator.partition_size]})
            tolerate(spec, _equals(partition_label, accelerator.partition_size))
        case "unpartitioned" if accelerator.unpartitioned:
            require_node(
                spec,
                config.gpu_unpartitioned_node_selector_requirement
                or {"key": partition_label, "operator": "DoesNotExist"},
            )
            if config.gpu_unpartitioned_toleration:
                tolerate(spec, config.gpu_unpartitioned_toleration)


def _equals(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}


def _share_memory(spec: V1Pod, primary: str, wanted: tasks_pb2.SharedMemory, context: TaskContext) -> None:
    name, path = wanted.mount_name or _SHARED_MEMORY_NAME, wanted.mount_path or _SHARED_MEMORY_PATH
    container = find_container(spec, primary)
    if container is None:
        raise bad_task(f"{context.describe()}: no container is called {primary!r}, which should get shared memory")
    empty_dir = {"medium": "Memory"}
    if wanted.size_limit:
        try:
            quantity.parse(wanted.size_limit)
        except ValueError as error:
            raise bad_task(f"{context.describe()}: shared memory: {error}") from error
        empty_dir["sizeLimit"] = quantity_text(wanted.size_limit)
    for volume in spec.get("volumes", ()):
        if volume.get("name") == name:
            raise bad_task(f"{context.describe()}: shared memory: the pod has a volume called {name!r} already")
    for mount in container.get("volumeMounts", ()):
        if name == mount.get("name") or path == mount.get("mountPath"):
            raise bad_task(
                f"{context.describe()}: shared memory: container {primary!r} mounts {mount.get('name')!r} at "
                f"{mount.get('mountPath')!r} already"
            )
    spec["volumes"] = [*spec.get("volumes", ()), {"name": name, "emptyDir": empty_dir}]
    container["volumeMounts"] = [*container.get("volumeMounts", ()), {"name": name, "mountPath": path}]
