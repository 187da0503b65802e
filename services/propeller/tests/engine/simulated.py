"""A world in which an engine's executions run: what its processes start, and processes that die at any moment.

The world goes on while nobody drives the execution.  Each process is a holder of the lease as
`aerodrome.propeller.execution` is one: observations in, transitions to the journal by parts, then the commands.

The journal is a `Plane`, of which there are two: `kept.Journal` keeps what a restart needs, and
`journalled.ControlPlane` sends everything through messages and the control plane's folding.  Chance is drawn from seeds
that belong to the history and to the process, so that the same history goes the same way over both.

A process may die at each of its appends.  Rather than going through the beginning again for every such death, a process
can be told to `Plan` them: at each append it leaves behind what would outlive it had it died there, and goes on.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from drawn import Bounds, Fates, Shapes, Temper
from flyteidl.event import event_pb2
from journalled import writer
from kept import Journal, Told

from aerodrome.admin.domain.verdicts import ACCEPTED, Refused, Verdict
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
    SavedWorkflow,
    Start,
    StartItem,
    Transition,
    WorkflowTransition,
)
from aerodrome.propeller.execution import never_began, together
from aerodrome.propeller.transcript import Transcript, Written

_BEGINNING = 1_000_000.0
_MAX_TURNS = 50_000
_DEEPEST = 4
"""How many dynamic nodes may be inside each other."""
_WRITERS = {item_nodes: writer(item_nodes=item_nodes) for item_nodes in (False, True)}
_NEVER = random.Random(0)
"""Whose chances nobody draws: where everything is punctual, there is none."""
_SCRATCH = random.Random(0)
"""For what is drawn by a process that is about to die, and used by nobody."""


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


@dataclass(slots=True)
class Fault:
    """Where a process dies."""

    append: int
    """At which of its appends, from 0."""
    before: bool = False
    """Nothing of that append was recorded; otherwise all parts up to `parts` were."""
    parts: int = 0
    commands: int = 0
    """How many of the commands that it permits were carried out."""
    seed: int = 0
    """Of the next process's chances."""

    @classmethod
    def drawn(cls, rng: random.Random, append: int) -> Self:
        """A death at that append."""
        return cls(
            append,
            before=rng.random() < 0.3,
            parts=rng.choice((0, 0, 1, 2, 5)),
            commands=rng.choice((0, 1, 2, 1_000)),
            seed=rng.getrandbits(32),
        )


class Plane(Protocol):
    """One execution's journal, and what it comes to."""

    @property
    def abort_cause(self) -> str: ...
    @property
    def has_references(self) -> bool:
        """Whether it says where outputs are."""
        ...

    @property
    def over(self) -> bool: ...
    @property
    def phase(self) -> str: ...
    @property
    def outputs(self) -> str:
        """Where those of the execution are; empty in a record that has no references."""
        ...

    def append(self, writer: Transcript, transitions: Sequence[Written]) -> list[Verdict]: ...
    def abort(self, cause: str) -> None: ...
    def saved(self, now: float) -> SavedWorkflow: ...
    def told(self) -> dict[str, Told]: ...
    def check_fold(self) -> None: ...


@dataclass(slots=True)
class History:
    """What follows a process that died at `fault`."""

    fault: Fault
    world: World | None
    """As it was left; None if it has to be gone through from the beginning."""


@dataclass
class Plan:
    """The deaths of a process that does not die: at every one of its first appends, and at some of the later ones."""

    rng: random.Random
    most: int
    """How many of the first appends."""
    histories: list[History] = field(default_factory=list)

    def fault(self, append: int) -> Fault | None:
        """How the process might have died at this append."""
        if append >= self.most and self.rng.random() * (append + 1) >= self.most:
            return None
        return Fault.drawn(self.rng, append)


@dataclass(slots=True)
class World:
    """What outlives processes: the journal, what runs, and what was observed when."""

    seed: int
    closure: Closure
    course: Course
    shapes: Shapes
    plane: Plane
    now: float = _BEGINNING
    running: dict[str, int] = field(default_factory=dict)
    """Attempt by name of a node, or of an item as `node[index]`."""
    over: dict[tuple[str, int], str] = field(default_factory=dict)
    """What became of attempts that run no more: "ended" or "killed"."""
    published: set[str] = field(default_factory=set)
    """Nodes whose outputs are in place."""
    observations: int = 0
    transitions: int = 0
    restarts: int = 0
    item_nodes: bool = False
    abort_wanted: bool = False
    made: dict[str, Graph] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    instants: dict[tuple[object, ...], float] = field(default_factory=dict)
    fates: Fates = field(init=False)

    def __post_init__(self) -> None:
        self.fates = Fates(self.seed, self.course.temper)

    def again(self, plane: Plane) -> World:
        """The same world at its beginning, with another journal."""
        other = World(self.seed, self.closure, self.course, self.shapes, plane, item_nodes=self.item_nodes)
        other.made, other.budgets, other.fates = self.made, self.budgets, self.fates
        return other

    def copy(self) -> World | None:
        """The same world, to go on otherwise; None if its journal cannot be had twice."""
        if not isinstance(self.plane, Journal):
            return None
        other = self.again(self.plane.copy())
        other.now, other.observations, other.abort_wanted = self.now, self.observations, self.abort_wanted
        other.running, other.over = self.running.copy(), self.over.copy()
        other.published, other.instants = self.published.copy(), self.instants.copy()
        return other

    def drive(self, seed: int, faults: Sequence[Fault] = (), plan: Plan | None = None) -> None:
        """Let processes follow each other until the execution is over; each of `faults` ends one.

        `seed` is of the first one's chances, and `plan` speaks of the first one.
        """
        self._drive(_NEVER if self.course.punctual else random.Random(seed), faults, plan)

    def go_on(self, fault: Fault, faults: Sequence[Fault] = ()) -> None:
        """Let processes follow the one that died at `fault`."""
        self._drive(self._died(fault), faults, None)

    def _drive(self, rng: random.Random, faults: Sequence[Fault], plan: Plan | None) -> None:
        for fault in faults:
            try:
                Process(self, rng, fault, plan).run()
            except Crash:
                rng, plan = self._died(fault), None
            else:
                return
        Process(self, rng, None, plan).run()

    def _died(self, fault: Fault) -> random.Random:
        self.restarts += 1
        if self.course.punctual:
            return _NEVER
        rng = random.Random(fault.seed)
        self.now += rng.random() * 2
        return rng

    def expansion(self, name: str) -> Graph:
        """The graph that an attempt of a dynamic task makes; smaller ones the deeper it is."""
        graph = self.made.get(name)
        if graph is None:
            graph = self.made[name] = self.shapes.graph(self.fates.draw(name, "made"), deep=name.count("-") >= 3)
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


def _parts(written: list[Written]) -> list[list[Written]]:
    """Anywhere but between what one node does at once, as `aerodrome.propeller.execution` cuts appends."""
    parts = [[written[0]]]
    for before, one in itertools.pairwise(written):
        if together(before, one):
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


class Process:
    """One holder of the lease, from what it reads in the journal until the execution is over or it dies."""

    def __init__(self, world: World, rng: random.Random, fault: Fault | None, plan: Plan | None) -> None:
        self.world = world
        self.rng = rng
        self._fault = fault
        self._plan = plan
        self._appends = 0
        self._agenda: list[tuple[float, int, Deed]] = []
        self._count = 0
        self._aborting = False
        self._writer = _WRITERS[world.item_nodes]
        self._collecting: set[tuple[str, int]] = set()
        course = world.course
        saved = world.plane.saved(world.now)
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
        engine, world, punctual = self.engine, self.world, self.world.course.punctual
        waiting: list[Transition] = []
        permitted: list[PermittedCommand] = []
        for _ in range(_MAX_TURNS):
            step = engine.take()
            if step.transitions:
                self._writer.keep(step.transitions)
                waiting.extend(step.transitions)
            permitted.extend(step.permitted)
            for wish in step.free:
                self._free(wish.node, isinstance(wish, Prepare))
            if not punctual and self._agenda and self.rng.random() < 0.4:
                self._observe()  # it was faster than the journal
                continue
            if waiting:
                self._append(waiting, permitted)
                waiting = []
            for command in permitted:
                self._carry_out(command)
            moved, permitted = bool(permitted), []
            if engine.terminal:
                return
            if not moved:
                self._observe()
        raise Broken(f"it does not end: {engine.phase.name}, running {world.running}")

    # The journal

    def _append(self, transitions: list[Transition], permitted: list[PermittedCommand]) -> None:
        """Write the transitions; `permitted` are the commands that follow, of which a dying process does some."""
        world, number = self.world, self._appends
        self._appends += 1
        world.transitions += len(transitions)
        written = self._writer.coalesced(transitions)
        if self._plan is not None:
            fault = self._plan.fault(number)
            if fault is not None:
                self._plan.histories.append(History(fault, self._left_behind(fault, written, permitted)))
        elif self._fault is not None and number == self._fault.append:
            self._die(self._fault, written, permitted)
            raise Crash
        self._record(written)

    def _left_behind(self, fault: Fault, written: list[Written], permitted: list[PermittedCommand]) -> World | None:
        """The world as the process would leave it that dies at this append; the process itself goes on."""
        left = self.world.copy()
        if left is not None:
            mine = self.world, self.rng, self._agenda, self._aborting
            self.world, self.rng, self._agenda = left, _SCRATCH, []
            self._die(fault, written, permitted)
            self.world, self.rng, self._agenda, self._aborting = mine
        return left

    def _die(self, fault: Fault, written: list[Written], permitted: list[PermittedCommand]) -> None:
        """The last that the process does: a part of an append, or all of it and some of the commands.  No deed follows.

        Nothing is told to the engine, which may be that of a process that goes on.
        """
        if fault.before:
            return
        parts = _parts(written) if fault.parts else [written]
        for part in parts[: fault.parts or None]:
            self._record(part, dying=True)
        if not fault.parts or fault.parts >= len(parts):
            for command in permitted[: fault.commands]:
                self._carry_out(command)

    def _record(self, part: list[Written], *, dying: bool = False) -> None:
        world = self.world
        for transition, verdict in zip(part, world.plane.append(self._writer, part), strict=True):
            if verdict is ACCEPTED or not isinstance(verdict, Refused):
                continue
            if not verdict.aborting and not world.plane.abort_cause:
                raise Broken(f"{transition!r} was refused: {verdict.error.message}")
            if verdict.aborting:
                self._aborting = True
                if isinstance(transition, NodeTransition) and transition.phase is NodePhase.QUEUED and not dying:
                    self.engine.not_permitted(transition.node)
            elif never_began(transition, aborting=self._aborting):
                world.plane.append(self._writer, [WorkflowTransition(WorkflowPhase.ABORTED, world.now)])

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
            # What contains others has nothing of its own to end, whether it saw them end or finds that they did.
            scale = 0.0 if node.inner is not None else 1.0
            self._at(("abort", name, attempt), lambda: self.engine.aborted(node, attempt, world.now), scale=scale)
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
        elif node.spec.kind is NodeKind.TASK and self._expands(name, attempt):
            made = f"{name}-{attempt}"
            metadata = event_pb2.TaskNodeMetadata()
            metadata.dynamic_workflow.dynamic_job_spec_uri = f"{made}/futures.pb"
            engine.expanded(
                node, attempt, world.expansion(made), world.now, expansion=made, detail={"task_node_metadata": metadata}
            )
        else:
            world.published.add(name)
            engine.succeeded(node, attempt, world.now)

    def _expands(self, name: str, attempt: int) -> bool:
        fates = self.world.fates
        return fates.draw(name, attempt, "makes") < fates.temper.dynamic and name.count("-") < 2 * _DEEPEST

    def _open_gate(self, node: NodeState, attempt: int) -> None:
        world, engine, name = self.world, self.engine, node.unique_id
        gate = node.spec.template.gate_node
        if gate.WhichOneof("condition") == "sleep":
            until = node.attempt_at + gate.sleep.duration.seconds

            def sleeps() -> None:
                world.published.add(name)
                engine.sleep(node, attempt, until, world.now)

            self._at(("sleeps", name, attempt), sleeps, scale=0.01)
            return
        outcome = world.fates.attempt(name, 0)
        if outcome == "hang" and self._limited(node):
            return

        def comes() -> None:
            if isinstance(outcome, Failure):
                rejected = Failure("ReceivedRejectSignal", f"{name} was rejected", ErrorKind.USER, retryable=False)
                engine.failed(node, attempt, rejected, world.now)
            else:
                world.published.add(name)
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
            world.published.add(name)
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
        elif kind is NodeKind.TASK and self._expands(name, 0) and fates.attempt(name, 0) is None:
            engine.prepared(node, now, ran_elsewhere=fates.draw(name, "elsewhere") < temper.taken_over)
        else:
            if kind is NodeKind.END:
                world.published.add(name)
            engine.prepared(node, now)

    def _collected(self, node: NodeState, attempt: int) -> None:
        world, fates, name = self.world, self.world.fates, node.unique_id
        kind = node.spec.kind
        if kind is not NodeKind.BRANCH and fates.draw(name, attempt, "collected") < fates.temper.unprepared:
            self.engine.collect_failed(node, fates.failure(name, attempt), world.now)
        else:
            world.published.add(name)
            self.engine.collected(node, world.now)

    # Time

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
