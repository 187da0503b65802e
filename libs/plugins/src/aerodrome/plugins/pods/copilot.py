"""Helper containers for raw containers: one downloads the inputs as files, one uploads what the task wrote.

The uploader is a native sidecar that starts before everything else; when the primary container ends, the kubelet's
SIGTERM starts the upload.  Credentials are not put on the helpers' command lines (a pod spec must not hold secret
values): they come from the service account or from `storage_environment`.  Source: spec/data-plane.md, section 2.11.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flyteidl.core import tasks_pb2

from aerodrome.plugins import quantity
from aerodrome.plugins.api import TaskContext, V1Pod, failed_to_build
from aerodrome.plugins.config import CoPilotConfig
from aerodrome.plugins.pods.documents import find_container

DOWNLOADER: Final = "downloader"
UPLOADER: Final = "uploader"


@dataclass(frozen=True, slots=True)
class CoPilotStorage:
    """How the helpers reach the object store."""

    arguments: Sequence[str] = ()
    """Flags such as `--storage.container=bucket`; no secret values."""
    environment: Sequence[Mapping[str, Any]] = ()
    """Kubernetes `envFrom` sources that hold the credentials."""
    log_level: int = 4


def add_helpers(
    spec: V1Pod,
    primary: str,
    data: tasks_pb2.DataLoadingConfig,
    context: TaskContext,
    config: CoPilotConfig,
    storage: CoPilotStorage,
) -> None:
    """Add volumes and helper containers to `spec`.  Raises PluginError."""
    container = find_container(spec, primary)
    if container is None:
        raise failed_to_build(f"{context.describe()}: no container is called {primary!r}, which should get its inputs")
    interface = context.task.interface
    mounts: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    size = _volume_size(context, config)
    init = list(spec.get("initContainers", ()))

    if interface.inputs.variables:
        path = data.input_path or config.default_input_path
        mount = {"name": config.input_vol_name, "mountPath": path}
        mounts.append(mount)
        volumes.append(_volume(config.input_vol_name, size))
        arguments = (
            "download",
            "--from-remote", context.inputs_path,
            "--to-output-prefix", context.output_prefix,
            "--to-local-dir", path,
            "--format", tasks_pb2.DataLoadingConfig.LiteralMapFormat.Name(data.format),
            "--input-interface", _encoded(interface.inputs.SerializeToString(deterministic=True)),
        )  # fmt: skip
        init.append(_helper(DOWNLOADER, arguments, mount, config, storage))

    if interface.outputs.variables:
        path = data.output_path or config.default_output_path
        mount = {"name": config.output_vol_name, "mountPath": path}
        mounts.append(mount)
        volumes.append(_volume(config.output_vol_name, size))
        arguments = (
            "sidecar",
            "--timeout", f"{int(config.timeout.total_seconds())}s",
            "--to-raw-output", context.raw_output_prefix,
            "--to-output-prefix", context.output_prefix,
            "--from-local-dir", path,
            "--interface", _encoded(interface.SerializeToString(deterministic=True)),
        )  # fmt: skip
        helper = _helper(UPLOADER, arguments, mount, config, storage)
        init.insert(0, {**helper, "restartPolicy": "Always"})
        spec["terminationGracePeriodSeconds"] = int(config.timeout.total_seconds())

    if mounts:
        container["volumeMounts"] = [*container.get("volumeMounts", ()), *mounts]
        spec["volumes"] = [*spec.get("volumes", ()), *volumes]
        spec["initContainers"] = init


def has_uploader(spec: Mapping[str, Any], config: CoPilotConfig) -> bool:
    """Whether the pod's outputs are there only once the whole pod has ended."""
    return any(container.get("name") == f"{config.name}{UPLOADER}" for container in spec.get("initContainers", ()))


def _helper(
    kind: str, arguments: Sequence[str], mount: Mapping[str, Any], config: CoPilotConfig, storage: CoPilotStorage
) -> dict[str, Any]:
    size = {"cpu": config.cpu, "memory": config.memory}
    helper: dict[str, Any] = {
        "name": f"{config.name}{kind}",
        "image": config.image,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": "/",
        "command": [
            "/bin/flyte-copilot",
            "--storage.limits.maxDownloadMBs=0",
            f"--logger.level={storage.log_level}",
            *storage.arguments,
        ],
        "args": list(arguments),
        "resources": {"requests": dict(size), "limits": dict(size)},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [dict(mount)],
    }
    if storage.environment:
        helper["envFrom"] = [dict(source) for source in storage.environment]
    return helper


def _volume(name: str, size: str) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"sizeLimit": size} if size else {}}


def _volume_size(context: TaskContext, config: CoPilotConfig) -> str:
    """Size limit of the volumes: the STORAGE limit, else request, of the node's override, else the configured one."""
    if context.overrides is None:
        return config.storage
    sides = (context.overrides.resources.limits, context.overrides.resources.requests)
    sizes = [entry.value for side in sides for entry in side if entry.name == tasks_pb2.Resources.STORAGE]
    if not sizes:
        return config.storage
    try:
        quantity.parse(sizes[0])
    except ValueError as error:
        raise failed_to_build(f"{context.describe()}: storage: {error}") from error
    return sizes[0]


def _encoded(message: bytes) -> str:
    return b64encode(message).decode("ascii")
