"""What a data plane counts and times, under the names that dashboards of Flyte read.

Everything is taken from what the engine decides: each of its steps is looked at once, and what it holds is recorded
together.  What only the reference's way of working has (a queue of workflows, rewritten resources) is shown as what is
nearest here, or not at all: docs/operating.md says which.  Source: spec/data-plane.md, section 7.4.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeAlias

from flyteidl.core import catalog_pb2

from aerodrome.plugins.api import ErrorKind
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.phases import TERMINAL, NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    ItemTransition,
    NodeState,
    NodeTransition,
    Prepare,
    Step,
    TaskTransition,
    WorkflowTransition,
)
from aerodrome.stdlib.telemetry import BoundStopWatch, Metrics, StopWatch

Times: TypeAlias = defaultdict[str, list[float]]
"""Durations in seconds by the name of what took so long."""

LABELS = ("project", "domain", "wf")

_DISCOVERY: Mapping[int, str] = {
    catalog_pb2.CACHE_HIT: "hit",
    catalog_pb2.CACHE_MISS: "miss",
    catalog_pb2.CACHE_SKIPPED: "skip",
    catalog_pb2.CACHE_POPULATED: "put_success",
    catalog_pb2.CACHE_PUT_FAILURE: "put_failure",
    catalog_pb2.CACHE_LOOKUP_FAILURE: "get_failure",
}
_KINDS: Mapping[ErrorKind, str] = {kind: kind.name.lower() for kind in ErrorKind}
_ENDS = frozenset({TaskPhase.SUCCEEDED, TaskPhase.FAILED, TaskPhase.RETRYABLE_FAILED, TaskPhase.ABORTED})
_LATENCIES = (
    "workflow:acceptance_latency", "workflow:completion_latency", "workflow:success_duration",
    "workflow:failure_duration", "workflow:event_recording:success_duration",
    "workflow:event_recording:failure_duration", "node:transition_latency", "node:queueing_latency",
    "node:success_duration", "node:failure_duration", "node:task:plugin_queue_latency", "node:task:plugin_exec_latency",
    "round:round_time",
)  # fmt: skip


class Measures:
    """Of all executions that a process drives; `prefix` as in `flyte`."""

    def __init__(self, metrics: Metrics, *, prefix: str = "flyte") -> None:
        scope = f"{prefix}:propeller:all"
        self._driven: set[ExecutionMeasures] = set()
        self.watches: Mapping[str, StopWatch] = {
            name: metrics.stopwatch(f"{scope}:{name}", LABELS, unlabelled=True) for name in _LATENCIES
        }
        kinds = (*_KINDS.values(), *(f"perma_{kind}" for kind in _KINDS.values()))
        self.failures: Mapping[str, StopWatch] = {
            kind: metrics.stopwatch(f"{scope}:node:{kind}_error_duration", LABELS, unlabelled=True) for kind in kinds
        }
        self.accepted = metrics.counter(f"{scope}:workflow:accepted")
        self.aborted = metrics.counter(f"{scope}:workflow:workflow_aborted")
        self.rounds = metrics.counter(
            f"{scope}:round:round_total", description="Times that an execution was gone on with"
        )
        self.panics = metrics.counter(f"{scope}:round:panic", description="Executions that a defect held up")
        self.system_errors = metrics.counter(f"{scope}:round:system_error", description="Executions not even readable")
        self.enqueued = metrics.counter(f"{scope}:wf_enqueue", description="Leases that were taken")
        self.redundant = metrics.counter(f"{scope}:wf_redundant", description="Leases that were held already")
        self.stale = metrics.counter(f"{scope}:wf_stale", description="Executions given up before their end")
        self.tasks = metrics.counter(f"{scope}:node:task:attempts", ("tasktype", "phase"), description="Ended attempts")
        self.items = metrics.counter(f"{scope}:node:array:items", ("phase",), description="Changes of map items")
        self.discoveries = {
            status: metrics.counter(f"{scope}:node:discovery_{name}_count") for status, name in _DISCOVERY.items()
        }
        self._active = {
            what: metrics.gauge(f"{scope}:execstats:active_{what}_executions") for what in ("workflow", "node", "task")
        }
        self._collected = metrics.gauge(f"{scope}:collector:flyteworkflow", ("project", "domain"))
        self._metrics = metrics
        self._scope = scope
        metrics.before_read(self._refresh)

    def watch_depths(self, depths: Mapping[str, Callable[[], float]]) -> None:
        """Show these as gauges, by their names below the scope."""
        for name, read in depths.items():
            self._metrics.observed(f"{self._scope}:{name}", read)

    def execution(self, project: str, domain: str, workflow: str, accepted_at: float) -> ExecutionMeasures:
        """Those of an execution that is driven from now on, until its `end`; times are seconds since 1970."""
        made = ExecutionMeasures(self, {"project": project, "domain": domain, "wf": workflow}, accepted_at)
        self._driven.add(made)
        self._collected.add(1, project=project, domain=domain)
        return made

    def forget(self, measures: ExecutionMeasures) -> None:
        """It is driven no longer."""
        if measures in self._driven:
            self._driven.remove(measures)
            self._collected.add(-1, project=measures.labels["project"], domain=measures.labels["domain"])

    def _refresh(self) -> None:
        driven = list(self._driven)  # the loop changes it while another thread reads
        self._active["workflow"].set(len(driven))
        self._active["node"].set(sum(len(each.live) for each in driven))
        self._active["task"].set(sum(len(each.running) for each in driven))


class ExecutionMeasures:
    """Of one execution."""

    def __init__(self, measures: Measures, labels: Mapping[str, str], accepted_at: float) -> None:
        self.labels = labels
        self.live: set[NodeState] = set()
        """Nodes that have begun and not ended."""
        self.running: dict[NodeState, tuple[float, bool]] = {}
        """Attempts that are under way: since when, and whether they run rather than wait."""
        self._all = measures
        self._accepted_at = accepted_at
        self._ready: dict[NodeState, float] = {}
        """Since when nothing upstream keeps a node from being prepared."""
        self._last_end = accepted_at
        self._bound: dict[str, BoundStopWatch] = {}
        self._round_began = time.perf_counter()

    def restored(self, engine: Engine) -> None:
        """The execution goes on from what an earlier holder has left."""
        for node in engine.root.walk():
            if node.live:
                self.live.add(node)
                if node.task_phase is not TaskPhase.UNDEFINED and node.task_phase not in _ENDS:
                    self.running[node] = (node.attempt_at, node.task_phase is TaskPhase.RUNNING)

    def end(self) -> None:
        """It is not driven any more."""
        self._all.forget(self)

    def round_ended(self) -> None:
        """Nothing is left to be done until something happens."""
        self._all.rounds.add()
        self._observe("round:round_time", [time.perf_counter() - self._round_began])

    def round_began(self) -> None:
        """Something has happened."""
        self._round_began = time.perf_counter()

    def recorded(self, seconds: float, *, applied: bool) -> None:
        """The journal has answered an append."""
        outcome = "success" if applied else "failure"
        self._observe(f"workflow:event_recording:{outcome}_duration", [seconds])

    def keep(self, step: Step) -> None:
        """Look at a step of the engine."""
        if step.free:
            now = time.time()
            for command in step.free:
                if isinstance(command, Prepare):
                    self._ready[command.node] = now
        if not step.transitions:
            return
        times: Times = defaultdict(list)
        ended: Tally[tuple[str, TaskPhase]] = Tally()
        items: Tally[TaskPhase] = Tally()
        for transition in step.transitions:
            if isinstance(transition, NodeTransition):
                self._node(transition, times)
            elif isinstance(transition, TaskTransition):
                self._task(transition, times, ended)
            elif isinstance(transition, ItemTransition):
                self._item(transition, items)
            else:
                self._workflow(transition, times)
        for name, seconds in times.items():
            self._observe(name, seconds)
        for (task_type, phase), count in ended.items():
            self._all.tasks.add(count, tasktype=task_type, phase=phase.name)
        for phase, count in items.items():
            self._all.items.add(count, phase=phase.name)

    def _node(self, change: NodeTransition, times: Times) -> None:
        node, phase = change.node, change.phase
        if phase is None:
            return
        if phase is NodePhase.QUEUED:
            self.live.add(node)
            ready = self._ready.pop(node, None)
            if ready is not None:
                times["node:transition_latency"].append(max(change.at - ready, 0.0))
        elif phase is NodePhase.RUNNING:
            times["node:queueing_latency"].append(max(change.at - node.queued_at, 0.0))
        elif phase in TERMINAL:
            self.live.discard(node)
            self._ready.pop(node, None)
            self._last_end = change.at
            if node.queued_at:  # zero of one that was skipped, recovered, or found in the cache
                took = max(change.at - node.queued_at, 0.0)
                if phase is NodePhase.SUCCEEDED:
                    times["node:success_duration"].append(took)
                elif change.failure is not None:
                    times["node:failure_duration"].append(took)
                    self._failed(f"perma_{_KINDS[change.failure.kind]}", took)
        if change.detail:
            metadata = change.detail.get("task_node_metadata")
            if metadata is not None:
                self._discovered(metadata.cache_status)

    def _task(self, change: TaskTransition, times: Times, ended: Tally[tuple[str, TaskPhase]]) -> None:
        node, phase = change.node, change.phase
        known = self.running.get(node)
        if phase in _ENDS:
            self.running.pop(node, None)
            took = 0.0 if known is None else max(change.at - known[0], 0.0)
            if known is not None and known[1]:
                times["node:task:plugin_exec_latency"].append(took)
            task = node.spec.task
            ended["" if task is None else task.type, phase] += 1
            if change.failure is not None:
                self._failed(_KINDS[change.failure.kind], took)
        elif phase is TaskPhase.RUNNING:
            if known is None or not known[1]:
                if known is not None:
                    times["node:task:plugin_queue_latency"].append(max(change.at - known[0], 0.0))
                self.running[node] = (change.at, True)
        elif known is None:
            self.running[node] = (change.at, False)

    def _item(self, change: ItemTransition, items: Tally[TaskPhase]) -> None:
        items[change.phase] += 1
        if change.phase is TaskPhase.SUCCEEDED:
            self._discovered(getattr(change.info, "cache_status", 0))

    def _workflow(self, change: WorkflowTransition, times: Times) -> None:
        phase, took = change.phase, max(change.at - self._accepted_at, 0.0)
        if phase is WorkflowPhase.RUNNING:
            self._all.accepted.add()
            times["workflow:acceptance_latency"].append(took)
        elif phase.terminal:
            times["workflow:completion_latency"].append(max(change.at - self._last_end, 0.0))
            if phase is WorkflowPhase.ABORTED:
                self._all.aborted.add()
            else:
                outcome = "success" if phase is WorkflowPhase.SUCCEEDED else "failure"
                times[f"workflow:{outcome}_duration"].append(took)

    def _discovered(self, status: int) -> None:
        counter = self._all.discoveries.get(status)
        if counter is not None:
            counter.add()

    def _failed(self, kind: str, seconds: float) -> None:
        self._all.failures[kind].observe(seconds, **self.labels)

    def _observe(self, name: str, seconds: list[float]) -> None:
        bound = self._bound.get(name)
        if bound is None:
            bound = self._bound[name] = self._all.watches[name].labelled(**self.labels)
        bound.observe(*seconds)
