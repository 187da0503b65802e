"""What the local runtime makes of a pod: a plan from its manifest, and a status from what became of it.

Pure.  A pod is a V1Pod in Kubernetes' JSON form.  Source: Kubernetes' pod API as data-plane 2.7 to 2.9 uses it.
"""

from __future__ import annotations

import enum
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aerodrome.plugins import quantity
from aerodrome.plugins.pods import DEFAULTED, GIVES_WAY
from aerodrome.stdlib.errors import InvalidArgument

Pod = dict[str, Any]
"""A V1Pod as Kubernetes writes it in JSON."""

LOG_PATH = "aerodrome/log-path"
WARNING = "aerodrome/warning"
PRIMARY = "primary_container_name"

COPILOT = "/bin/flyte-copilot"
"""What the helper containers of raw containers run."""

STARTED_NOT = 128
"""Exit code of what never ran, as container runtimes report it."""
UNKNOWN_CODE = 137
"""Exit code that stands in for one that nobody saw, as the kubelet reports it."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VARIABLE = re.compile(r"\$(?:\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")
_ORDINARY = frozenset({"cpu", "memory", "ephemeral-storage", "storage"})


class Key(NamedTuple):
    """What names a pod."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Refused(Exception):
    """A pod that can never run here: it fails at once with this reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has to give."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run for a pod."""

    container: str
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str | None
    memory_bytes: int
    """Memory that was asked for, at most what the machine has; 0 if none was."""
    mounts: Mapping[str, str]
    """Volumes that begin empty and live as long as the pod, by the path at which the container expects them."""
    memory_limit_bytes: int
    """Memory that it may use, where that was asked for and is less than the machine has; 0 if there is no limit."""
    warnings: tuple[str, ...]
    grace: timedelta | None
    """The pod's own time between SIGTERM and SIGKILL."""
    gives_way: bool
    """Whether it mostly waits for what it launches, and must not keep that from running."""


class State(enum.Enum):
    """How far an attempt came."""

    QUEUED = enum.auto()
    LAUNCHING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended; times are seconds since the epoch."""

    code: int
    finished: float
    signal: int | None = None
    reason: str | None = None
    """None, OOMKilled, or why the runtime itself ended it or could not run it."""
    message: str | None = None

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Outcome:
        """An outcome as it lies on disk or comes over the wire.  Raises KeyError if it is incomplete."""
        return cls(value["code"], value["finished"], value.get("signal"), value.get("reason"), value.get("message"))

    def written(self) -> dict[str, Any]:
        """The form that `read` takes."""
        return {
            "code": self.code,
            "finished": self.finished,
            "signal": self.signal,
            "reason": self.reason,
            "message": self.message,
        }


def key_of(pod: Pod) -> Key:
    """The pod's namespace and name.  Raises InvalidArgument unless both are DNS names, as Kubernetes wants them."""
    metadata = pod.get("metadata") or {}
    key = Key(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
    for field, value in zip(key._fields, key, strict=True):
        if not _NAME.fullmatch(value) or ".." in value:
            raise InvalidArgument(
                f"metadata.{field} {value[:253]!r} is no DNS name: use lower-case letters, digits, '-' and '.'"
            )
    return key


def primary(pod: Pod) -> dict[str, Any]:
    """The pod's primary container: the annotated one, else the one named as the pod, else the first."""
    containers: list[dict[str, Any]] = (pod.get("spec") or {}).get("containers") or []
    if not containers:
        raise Refused("StartError", "the pod has no containers: give spec.containers at least one entry")
    metadata = pod["metadata"]
    wanted = (metadata.get("annotations") or {}).get(PRIMARY)
    for container in containers:
        if container.get("name") == (wanted or metadata["name"]):
            return container
    if wanted:
        raise Refused("StartError", f"the pod has no container {wanted!r}, which the annotation {PRIMARY} names")
    return containers[0]


def plan(pod: Pod, machine: Machine) -> Plan:
    """What to run for `pod`.  Raises Refused if this machine can never run it."""
    spec = pod.get("spec") or {}
    container = primary(pod)
    annotations = pod["metadata"].get("annotations") or {}
    unasked = annotations.get(DEFAULTED, "").split(",")  # the platform's defaults say nothing on a single machine
    memory, warnings = _resources(container, machine, frozenset(unasked))
    limit = 0 if "memory" in unasked else _memory_limit(container)
    others = [
        each
        for each in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
        if each is not container and not is_copilot(each)
    ]
    if others:
        names = ", ".join(str(other.get("name")) for other in others)
        warnings.append(f"the local runtime runs the primary container only; these are left out: {names}")
    environment = _environment(pod, container, warnings)
    argv = tuple(_expand(str(part), environment) for part in (*_list(container, "command"), *_list(container, "args")))
    if not argv:
        raise Refused(
            "StartError",
            f"the container {container.get('name')!r} has neither command nor args, and the entry point of its image "
            "is not known to the local runtime: give the command",
        )
    grace = spec.get("terminationGracePeriodSeconds")
    if any(is_copilot(each) for each in spec.get("initContainers") or ()):
        grace = None  # it is the time for an upload, which somebody else does after the pod's end
    return Plan(
        container=str(container.get("name") or pod["metadata"]["name"]),
        image=str(container.get("image") or ""),
        argv=argv,
        environment=environment,
        working_dir=container.get("workingDir") or None,
        memory_bytes=memory,
        memory_limit_bytes=limit if limit < machine.memory_bytes else 0,
        mounts=_mounts(spec, container),
        warnings=tuple(warnings),
        grace=None if grace is None else timedelta(seconds=float(grace)),
        gives_way=annotations.get(GIVES_WAY) == "true",
    )


def _list(container: Mapping[str, Any], field: str) -> list[Any]:
    return container.get(field) or []


def _resources(container: Mapping[str, Any], machine: Machine, unasked: frozenset[str]) -> tuple[int, list[str]]:
    """The memory to count for a container in bytes, and what had to be clamped; `unasked` is not the task's own."""
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    asked: dict[str, int] = {}
    for name, text in {**limits, **requests}.items():
        if name in unasked:
            continue
        try:
            asked[name] = math.ceil(quantity.parse(str(text)))
        except ValueError as error:
            raise Refused("StartError", f"the request for {name} is malformed: {error}") from error
    for name, amount in asked.items():
        if amount > 0 and name not in _ORDINARY and not name.startswith("hugepages-"):
            kind = "GPU" if "gpu" in name.lower() else "device"
            raise Refused(
                "UnsatisfiableResources",
                f"the task asks for {amount} x {name}, and the local runtime has no {kind} to give: remove the "
                "request, or run it on a cluster that has one",
            )
    warnings = []
    for name, has in (("cpu", machine.cores), ("memory", machine.memory_bytes)):
        if asked.get(name, 0) > has:
            text = {**limits, **requests}[name]
            warnings.append(f"the request of {name} {text} exceeds this machine's {has}, and was lowered to that")
    return min(asked.get("memory", 0) if "memory" in requests else 0, machine.memory_bytes), warnings


def is_copilot(container: Mapping[str, Any]) -> bool:
    """Whether a container only moves inputs and outputs, which propeller does itself where tasks are processes."""
    return bool((container.get("command") or [""])[0] == COPILOT)


def _mounts(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    empty = {str(volume.get("name")) for volume in spec.get("volumes") or () if "emptyDir" in volume}
    mounted = container.get("volumeMounts") or ()
    return {
        str(mount["mountPath"]).rstrip("/"): str(mount["name"])
        for mount in mounted
        if str(mount.get("name")) in empty
        and _NAME.fullmatch(str(mount["name"]))
        and ".." not in str(mount["name"])
        and str(mount.get("mountPath") or "/").rstrip("/")
    }


def relocated(text: str, places: Mapping[str, str]) -> str:
    """`text` with each path of `places`, where it stands as a whole or begins a longer path, replaced by its place."""
    for path in sorted(places, key=len, reverse=True):
        if path in text:
            place = places[path].replace("\\", r"\\")
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", place, text)
    return text


def _memory_limit(container: Mapping[str, Any]) -> int:
    """What the limit of a container says, which is known to be a quantity; 0 without one."""
    text = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return 0 if text is None else math.ceil(quantity.parse(str(text)))


def _environment(pod: Pod, container: Mapping[str, Any], warnings: list[str]) -> dict[str, str]:
    """The container's variables as the kubelet forms them: the last of a name wins, `$(NAME)` takes earlier ones."""
    environment: dict[str, str] = {}
    for source in _list(container, "envFrom"):
        reference = source.get("configMapRef") or source.get("secretRef") or {}
        if not reference.get("optional"):
            raise Refused(
                "StartError",
                f"envFrom {reference.get('name')!r} names an object of a cluster, which the local runtime does not "
                "have: give the variables by value, or mark it optional",
            )
    for variable in _list(container, "env"):
        name = str(variable["name"])
        source = variable.get("valueFrom")
        if source is None:
            environment[name] = _expand(str(variable.get("value") or ""), environment)
            continue
        field = (source.get("fieldRef") or {}).get("fieldPath", "")
        value = _field(pod, field)
        if value is not None:
            environment[name] = value
        elif (source.get("secretKeyRef") or source.get("configMapKeyRef") or {}).get("optional"):
            warnings.append(f"the variable {name} comes from an object of a cluster, and was left out")
        else:
            raise Refused(
                "StartError",
                f"the variable {name} comes from {next(iter(source), 'nowhere')}, which the local runtime does not "
                "have: give it by value",
            )
    return environment


def _field(pod: Pod, path: str) -> str | None:
    metadata = pod["metadata"]
    if path in ("metadata.name", "metadata.namespace"):
        return str(metadata[path.removeprefix("metadata.")])
    found = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    return None if found is None else str((metadata.get(found[1]) or {}).get(found[2], ""))


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known, `$$` by `$`: the rule of the kubelet."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return _VARIABLE.sub(value, text) if "$" in text else text


@functools.lru_cache(maxsize=1024)  # each phase of a pod shows its earlier times again
def time_text(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes a time."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Situation:
    """What the runtime knows of an attempt."""

    state: State
    container: str
    image: str
    created: float
    started: float | None
    pid: int | None
    outcome: Outcome | None
    note: str
    """What it waits for, while it waits."""


def status(situation: Situation) -> dict[str, Any]:
    """The V1PodStatus that says what is known."""
    state, outcome = situation.state, situation.outcome
    result: dict[str, Any] = {"phase": _phase(situation), "startTime": time_text(situation.created)}
    if state is State.ENDED and outcome is not None and outcome.reason not in (None, "OOMKilled"):
        result["reason"] = outcome.reason
        result["message"] = outcome.message or ""
    result["conditions"] = _conditions(situation)
    result["containerStatuses"] = [] if state is State.QUEUED else [_container(situation)]
    return result


def _phase(situation: Situation) -> str:
    if situation.state is State.RUNNING:
        return "Running"
    if situation.state is not State.ENDED or situation.outcome is None:
        return "Pending"
    return "Failed" if situation.outcome.code or situation.outcome.reason else "Succeeded"


def _conditions(situation: Situation) -> list[dict[str, Any]]:
    created = time_text(situation.created)
    if situation.state is State.QUEUED:
        return [_condition("PodScheduled", False, created, "Unschedulable", situation.note)]
    scheduled = _condition("PodScheduled", True, created)
    if situation.state is State.LAUNCHING:
        return [scheduled, _condition("Ready", False, created, "ContainersNotReady", situation.note)]
    if situation.state is State.RUNNING or situation.outcome is None:
        return [scheduled, _condition("Ready", True, time_text(situation.started or situation.created))]
    completed = "PodCompleted" if situation.outcome.code == 0 else "PodFailed"
    return [scheduled, _condition("Ready", False, time_text(situation.outcome.finished), completed)]


def _condition(kind: str, holds: bool, since: str, reason: str = "", message: str = "") -> dict[str, Any]:
    condition = {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": since}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _container(situation: Situation) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": situation.container,
        "image": situation.image,
        "restartCount": 0,
        "ready": situation.state is State.RUNNING,
        "state": _container_state(situation),
    }
    if situation.pid is not None:
        result["containerID"] = f"process://{situation.pid}"
    return result


def _container_state(situation: Situation) -> dict[str, Any]:
    outcome = situation.outcome
    started = time_text(situation.started if situation.started is not None else situation.created)
    if situation.state is State.RUNNING:
        return {"running": {"startedAt": started}}
    if outcome is None:
        return {"waiting": {"reason": "ContainerCreating", "message": situation.note}}
    reason = {None: "Completed" if outcome.code == 0 else "Error", "OOMKilled": "OOMKilled"}.get(outcome.reason)
    terminated: dict[str, Any] = {
        "exitCode": outcome.code,
        "reason": reason or ("ContainerStatusUnknown" if outcome.reason == "Lost" else "Error"),
        "startedAt": started,
        "finishedAt": time_text(outcome.finished),
    }
    if outcome.reason == "StartError":
        terminated["reason"] = "StartError"
    if outcome.signal is not None:
        terminated["signal"] = outcome.signal
    if outcome.message:
        terminated["message"] = outcome.message
    return {"terminated": terminated}
