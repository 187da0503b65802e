"""What a pod's status means for its task.

The end of the primary container is the end of the task.  A pod that failed is judged by its primary container's exit
code: a plain non-zero code is the user's failure.  Flyte 1 counts such a pod against the system's budget and retries it
three times; `plugins.k8s.plain-failures-as-system` brings that back.
Source: spec/data-plane.md, sections 2.8, 2.9 and 9.2 (23).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo, V1Pod, failed
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.logs import parse_time
from aerodrome.plugins.pods.copilot import has_uploader
from aerodrome.plugins.pods.documents import entries, part
from aerodrome.plugins.pods.targets import PRIMARY_NAME

OOM_KILLED: Final = "OOMKilled"
INTERRUPTED: Final = "Interrupted"

_UNKNOWN: Final = "UnknownError"
_KILLED: Final = frozenset({137, 247})
"""Exit codes of a container that was ended by SIGKILL."""
_INFRASTRUCTURE: Final = frozenset({"Shutdown", "Terminated", "NodeShutdown", "NodeAffinity", "Lost"})
"""Reasons for which the machine, not the task, is to blame; `Lost` is an attempt that left no exit status."""
_HOPELESS: Final = frozenset({"StartError", "UnsatisfiableResources", "SecretNotFound", "SecretUnsafe"})
"""Reasons that another attempt cannot remove."""
_STARTING: Final = frozenset({"ErrImagePull", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class _End:
    """How one container ended, or what it waits for; an end without exit code is one that nobody saw."""

    name: str
    exit_code: int | None
    reason: str
    message: str
    started: bool

    @property
    def out_of_memory(self) -> bool:
        return self.exit_code is not None and OOM_KILLED in self.reason

    @property
    def killed(self) -> bool:
        return self.exit_code in _KILLED

    def described(self) -> str:
        """One line about the end, then the container's last words."""
        if self.exit_code is None:
            line = f"container {self.name} {'left no exit code' if self.started else 'did not start'}"
        elif self.exit_code > 128 and (number := _signal_name(self.exit_code - 128)):
            line = f"container {self.name} was ended by {number} (exit code {self.exit_code})"
        else:
            line = f"container {self.name} exited with code {self.exit_code}"
        if self.reason and self.reason not in ("Error", "Completed"):
            line = f"{line}: {self.reason}"
        return f"{line}\n{self.message.rstrip()}" if self.message.strip() else line


def judge(pod: V1Pod, config: K8sPluginConfig, now: datetime, *, has_logs: bool = False) -> PhaseInfo:
    """The phase of the pod's task at `now`; `has_logs` is whether links to its logs are known."""
    match part(pod, "status").get("phase") or "Pending":
        case "Succeeded":
            info = _succeeded(pod)
        case "Failed":
            info = _failed(pod, config)
        case "Pending":
            info = _pending(pod, config, now)
        case _:
            info = _running(pod, config, has_logs)
    if part(pod, "metadata").get("deletionTimestamp") and not info.phase.terminal:
        name = pod["metadata"].get("name", "")
        info = failed(
            Failure(
                "UnexpectedObjectDeletion",
                f"pod {name} was deleted by someone else while its task was {info.phase.name}",
                ErrorKind.SYSTEM,
                retryable=True,
            )
        )
    return replace(info, occurred_at=_last_change(pod))


def deleted_externally(name: str) -> PhaseInfo:
    """The phase of a task whose pod was started and is not there any more."""
    return failed(
        Failure(
            "ResourceDeletedExternally",
            f"pod {name} was started and does not exist any more: someone else deleted it",
            ErrorKind.SYSTEM,
            retryable=True,
        )
    )


def primary_of(pod: V1Pod) -> str | None:
    """The container whose end is the task's end: the annotated one, else None."""
    name = part(pod, "metadata", "annotations").get(PRIMARY_NAME)
    return str(name) if name else None


def _succeeded(pod: V1Pod) -> PhaseInfo:
    for end in _ends(pod):
        if end.out_of_memory:
            return _retryable(OOM_KILLED, end.described())
    return PhaseInfo(Phase.SUCCEEDED)


def _running(pod: V1Pod, config: K8sPluginConfig, has_logs: bool) -> PhaseInfo:
    running = PhaseInfo(Phase.RUNNING, version=1 if has_logs else 0)
    primary = primary_of(pod)
    if primary is None:
        statuses = list(_statuses(pod))
        over = statuses and all(part(status, "state", "terminated") for status in statuses)
        if over and all(end.exit_code == 0 for end in _ends(pod)):
            return _succeeded(pod)
        return running
    status = next((s for s in entries(pod, "status", "containerStatuses") if s.get("name") == primary), None)
    if status is None:
        known = [container["name"] for container in entries(pod, "spec", "containers")]
        if primary in known:
            return running
        message = f"the pod has no container called {primary}, its primary one; containers: {', '.join(known)}"
        return failed(Failure("PrimaryContainerNotFound", message, ErrorKind.USER, retryable=False))
    state = part(status, "state")
    if not state.get("terminated"):
        return replace(running, reason=_text(part(state, "waiting"), "reason", "message"))
    end = _end(primary, state)
    if end.exit_code == 0 and not end.out_of_memory:
        return running if has_uploader(part(pod, "spec"), config.co_pilot) else PhaseInfo(Phase.SUCCEEDED)
    return _ended(end)


def _ended(end: _End) -> PhaseInfo:
    """The failure of a task whose primary container ended so."""
    if end.reason in _INFRASTRUCTURE or end.exit_code is None:
        return _retryable(INTERRUPTED, end.described(), ErrorKind.SYSTEM)
    if end.reason in _HOPELESS:
        return failed(Failure(end.reason, end.message or end.described(), ErrorKind.USER, retryable=False))
    if end.out_of_memory:
        return _retryable(end.reason, end.described())
    return _retryable(end.reason or "Error", end.described(), ErrorKind.SYSTEM if end.killed else ErrorKind.USER)


def _failed(pod: V1Pod, config: K8sPluginConfig) -> PhaseInfo:
    status = pod["status"]
    reason, primary = str(status.get("reason") or ""), primary_of(pod) or _only_container(pod)
    ends = list(_ends(pod))
    message = "\n".join(filter(None, [_text(status, "reason", "message"), *(end.described() for end in ends)]))
    if reason in _HOPELESS:
        text = str(status.get("message") or "") or message
        return failed(Failure(reason, text, ErrorKind.USER, retryable=False))

    code, system = reason or _UNKNOWN, reason in _INFRASTRUCTURE
    for end in ends:
        if end.out_of_memory:
            code, system = OOM_KILLED, False
        elif end.killed:
            code, system = INTERRUPTED, end.name == primary
    if code == _UNKNOWN and not config.plain_failures_as_system:
        decisive = next((end for end in ends if end.name == primary), None)
        if decisive is None or not decisive.started:  # whatever kept it from running decides
            decisive = next((end for end in ends if end.exit_code), None)
        if decisive is not None and decisive.exit_code == 0 and not has_uploader(part(pod, "spec"), config.co_pilot):
            return PhaseInfo(Phase.SUCCEEDED)
        if decisive is not None and decisive.exit_code:
            if decisive.reason in _INFRASTRUCTURE | _HOPELESS:
                return _ended(decisive)
            return _retryable(decisive.reason or "Error", message)
    if system or code == _UNKNOWN:
        return _retryable(INTERRUPTED, message or "the pod failed and gave no reason", ErrorKind.SYSTEM)
    return _retryable(code, message)


def _pending(pod: V1Pod, config: K8sPluginConfig, now: datetime) -> PhaseInfo:
    info, since = _waiting(pod, config, now)
    since = since or parse_time(part(pod, "metadata").get("creationTimestamp"))
    if not info.phase.terminal and config.pod_pending_timeout and since is not None:
        waited = now - since
        if waited >= config.pod_pending_timeout:
            message = f"the pod has been pending for {_seconds(waited)}: {info.reason or 'no reason was given'}"
            return _retryable("PodPendingTimeout", message, cleanup=True)
    return info


def _waiting(pod: V1Pod, config: K8sPluginConfig, now: datetime) -> tuple[PhaseInfo, datetime | None]:
    """What a pending pod waits for, and since when."""
    status = part(pod, "status")
    latest: datetime | None = None
    for condition in entries(status, "conditions"):
        since = parse_time(condition.get("lastTransitionTime"))
        latest = max(filter(None, (latest, since)), default=None)
        kind, unmet = condition.get("type"), condition.get("status") == "False"
        if kind == "Unschedulable" or (kind == "PodScheduled" and unmet):
            reason = f"{condition.get('reason', '')}:{condition.get('message', '')}"
            return PhaseInfo(Phase.QUEUED, reason=reason), since
        if kind == "Ready" and unmet:
            for container in entries(status, "containerStatuses"):
                waiting = part(container, "state", "waiting")
                if waiting and not container.get("ready"):
                    return _container_waits(condition, waiting, since, config, now), since
    return PhaseInfo(Phase.QUEUED, reason=_text(status, "reason", "message")), latest


def _container_waits(
    condition: Mapping[str, Any],
    waiting: Mapping[str, Any],
    since: datetime | None,
    config: K8sPluginConfig,
    now: datetime,
) -> PhaseInfo:
    reason = str(waiting.get("reason") or "")
    code = f"{condition.get('reason', '')}|{reason}"
    message = f"{condition.get('message', '')}|{waiting.get('message', '')}"
    initializing = PhaseInfo(Phase.INITIALIZING, reason=f"[{code}]: {message}")
    within = timedelta(0) if since is None else now - since

    def unless(grace: timedelta, *, retryable: bool) -> PhaseInfo:
        if within < grace:
            return initializing
        return failed(Failure(code, message, ErrorKind.USER, retryable, cleanup=True))

    match reason:
        case "ImagePullBackOff":
            return unless(config.image_pull_backoff_grace_period, retryable=True)
        case "CreateContainerError":
            return unless(config.create_container_error_grace_period, retryable=False)
        case "CreateContainerConfigError":
            return unless(config.create_container_config_error_grace_period, retryable=False)
        case "InvalidImageName":
            return unless(timedelta(0), retryable=False)
    if reason in _STARTING:
        return initializing
    return _retryable(code, message, ErrorKind.SYSTEM, cleanup=True)


def _retryable(code: str, message: str, kind: ErrorKind = ErrorKind.USER, *, cleanup: bool = False) -> PhaseInfo:
    return failed(Failure(code, message, kind, retryable=True, cleanup=cleanup))


def _statuses(pod: V1Pod) -> Iterator[Mapping[str, Any]]:
    for group in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        yield from entries(pod, "status", group)


def _ends(pod: V1Pod) -> Iterator[_End]:
    """How the containers ended that did not run well: the last end of each, else what it waits for."""
    for status in _statuses(pod):
        state = part(status, "lastState")
        if not state.get("terminated"):
            state = part(status, "state")
        if state.get("terminated") or state.get("waiting"):
            yield _end(str(status.get("name", "")), state)


def _end(name: str, state: Mapping[str, Any]) -> _End:
    terminated = part(state, "terminated")
    source = terminated or part(state, "waiting")
    code = terminated.get("exitCode")
    return _End(
        name,
        None if code is None else int(code),
        str(source.get("reason") or ""),
        str(source.get("message") or ""),
        started=bool(terminated),
    )


def _only_container(pod: V1Pod) -> str | None:
    containers = entries(pod, "spec", "containers")
    return containers[0]["name"] if len(containers) == 1 else None


def _last_change(pod: V1Pod) -> datetime | None:
    """When a container of the pod last started or ended."""
    moments = []
    for status in _statuses(pod):
        for state, moment in (("running", "startedAt"), ("terminated", "startedAt"), ("terminated", "finishedAt")):
            moments.append(parse_time(part(status, "state", state).get(moment)))
    return max((moment for moment in moments if moment is not None), default=None)


def _text(document: Mapping[str, Any], *members: str) -> str:
    """The members that are there, as `reason: message`."""
    return ": ".join(str(document[member]) for member in members if document.get(member))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.0f} s"
