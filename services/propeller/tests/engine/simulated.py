"""A world in which an engine's executions run: what its processes start, and processes that die at any moment.

The world goes on while nobody drives the execution.  Each process is a holder of the lease as
`aerodrome.propeller.execution` is one: observations in, transitions to the journal by parts, then the commands.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from drawn import Bounds, Fates, Temper, draw_closure
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.event import event_pb2
from journalled import ControlPlane, writer

from aerodrome.admin.domain.phases import NODE_NAMES, TASK_NAMES, WORKFLOW_NAMES
from aerodrome.admin.domain.verdicts import Refused
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.budget import Limits
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import Closure, Graph, NodeKind
from aerodrome.propeller.engine.items import ItemPlan
from aerodrome.propeller.engine.phases import LIVE, NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    Finalize,
    FinalizeItem,
    NodeState,
    NodeTransition,
    PermittedCommand,
    Prepare,
    Start,
    StartItem,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.execution import never_began, together
from aerodrome.propeller.transcript import Written

_BEGINNING = 1_000_000.0
_MAX_TURNS = 50_000
_DEEPEST = 4
"""How many dynamic nodes may be inside each other."""


class Crash(Exception):
    """The process that drove the engine is gone."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Course:
    """How a case goes, whatever its workflow."""

    bounds: Bounds = field(default_factory=Bounds)
    temper: Temper = field(default_factory=Temper)
    limits: Limits = field(default_factory=Limits)
    max_parallelism: int = 0
    punctual: bool = True
    """Everything happens at an instant that belongs to its name, and a process that died is replaced at once."""
    abort_after: int | None = None
    """How many observations are made before somebody wants the execution to end."""
    abort_heard_after: int = 0
    """How many more are made before the process hears of it."""


@dataclass
class Fault:
    """Where a process dies."""

    append: int
    """At which of its appends, from 0."""
    before: bool = False
    """Nothing of that append was recorded; otherwise all parts up to `parts` were."""
    parts: int = 0
    commands: int = 0
    """How many of the commands that it permits were carried out."""


@dataclass
class World:
    """What outlives processes: the journal, what runs, and what was observed when."""

    seed: int
    closure: Closure
    course: Course
    plane: ControlPlane = field(default_factory=ControlPlane)
    now: float = _BEGINNING
    running: dict[str, int] = field(default_factory=dict)
    """Attempt by name of a node, or of an item as `node[index]`."""
    over: dict[tuple[str, int], str] = field(default_factory=dict)
    """What became of attempts that run no more: "ended" or "killed"."""
    appends: int = 0
    observations: int = 0
    transitions: int = 0
    restarts: int = 0
    item_nodes: bool = False
    abort_wanted: bool = False
    made: dict[str, Graph] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    instants: dict[tuple[object, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fates = Fates(self.seed, self.course.temper)

    def drive(self, rng: random.Random, faults: list[Fault]) -> None:
        """Let processes follow each other until the execution is over; each of `faults` ends one."""
        for fault in [*faults, None]:
            try:
                Process(self, rng, fault).run()
                break
            except Crash:
                self.restarts += 1
                if not self.course.punctual:
                    self.now += rng.random() * 2
        check(self)

    def expansion(self, name: str) -> Graph:
        """The graph that an attempt of a dynamic task makes; smaller ones the deeper it is."""
        graph = self.made.get(name)
        if graph is None:
            bounds = replace(self.course.bounds, nodes=3, depth=1 if name.count("-") < 3 else 0)
            rng = random.Random(f"{self.seed}/{name}")
            timeouts = bounds.timeouts and bounds.fail_fast
            graph = self.made[name] = draw_closure(rng, bounds, timeouts=timeouts).root()
        return graph

    def start(self, name: str, attempt: int) -> bool:
        """Start an attempt, or find it again; whether it has to be heard of again (it was not killed)."""
        known = self.over.get((name, attempt))
        if known is None:
            other = self.running.get(name, attempt)
            if other != attempt:
                raise Broken(f"attempt {attempt} of {name} begins while attempt {other} runs")
            self.running[name] = attempt
        return known != "killed"

    def end(self, name: str, attempt: int, how: str) -> None:
        """An attempt runs no more."""
        if self.running.get(name) == attempt:
            del self.running[name]
        self.over.setdefault((name, attempt), how)

    def kill(self, node: NodeState) -> None:
        """End whatever runs of a node's current attempt."""
        name = node.unique_id
        self.end(name, node.attempts, "killed")
        if node.items is not None:
            for index, attempt in enumerate(node.items.attempts):
                self.end(f"{name}[{index}]", attempt, "killed")


Deed = Callable[[], None]


class Process:
    """One holder of the lease, from what it reads in the journal until the execution is over or it dies."""

    def __init__(self, world: World, rng: random.Random, fault: Fault | None) -> None:
        self.world = world
        self.rng = rng
        self._fault = fault
        self._appends = 0
        self._agenda: list[tuple[float, int, Deed]] = []
        self._count = 0
        self._aborting = False
        self._writer = writer(item_nodes=world.item_nodes)
        self._told_of_abort = False
        self._collecting: set[tuple[str, int]] = set()
        course = world.course
        saved = world.plane.saved()
        expansions = {
            name: world.expansion(f"{name}-{node.attempts}")
            for name, node in saved.nodes.items()
            if node.expansion and node.phase in LIVE
        }
        self.engine = Engine(world.closure, limits=course.limits, max_parallelism=course.max_parallelism)
        cause = world.plane.abort_cause or None
        self._told_of_abort = cause is not None
        self.engine.restore(saved, world.now, expansions=expansions, abort_cause=cause)

    def run(self) -> None:
        """Raises Crash where its fault is; Broken if an invariant does not hold."""
        engine, world = self.engine, self.world
        waiting: list[Transition] = []
        permitted: list[PermittedCommand] = []
        for _ in range(_MAX_TURNS):
            step = engine.take()
            self._writer.keep(step.transitions)
            waiting.extend(step.transitions)
            permitted.extend(step.permitted)
            for command in step.permitted:
                self._note(command)
            for wish in step.free:
                self._free(wish.node, isinstance(wish, Prepare))
            if not world.course.punctual and self._agenda and self.rng.random() < 0.4:
                self._observe()  # it was faster than the journal
                continue
            if waiting:
                commands = self._append(waiting)
                waiting = []
            else:
                commands = len(permitted)
            for done, command in enumerate(permitted):
                if done == commands:
                    raise Crash
                self._carry_out(command)
            if commands < len(permitted) or self._dying():
                raise Crash
            moved, permitted = bool(permitted), []
            if engine.terminal:
                return
            if not moved:
                self._observe()
        raise Broken(f"it does not end: {engine.phase.name}, running {world.running}")

    # The journal

    def _dying(self) -> bool:
        return self._fault is not None and self._appends > self._fault.append

    def _append(self, transitions: list[Transition]) -> int:
        """Write the transitions; how many of the commands are carried out before the process dies, if it does."""
        world, fault = self.world, self._fault
        dies = fault is not None and self._appends == fault.append
        self._appends += 1
        world.appends += 1
        world.transitions += len(transitions)
        if dies and fault is not None and fault.before:
            raise Crash
        parts = self._parts(self._writer.coalesced(transitions))
        for number, part in enumerate(parts):
            if dies and fault is not None and fault.parts and number == fault.parts:
                raise Crash
            verdicts = world.plane.append(self._writer.write(part))
            for transition, verdict in zip(part, verdicts, strict=True):
                if not isinstance(verdict, Refused):
                    continue
                if not verdict.aborting and not world.plane.abort_cause:
                    raise Broken(f"{transition!r} was refused: {verdict.error.message}")
                if verdict.aborting:
                    self._aborting = True
                    if isinstance(transition, NodeTransition) and transition.phase is NodePhase.QUEUED:
                        self.engine.not_permitted(transition.node)
                elif never_began(transition, aborting=self._aborting):
                    world.plane.append(self._writer.write([WorkflowTransition(WorkflowPhase.ABORTED, world.now)]))
        return fault.commands if dies and fault is not None else 1 << 30

    def _parts(self, written: list[Written]) -> list[list[Written]]:
        """Anywhere but between what one node does at once, as `aerodrome.propeller.execution` does it."""
        if self._fault is None or not self._fault.parts:
            return [written]
        parts = [[written[0]]]
        for before, one in itertools.pairwise(written):
            if together(before, one):
                parts[-1].append(one)
            else:
                parts.append([one])
        return parts

    # What is done

    def _carry_out(self, command: PermittedCommand) -> None:
        world, node, name = self.world, command.node, command.node.unique_id
        if isinstance(command, Start):
            if node.attempts == command.attempt and node.live and not node.abort_sent and not self._aborting:
                self._start(node, command.attempt)
        elif isinstance(command, StartItem):
            if node.live and not node.abort_sent and not self._aborting:
                self._start_item(node, command.index, command.attempt)
        elif isinstance(command, Abort):
            world.kill(node)
            attempt = command.attempt
            self._at(("abort", name, attempt), lambda: self.engine.aborted(node, attempt, world.now))
        elif isinstance(command, AbortItem):
            index, attempt = command.index, command.attempt
            world.end(f"{name}[{index}]", attempt, "killed")
            self._at(("abort", name, index, attempt), lambda: self.engine.item_aborted(node, index, attempt, world.now))
        elif isinstance(command, Finalize):
            if world.running.get(name) == command.attempt:
                raise Broken(f"attempt {command.attempt} of {name} was given back while it ran")
        else:
            assert isinstance(command, FinalizeItem)
            if world.running.get(f"{name}[{command.index}]") == command.attempt:
                raise Broken(f"attempt {command.attempt} of {name}[{command.index}] was given back while it ran")

    def _start(self, node: NodeState, attempt: int) -> None:
        world, engine, name, kind = self.world, self.engine, node.unique_id, node.spec.kind
        if kind is NodeKind.GATE:
            self._open_gate(node, attempt)
            return
        world.budgets[name] = node.spec.max_attempts
        heard_of = world.start(name, attempt)
        if kind is NodeKind.LAUNCH_PLAN:
            self._at(("launched", name, attempt), lambda: engine.launched(node, attempt, world.now), scale=0.01)
        elif heard_of and node.task_phase is not TaskPhase.SUCCEEDED:  # then what it made is there already
            self._at(
                ("runs", name, attempt),
                lambda: engine.task_phase(node, attempt, TaskPhase.RUNNING, 0, world.now),
                scale=0.5,
            )
        outcome = world.fates.attempt(name, attempt)
        if heard_of and not (outcome == "hang" and self._limited(node)):
            scale = 4.0 if kind is NodeKind.TASK else 8.0
            self._at(("ends", name, attempt), lambda: self._ends(node, attempt, outcome), scale=scale)

    def _ends(self, node: NodeState, attempt: int, outcome: Failure | str | None) -> None:
        world, engine, name = self.world, self.engine, node.unique_id
        if world.over.get((name, attempt)) == "killed":
            return
        world.end(name, attempt, "ended")
        if isinstance(outcome, Failure):
            engine.failed(node, attempt, outcome, world.now)
        elif node.spec.kind is NodeKind.TASK and self._expands(node, attempt):
            made = f"{name}-{attempt}"
            metadata = event_pb2.TaskNodeMetadata()
            metadata.dynamic_workflow.dynamic_job_spec_uri = f"{made}/futures.pb"
            engine.expanded(
                node, attempt, world.expansion(made), world.now, expansion=made, detail={"task_node_metadata": metadata}
            )
        else:
            engine.succeeded(node, attempt, world.now)

    def _expands(self, node: NodeState, attempt: int) -> bool:
        fates = self.world.fates
        return (
            fates.draw(node.unique_id, attempt, "makes") < fates.temper.dynamic
            and node.unique_id.count("-") < 2 * _DEEPEST
        )

    def _open_gate(self, node: NodeState, attempt: int) -> None:
        world, engine, name = self.world, self.engine, node.unique_id
        gate = node.spec.template.gate_node
        if gate.WhichOneof("condition") == "sleep":
            until = node.attempt_at + gate.sleep.duration.seconds
            self._at(("sleeps", name, attempt), lambda: engine.sleep(node, attempt, until, world.now), scale=0.01)
            return
        outcome = world.fates.attempt(name, 0)
        if outcome == "hang" and self._limited(node):
            return

        def comes() -> None:
            if isinstance(outcome, Failure):
                rejected = Failure("ReceivedRejectSignal", f"{name} was rejected", ErrorKind.USER, retryable=False)
                engine.failed(node, attempt, rejected, world.now)
            else:
                engine.succeeded(node, attempt, world.now)

        self._at(("signal", name), comes, scale=10.0)

    def _start_item(self, node: NodeState, index: int, attempt: int) -> None:
        world, engine, name = self.world, self.engine, f"{node.unique_id}[{index}]"
        assert node.items is not None
        if node.items.attempts[index] != attempt:
            return
        world.budgets[name] = node.spec.item_attempts
        if not world.start(name, attempt):
            return
        self._at(
            ("runs", name, attempt),
            lambda: engine.item_phase(node, index, attempt, TaskPhase.RUNNING, world.now),
            scale=0.5,
        )
        outcome = world.fates.attempt(name, attempt)
        limited = node.spec.item_timeout or self.world.course.limits.default_execution_deadline
        if outcome == "hang" and (limited or self._limited(node)):
            return

        def ends() -> None:
            if world.over.get((name, attempt)) == "killed":
                return
            world.end(name, attempt, "ended")
            if isinstance(outcome, Failure):
                engine.item_failed(node, index, attempt, outcome, world.now)
            else:
                engine.item_succeeded(node, index, attempt, world.now)

        self._at(("ends", name, attempt), ends, scale=4.0)

    def _limited(self, node: NodeState) -> bool:
        """Whether something ends an attempt that does not end by itself."""
        limits = self.world.course.limits
        return bool(node.spec.timeout or limits.default_execution_deadline or limits.default_active_deadline)

    def _free(self, node: NodeState, preparing: bool) -> None:
        name = node.unique_id
        if preparing:
            self._at(("prepared", name), lambda: self._prepared(node))
        else:
            attempt = node.attempts
            if (name, attempt) in self._collecting:
                raise Broken(f"the outputs of {name} are collected twice")
            self._collecting.add((name, attempt))
            self._at(("collected", name, attempt), lambda: self._collected(node, attempt))

    def _prepared(self, node: NodeState) -> None:
        world, engine, now = self.world, self.engine, self.world.now
        fates, name, kind = world.fates, node.unique_id, node.spec.kind
        temper, chance = fates.temper, fates.draw(node.unique_id, "prepared")
        if chance < temper.unprepared:
            broken = Failure("BindingResolutionFailure", name, ErrorKind.USER, retryable=False)
            engine.prepare_failed(node, broken, now)
        elif chance < temper.unprepared + temper.taken_over and kind is not NodeKind.END:
            engine.already_done(node, now, recovered=fates.draw(name, "recovered") < 0.5)
        elif kind is NodeKind.BRANCH:
            arms = len(node.spec.choices) + (node.spec.otherwise is not None)
            choice = int(fates.draw(name, "arm") * arms)
            if choice < len(node.spec.choices):
                engine.prepared(node, now, choice=choice)
            else:
                none = Failure("UserProvidedError", "no arm fits", ErrorKind.USER, retryable=False)
                engine.prepare_failed(node, none, now)
        elif kind is NodeKind.ARRAY:
            size = int(fates.draw(name, "size") * 7)
            ratio = (None, None, 0.5, 0.0, 1.0)[int(fates.draw(name, "ratio") * 5)]
            plan = ItemPlan(size, int(fates.draw(name, "concurrency") * 4), None, ratio)
            done = [index for index in range(size) if fates.draw(name, index, "done") < temper.taken_over]
            engine.prepared(node, now, plan=plan, done=done)
        elif kind is NodeKind.TASK and self._expands(node, 0) and fates.attempt(name, 0) is None:
            engine.prepared(node, now, ran_elsewhere=fates.draw(name, "elsewhere") < temper.taken_over)
        else:
            engine.prepared(node, now)

    def _collected(self, node: NodeState, attempt: int) -> None:
        world, fates, name = self.world, self.world.fates, node.unique_id
        kind = node.spec.kind
        if kind is not NodeKind.BRANCH and fates.draw(name, attempt, "collected") < fates.temper.unprepared:
            self.engine.collect_failed(node, fates.failure(name, attempt), world.now)
        else:
            self.engine.collected(node, world.now)

    # Time

    def _note(self, command: PermittedCommand) -> None:
        """When what a command does began to be wanted, for a world in which that decides when it is done."""
        if isinstance(command, Start | StartItem | Abort | AbortItem):
            index = command.index if isinstance(command, StartItem | AbortItem) else -1
            what = "abort" if isinstance(command, Abort | AbortItem) else "start"
            self.world.instants.setdefault((what, command.node.unique_id, index, command.attempt), self.world.now)

    def _at(self, name: tuple[object, ...], deed: Deed, scale: float = 1.0) -> None:
        """Let something happen after a while that belongs to its name, counted from when it was wanted first."""
        world = self.world
        if world.course.punctual:
            begun = world.instants.setdefault(name, world.now)
            due = begun + scale * (0.02 + world.fates.draw(*name, "takes"))
        else:
            due = world.now + scale * self.rng.random()
        self._count += 1
        heapq.heappush(self._agenda, (due, self._count, deed))

    def _observe(self) -> None:
        """The next thing happens, or a deadline passes."""
        world, engine = self.world, self.engine
        world.observations += 1
        if self._hears_of_abort():
            return
        deadline = engine.next_deadline()
        due = self._agenda[0][0] if self._agenda else None
        if deadline is not None and (due is None or deadline <= due):
            world.now = max(world.now, deadline)
            engine.tick(world.now)
        elif due is not None:
            deed = heapq.heappop(self._agenda)[2]
            world.now = max(world.now, due)
            deed()
        elif world.abort_wanted and not self._told_of_abort:
            self._told_of_abort = True
            engine.abort("enough", world.now)
        elif not engine.terminal:
            raise Broken(f"nothing happens any more: {engine.phase.name}, running {world.running}")

    def _hears_of_abort(self) -> bool:
        world, course = self.world, self.world.course
        if course.abort_after is None or world.plane.over:
            return False
        if not world.abort_wanted and world.observations >= course.abort_after:
            world.abort_wanted = True
            world.plane.abort("enough")
        if (
            world.abort_wanted
            and not self._told_of_abort
            and world.observations >= course.abort_after + course.abort_heard_after
        ):
            self._told_of_abort = True
            self.engine.abort("enough", world.now)
            return True
        return False


# What must hold


def check(world: World) -> None:
    """Invariants I1, I2, I4 to I8 of a finished execution, as far as an engine and a journal decide them."""
    plane = world.plane
    phase = WORKFLOW_NAMES[plane.folded.phase]
    if not plane.over:
        raise Broken(f"the execution is {phase} and nobody drives it any more")
    if world.running:
        raise Broken(f"{world.running} still run after the end")
    if world.abort_wanted and phase == "ABORTED" and not plane.folded.own.abort_cause:
        raise Broken("it is ABORTED without a cause")
    rows = plane.rows()
    for name, row in rows.items():
        told = NODE_NAMES[row.phase]
        if not row.is_over:
            attempts = {key.retry_attempt: TASK_NAMES[task.phase] for key, task in row.tasks.items()}
            raise Broken(f"node {name} is {told} after the end, attempts {attempts}")
        good = told in ("SUCCEEDED", "RECOVERED")
        if bool(row.closure.output_uri) != good:
            raise Broken(f"node {name} is {told} and shows outputs: {row.closure.output_uri!r}")
        if row.parent_node_id is not None and row.parent_node_id not in rows:
            raise Broken(f"node {name} is in {row.parent_node_id}, which is not shown")
        _check_attempts(world, name, [task for _, task in sorted(row.tasks.items())])
    if phase == "SUCCEEDED":
        bad = {name: NODE_NAMES[row.phase] for name, row in rows.items() if row.parent_node_id is None}
        bad = {name: each for name, each in bad.items() if each in ("FAILED", "TIMED_OUT", "ABORTED")}
        if bad:
            raise Broken(f"the execution SUCCEEDED with {bad}")


def _check_attempts(world: World, name: str, tasks: list) -> None:  # type: ignore[type-arg]
    limits = world.course.limits
    numbers = [task.key.retry_attempt for task in tasks]
    if numbers and numbers != list(range(numbers[0], len(numbers) + numbers[0])):
        raise Broken(f"node {name} has attempts {numbers}")
    kinds = [task.closure.error.kind for task in tasks if TASK_NAMES[task.phase] == "FAILED"]
    systems = kinds.count(ExecutionError.SYSTEM)
    most = world.budgets.get(name)
    if most is None:
        return
    if limits.ignore_retry_cause:
        if len(tasks) > most:
            raise Broken(f"node {name} has {len(tasks)} attempts, {most} are allowed")
    elif (
        systems > limits.max_system_failures + 1
        or len(kinds) - systems > most
        or len(tasks) > most + limits.max_system_failures  # those that failed when what they made was collected too
    ):
        raise Broken(f"node {name} has {len(tasks)} attempts, {systems} by the system; {most} are allowed")


def outcome(world: World, *, whole: bool) -> dict[str, object]:
    """What an execution came to: phases, attempts and outputs.

    With `whole` items of arrays that were not awaited are part of it.  Texts of errors are not: of several nodes that
    failed, which one is named is decided by who was last, and that is not recorded.
    """
    plane = world.plane
    own = plane.folded.own
    facts: dict[str, object] = {"": (WORKFLOW_NAMES[own.phase], own.closure.outputs.uri)}
    rows = plane.rows()
    for name, row in rows.items():
        told = NODE_NAMES[row.phase]
        around = rows.get(row.parent_node_id or "")
        if not whole and around is not None and around.metadata.is_array and NODE_NAMES[around.phase] != "SUCCEEDED":
            continue  # which items had ended by then is chance
        attempts = tuple((key.retry_attempt, TASK_NAMES[task.phase]) for key, task in sorted(row.tasks.items()))
        items = plane.items(name) if whole or told == "SUCCEEDED" else []
        facts[name] = (told, row.closure.output_uri, attempts, items, row.parent_node_id, row.metadata.is_dynamic)
    return facts
