"""Drives one leased execution: observations to the engine, its transitions to the journal, then its commands.

Write-ahead: nothing that a transition permits is done before the journal has it.  When the lease is lost, or an append
is refused as stale, the execution is dropped here at once; another holder goes on from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from flyteidl.admin import execution_pb2, matchable_resource_pb2, workflow_pb2
from flyteidl.core import identifier_pb2, literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller import transcript
from aerodrome.propeller.engine.budget import Limits
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, BadSpecification, Closure, Graph, NodeKind
from aerodrome.propeller.engine.phases import LIVE, NodePhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    Finalize,
    FinalizeItem,
    FreeCommand,
    NodeState,
    NodeTransition,
    PermittedCommand,
    Prepare,
    SavedWorkflow,
    Start,
    StartItem,
    Step,
    TaskTransition,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.layout import OUTPUTS, Layout
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.measuring import ExecutionMeasures, Measures
from aerodrome.propeller.nodes.admin_client import AdminClient
from aerodrome.propeller.nodes.bindings import Unresolvable
from aerodrome.propeller.nodes.children import ChildWatch
from aerodrome.propeller.nodes.dynamic import Expander
from aerodrome.propeller.nodes.earlier import Earlier
from aerodrome.propeller.nodes.handler import (
    AtHandHandler,
    Handler,
    ItemsHandler,
    Observation,
    Run,
    final,
    storage_failure,
)
from aerodrome.propeller.nodes.recovery import take_over
from aerodrome.propeller.nodes.retry import limits_of
from aerodrome.propeller.nodes.signals import Signals
from aerodrome.propeller.source import BYTES_PER_WEIGHT, LeaseLost, LeaseSource, Session
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_APPEND_CHUNK = 1_000
"""Transitions per append; the control plane takes 2,000 of one execution at most."""
_ITEMS_PER_WEIGHT = 10
"""How many items of maps count as one transition."""
_PREPARE_CHUNK = 256
_PREPARE_PATIENCE = 0.02
"""Seconds to wait for preparations before what else there is goes to the journal without them."""
_LINGER = 0.1
"""Seconds for which what nobody waits for may wait for company on its way to the journal: an append costs the platform
and its database some milliseconds of CPU, and a map of short tasks has three changes an item to tell of."""
_AT_HAND_CHUNK = 128
"""Commands that need no waiting and are carried out before others get a turn."""
_TRIES = 6


@dataclass(frozen=True)
class Surroundings:
    """What all executions of a data plane share."""

    source: LeaseSource
    literals: Literals
    handlers: Mapping[NodeKind, Handler]
    plugin_names: Mapping[str, str]
    limits: Limits
    metadata_prefix: str
    raw_output_prefix: str
    default_max_attempts: int
    closures: ClosureCache
    admin: AdminClient
    children: ChildWatch
    expander: Expander
    measures: Measures
    item_nodes: bool = False
    """Every item of a map is shown as a node of its own."""
    at_hand: Mapping[NodeKind, AtHandHandler] = field(init=False)
    """Those of the handlers that can do without waiting."""

    def __post_init__(self) -> None:
        quick = {kind: handler for kind, handler in self.handlers.items() if isinstance(handler, AtHandHandler)}
        object.__setattr__(self, "at_hand", quick)


class ClosureCache:
    """Compiled closures by reference; they are immutable, and many executions share one."""

    def __init__(self, literals: Literals, *, default_max_attempts: int, most: int = 64) -> None:
        self._literals = literals
        self._default_max_attempts = default_max_attempts
        self._most = most
        self._kept: dict[str, Closure] = {}

    async def get(self, reference: str) -> Closure:
        """Raises the storage's errors, DecodeError, BadSpecification."""
        closure = self._kept.pop(reference, None)
        if closure is None:
            parse = workflow_pb2.WorkflowClosure.FromString
            message = await self._literals.read_as(reference, parse, limit_bytes=0)
            closure = Closure(message.compiled_workflow, default_max_attempts=self._default_max_attempts)
            closure.root()
        self._kept[reference] = closure
        while len(self._kept) > self._most:
            self._kept.pop(next(iter(self._kept)))
        return closure


class Execution:
    """One execution, while this process holds its lease."""

    def __init__(
        self,
        assignment: journal_pb2.Assignment,
        session: Session,
        around: Surroundings,
        on_drop: Callable[[Execution], Coroutine[Any, Any, None]],
    ) -> None:
        self.execution_id = assignment.execution_id
        self.epoch = assignment.epoch
        self.key = (assignment.project, assignment.domain, assignment.name)
        self.name = "/".join(self.key)
        self.session = session
        self.run_view: Run | None = None
        self.forced = False
        """The control plane has ended it: whatever still runs of it has to go."""
        self.untidy = False
        """Something of it may be left that nobody here knows of: an earlier holder's, or a failed command's."""
        self._assignment: journal_pb2.Assignment | None = assignment
        self._around = around
        self._on_drop = on_drop
        self._inbox: list[Observation] = []
        self._wake = asyncio.Event()
        """Set when there may be something to do, or nothing any more."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequence = assignment.last_sequence
        self._transcript: transcript.Transcript | None = None
        self._aborting = False
        """The journal refuses starts: an abort is on its way here."""
        self._broken: Exception | None = None
        """Why a command was not carried out, which therefore nobody will hear of again."""
        self._signals = Signals()
        self._measures: ExecutionMeasures | None = None

    @property
    def waiting(self) -> int:
        """How many observations the engine has yet to be told."""
        return len(self._inbox)

    def post(self, observation: Observation) -> None:
        """Hand an observation to the engine; it is applied in order."""
        self._inbox.append(observation)
        self._wake.set()

    def control(self, control: journal_pb2.Control) -> None:
        """The control plane has decided something; repeats are fine."""
        match control.WhichOneof("decision"):
            case "abort":
                cause = control.abort.cause
                self.post(lambda engine, now: engine.abort(cause, now))
            case "force_abort":
                self.forced = True
                self._wake.set()
            case "signal":
                self._signals.set(control.signal.signal_id, control.signal.value, control.sequence)
            case "child_ended":
                project, domain, _ = self.key
                ended = identifier_pb2.WorkflowExecutionIdentifier(
                    project=project, domain=domain, name=control.child_ended.name
                )
                self._around.children.hint(ended)
            case _:
                log.debug("a decision without meaning here", execution=self.name)

    async def run(self) -> bool:
        """Until the execution is over; whether it is, or not this process's any more.

        Raises what kept it from being driven on: the lease has to be given back then, for a new start from the journal.
        """
        watching = asyncio.create_task(self._watch_session(), name=f"watch the lease of {self.name}")
        try:
            await self._drive()
            return True
        except LeaseLost:
            log.info("lease lost, dropped", execution=self.name, epoch=self.epoch)
            await self._on_drop(self)
            return False
        except Exception:
            await self._on_drop(self)
            raise
        finally:
            watching.cancel()
            for task in self._tasks:
                task.cancel()
            if self.run_view is not None:
                self.run_view.end()
            if self._measures is not None:
                self._measures.end()

    async def _watch_session(self) -> None:
        await self.session.lost.wait()
        self._wake.set()

    async def _drive(self) -> None:
        assignment = self._assignment
        assert assignment is not None
        self._assignment = None
        try:
            engine = await self._load(assignment)
        except (AerodromeError, DecodeError, BadSpecification, Unresolvable) as error:
            self._around.measures.system_errors.add()
            log.exception("execution cannot be loaded", execution=self.name)
            await self._fail_whole(assignment, str(error))
            return
        waiting: list[Transition] = []
        permitted: list[PermittedCommand] = []
        due: float | None = None
        """When what lingers goes to the journal at the latest, on the loop's clock; None if nothing does."""
        urgent = False
        while True:
            step = engine.take()
            self._keep(step)
            waiting.extend(step.transitions)
            permitted.extend(step.permitted)
            urgent = urgent or not may_linger(step)
            if step.free:
                await self._free(step)
            if self._inbox and len(waiting) < _APPEND_CHUNK:
                self._apply(engine)
                continue
            if waiting and not urgent and len(waiting) < _APPEND_CHUNK:
                now = asyncio.get_running_loop().time()
                due = now + _LINGER if due is None else due
                if now < due:
                    await self._wait(engine, due - now)
                    self._apply(engine)
                    continue
            due, urgent = None, False
            if waiting:
                await self._append(engine, waiting)
                waiting = []
            await self._carry_out(permitted)
            self._spawn_items(permitted)
            permitted = []
            if engine.terminal and not self._inbox:
                log.info("execution over", execution=self.name, phase=engine.phase.name)
                await self._settle_tasks()
                return
            if not self._inbox:
                await self._wait(engine)
                self._apply(engine)

    def _keep(self, step: Step) -> None:
        assert self._transcript is not None
        assert self._measures is not None
        self._measures.keep(step)
        self._transcript.keep(step.transitions)

    async def _load(self, assignment: journal_pb2.Assignment) -> Engine:
        around = self._around
        spec = execution_pb2.ExecutionSpec.FromString(assignment.spec)
        closure = await self._patiently(lambda: around.closures.get(assignment.workflow_closure_reference))
        storage = around.literals.storage
        identity = f"{assignment.project}-{assignment.domain}-{assignment.name}"
        layout = Layout(
            execution=assignment.name,
            data_dir=storage.join(around.metadata_prefix, identity),
            raw_base=(
                spec.raw_output_data_config.output_location_prefix or storage.join(around.raw_output_prefix)
            ).rstrip("/"),
        )
        execution = identifier_pb2.WorkflowExecutionIdentifier(
            project=assignment.project, domain=assignment.domain, name=assignment.name
        )
        self.run_view = Run(
            id=execution,
            workflow_id=closure.primary.template.id,
            namespace=spec.metadata.system_metadata.namespace or f"{assignment.project}-{assignment.domain}",
            spec=spec,
            closure=closure,
            layout=layout,
            literals=around.literals,
            resources=_resources(assignment.resources),
            plugin_overrides=tuple(
                matchable_resource_pb2.PluginOverrides.FromString(assignment.plugin_overrides).overrides
            ),
            child_queue=assignment.resources.child_queue,
            post=self.post,
            permit=self.session.permit,
            spawn=self._spawn,
            signals=self._signals,
        )
        self._transcript = transcript.Transcript(
            execution,
            layout,
            output_uri=f"{layout.data_dir}/{END}/data/0/{OUTPUTS}",
            plugin_names=around.plugin_names,
            item_nodes=around.item_nodes,
        )
        limits = limits_of(self.name, spec, around.limits)
        engine = Engine(closure, limits=limits, max_parallelism=spec.max_parallelism)
        for signal in assignment.signals:
            self._signals.set(signal.signal_id, signal.value)
        for node_id, inputs, outputs in transcript.shared(assignment):
            layout.share(node_id, inputs=inputs or None, outputs=outputs or None)
        saved = transcript.read(assignment)
        self.untidy = saved.phase is not WorkflowPhase.READY
        if saved.phase is WorkflowPhase.READY:
            await self._patiently(lambda: self._give_inputs(assignment.inputs_reference, layout))
        if assignment.recovered_execution and not assignment.abort_cause:
            self.run_view.earlier = await self._recall(assignment.recovered_execution)
        expansions = await self._expansions(self.run_view, saved)
        engine.restore(saved, time.time(), expansions=expansions, abort_cause=assignment.abort_cause or None)
        self._measures = around.measures.execution(
            assignment.project,
            assignment.domain,
            self.run_view.workflow_id.name,
            assignment.created_at.seconds + assignment.created_at.nanos / 1e9,
        )
        if self.untidy:
            self._measures.restored(engine)
        return engine

    async def _recall(self, recovered: bytes) -> Earlier | None:
        """What the execution that this one recovers from has done; None if it is gone, so that everything runs."""
        execution = identifier_pb2.WorkflowExecutionIdentifier.FromString(recovered)
        earlier = Earlier(execution)
        try:
            async for node in self._around.admin.recall(execution):
                earlier.add(node)
        except NotFound:
            log.warning("the execution to recover from is gone", execution=self.name, earlier=execution.name)
            return None
        return earlier

    async def _expansions(self, run: Run, saved: SavedWorkflow) -> dict[str, Graph]:
        """The graphs that dynamic nodes go on with."""
        expander, expansions = self._around.expander, {}
        for unique_id, node in saved.nodes.items():
            if node.expansion and node.phase in LIVE:
                expansions[unique_id] = await self._patiently(partial(expander.restore, run, node.expansion))
        return expansions

    async def _give_inputs(self, reference: str, layout: Layout) -> None:
        """The workflow's inputs are what its start node gives."""
        literals, inputs = self._around.literals, literals_pb2.LiteralMap()
        if reference:
            inputs = await literals.read_as(reference, literals_pb2.LiteralMap.FromString, limit_bytes=0)
        await literals.write(f"{layout.data_dir}/{START}/data/0/{OUTPUTS}", inputs)

    async def _free(self, step: Step) -> None:
        """Prepare and collect, many at a time; what is slow is not waited for."""
        for begin in range(0, len(step.free), _PREPARE_CHUNK):
            tasks = [
                self._spawn(self._observe(command))
                for command in step.free[begin : begin + _PREPARE_CHUNK]
                if not self._prepare_at_hand(command)
            ]
            if tasks:
                await asyncio.wait(tasks, timeout=_PREPARE_PATIENCE)
            else:
                await asyncio.sleep(0)

    def _prepare_at_hand(self, command: FreeCommand) -> bool:
        """Prepare a node if that needs no waiting; whether it is done."""
        node, run = command.node, self.run_view
        handler = self._around.at_hand.get(node.spec.kind)
        assert run is not None
        if handler is None or run.earlier is not None or not isinstance(command, Prepare):
            return False
        return self._observed_at_hand(lambda: handler.prepare_at_hand(run, node))

    async def _carry_out(self, commands: Iterable[PermittedCommand]) -> None:
        """Begin what was permitted; what needs no waiting is done at once, and others get their turns."""
        for number, command in enumerate(commands, 1):
            if not isinstance(command, StartItem | FinalizeItem) and not self._done_at_hand(command):
                self._spawn(self._permitted(command))
            if number % _AT_HAND_CHUNK == 0:
                await asyncio.sleep(0)

    def _done_at_hand(self, command: PermittedCommand) -> bool:
        """Carry out what needs no waiting; whether it is done."""
        node, run = command.node, self.run_view
        handler = self._around.at_hand.get(node.spec.kind)
        if handler is None or run is None:
            return False
        if isinstance(command, Finalize):
            return handler.holds_nothing(run, node)
        if not isinstance(command, Start) or not self.session.valid or not self._may_start(node, command.attempt):
            return False
        attempt = command.attempt
        return self._observed_at_hand(lambda: handler.start_at_hand(run, node, attempt))

    def _observed_at_hand(self, work: Callable[[], Observation | None]) -> bool:
        try:
            observation = work()
        except Exception:  # the ordinary way tells what is wrong, and whose fault it is
            log.exception("a node could not be handled at once", execution=self.name)
            return False
        if observation is not None:
            self.post(observation)
        return observation is not None

    def _may_start(self, node: NodeState, attempt: int) -> bool:
        return node.attempts == attempt and node.live and not node.abort_sent and not self._aborting

    async def _observe(self, command: FreeCommand) -> None:
        node = command.node
        handler = self._around.handlers[node.spec.kind]
        run = self.run_view
        assert run is not None
        preparing = isinstance(command, Prepare)
        work = handler.prepare if preparing else handler.collect
        try:
            observation: Observation | None = None
            if preparing and run.earlier is not None:
                observation = await self._patiently(lambda: take_over(run, node))
            if observation is None:
                observation = await self._patiently(lambda: work(run, node))
            self.post(observation)
            return
        except Unresolvable as error:
            failure = error.failure
        except AerodromeError as error:
            failure = storage_failure(error, "BindingResolutionFailure" if preparing else "OutputsUnreadable")
        except Exception as error:  # one node's trouble must end as that node's failure
            log.exception("a node could not be prepared", execution=self.name, node=node.unique_id)
            failure = Failure("InternalError", repr(error), ErrorKind.SYSTEM, retryable=False)
        if preparing:
            self.post(lambda engine, now: engine.prepare_failed(node, failure, now))
        else:
            self.post(lambda engine, now: engine.collect_failed(node, failure, now))

    async def _permitted(self, command: PermittedCommand) -> None:
        node, attempt = command.node, command.attempt
        handler = self._around.handlers[node.spec.kind]
        run = self.run_view
        assert run is not None
        await self.session.permit()
        if isinstance(command, Start):
            if self._may_start(node, attempt):
                await handler.start(run, node, attempt)
        elif isinstance(command, Abort):
            reason = command.reason
            self.post(await self._patiently(lambda: handler.abort(run, node, attempt, reason)))
        elif isinstance(command, Finalize):
            await self._patiently(lambda: handler.finalize(run, node, attempt))
        else:
            assert isinstance(command, AbortItem)
            assert isinstance(handler, ItemsHandler)
            items, index, reason = handler, command.index, command.reason
            self.post(await self._patiently(lambda: items.abort_item(run, node, index, attempt, reason)))

    def _spawn_items(self, commands: Iterable[PermittedCommand]) -> None:
        """Carry out what concerns items, all of one node together: a map may have a great many."""
        starts: dict[NodeState, list[tuple[int, int]]] = {}
        ends: dict[NodeState, list[tuple[int, int]]] = {}
        for command in commands:
            if isinstance(command, StartItem):
                starts.setdefault(command.node, []).append((command.index, command.attempt))
            elif isinstance(command, FinalizeItem):
                ends.setdefault(command.node, []).append((command.index, command.attempt))
        for node, items in starts.items():
            self._spawn(self._start_items(node, items))
        for node, items in ends.items():
            self._spawn(self._finalize_items(node, items))

    async def _start_items(self, node: NodeState, items: Sequence[tuple[int, int]]) -> None:
        handler, run = self._around.handlers[node.spec.kind], self.run_view
        assert isinstance(handler, ItemsHandler)
        assert run is not None
        await self.session.permit()
        if node.live and not node.abort_sent and not self._aborting:
            await handler.start_items(run, node, items, self.session.permit)

    async def _finalize_items(self, node: NodeState, items: Sequence[tuple[int, int]]) -> None:
        handler, run = self._around.handlers[node.spec.kind], self.run_view
        assert isinstance(handler, ItemsHandler)
        assert run is not None
        await self.session.permit()
        await self._patiently(lambda: handler.finalize_items(run, node, items))

    async def _append(self, engine: Engine, transitions: list[Transition]) -> None:
        assert self._transcript is not None
        for part in _parts(self._transcript.coalesced(transitions)):
            result = await self._send(self._transcript, part)
            for transition, answer in zip(part, result.results, strict=True):
                if answer.status == journal_pb2.TRANSITION_STATUS_ABORTING:
                    self._aborting = True
                    if isinstance(transition, NodeTransition) and transition.phase is NodePhase.QUEUED:
                        engine.not_permitted(transition.node)
                elif answer.status == journal_pb2.TRANSITION_STATUS_REFUSED:
                    if never_began(transition, aborting=self._aborting):
                        await self._send(self._transcript, [WorkflowTransition(WorkflowPhase.ABORTED, time.time())])
                        return
                    log.error("transition refused", execution=self.name, what=repr(transition), why=answer.reason)

    async def _send(
        self, writer: transcript.Transcript, transitions: Sequence[transcript.Written]
    ) -> journal_pb2.ExecutionAppendResult:
        append = journal_pb2.ExecutionAppend(
            execution_id=self.execution_id, epoch=self.epoch, first_sequence=self._sequence + 1
        )
        writer.write_to(append, transitions)
        sent = time.perf_counter()
        result = await self._around.source.append(self.session, append)
        applied = result.status == journal_pb2.APPEND_STATUS_APPLIED
        if self._measures is not None:
            self._measures.recorded(time.perf_counter() - sent, applied=applied)
        if not applied:
            log.warning("append refused", execution=self.name, epoch=self.epoch, reason=result.reason)
            raise LeaseLost
        self._sequence = result.last_sequence
        return result

    async def _fail_whole(self, assignment: journal_pb2.Assignment, message: str) -> None:
        """An execution that cannot even be read still ends, with its error."""
        execution = identifier_pb2.WorkflowExecutionIdentifier(
            project=assignment.project, domain=assignment.domain, name=assignment.name
        )
        layout = Layout(execution=assignment.name, data_dir="", raw_base="")
        writer = transcript.Transcript(execution, layout, output_uri="", plugin_names={})
        now = time.time()
        failure = Failure("BadSpecificationError", message, ErrorKind.SYSTEM, retryable=False)
        phases = [WorkflowPhase.FAILING, WorkflowPhase.FAILED]
        if assignment.abort_cause:
            phases = [WorkflowPhase.ABORTED]
        elif transcript.read(assignment).phase is WorkflowPhase.READY:
            phases.insert(0, WorkflowPhase.RUNNING)
        changes = [
            WorkflowTransition(phase, now, failure if phase is not WorkflowPhase.RUNNING else None) for phase in phases
        ]
        await self._send(writer, changes)

    async def _wait(self, engine: Engine, at_most: float | None = None) -> None:
        """Until there is something to do, or `at_most` seconds have passed, or a time is up that the engine knows.

        Raises LeaseLost if there is nothing to do any more.
        """
        deadline = engine.next_deadline()
        self._wake.clear()
        timeout = at_most
        if deadline is not None:
            until = max(deadline - time.time(), 0.0)
            timeout = until if timeout is None else min(until, timeout)
        if not self._is_over() and self._broken is None:
            assert self._measures is not None
            self._measures.round_ended()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._measures.round_began()
        if self._is_over():
            raise LeaseLost
        if self._broken is not None:
            raise self._broken
        engine.tick(time.time())

    def _is_over(self) -> bool:
        """Whether this process has nothing more to do with the execution."""
        return self.session.lost.is_set() or self.forced

    def _apply(self, engine: Engine) -> None:
        observations, self._inbox = self._inbox, []
        now = time.time()
        for observation in observations:
            observation(engine, now)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LeaseLost:
            self._wake.set()
        except Exception as error:  # a command's trouble must not end the process; the next holder begins it anew
            log.exception("a command failed", execution=self.name)
            self._broken = error
            self.untidy = True
            self._wake.set()

    async def _settle_tasks(self) -> None:
        """Give back what finished attempts hold before the execution is let go."""
        pending = [task for task in self._tasks if task is not asyncio.current_task()]
        if pending:
            await asyncio.wait(pending, timeout=10.0)

    async def _patiently(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something with storage, again and again while the error may pass."""
        delay = 0.05
        for tries in range(_TRIES):
            try:
                return await work()
            except AerodromeError as error:
                if final(error) or tries == _TRIES - 1:
                    raise
                log.warning("storage failed, trying again", execution=self.name, reason=error.message)
            await asyncio.sleep(delay)
            delay *= 3
        raise AssertionError("unreachable")


def _parts(transitions: list[transcript.Written]) -> Iterator[list[transcript.Written]]:
    """Appends of bounded length; what a node does at once stays together: its state is written as it is by then."""
    begin = 0
    while begin < len(transitions):
        end, size = begin, 0
        while end < len(transitions) and size < _APPEND_CHUNK:
            size += _weight(transitions[end])
            end += 1
        while end < len(transitions) and together(transitions[end - 1], transitions[end]):
            end += 1
        yield transitions[begin:end]
        begin = end


def _weight(transition: transcript.Written) -> int:
    if isinstance(transition, transcript.ItemsTransition):
        return 1 + len(transition.changes) // _ITEMS_PER_WEIGHT
    if isinstance(transition, NodeTransition) and transition.phase is NodePhase.DYNAMIC_RUNNING:
        metadata = (transition.detail or {}).get("task_node_metadata")
        return 1 if metadata is None else 1 + metadata.ByteSize() // BYTES_PER_WEIGHT
    return 1


def may_linger(step: Step) -> bool:
    """Whether nobody waits for a step to be durable: it lets nothing begin or end, and tells of no child execution.

    Who sees a child must be able to find it by its parent, and an abort ends what may yet be told of that.
    """
    return all(isinstance(command, Finalize | FinalizeItem) for command in step.permitted) and not any(
        isinstance(transition, WorkflowTransition) or _is_of_child(transition) for transition in step.transitions
    )


def _is_of_child(transition: Transition) -> bool:
    if isinstance(transition, WorkflowTransition):
        return False
    spec = transition.node.spec
    return (spec.item or spec).kind is NodeKind.LAUNCH_PLAN


def never_began(refused: transcript.Written, *, aborting: bool) -> bool:
    """Whether an execution is over whose beginning was refused, since its abort came before that: it is ABORTED."""
    return aborting and isinstance(refused, WorkflowTransition) and refused.phase is WorkflowPhase.SUCCEEDED


def together(one: transcript.Written, after: transcript.Written) -> bool:
    """Whether both have to be in one append: what a node does at once, and items with what is told of them."""
    if isinstance(one, transcript.ItemEvent):
        return True
    return _node(after) is not None and _node(after) is _node(one)


def _node(transition: transcript.Written) -> NodeState | None:
    return transition.node if isinstance(transition, NodeTransition | TaskTransition) else None


def _resources(resolved: journal_pb2.ResolvedResources) -> matchable_resource_pb2.TaskResourceAttributes:
    def spec(quantities: Mapping[str, str]) -> matchable_resource_pb2.TaskResourceSpec:
        return matchable_resource_pb2.TaskResourceSpec(
            cpu=quantities.get("cpu", ""),
            gpu=quantities.get("gpu", ""),
            memory=quantities.get("memory", ""),
            ephemeral_storage=quantities.get("ephemeral-storage", ""),
        )

    return matchable_resource_pb2.TaskResourceAttributes(defaults=spec(resolved.defaults), limits=spec(resolved.limits))
