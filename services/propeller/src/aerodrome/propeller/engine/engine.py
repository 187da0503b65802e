"""The state machine of one execution.

Observations come in as method calls (`prepared`, `task_phase`, `succeeded`, `failed`, `aborted`, …), each with the
instant at which it was made; `take` gives what follows.  A finished node wakes exactly its downstream nodes; nothing is
traversed again.  Observations about attempts that are over are ignored, so callers may repeat themselves.
Source: spec/data-plane.md, 1.4 to 1.13, 3.4 to 3.7.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo
from aerodrome.propeller.engine.budget import Limits, Retry, decide, pause_after
from aerodrome.propeller.engine.graph import BadSpecification, Closure, Graph, NodeKind
from aerodrome.propeller.engine.items import ItemInfo, ItemPlan, Items
from aerodrome.propeller.engine.phases import GOOD, LIVE, TERMINAL, NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    After,
    Collect,
    Finalize,
    FinalizeItem,
    ItemTransition,
    NodeState,
    NodeTransition,
    Prepare,
    SavedNode,
    SavedWorkflow,
    Scope,
    ScopeStatus,
    Start,
    StartItem,
    Step,
    TaskTransition,
    WorkflowTransition,
)

NESTING = frozenset({NodeKind.SUBWORKFLOW, NodeKind.BRANCH})
"""Kinds that run a graph inside themselves from the start; dynamic tasks do so after their own attempt."""

RECOVERED_ITEM = ItemInfo(recovered=True)
_NO_GRAPHS: Mapping[str, Graph] = {}
_NODE_TIMEOUT = "the node's time for all attempts is up"
_AUTO_ABORT = "automatically aborted, because another node failed"
_DEFAULT_LIMITS = Limits()
_FINISHED_TASK = frozenset({TaskPhase.SUCCEEDED, TaskPhase.FAILED, TaskPhase.ABORTED, TaskPhase.RETRYABLE_FAILED})
# Looking a member up in its enum costs more than anything that is done with it here.
_NODE_ABORTED = NodePhase.ABORTED
_NODE_DYNAMIC_RUNNING = NodePhase.DYNAMIC_RUNNING
_NODE_FAILED = NodePhase.FAILED
_NODE_NOT_STARTED = NodePhase.NOT_STARTED
_NODE_QUEUED = NodePhase.QUEUED
_NODE_RECOVERED = NodePhase.RECOVERED
_NODE_RUNNING = NodePhase.RUNNING
_NODE_SKIPPED = NodePhase.SKIPPED
_NODE_SUCCEEDED = NodePhase.SUCCEEDED
_NODE_TIMED_OUT = NodePhase.TIMED_OUT
_NODE_TIMING_OUT = NodePhase.TIMING_OUT
_TASK_ABORTED = TaskPhase.ABORTED
_TASK_FAILED = TaskPhase.FAILED
_TASK_QUEUED = TaskPhase.QUEUED
_TASK_RETRYABLE_FAILED = TaskPhase.RETRYABLE_FAILED
_TASK_RUNNING = TaskPhase.RUNNING
_TASK_SUCCEEDED = TaskPhase.SUCCEEDED
_SCOPE_DONE = ScopeStatus.DONE
_SCOPE_DRAINING = ScopeStatus.DRAINING
_SCOPE_HANDLING = ScopeStatus.HANDLING
_SCOPE_RUNNING = ScopeStatus.RUNNING
_AFTER_ABORTED = After.ABORTED
_AFTER_FAIL = After.FAIL
_AFTER_NOTHING = After.NOTHING
_AFTER_RETRY_OR_FAIL = After.RETRY_OR_FAIL
_AFTER_TIMED_OUT = After.TIMED_OUT
_KIND_ARRAY = NodeKind.ARRAY
_KIND_BRANCH = NodeKind.BRANCH
_KIND_END = NodeKind.END
_KIND_LAUNCH_PLAN = NodeKind.LAUNCH_PLAN
_KIND_START = NodeKind.START
_KIND_TASK = NodeKind.TASK


class Engine:
    """One execution: its scopes, its timers, and what it wants done."""

    def __init__(self, closure: Closure, *, limits: Limits = _DEFAULT_LIMITS, max_parallelism: int = 0) -> None:
        self._closure = closure
        self.root = Scope(closure.root(), None)
        self.phase = WorkflowPhase.READY
        self.limits = limits
        self.failure: Failure | None = None
        self.abort_cause: str | None = None
        self._max_parallelism = max_parallelism
        self._running = 0
        self._waiting: deque[NodeState] = deque()
        self._ready: deque[NodeState] = deque()
        self._settled: deque[NodeState] = deque()
        self._timers: list[tuple[float, int, NodeState, int, bool]] = []
        self._item_timers: list[tuple[float, int, NodeState, int, int]] = []
        self._pauses: list[tuple[float, int, NodeState, int, int]] = []
        """When attempts begin that wait after a failure: instant, count, node, item (-1 for the node), attempt."""
        self._sleeps: list[tuple[float, int, NodeState, int]] = []
        self._timer_count = 0
        self._step = Step()

    # What the caller reads

    @property
    def terminal(self) -> bool:
        """Nothing will ever follow."""
        return self.phase.terminal

    def take(self) -> Step:
        """Everything that follows from the observations since the last call."""
        step, self._step = self._step, Step()
        if step.permitted and any(isinstance(command, Abort) for command in step.permitted):
            step.permitted = [c for c in step.permitted if not (isinstance(c, Start | StartItem) and c.node.abort_sent)]
        return step

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in seconds since 1970."""
        first: float | None = None
        while self._sleeps:
            at, _, node, attempt = self._sleeps[0]
            if _goes_on(node, attempt):
                first = at
                break
            heapq.heappop(self._sleeps)
        while self._timers:
            at, _, node, attempt, active = self._timers[0]
            if node.phase in LIVE and not node.abort_sent and (active or node.attempts == attempt):
                first = at if first is None or at < first else first
                break
            heapq.heappop(self._timers)
        while self._pauses:
            at, _, node, index, attempt = self._pauses[0]
            if self._paused(node, index, attempt):
                first = at if first is None or at < first else first
                break
            heapq.heappop(self._pauses)
        while self._item_timers:
            at, _, node, index, attempt = self._item_timers[0]
            if self._item(node, index, attempt) is not None:
                first = at if first is None or at < first else first
                break
            heapq.heappop(self._item_timers)
        return first

    # Beginning and going on

    def begin(self, now: float) -> None:
        """Start an execution that has no history."""
        self.phase = WorkflowPhase.RUNNING
        self._step.transitions.append(WorkflowTransition(WorkflowPhase.RUNNING, now))
        self._open(self.root, now)
        self._settle(now)

    def restore(
        self,
        saved: SavedWorkflow,
        now: float,
        *,
        expansions: Mapping[str, Graph] = _NO_GRAPHS,
        abort_cause: str | None = None,
    ) -> None:
        """Go on from what is durable: re-issue whatever may not have been carried out.

        Commands are idempotent by name, so what was carried out already is found and not done again.  `expansions`
        holds the graph of every dynamic node in `DYNAMIC_RUNNING`, by unique id.  With `abort_cause` the execution is
        being aborted already, and nothing new begins.
        """
        if saved.phase is WorkflowPhase.READY:
            if abort_cause is not None:
                self.abort(abort_cause, now)
            else:
                self.begin(now)
            return
        self.phase = saved.phase
        self.failure = saved.failure
        if self.terminal:
            return
        if abort_cause is not None:
            self.abort_cause = abort_cause
            self.phase = WorkflowPhase.ABORTING
        scopes: list[Scope] = []
        self._load(self.root, saved, expansions, scopes)
        for scope in reversed(scopes):
            self._go_on(scope, now)
        if abort_cause is not None and self.root.status in (_SCOPE_RUNNING, _SCOPE_HANDLING):
            self._drain(self.root, abort_cause)
            if self.root.draining == 0:
                self._drained(self.root, now)
        self._settle(now)

    def _load(self, root: Scope, saved: SavedWorkflow, expansions: Mapping[str, Graph], scopes: list[Scope]) -> None:
        """Put what was saved into `root` and every scope inside it; `scopes` lists them, outer before inner."""
        stack = [root]
        while stack:
            scope = stack.pop()
            scopes.append(scope)
            if scope.graph.failure_node is not None:
                handler = self._failure_node(scope)
                if handler.unique_id in saved.nodes:
                    scope.handler = handler
            if scope.owner is None:
                scope.failure = saved.failure
            for node in (*scope.nodes, scope.handler):
                known = saved.nodes.get(node.unique_id) if node is not None else None
                if node is None or known is None:
                    continue
                _remember(node, known)
                if node.phase in LIVE and known.plan is not None:
                    node.items = Items(known.plan)
                    node.items.restore(known.items)
                if node.phase in LIVE and (node.spec.kind in NESTING or node.expansion):
                    dynamic = expansions.get(node.unique_id)
                    if node.expansion and dynamic is None:
                        raise BadSpecification(f"the workflow that {node.unique_id} made is not known any more")
                    node.inner = Scope(dynamic if dynamic is not None else self._inner_graph(node), node)
                    stack.append(node.inner)
            owner = scope.owner
            if owner is not None and (
                owner.phase is _NODE_TIMING_OUT or owner.scope.status is _SCOPE_DRAINING or _was_being_ended(scope)
            ):
                # What ends its owner comes again, be it a deadline or a failure; nothing begins in it until then.
                scope.status = _SCOPE_DRAINING

    def _go_on(self, scope: Scope, now: float) -> None:
        """Derive what a loaded scope stands at; everything inside it has been looked at before."""
        owner = scope.owner
        branch = owner is not None and owner.spec.kind is _KIND_BRANCH
        for node in scope.nodes:
            if branch and node.number != owner.choice:  # type: ignore[union-attr]  # a branch has an owner
                node.phase = _NODE_SKIPPED
            elif node.spec.kind is _KIND_START and node.phase is _NODE_NOT_STARTED:
                # Its scope was opened, so it is done; only that of the whole is told of, and has to be told again.
                node.phase = _NODE_SUCCEEDED
                if owner is None:
                    self._step.transitions.append(NodeTransition(node, _NODE_SUCCEEDED, now))
            if node.phase in TERMINAL and node.inner is not None:
                pass  # it has failed just now, with what is inside it: that is worked off with the rest
            elif node.phase in TERMINAL:
                scope.open -= 1
                if node.phase in (_NODE_FAILED, _NODE_TIMED_OUT):
                    scope.failed = scope.failed or node
                for number in scope.graph.downstream[node.number]:
                    successor = scope.nodes[number]
                    successor.pending -= 1
                    successor.blocked = successor.blocked or node.phase not in GOOD
            elif node.phase in LIVE:
                self._resume(node, now)
        ending = owner is None and self.abort_cause is not None
        if scope.handler is not None:
            scope.status = _SCOPE_HANDLING
            if scope.failure is None:
                scope.failure = _cause(scope)
            if scope.handler.phase in TERMINAL:
                self._settled.append(scope.handler)
            else:
                self._resume(scope.handler, now)
        elif ending or scope.status is _SCOPE_DRAINING:
            return
        elif scope.failed is not None and (scope.open == 0 or not scope.graph.finish_before_failing):
            self._fail_scope(scope, now)
        elif scope.open == 0:
            self._scope_done(scope, now)
        else:
            if branch and scope.nodes[owner.choice].phase is _NODE_NOT_STARTED:  # type: ignore[union-attr]  # a branch has an owner
                self._await(scope, scope.nodes[owner.choice])  # type: ignore[union-attr]  # a branch has an owner
            self._ready.extend(n for n in scope.nodes if n.phase is _NODE_NOT_STARTED and n.pending == 0)

    def _resume(self, node: NodeState, now: float) -> None:
        """A node that was live: find its attempt again, or start it if the permit came and the start did not."""
        if node.spec.counted and not node.expansion:
            self._take_slot(node)
        self._arm(node)
        if node.phase is _NODE_TIMING_OUT:
            self._abort_node(node, _AFTER_TIMED_OUT, _NODE_TIMEOUT)
            return
        if node.phase is _NODE_QUEUED and node.spec.kind is _KIND_ARRAY:
            node.items = None
            node.preparing = True
            self._step.free.append(Prepare(node))
            return
        if node.phase is _NODE_QUEUED:
            self._move(node, _NODE_RUNNING, now)
        if node.items is not None:
            while node.items.promised:
                index = node.items.promised.pop()
                self._step.transitions.append(ItemTransition(node, index, _TASK_QUEUED, now))
            failed_ago, node.items.failed_ago = node.items.failed_ago, {}
            changed_ago, node.items.changed_ago = node.items.changed_ago, {}
            for index in node.items.live():
                self._resume_item(node, index, now, failed_ago.get(index), changed_ago.get(index, 0.0))
            self._next_items(node, now)
        elif node.inner is None and node.spec.kind is _KIND_TASK and node.attempt_at > now:
            self._pause(node.attempt_at, node, -1, node.attempts)
        elif node.inner is None:
            self._step.permitted.append(Start(node, node.attempts))

    def _resume_item(
        self, node: NodeState, index: int, now: float, failed_ago: float | None, changed_ago: float
    ) -> None:
        """Find an item's attempt again, or start it once as much time has passed since the last failure as has to."""
        assert node.items is not None
        attempt = node.items.attempts[index]
        pause = 0.0 if failed_ago is None else self._item_pause(node, index, attempt - 1)
        if failed_ago is not None and pause > failed_ago:
            self._pause(now + pause - failed_ago, node, index, attempt)
        else:
            self._start_item(node, index, now - max(0.0, changed_ago - pause))

    # Observations

    def prepared(
        self,
        node: NodeState,
        now: float,
        *,
        choice: int = -1,
        plan: ItemPlan | None = None,
        done: Sequence[int] = (),
        ran_elsewhere: bool = False,
        detail: Any = None,
    ) -> None:
        """The inputs of a node are written; `choice` is the arm that a branch takes, `plan` how an array runs.

        `done` are items of the array, whose outputs are in place without running them.  `ran_elsewhere` says of a
        dynamic task that what its own attempt makes was taken over from another execution: no attempt is reported.
        """
        if not node.preparing:
            return
        node.preparing = False
        kind = node.spec.kind
        node.queued_at = now
        node.attempt_at = now
        node.choice = choice
        self._move(node, _NODE_QUEUED, now, detail=detail)
        if kind is _KIND_END:
            self._succeed(node, now)
        elif kind in NESTING:
            self._nest(node, now)
        elif plan is not None:
            node.items = Items(plan)
            for index in done:
                node.items.take_over(index)
                self._step.transitions.append(ItemTransition(node, index, _TASK_SUCCEEDED, now, RECOVERED_ITEM))
            self._move(node, _NODE_RUNNING, now)  # from here on nobody asks again which items are done
            self._arm(node)
            if _reports_attempts(node):
                node.task_phase = _TASK_RUNNING
                self._step.transitions.append(TaskTransition(node, _TASK_QUEUED, 0, now, plan.described()))
                self._step.transitions.append(TaskTransition(node, _TASK_RUNNING, 0, now))
            self._next_items(node, now)
        else:
            if kind is _KIND_TASK and ran_elsewhere:
                node.task_phase = _TASK_SUCCEEDED
            elif kind is _KIND_TASK:
                node.task_phase = _TASK_QUEUED
                self._step.transitions.append(TaskTransition(node, _TASK_QUEUED, 0, now))
            if kind is _KIND_LAUNCH_PLAN:
                node.phase = _NODE_RUNNING  # which is told with what was launched, once it is there
            else:
                self._move(node, _NODE_RUNNING, now)
            self._arm(node)
            self._step.permitted.append(Start(node, node.attempts))
        self._settle(now)

    def already_done(self, node: NodeState, now: float, *, recovered: bool, detail: Any = None) -> None:
        """The node's outputs are there without running it: a cache hit, or recovered from another execution."""
        if not node.preparing:
            return
        node.preparing = False
        self._succeed(node, now, _NODE_RECOVERED if recovered else _NODE_SUCCEEDED, detail=detail)
        self._settle(now)

    def prepare_failed(self, node: NodeState, failure: Failure, now: float) -> None:
        """The node's inputs cannot be had; that is final."""
        if not node.preparing:
            return
        node.preparing = False
        self._fail(node, failure, now)
        self._settle(now)

    def task_phase(
        self, node: NodeState, attempt: int, phase: TaskPhase, version: int, now: float, info: Any = None
    ) -> None:
        """The plugin reports a phase of a running attempt that does not end it."""
        if node.phase is not _NODE_RUNNING or node.attempts != attempt or node.after is not _AFTER_NOTHING:
            return
        if phase is node.task_phase and version <= node.task_version:
            return
        node.task_phase = phase
        node.task_version = version
        self._step.transitions.append(TaskTransition(node, phase, version, now, info))

    def succeeded(self, node: NodeState, attempt: int, now: float, info: Any = None, detail: Any = None) -> None:
        """The attempt is done and its outputs are in place."""
        if node.phase is not _NODE_RUNNING or node.attempts != attempt or node.after is not _AFTER_NOTHING:
            return
        if node.spec.kind is _KIND_TASK:
            self._end_task(node, _TASK_SUCCEEDED, now, info)
            self._step.permitted.append(Finalize(node, attempt))
        self._succeed(node, now, detail=detail)
        self._settle(now)

    def launched(self, node: NodeState, attempt: int, now: float) -> None:
        """The execution exists that a launch-plan node runs."""
        node.begun = True
        if _goes_on(node, attempt) and node.task_phase is not _TASK_RUNNING:
            node.task_phase = _TASK_RUNNING  # it is told once, whoever holds the lease
            self._step.transitions.append(NodeTransition(node, _NODE_RUNNING, now))

    def sleep(self, node: NodeState, attempt: int, until: float, now: float) -> None:
        """The attempt succeeds by itself at `until`, in seconds since 1970; its outputs are in place."""
        if not _goes_on(node, attempt):
            return
        if until <= now:
            self.succeeded(node, attempt, now)
            return
        self._timer_count += 1
        heapq.heappush(self._sleeps, (until, self._timer_count, node, attempt))

    def expanded(
        self,
        node: NodeState,
        attempt: int,
        graph: Graph,
        now: float,
        *,
        expansion: str,
        info: Any = None,
        detail: Any = None,
    ) -> None:
        """A dynamic task's attempt is done and has given the graph that the node goes on with.

        `expansion` is where the graph is stored: `restore` has to be given it again.
        """
        if node.phase is not _NODE_RUNNING or node.attempts != attempt or node.after is not _AFTER_NOTHING:
            return
        self._end_task(node, _TASK_SUCCEEDED, now, info)
        self._step.permitted.append(Finalize(node, attempt))
        node.expansion = expansion
        self._free_slot(node)  # what it made needs slots itself
        self._move(node, _NODE_DYNAMIC_RUNNING, now, detail=detail)
        node.inner = Scope(graph, node)
        self._open(node.inner, now)
        self._settle(now)

    def failed(self, node: NodeState, attempt: int, failure: Failure, now: float, info: Any = None) -> None:
        """The attempt failed; whether another follows is the budgets' decision."""
        if node.phase is not _NODE_RUNNING or node.attempts != attempt or node.after is not _AFTER_NOTHING:
            return
        self._end_task(node, _TASK_FAILED, now, info, failure)
        self._after_failure(node, failure, now)
        self._settle(now)

    def item_phase(
        self, node: NodeState, index: int, attempt: int, phase: TaskPhase, now: float, info: Any = None
    ) -> None:
        """The plugin reports a phase of an item's attempt that does not end it."""
        if self._item(node, index, attempt) is None or node.items is None or node.items.phases[index] == phase:
            return
        node.items.phases[index] = phase
        self._step.transitions.append(ItemTransition(node, index, phase, now, info))

    def item_succeeded(self, node: NodeState, index: int, attempt: int, now: float, info: Any = None) -> None:
        """The item's attempt is done and its outputs are in place."""
        items = self._item(node, index, attempt)
        if items is None:
            return
        items.succeed(index)
        self._step.transitions.append(ItemTransition(node, index, _TASK_SUCCEEDED, now, info))
        self._step.permitted.append(FinalizeItem(node, index, attempt))
        self._next_items(node, now)
        self._settle(now)

    def item_failed(
        self, node: NodeState, index: int, attempt: int, failure: Failure, now: float, info: Any = None
    ) -> None:
        """The item's attempt failed; whether another follows is its own budgets' decision."""
        items = self._item(node, index, attempt)
        if items is None:
            return
        again = items.fail(index, failure, max_attempts=node.spec.item_attempts, limits=self.limits)
        phase = _TASK_RETRYABLE_FAILED if again else _TASK_FAILED
        self._step.transitions.append(ItemTransition(node, index, phase, now, info, failure, attempt))
        self._step.permitted.append(FinalizeItem(node, index, attempt))
        if again:
            self._step.transitions.append(ItemTransition(node, index, _TASK_QUEUED, now))
            pause = self._item_pause(node, index, attempt)
            if pause:
                self._pause(now + pause, node, index, attempt + 1)
            else:
                self._start_item(node, index, now)
        else:
            self._next_items(node, now)
        self._settle(now)

    def item_aborted(self, node: NodeState, index: int, attempt: int, now: float) -> None:
        """Nothing is left of an item's attempt whose time was up."""
        seconds = node.spec.item_timeout or self.limits.default_execution_deadline
        message = f"attempt {attempt} of item {index} took longer than {seconds:g} s"
        self.item_failed(node, index, attempt, Failure("TimeoutExpired", message, ErrorKind.USER, retryable=True), now)

    def _item(self, node: NodeState, index: int, attempt: int) -> Items | None:
        """The items of a node, if this attempt of this item may still report."""
        items = node.items
        if items is None or node.phase is not _NODE_RUNNING or node.after is not _AFTER_NOTHING:
            return None
        return items if items.current(index, attempt) else None

    def _next_items(self, node: NodeState, now: float) -> None:
        """Begin the items for which there is room, or conclude the node."""
        items = node.items
        assert items is not None
        for index in items.begin():
            self._step.transitions.append(ItemTransition(node, index, _TASK_QUEUED, now))
            self._start_item(node, index, now)
        if items.hopeless:
            node.failure = items.failure(node.spec.id)
            self._abort_node(node, _AFTER_FAIL, "too many of its items failed")
        elif items.done:
            self._step.free.append(Collect(node))

    def _start_item(self, node: NodeState, index: int, since: float) -> None:
        """Have an item's attempt run, whose time counts from `since`."""
        assert node.items is not None
        attempt = node.items.attempts[index]
        timeout = node.spec.item_timeout or self.limits.default_execution_deadline
        if timeout:
            self._timer_count += 1
            heapq.heappush(self._item_timers, (since + timeout, self._timer_count, node, index, attempt))
        self._step.permitted.append(StartItem(node, index, attempt))

    def collected(self, node: NodeState, now: float, detail: Any = None) -> None:
        """The outputs of the inner scope are the node's own now."""
        if not _awaits_outputs(node):
            return
        if node.items is not None:
            self._end_task(node, _TASK_SUCCEEDED, now, None)
        self._succeed(node, now, detail=detail)
        self._settle(now)

    def collect_failed(self, node: NodeState, failure: Failure, now: float) -> None:
        """The outputs of the inner scope cannot be had."""
        if not _awaits_outputs(node):
            return
        self._after_failure(node, failure, now)
        self._settle(now)

    def aborted(self, node: NodeState, attempt: int, now: float, info: Any = None) -> None:
        """Nothing of the attempt is left."""
        if not node.abort_sent or node.attempts != attempt or node.phase in TERMINAL:
            return
        node.abort_sent = False
        self._nothing_left(node, now, info)
        self._settle(now)

    def not_permitted(self, node: NodeState) -> None:
        """The journal refused the node's start, because the execution is being aborted: it never began."""
        if node.begun or node.attempts or node.inner is not None:
            return
        if node.phase not in (_NODE_QUEUED, _NODE_RUNNING):
            return
        if node.abort_sent:
            node.task_phase = _TASK_ABORTED  # its scope waits for its end already; no attempt was ever told of
        else:
            node.phase = _NODE_NOT_STARTED

    def tick(self, now: float) -> None:
        """Deadlines up to `now` have passed; what has slept long enough is done before anything runs out of time."""
        while self._sleeps and self._sleeps[0][0] <= now:
            _, _, node, attempt = heapq.heappop(self._sleeps)
            self.succeeded(node, attempt, now)
        while self._pauses and self._pauses[0][0] <= now:
            _, _, node, index, attempt = heapq.heappop(self._pauses)
            if not self._paused(node, index, attempt):
                continue
            if index >= 0:
                self._start_item(node, index, now)
            else:
                self._step.permitted.append(Start(node, attempt))
        while self._item_timers and self._item_timers[0][0] <= now:
            _, _, node, index, attempt = heapq.heappop(self._item_timers)
            if self._item(node, index, attempt) is not None:
                self._step.permitted.append(AbortItem(node, index, attempt, "its time is up"))
        while self._timers and self._timers[0][0] <= now:
            _, _, node, attempt, active = heapq.heappop(self._timers)
            if node.phase not in LIVE or node.after is not _AFTER_NOTHING or (not active and node.attempts != attempt):
                continue
            if active:
                node.phase = _NODE_TIMING_OUT
                self._step.transitions.append(NodeTransition(node, _NODE_TIMED_OUT, now))
                self._abort_node(node, _AFTER_TIMED_OUT, _NODE_TIMEOUT)
            else:
                seconds = node.spec.timeout or self.limits.default_execution_deadline
                node.failure = Failure(
                    "TimeoutExpired",
                    f"attempt {attempt} took longer than {seconds:g} s",
                    ErrorKind.USER,
                    retryable=True,
                )
                self._abort_node(node, _AFTER_RETRY_OR_FAIL, node.failure.message)
        self._settle(now)

    def abort(self, cause: str, now: float) -> None:
        """Someone wants the execution to end; it is ABORTED once nothing of it is left."""
        if self.terminal or self.abort_cause is not None:
            return
        self.abort_cause = cause
        self.phase = WorkflowPhase.ABORTING
        self._step.transitions.append(WorkflowTransition(WorkflowPhase.ABORTING, now))
        self._waiting.clear()
        self._ready.clear()
        self._drain(self.root, cause)
        if self.root.draining == 0:
            self._drained(self.root, now)
        self._settle(now)

    # Scopes

    def _open(self, scope: Scope, now: float) -> None:
        owner = scope.owner
        if owner is not None and owner.spec.kind is _KIND_BRANCH:
            for node in scope.nodes:
                if node.number != owner.choice:
                    # Arms that are not taken are skipped without a word.
                    node.phase = _NODE_SKIPPED
                    scope.open -= 1
            self._await(scope, scope.nodes[owner.choice])
            if scope.nodes[owner.choice].pending == 0:
                self._ready.append(scope.nodes[owner.choice])
            return
        for node in scope.nodes:
            if node.spec.kind is _KIND_START:
                node.phase = _NODE_SUCCEEDED
                node.queued_at = now
                if owner is None:
                    self._step.transitions.append(NodeTransition(node, _NODE_SUCCEEDED, now))
                self._finish(node, now)
            elif node.pending == 0:
                self._ready.append(node)

    def _await(self, scope: Scope, arm: NodeState) -> None:
        """Let the taken arm of a branch wait for what it reads from outside the branch."""
        assert scope.owner is not None
        for node_id in arm.spec.awaits:
            source = scope.owner.scope.find(node_id)
            if source is None:
                continue
            if source.phase not in TERMINAL:
                arm.pending += 1
                source.waiters = [*(source.waiters or ()), arm]
            elif source.phase not in GOOD:
                arm.blocked = True

    def _nest(self, node: NodeState, now: float) -> None:
        try:
            graph = self._inner_graph(node)
        except BadSpecification as error:
            self._fail(node, Failure("BadSpecificationError", str(error), ErrorKind.SYSTEM, retryable=False), now)
            return
        self._move(node, _NODE_RUNNING, now)
        self._arm(node)
        node.inner = Scope(graph, node)
        self._open(node.inner, now)

    def _inner_graph(self, node: NodeState) -> Graph:
        if node.spec.kind is _KIND_BRANCH:
            assert node.spec.arms is not None
            return node.spec.arms
        closure = node.scope.graph.closure or self._closure
        return closure.sub_workflow(node.spec.template.workflow_node.sub_workflow_ref)

    def _scope_done(self, scope: Scope, now: float) -> None:
        """Every node of the scope is terminal."""
        if scope.failed is not None:
            self._fail_scope(scope, now)
            return
        scope.status = _SCOPE_DONE
        if scope.owner is not None:
            self._step.free.append(Collect(scope.owner))
            return
        self.phase = WorkflowPhase.SUCCEEDED
        self._step.transitions.append(WorkflowTransition(WorkflowPhase.SUCCEEDING, now))
        self._step.transitions.append(WorkflowTransition(WorkflowPhase.SUCCEEDED, now))

    def _fail_scope(self, scope: Scope, now: float) -> None:
        if scope.status is not _SCOPE_RUNNING:
            return
        scope.failure = _cause(scope)
        if scope.owner is None and self.phase is not WorkflowPhase.ABORTING:
            self.failure = scope.failure
            if self.phase is not WorkflowPhase.FAILING:
                self.phase = WorkflowPhase.FAILING
                self._step.transitions.append(WorkflowTransition(WorkflowPhase.FAILING, now, scope.failure))
        self._drain(scope, _AUTO_ABORT)
        if scope.draining == 0:
            self._drained(scope, now)

    def _drain(self, scope: Scope, reason: str) -> None:
        """End whatever still runs in a scope; `scope.draining` counts what is not over yet."""
        nodes = (scope.handler,) if scope.status is _SCOPE_HANDLING else scope.nodes
        scope.status = _SCOPE_DRAINING
        scope.draining = 0
        for node in nodes:
            if node is None:
                continue
            if node.phase in LIVE:
                scope.draining += 1
                if node.after is _AFTER_NOTHING:
                    self._abort_node(node, _AFTER_ABORTED, reason)
                elif node.after in (_AFTER_RETRY_OR_FAIL, _AFTER_FAIL):
                    node.after = _AFTER_ABORTED
            elif node.preparing:
                node.preparing = False
                self._free_slot(node)

    def _drained(self, scope: Scope, now: float) -> None:
        """Nothing of a failed or aborted scope runs any more."""
        handler = scope.graph.failure_node
        ended_from_outside = self.abort_cause is not None or (scope.owner and scope.owner.after is not _AFTER_NOTHING)
        if handler is not None and scope.handler is None and not ended_from_outside:
            scope.status = _SCOPE_HANDLING
            scope.handler = self._failure_node(scope)
            if scope.owner is None:
                self.phase = WorkflowPhase.HANDLING_FAILURE
            self._ready.append(scope.handler)
            return
        self._close_failed(scope, now)

    def _failure_node(self, scope: Scope) -> NodeState:
        assert scope.graph.failure_node is not None
        return NodeState(scope.graph.failure_node, scope, len(scope.nodes), 0)

    def _close_failed(self, scope: Scope, now: float) -> None:
        scope.status = _SCOPE_DONE
        owner = scope.owner
        if owner is None:
            if self.abort_cause is not None:
                self.phase = WorkflowPhase.ABORTED
                self._step.transitions.append(WorkflowTransition(WorkflowPhase.ABORTED, now))
            else:
                self.phase = WorkflowPhase.FAILED
                self.failure = scope.failure
                self._step.transitions.append(WorkflowTransition(WorkflowPhase.FAILED, now, scope.failure))
        elif owner.after is not _AFTER_NOTHING:
            owner.abort_sent = False
            self._nothing_left(owner, now, None)
        else:
            failure = scope.failure or _cause(scope)
            dynamic = owner.phase is _NODE_DYNAMIC_RUNNING
            timed_out = scope.failed is not None and scope.failed.phase is _NODE_TIMED_OUT
            if dynamic and timed_out:
                self._after_failure(owner, failure, now)
            else:
                self._fail(owner, replace(failure, retryable=False), now)

    # Nodes

    def _settle(self, now: float) -> None:
        """Work off what became ready, iteratively: chains of skips and instant nodes may be as long as the graph."""
        self._propagate(now)
        while True:
            if self._ready:
                node = self._ready.popleft()
            elif self._waiting and self._running < self._max_parallelism:
                node = self._waiting.popleft()
            else:
                return
            if node.phase is not _NODE_NOT_STARTED or node.preparing or self._closing(node):
                continue
            if node.blocked:
                node.phase = _NODE_SKIPPED
                self._step.transitions.append(NodeTransition(node, _NODE_SKIPPED, now))
                self._finish(node, now)
                self._propagate(now)
            elif node.spec.counted and self._max_parallelism and self._running >= self._max_parallelism:
                self._waiting.append(node)
            else:
                self._prepare(node)

    def _closing(self, node: NodeState) -> bool:
        status = node.scope.status
        return status is not _SCOPE_RUNNING and not (status is _SCOPE_HANDLING and node is node.scope.handler)

    def _prepare(self, node: NodeState) -> None:
        if node.spec.counted:
            self._take_slot(node)
        node.preparing = True
        self._step.free.append(Prepare(node))

    def _take_slot(self, node: NodeState) -> None:
        if not node.holds_slot:
            node.holds_slot = True
            self._running += 1

    def _free_slot(self, node: NodeState) -> None:
        if node.holds_slot:
            node.holds_slot = False
            self._running -= 1

    def _move(self, node: NodeState, phase: NodePhase, now: float, detail: Any = None) -> None:
        node.phase = phase
        self._step.transitions.append(NodeTransition(node, phase, now, None, detail))

    def _succeed(self, node: NodeState, now: float, phase: NodePhase = _NODE_SUCCEEDED, detail: Any = None) -> None:
        node.phase = phase
        self._step.transitions.append(NodeTransition(node, phase, now, None, detail))
        self._finish(node, now)

    def _fail(self, node: NodeState, failure: Failure, now: float) -> None:
        node.phase = _NODE_FAILED
        node.failure = failure
        self._step.transitions.append(NodeTransition(node, _NODE_FAILED, now, failure))
        self._finish(node, now)

    def _finish(self, node: NodeState, now: float) -> None:
        """The node is terminal: what that means for its scope is worked off by `_propagate`."""
        self._free_slot(node)
        self._settled.append(node)

    def _propagate(self, now: float) -> None:
        settled = self._settled
        while settled:
            node = settled.popleft()
            scope = node.scope
            if node is scope.handler:
                self._failure_node_done(scope, node, now)
                continue
            scope.open -= 1
            phase = node.phase
            if phase in (_NODE_FAILED, _NODE_TIMED_OUT):
                if scope.failed is None or scope.graph.finish_before_failing:
                    scope.failed = node
                if not scope.graph.finish_before_failing:
                    self._fail_scope(scope, now)
                    continue
            if node.waiters:
                for arm in node.waiters:
                    arm.pending -= 1
                    arm.blocked = arm.blocked or phase not in GOOD
                    if arm.pending == 0 and arm.phase is _NODE_NOT_STARTED:
                        self._ready.append(arm)
            if scope.status is _SCOPE_RUNNING:
                good = phase in GOOD
                nodes = scope.nodes
                for number in scope.graph.downstream[node.number]:
                    successor = nodes[number]
                    successor.pending -= 1
                    if not good:
                        successor.blocked = True
                    if successor.pending == 0 and successor.phase is _NODE_NOT_STARTED:
                        self._ready.append(successor)
                if scope.open == 0:
                    self._scope_done(scope, now)

    def _failure_node_done(self, scope: Scope, node: NodeState, now: float) -> None:
        if node.phase is _NODE_FAILED and node.failure is not None:
            scope.failure = node.failure
        elif node.phase is _NODE_TIMED_OUT:
            scope.failure = Failure(
                "TimedOut", f"failure node {node.spec.id} timed out", ErrorKind.USER, retryable=False
            )
        if scope.owner is None and self.abort_cause is None:
            self.failure = scope.failure
        if scope.status is _SCOPE_HANDLING:
            self._close_failed(scope, now)

    # Attempts

    def _end_task(
        self, node: NodeState, phase: TaskPhase, now: float, info: Any, failure: Failure | None = None
    ) -> None:
        if _reports_attempts(node) and node.task_phase not in _FINISHED_TASK:
            node.task_phase = phase
            node.task_version = 0
            self._step.transitions.append(TaskTransition(node, phase, 0, now, info, failure))

    def _after_failure(self, node: NodeState, failure: Failure, now: float) -> None:
        if node.spec.kind in NESTING or node.items is not None:
            # Their retries are those of what is inside them.
            if node.items is not None:
                self._end_task(node, _TASK_FAILED, now, None, failure)
            self._fail(node, failure, now)
            return
        verdict = decide(
            failure,
            attempts=node.attempts,
            system_failures=node.system_failures,
            max_attempts=node.spec.max_attempts,
            limits=self.limits,
        )
        if not isinstance(verdict, Retry):
            if node.spec.kind is _KIND_TASK:
                self._step.permitted.append(Finalize(node, node.attempts))
            self._fail(node, verdict.failure, now)
            return
        self._step.permitted.append(Finalize(node, node.attempts))
        node.system_failures += verdict.spends_system
        node.attempts += 1
        node.inner = None
        if node.expansion:
            node.expansion = ""
            self._take_slot(node)  # beyond the limit if it must be: it has begun long ago
        node.items = None
        node.failure = None
        task = node.spec.kind is _KIND_TASK
        pause = pause_after(node.spec.task, node.attempts - 1, node.unique_id, self.limits) if task else 0.0
        node.attempt_at = now + pause
        node.phase = _NODE_RUNNING
        node.task_version = 0
        if task:
            node.task_phase = _TASK_QUEUED
            waits = PhaseInfo(Phase.QUEUED, reason=f"begins {pause:.1f} s after the last failure") if pause else None
            self._step.transitions.append(TaskTransition(node, _TASK_QUEUED, 0, now, waits))
        self._step.transitions.append(NodeTransition(node, None, now))
        self._arm(node)
        if pause:
            self._pause(node.attempt_at, node, -1, node.attempts)
        else:
            self._step.permitted.append(Start(node, node.attempts))

    def _item_pause(self, node: NodeState, index: int, attempt: int) -> float:
        """Seconds between the failure of an item's attempt and its next one."""
        return pause_after(node.spec.task, attempt, f"{node.unique_id}[{index}]", self.limits)

    def _pause(self, until: float, node: NodeState, index: int, attempt: int) -> None:
        """Let an attempt, of an item unless `index` is -1, begin at that instant."""
        self._timer_count += 1
        heapq.heappush(self._pauses, (until, self._timer_count, node, index, attempt))

    def _paused(self, node: NodeState, index: int, attempt: int) -> bool:
        """Whether what waited is still wanted."""
        if index >= 0:
            return self._item(node, index, attempt) is not None
        return node.phase is _NODE_RUNNING and node.attempts == attempt and node.after is _AFTER_NOTHING

    def _abort_node(self, node: NodeState, after: After, reason: str) -> None:
        node.after = after
        node.abort_sent = True
        node.preparing = False
        node.memo["abort_reason"] = reason
        if node.inner is not None:
            self._drain(node.inner, reason)
            if node.inner.draining == 0:
                # Nothing inside is live; the abort of the node itself still goes to its handler, which says so.
                self._step.permitted.append(Abort(node, node.attempts, reason))
        else:
            self._step.permitted.append(Abort(node, node.attempts, reason))

    def _nothing_left(self, node: NodeState, now: float, info: Any) -> None:
        after, node.after = node.after, _AFTER_NOTHING
        if node.inner is not None:
            node.inner.status = _SCOPE_DONE
        if node.items is not None:
            for index in node.items.abort():
                self._step.transitions.append(ItemTransition(node, index, _TASK_ABORTED, now))
        if after is _AFTER_FAIL:
            assert node.failure is not None
            self._end_task(node, _TASK_FAILED, now, info, node.failure)
            self._fail(node, node.failure, now)
            return
        if after is _AFTER_RETRY_OR_FAIL:
            failure = node.failure
            assert failure is not None
            self._end_task(node, _TASK_FAILED, now, info, failure)
            self._after_failure(node, failure, now)
            return
        scope = node.scope
        if after is _AFTER_TIMED_OUT:
            timeout = Failure("TimedOut", _NODE_TIMEOUT, ErrorKind.USER, retryable=False)
            self._end_task(node, _TASK_ABORTED, now, info, timeout)
            node.phase = _NODE_TIMED_OUT
            self._step.transitions.append(NodeTransition(node, None, now))
        else:
            reason = node.memo.get("abort_reason", "")
            failure = Failure("NodeAborted", reason, ErrorKind.UNKNOWN, retryable=False)
            self._end_task(
                node, _TASK_ABORTED, now, info, Failure("Task Aborted", reason, ErrorKind.UNKNOWN, retryable=False)
            )
            node.phase = _NODE_ABORTED
            self._step.transitions.append(NodeTransition(node, _NODE_ABORTED, now, failure))
        if scope.status is _SCOPE_DRAINING and scope.draining > 0:
            self._free_slot(node)
            scope.draining -= 1
            if scope.draining == 0:
                self._drained(scope, now)
        else:
            self._finish(node, now)

    def _arm(self, node: NodeState) -> None:
        """Set the timers of an attempt, and of the node with its first attempt or when it is restored."""
        timeout = node.spec.timeout
        attempt_limit = timeout or self.limits.default_execution_deadline
        node_limit = 2 * timeout or self.limits.default_active_deadline
        if attempt_limit:
            self._push_timer(node.attempt_at + attempt_limit, node, active=False)
        if node_limit:
            self._push_timer(node.queued_at + node_limit, node, active=True)

    def _push_timer(self, at: float, node: NodeState, *, active: bool) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (at, self._timer_count, node, node.attempts, active))


def _reports_attempts(node: NodeState) -> bool:
    """Whether attempts of the node are shown: those of tasks, and one in the name of all items of a mapped task."""
    kind = node.spec.kind
    return kind is _KIND_TASK or (kind is _KIND_ARRAY and node.spec.task is not None)


def _goes_on(node: NodeState, attempt: int) -> bool:
    """Whether the attempt may still report its end."""
    return node.phase is _NODE_RUNNING and node.attempts == attempt and node.after is _AFTER_NOTHING


def _was_being_ended(scope: Scope) -> bool:
    """Whether nodes of a restored scope were aborted for a reason that lies outside of it."""
    ended = False
    for node in scope.nodes:
        if node.phase is _NODE_ABORTED:
            ended = True
        elif node.phase in (_NODE_FAILED, _NODE_TIMED_OUT) and not scope.graph.finish_before_failing:
            return False
    return ended


def _awaits_outputs(node: NodeState) -> bool:
    """Whether everything inside the node is done and its outputs may be made its own; not if it was retried since."""
    if node.phase not in (_NODE_RUNNING, _NODE_DYNAMIC_RUNNING) or node.after is not _AFTER_NOTHING:
        return False
    if node.items is not None:
        return node.items.done
    return node.inner is not None and node.inner.status is _SCOPE_DONE


def _cause(scope: Scope) -> Failure:
    """Why a scope fails: what its failed node says."""
    failed = scope.failed
    if failed is None:
        return Failure(
            "UnknownError", f"{scope.graph.id.name} failed without an error", ErrorKind.SYSTEM, retryable=False
        )
    if failed.phase in (_NODE_TIMED_OUT, _NODE_TIMING_OUT):
        return Failure("Timeout", f"node {failed.spec.id} timed out", ErrorKind.USER, retryable=True)
    return failed.failure or Failure(
        "UnknownError", f"{failed.spec.id} failed without an error", ErrorKind.SYSTEM, retryable=False
    )


def _remember(node: NodeState, known: SavedNode) -> None:
    node.phase = known.phase
    node.attempts = known.attempts
    node.system_failures = known.system_failures
    node.queued_at = known.queued_at
    node.attempt_at = known.attempt_at
    node.choice = known.choice
    node.expansion = known.expansion
    node.task_phase = known.task_phase
    node.task_version = known.task_version
    node.failure = known.failure
