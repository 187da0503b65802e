"""Links from a task to its logs: the local runtime's own, the cluster's, and templates that administrators write.

Source: spec/data-plane.md, section 2.12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flyteidl.core import execution_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.plugins.api import LogUri, TaskContext, V1Pod
from aerodrome.plugins.config import LogConfig, LogTemplateConfig
from aerodrome.plugins.pods.documents import entries, part
from aerodrome.plugins.pods.environment import LINK_TYPE
from aerodrome.plugins.pods.targets import PRIMARY_NAME

LOG_PATH: Final = "aerodrome/log-path"
"""Annotation of a pod on the local runtime: the file that its output goes to."""

_VARIABLE: Final = re.compile(r"\{\{\s*[.$](?P<name>taskConfig\.[^}\s]+|[A-Za-z0-9]+)\s*\}\}", re.IGNORECASE)
_TASK_CONFIG: Final = "taskconfig."
_DASHBOARD: Final = "http://localhost:30082"
_KUBERNETES: Final = "/#!/log/{{ .namespace }}/{{ .podName }}/pod?namespace={{ .namespace }}"
_CLOUDWATCH: Final = (
    "https://console.aws.amazon.com/cloudwatch/home?region=%s#logEventViewer:group=%s;"
    "stream=var.log.containers.{{ .podName }}_{{ .namespace }}_{{ .containerName }}-{{ .containerId }}.log"
)
_STACKDRIVER: Final = (
    "https://console.cloud.google.com/logs/viewer?project=%s&angularJsUrl=%%2Flogs%%2Fviewer%%3Fproject%%3D%s"
    "&resource=%s&advancedFilter=resource.labels.pod_name%%3D{{ .podName }}"
)


@dataclass(frozen=True, slots=True)
class LogLinks:
    """Makes the links of a pod."""

    config: LogConfig
    log_uri: LogUri | None = None
    """Address of a local log file.  Where it is set, pods are local: no cluster's log service has anything of them."""
    suffix: str = " (User)"
    """Ends the names of the links to the pod's containers."""

    def of(self, context: TaskContext, pod: V1Pod, now: datetime) -> tuple[execution_pb2.TaskLog, ...]:
        """The links of the pod's first container, in every phase; those to a local log file once it exists."""
        path = part(pod, "metadata", "annotations").get(LOG_PATH)
        links = [] if path or self.log_uri is not None else list(_cluster_links(self.config))
        links.extend(_chosen(self.config, context))
        variables = _variables(context, pod, now) if links else {}
        logs = [link.rendered(variables, self.suffix) for link in links]
        if path and self.log_uri is not None:
            logs.insert(0, execution_pb2.TaskLog(name="Logs", uri=self.log_uri(context, path)))
        return tuple(logs)


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    uri: str
    message_format: int = execution_pb2.TaskLog.UNKNOWN
    show_while_pending: bool = False
    hide_once_finished: bool = False
    task_config: bool = False
    """Whether the task's config may be part of the address."""

    def rendered(self, variables: Mapping[str, str], suffix: str) -> execution_pb2.TaskLog:
        known = (
            variables
            if self.task_config
            else {name: value for name, value in variables.items() if not name.startswith(_TASK_CONFIG)}
        )
        return execution_pb2.TaskLog(
            name=f"{self.name}{suffix}",
            uri=_VARIABLE.sub(lambda match: known.get(match["name"].lower(), match[0]), self.uri),
            message_format=execution_pb2.TaskLog.MessageFormat.Name(self.message_format),
            ShowWhilePending=self.show_while_pending,
            HideOnceFinished=self.hide_once_finished,
        )


def log_context(pod: V1Pod) -> execution_pb2.LogContext:
    """Which pod and containers the logs come from, and when each container ran."""
    metadata, spec, status = (part(pod, name) for name in ("metadata", "spec", "status"))
    return execution_pb2.LogContext(
        primary_pod_name=metadata.get("name", ""),
        pods=[
            execution_pb2.PodLogContext(
                namespace=metadata.get("namespace", ""),
                pod_name=metadata.get("name", ""),
                primary_container_name=part(metadata, "annotations").get(PRIMARY_NAME, ""),
                containers=_containers(entries(spec, "containers"), entries(status, "containerStatuses")),
                init_containers=_containers(entries(spec, "initContainers"), entries(status, "initContainerStatuses")),
            )
        ],
    )


def parse_time(text: Any) -> datetime | None:
    """A time as Kubernetes writes it (RFC 3339), aware; None for what is absent or unreadable."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _containers(
    specs: Sequence[Mapping[str, Any]], statuses: Sequence[Mapping[str, Any]]
) -> Iterator[execution_pb2.ContainerContext]:
    by_name = {status.get("name"): part(status, "state") for status in statuses}
    for container in specs:
        state = by_name.get(container["name"], {})
        terminated = part(state, "terminated")
        started = parse_time(terminated.get("startedAt") or part(state, "running").get("startedAt"))
        yield execution_pb2.ContainerContext(
            container_name=container["name"],
            process=execution_pb2.ContainerContext.ProcessContext(
                container_start_time=_timestamp(started),
                container_end_time=_timestamp(parse_time(terminated.get("finishedAt"))),
            ),
        )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _cluster_links(config: LogConfig) -> Iterator[_Link]:
    if config.kubernetes_enabled:
        base = (config.kubernetes_url or _DASHBOARD).rstrip("/")
        yield _Link("Kubernetes Logs", config.kubernetes_template_uri or f"{base}{_KUBERNETES}")
    if config.cloudwatch_enabled:
        default = _CLOUDWATCH % (config.cloudwatch_region, config.cloudwatch_log_group)
        yield _Link("Cloudwatch Logs", config.cloudwatch_template_uri or default)
    if config.stackdriver_enabled:
        project, resource = config.gcp_project, config.stackdriver_logresourcename
        yield _Link("Stackdriver Logs", config.stackdriver_template_uri or _STACKDRIVER % (project, project, resource))


def _chosen(config: LogConfig, context: TaskContext) -> Iterator[_Link]:
    """The links that administrators wrote for every task, then those that the task chose."""
    for template in config.templates:
        yield from _of_template(template)
    for name in context.task.config.get(LINK_TYPE, "").split(","):
        if (chosen := config.dynamic_log_links.get(name.strip())) is not None:
            yield from _of_template(chosen)


def _of_template(template: LogTemplateConfig) -> Iterator[_Link]:
    for dynamic, uris in ((False, template.template_uris), (True, template.dynamic_template_uris)):
        for uri in uris:
            yield _Link(
                template.display_name,
                uri,
                _message_format(template.message_format),
                template.show_while_pending,
                template.hide_once_finished,
                dynamic,
            )


def _message_format(value: str | int) -> int:
    return value if isinstance(value, int) else execution_pb2.TaskLog.MessageFormat.Value(value.upper())


def _variables(context: TaskContext, pod: V1Pod, now: datetime) -> dict[str, str]:
    metadata, spec, status = (part(pod, name) for name in ("metadata", "spec", "status"))
    container: Mapping[str, Any] = next(iter(entries(spec, "containers")), {})
    name = container.get("name", "")
    state: Mapping[str, Any] = next((s for s in entries(status, "containerStatuses") if s.get("name") == name), {})
    started = parse_time(metadata.get("creationTimestamp")) or parse_time(status.get("startTime")) or now
    execution, task = context.execution_id, context.task
    values = {
        "logName": name,
        "podName": metadata.get("name", ""),
        "podUID": metadata.get("uid", ""),
        "namespace": metadata.get("namespace", ""),
        "containerName": name,
        "containerID": str(state.get("containerID", "")).rpartition("://")[2],
        "hostname": spec.get("hostname", ""),
        "nodeName": spec.get("nodeName", ""),
        "podRFC3339StartTime": _rfc3339(started),
        "podRFC3339FinishTime": _rfc3339(now),
        "podUnixStartTime": str(int(started.timestamp())),
        "podUnixFinishTime": str(int(now.timestamp())),
        "taskID": task.id.name,
        "taskVersion": task.id.version,
        "taskProject": task.id.project,
        "taskDomain": task.id.domain,
        "taskRetryAttempt": str(context.attempt),
        "nodeID": context.node_id,
        "executionName": execution.name,
        "executionProject": execution.project,
        "executionDomain": execution.domain,
        "generatedName": context.generated_name,
        **{f"{_TASK_CONFIG}{key}": value for key, value in task.config.items()},
    }
    return {name.lower(): str(value) for name, value in values.items()}


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
