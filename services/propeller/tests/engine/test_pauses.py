"""When retries begin: the rule, and the engine on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flyteidl.core import compiler_pb2, identifier_pb2, tasks_pb2
from graphs import identifier
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.budget import Limits, RetryPolicy, pause_after, policy_of
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.items import ItemPlan, SavedItem
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    NodeState,
    SavedNode,
    SavedWorkflow,
    Start,
    StartItem,
    Step,
    TaskTransition,
)

POLICIES = st.builds(
    RetryPolicy,
    backoff=st.floats(0, 1e5),
    factor=st.floats(1, 1000),
    max_backoff=st.floats(0, 1e5),
    jitter=st.floats(0, 1),
)


@given(POLICIES, st.integers(0, 10_000), st.text(max_size=8))
def test_a_pause_is_bounded_and_the_same_each_time(policy: RetryPolicy, attempt: int, key: str) -> None:
    pause = policy.pause(attempt, key)
    assert 0 <= pause <= policy.max_backoff or policy.backoff == 0
    assert pause == policy.pause(attempt, key)


def test_pauses_grow_up_to_their_limit() -> None:
    policy = RetryPolicy(backoff=2, factor=3, max_backoff=30, jitter=0)
    assert [policy.pause(attempt, "") for attempt in range(5)] == [2, 6, 18, 30, 30]


def test_what_failed_together_does_not_come_back_together() -> None:
    limits = Limits(retry=RetryPolicy(backoff=10, jitter=0.5))
    pauses = {pause_after(None, 0, f"n{number}", limits) for number in range(100)}
    assert len(pauses) == 100
    assert min(pauses) < 6
    assert max(pauses) > 9
    other = Limits(retry=RetryPolicy(backoff=10, jitter=0.5), jitter_seed="another execution")
    assert pause_after(None, 0, "n0", other) != pause_after(None, 0, "n0", limits)


def test_a_task_says_it_by_its_config_or_by_annotations_of_its_pod() -> None:
    default = RetryPolicy(backoff=1)
    plain = tasks_pb2.TaskTemplate(config={"aerodrome.retry.backoff": "2s", "aerodrome.retry.memory-limit": "2Gi"})
    assert policy_of(plain, default) == RetryPolicy(backoff=2, memory_limit="2Gi")
    pod = tasks_pb2.TaskTemplate(config={"aerodrome.retry.factor": "1.5", "primary_container_name": "x"})
    pod.k8s_pod.metadata.annotations.update({"aerodrome.retry.backoff": "3", "aerodrome.retry.factor": "9", "a/b": "c"})
    assert policy_of(pod, default) == RetryPolicy(backoff=3, factor=1.5)
    assert policy_of(None, default) is default


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backoff", "soon"),
        ("backoff", "-1s"),
        ("max-backoff", "1000h"),
        ("factor", "0.5"),
        ("factor", "nan"),
        ("jitter", "2"),
        ("memory-factor", "many"),
        ("memory-limit", "2 gigs"),
        ("tries", "3"),
    ],
)
def test_what_cannot_be_read_is_named(key: str, value: str) -> None:
    task = tasks_pb2.TaskTemplate(config={f"aerodrome.retry.{key}": value})
    with pytest.raises(ValueError, match=f"aerodrome.retry.{key}"):
        policy_of(task, RetryPolicy())
    assert pause_after(task, 0, "n0", Limits()) == 0


POLICY = Limits(retry=RetryPolicy(backoff=4, factor=2, jitter=0))


def failed(kind: ErrorKind) -> Failure:
    return Failure("Broken", "it broke", kind, retryable=True)


def one_task(*, mapped: bool = False, timeout: int = 0) -> Closure:
    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    template = closure.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    node = template.nodes.add(id="n0")
    if mapped:
        node = node.array_node.node
        node.id = "item"
    node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
    node.metadata.retries.retries = 2
    node.metadata.timeout.seconds = timeout
    template.nodes.add(id=END)
    closure.primary.connections.downstream[START].ids.append("n0")
    closure.primary.connections.downstream["n0"].ids.append(END)
    return Closure(closure)


def begun() -> tuple[Engine, NodeState]:
    engine = Engine(one_task(), limits=POLICY)
    engine.begin(1.0)
    node = engine.root.node("n0")
    engine.prepared(node, 2.0)
    engine.take()
    return engine, node


def starts(step: Step) -> list[int]:
    return [command.attempt for command in step.permitted if isinstance(command, Start)]


def test_a_retry_begins_when_its_pause_is_over() -> None:
    engine, node = begun()
    engine.failed(node, 0, failed(ErrorKind.USER), 100.0)
    step = engine.take()
    assert starts(step) == []
    assert engine.next_deadline() == 104.0
    (queued,) = [each for each in step.transitions if isinstance(each, TaskTransition) and each.attempt == 1]
    assert "4.0 s after" in queued.info.reason
    engine.tick(103.9)
    assert starts(engine.take()) == []
    engine.tick(104.0)
    assert starts(engine.take()) == [1]
    engine.failed(node, 1, failed(ErrorKind.SYSTEM), 200.0)
    engine.take()
    assert engine.next_deadline() == 208.0
    engine.tick(208.0)
    engine.succeeded(node, 2, 209.0)
    engine.prepared(engine.root.node(END), 210.0)
    assert engine.phase is WorkflowPhase.SUCCEEDED


def test_an_abort_ends_a_pause() -> None:
    engine, node = begun()
    engine.failed(node, 0, failed(ErrorKind.USER), 100.0)
    engine.take()
    engine.abort("enough", 101.0)
    step = engine.take()
    assert [command.attempt for command in step.permitted if isinstance(command, Abort)] == [1]
    assert engine.next_deadline() is None
    engine.tick(110.0)
    assert starts(engine.take()) == []
    engine.aborted(node, 1, 110.0)
    engine.take()
    assert (engine.phase, node.phase) == (WorkflowPhase.ABORTED, NodePhase.ABORTED)


def test_a_restart_does_not_shorten_a_pause() -> None:
    engine, node = begun()
    engine.failed(node, 0, failed(ErrorKind.USER), 100.0)
    saved = SavedNode(
        phase=node.phase, attempts=node.attempts, attempt_at=node.attempt_at, queued_at=1.0, task_phase=node.task_phase
    )
    start = engine.root.node(START)
    nodes = {"n0": saved, START: SavedNode(phase=start.phase)}
    again = Engine(one_task(), limits=POLICY)
    again.restore(SavedWorkflow(phase=WorkflowPhase.RUNNING, nodes=nodes), 101.0)
    assert starts(again.take()) == []
    assert again.next_deadline() == 104.0
    again.tick(104.0)
    assert starts(again.take()) == [1]
    late = Engine(one_task(), limits=POLICY)
    late.restore(SavedWorkflow(phase=WorkflowPhase.RUNNING, nodes=nodes), 500.0)
    assert starts(late.take()) == [1]


def begun_items(step: Step) -> list[tuple[int, int]]:
    return [(command.index, command.attempt) for command in step.permitted if isinstance(command, StartItem)]


@pytest.mark.parametrize("promised", [False, True], ids=["the retry is recorded", "it is not"])
def test_a_restart_does_not_shorten_the_pause_of_an_item(promised: bool) -> None:
    plan = ItemPlan(4)
    waits = SavedItem(1, TaskPhase.RETRYABLE_FAILED, 0) if promised else SavedItem(1, TaskPhase.QUEUED, 1)
    items = (
        SavedItem(0, TaskPhase.QUEUED),
        replace(waits, failed_ago=3.0),
        SavedItem(2, TaskPhase.QUEUED, 1, failed_ago=4.5),
        SavedItem(3, TaskPhase.RUNNING, 1),
    )
    node = SavedNode(phase=NodePhase.RUNNING, attempts=0, attempt_at=1.0, queued_at=1.0, plan=plan, items=items)
    engine = Engine(one_task(mapped=True), limits=POLICY)
    nodes = {"n0": node, START: SavedNode(phase=NodePhase.SUCCEEDED)}
    engine.restore(SavedWorkflow(phase=WorkflowPhase.RUNNING, nodes=nodes), 100.0)
    assert begun_items(engine.take()) == [(0, 0), (2, 1), (3, 1)]
    assert engine.next_deadline() == 101.0
    engine.tick(100.9)
    assert begun_items(engine.take()) == []
    engine.tick(101.0)
    assert begun_items(engine.take()) == [(1, 1)]


def test_a_restart_does_not_give_the_attempt_of_an_item_more_time() -> None:
    items = (
        SavedItem(0, TaskPhase.RUNNING, changed_ago=50.0),
        SavedItem(1, TaskPhase.RUNNING, changed_ago=70.0),
        SavedItem(2, TaskPhase.QUEUED, 1, failed_ago=58.0, changed_ago=58.0),  # which waited for 4 s of those
        SavedItem(3, TaskPhase.RETRYABLE_FAILED, failed_ago=70.0),  # whose next attempt has not begun
    )
    node = SavedNode(phase=NodePhase.RUNNING, attempts=0, attempt_at=1.0, queued_at=1.0, plan=ItemPlan(4), items=items)
    engine = Engine(one_task(mapped=True, timeout=60), limits=POLICY)
    nodes = {"n0": node, START: SavedNode(phase=NodePhase.SUCCEEDED)}
    engine.restore(SavedWorkflow(phase=WorkflowPhase.RUNNING, nodes=nodes), 100.0)
    assert begun_items(engine.take()) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    ended = []
    for now in (100.0, 105.9, 106.0, 110.0, 159.0, 160.0):
        engine.tick(now)
        ended.append([each.index for each in engine.take().permitted if isinstance(each, AbortItem)])
    assert ended == [[1], [], [2], [0], [], [3]]
