"""What may wait for company on its way to the journal, by what the engine makes of observations."""

from __future__ import annotations

import pytest
from flyteidl.core import compiler_pb2, identifier_pb2
from graphs import identifier
from test_pauses import begun, failed, one_task

from aerodrome.plugins.api import ErrorKind
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.items import ItemPlan
from aerodrome.propeller.engine.phases import TaskPhase
from aerodrome.propeller.execution import may_linger


def test_what_a_task_goes_through_may_and_its_beginning_and_the_end_of_all_may_not() -> None:
    engine = Engine(one_task())
    engine.begin(1.0)
    assert not may_linger(engine.take())
    node = engine.root.node("n0")
    engine.prepared(node, 2.0)
    assert not may_linger(engine.take())
    for phase in (TaskPhase.QUEUED, TaskPhase.INITIALIZING, TaskPhase.RUNNING):
        engine.task_phase(node, 0, phase, 0, 3.0)
        assert may_linger(engine.take())
    engine.succeeded(node, 0, 4.0)
    assert may_linger(engine.take())  # what comes next is prepared meanwhile
    engine.prepared(engine.root.node(END), 5.0)
    assert not may_linger(engine.take())


def test_a_retry_and_an_abort_may_not() -> None:
    engine, node = begun()
    engine.failed(node, 0, failed(ErrorKind.USER), 100.0)
    assert may_linger(engine.take())  # it pauses
    engine.tick(104.0)
    assert not may_linger(engine.take())
    engine.abort("enough", 105.0)
    assert not may_linger(engine.take())


def test_items_may_unless_others_begin_for_them() -> None:
    for concurrency in (2, 1):
        engine = Engine(one_task(mapped=True))
        engine.begin(1.0)
        node = engine.root.node("n0")
        engine.prepared(node, 2.0, plan=ItemPlan(2, concurrency=concurrency))
        assert not may_linger(engine.take())
        engine.item_phase(node, 0, 0, TaskPhase.RUNNING, 3.0, None)
        assert may_linger(engine.take())
        engine.item_succeeded(node, 0, 0, 4.0, None)
        assert may_linger(engine.take()) == (concurrency == 2)


@pytest.mark.parametrize("mapped", [False, True], ids=["a node", "an item"])
def test_what_tells_of_a_child_execution_may_not(mapped: bool) -> None:
    closure = compiler_pb2.CompiledWorkflowClosure()
    template = closure.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    node = template.nodes.add(id="n0")
    child = node.array_node.node if mapped else node
    child.workflow_node.launchplan_ref.CopyFrom(identifier("lp", identifier_pb2.LAUNCH_PLAN))
    template.nodes.add(id=END)
    closure.primary.connections.downstream[START].ids.append("n0")
    closure.primary.connections.downstream["n0"].ids.append(END)
    engine = Engine(Closure(closure))
    engine.begin(1.0)
    state = engine.root.node("n0")
    engine.prepared(state, 2.0, plan=ItemPlan(2) if mapped else None)
    engine.take()
    if mapped:
        engine.item_phase(state, 0, 0, TaskPhase.RUNNING, 3.0, None)
    else:
        engine.launched(state, 0, 3.0)
    step = engine.take()
    assert step.transitions
    assert not may_linger(step)
