"""The engine against random workflows, outcomes, aborts and crashes: invariants I1, I2, I4, I6, I7."""

from __future__ import annotations

import itertools
import random

import pytest
from graphs import Crash, Record, Shape, World, random_closure
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.propeller.engine.phases import TERMINAL, NodePhase, TaskPhase, WorkflowPhase

_AGAIN = NodePhase.DYNAMIC_RUNNING
"""The one phase that is told again: of a node whose task was retried and has made another workflow."""
_ORDER = {
    NodePhase.QUEUED: 0,
    NodePhase.RUNNING: 1,
    NodePhase.DYNAMIC_RUNNING: 2,
    **dict.fromkeys(TERMINAL, 3),
}


def check(record: Record, world: World) -> None:
    """What must hold of every history."""
    assert record.phase in (WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED, WorkflowPhase.ABORTED)
    assert not world.running, "something still runs after the end"
    assert not world.running_items, "an item still runs after the end"
    for seen in record.item_phases.values():
        assert sum(phase in (TaskPhase.SUCCEEDED, TaskPhase.FAILED) for phase in seen) <= 1
    for phases in record.node_phases.values():
        told = [p for p, before in zip(phases, [None, *phases], strict=False) if p is not before or p is not _AGAIN]
        ranks = [_ORDER[phase] for phase in told]
        assert ranks == sorted(set(ranks)), f"{phases} go back or repeat"
    workflow = [phase for phase in record.workflow_phases if phase is not WorkflowPhase.ABORTING]
    assert workflow[0] is WorkflowPhase.RUNNING or workflow == [WorkflowPhase.ABORTED]
    assert len(workflow) == len(set(workflow)), f"{workflow} repeats"
    assert sum(phase.terminal for phase in workflow) == 1
    for (_, attempt), attempt_phases in record.task_phases.items():
        assert attempt <= 2 + 3, "more attempts than user and system budgets give"
        assert len(attempt_phases) == len(set(attempt_phases))
    if record.phase is WorkflowPhase.SUCCEEDED:
        bad = {NodePhase.FAILED, NodePhase.TIMED_OUT, NodePhase.ABORTED}
        top = {node: phases[-1] for node, phases in record.node_phases.items() if "-" not in node or node == "end-node"}
        assert not bad & set(top.values())


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**9), parallelism=st.sampled_from([0, 1, 2, 5]))
def test_every_execution_ends_with_a_legal_history(seed: int, parallelism: int) -> None:
    rng = random.Random(seed)
    world = World(seed, random_closure(rng, Shape()))
    world.drive(world.engine(max_parallelism=parallelism), rng)
    check(world.record, world)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**9), crashes=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_a_restart_at_any_point_ends_in_the_same_phase(seed: int, crashes: list[int]) -> None:
    def run(plan: list[int]) -> World:
        rng = random.Random(seed)
        world = World(seed, random_closure(rng, Shape(failure_nodes=False)), failures=0.05, hangs=0.0)
        for after in [*plan, None]:
            try:
                world.drive(world.engine(), rng, crash_after=after)
                break
            except Crash:
                continue
        check(world.record, world)
        return world

    calm, troubled = run([]), run(crashes)
    assert troubled.record.phase is calm.record.phase


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**9), at=st.integers(0, 30), crash=st.none() | st.integers(0, 30))
def test_an_abort_leaves_nothing_running(seed: int, at: int, crash: int | None) -> None:
    rng = random.Random(seed)
    world = World(seed, random_closure(rng, Shape()))
    try:
        world.drive(world.engine(), rng, crash_after=crash, abort_at=at)
    except Crash:
        world.drive(world.engine(), rng, abort_at=0)
    check(world.record, world)
    if world.abort_cause is not None and world.record.phase is not WorkflowPhase.ABORTED:
        assert world.record.phase in (WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**9), crashes=st.lists(st.integers(0, 15), min_size=1, max_size=3))
def test_crashes_among_failures_timeouts_and_failure_nodes_still_end(seed: int, crashes: list[int]) -> None:
    rng = random.Random(seed)
    world = World(seed, random_closure(rng, Shape()), failures=0.3, hangs=0.2)
    for after in [*crashes, None]:
        try:
            world.drive(world.engine(), rng, crash_after=after)
            break
        except Crash:
            continue
    check(world.record, world)


@pytest.mark.parametrize("length", [5_000])
def test_a_long_chain_of_skips_needs_no_stack(length: int) -> None:
    from flyteidl.core import compiler_pb2, identifier_pb2
    from graphs import identifier

    from aerodrome.propeller.engine.graph import END, START, Closure

    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    template = closure.primary.template
    template.id.CopyFrom(identifier("w"))
    template.metadata.on_failure = 1  # type: ignore[assignment]
    names = [START, *(f"n{number}" for number in range(length)), END]
    for name in (START, END, *names[1:-1]):
        node = template.nodes.add(id=name)
        if name not in (START, END):
            node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
    for upstream, downstream in itertools.pairwise(names):
        closure.primary.connections.downstream[upstream].ids.append(downstream)
    world = World(1, Closure(closure), failures=1.0)
    world.drive(world.engine(), random.Random(1))
    assert world.record.phase is WorkflowPhase.FAILED
    assert world.record.node_phases[f"n{length - 1}"] == [NodePhase.SKIPPED]
