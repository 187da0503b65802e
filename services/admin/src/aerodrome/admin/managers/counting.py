"""Counts what the control plane records, under the names that dashboards of Flyte read.

What the reference has and this control plane does not do is not shown: `transformer_error` and `unexpected_data_error`
(rows are folded, not transformed back), `missing_task_definition` (an event needs none).
Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

from collections.abc import Mapping

from aerodrome.admin.domain.announcing import EVENT_TOPICS
from aerodrome.admin.domain.phases import NODE_NAMES, TASK_NAMES
from aerodrome.admin.managers.recording import Told
from aerodrome.stdlib.postgres.outbox import Outgoing, Publish
from aerodrome.stdlib.telemetry import Histogram, Metrics, StopWatch

SIZE_BUCKETS = tuple(float(4**power) for power in range(4, 13))
"""Upper bounds in bytes, from 256 bytes to 16 MiB."""
MAX_PLACES = 500
"""Projects and domains that have metrics of their own."""
_OTHER = ("other", "other")
_MANAGERS = {"workflow": "execution_manager", "node": "node_execution_manager", "task": "task_execution_manager"}
_DERIVED: Mapping[str, str] = {
    "node_execution_manager:missing_workflow_execution": "admin:create_node_execution_event:codes:NotFound",
    "task_execution_manager:missing_node_execution": "admin:create_task_execution_event:codes:NotFound",
    "execution_manager:execution_termination_failure": "admin:terminate_execution:errors",
    "launch_plan_manager:failed_schedule_updates": "admin:update_launch_plan:errors",
    "signal_manager:num_set": "signal:set_signal:success",
    "builder:flytepropeller:build_failures": "execution_manager:propeller_failures",
}
"""What is counted already under another name, below `admin:`."""


class Places:
    """Stopwatches by project and domain, which the reference has in the names rather than as labels."""

    def __init__(self, metrics: Metrics, *, scope: str) -> None:
        self._metrics = metrics
        self._scope = f"{scope}admin:execution_manager"
        self._known: dict[tuple[str, str, str], StopWatch] = {}

    def ended(self, project: str, domain: str, seconds: float) -> None:
        """An execution is over, so long after it began."""
        self._watch(project, domain, "workflow_execution_duration").observe(seconds)

    def scheduled(self, project: str, domain: str, seconds: float) -> None:
        """A schedule's execution was made, so long after its time."""
        self._watch(project, domain, "scheduled_execution_delay").observe(max(seconds, 0.0))

    def _watch(self, project: str, domain: str, what: str) -> StopWatch:
        known = self._known.get((project, domain, what))
        if known is None:
            if len(self._known) >= 2 * MAX_PLACES:
                project, domain = _OTHER
            known = self._metrics.stopwatch(f"{self._scope}:{project}:{domain}:{what}", unit="ns")
            self._known[project, domain, what] = known
        return known


class JournalCounters:
    """Counts events that were accepted and what ended by them, whoever reported them; `scope` as `flyte:`."""

    def __init__(self, metrics: Metrics, *, scope: str) -> None:
        prefix = f"{scope}admin"
        nodes, tasks = f"{prefix}:node_execution_manager", f"{prefix}:task_execution_manager"
        self._places = Places(metrics, scope=scope)
        self._workflow_events = metrics.counter(f"{prefix}:execution_manager:execution_events_created")
        self._node_events = metrics.counter(f"{nodes}:node_execution_events_created")
        self._task_events = metrics.counter(f"{tasks}:task_execution_events_created")
        self._terminated = metrics.counter(f"{prefix}:execution_manager:executions_terminated", ("phase",))
        self._nodes_begun = metrics.counter(f"{nodes}:node_executions_created")
        self._tasks_begun = metrics.counter(f"{tasks}:task_executions_created")
        self._nodes_ended = metrics.counter(f"{nodes}:node_executions_terminated", ("phase",))
        self._tasks_ended = metrics.counter(f"{tasks}:task_executions_terminated", ("phase",))
        self._node_bytes = metrics.histogram(
            f"{nodes}:closure_size_bytes", buckets=SIZE_BUCKETS, description="Of a sample of what is written"
        )
        self._task_bytes = metrics.histogram(
            f"{tasks}:closure_size_bytes", buckets=SIZE_BUCKETS, description="Of a sample of what is written"
        )
        created = metrics.counter(f"{prefix}:execution_manager:executions_created")
        failed = metrics.counter(f"{prefix}:execution_manager:propeller_failures")
        metrics.observed(f"{prefix}:builder:flytepropeller:build_successes", lambda: created.value() - failed.value())
        for name, source in _DERIVED.items():
            metrics.observed(f"{prefix}:{name}", metrics.counter(f"{prefix}:{source}").value)

    def told(self, told: Told) -> None:
        """Take note of a group that was committed."""
        self._workflow_events.add(told.workflow_events)
        self._node_events.add(told.node_events)
        self._task_events.add(told.task_events)
        self._nodes_begun.add(told.nodes_begun)
        self._tasks_begun.add(told.tasks_begun)
        for phase, count in told.nodes_ended.items():
            self._nodes_ended.add(count, phase=NODE_NAMES[phase])
        for phase, count in told.tasks_ended.items():
            self._tasks_ended.add(count, phase=TASK_NAMES[phase])
        for size_bytes in told.node_bytes:
            self._node_bytes.observe(size_bytes)
        for size_bytes in told.task_bytes:
            self._task_bytes.observe(size_bytes)
        for name in told.ended_in:
            self._terminated.add(phase=name)
        for project, domain, seconds in told.lasted:
            self._places.ended(project, domain, seconds)


class Sizes:
    """How large inputs and outputs are that are asked for; the inputs of executions are counted when they are made."""

    def __init__(self, metrics: Metrics, *, scope: str) -> None:
        def sizes(manager: str, what: str) -> Histogram:
            return metrics.histogram(f"{scope}admin:{manager}:{what}_size_bytes", buckets=SIZE_BUCKETS)

        def both(manager: str) -> _Shown:
            return _Shown(sizes(manager, "output"), sizes(manager, "input"))

        self.execution = _Shown(sizes("user_execution_metrics", "output"))
        self.node = both("node_execution_manager")
        self.task = both("task_execution_manager")


class _Shown:
    def __init__(self, *what: Histogram) -> None:
        self._what = what

    def shown(self, *size_bytes: int) -> None:
        """They were shown; what there is none of yet has no bytes."""
        for histogram, size in zip(self._what, size_bytes, strict=True):
            histogram.observe(size)


def counting_failures(publish: Publish, metrics: Metrics, *, scope: str) -> Publish:
    """`publish`, whose failures are counted: by kind for events, together for all else."""
    by_topic = {
        EVENT_TOPICS[kind]: metrics.counter(f"{scope}admin:{manager}:publish_event_error")
        for kind, manager in _MANAGERS.items()
    }
    others = metrics.counter(f"{scope}admin:execution_manager:publish_error")

    async def publishing(message: Outgoing) -> None:
        try:
            await publish(message)
        except Exception:
            by_topic.get(message.topic, others).add()
            raise

    return publishing
