"""The plugin for everything that runs as one pod: `container`, `python-task`, `raw-container` and `sidecar` tasks.

It is also the default: a task of any other type that has a container runs as that.
Source: spec/data-plane.md, sections 2.7 to 2.9, 5.5 and 5.6.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from aerodrome.plugins import names
from aerodrome.plugins.api import PhaseInfo, Reason, TaskContext, V1Pod
from aerodrome.plugins.config import LogConfig
from aerodrome.plugins.logs import LogLinks, log_context
from aerodrome.plugins.pods import PodSettings, build_pod
from aerodrome.plugins.status import judge
from aerodrome.stdlib.clock import Clock, SystemClock

WARNING: Final = "aerodrome/warning"
"""Annotation in which a runtime says what it could not do as asked, such as a request beyond the machine."""

CONTAINER_TYPES: Final = frozenset({"container", "python-task", "raw-container"})
SIDECAR_TYPES: Final = frozenset({"sidecar"})


@dataclass(frozen=True, slots=True)
class ContainerPlugin:
    """Builds pods and reads their status; the same pod runs on Kubernetes and on the local runtime."""

    settings: PodSettings = field(default_factory=PodSettings)
    links: LogLinks = field(default_factory=lambda: LogLinks(LogConfig()))
    clock: Clock = field(default_factory=SystemClock)
    id: str = "container"
    task_types: frozenset[str] = CONTAINER_TYPES | SIDECAR_TYPES
    max_generated_name: int = names.MAX_GENERATED_NAME

    def build(self, context: TaskContext) -> V1Pod:
        """The pod of one attempt.  Raises PluginError if the task cannot be run as it is."""
        return build_pod(context, self.settings)

    def phase(self, context: TaskContext, pod: V1Pod) -> PhaseInfo:
        """What the pod's status means at this moment, with links to its logs."""
        now = self.clock.now()
        logs = self.links.of(context, pod, now)
        info = judge(pod, self.settings.config, now, has_logs=bool(logs))
        warning = pod.get("metadata", {}).get("annotations", {}).get(WARNING)
        return replace(
            info,
            logs=logs,
            log_context=log_context(pod),
            additional_reasons=(Reason(str(warning)),) if warning else (),
        )
