"""Retry budgets and interruptible capacity: vectors, and the engine.  Source: spec/data-plane.md, 1.7, 1.9."""

from __future__ import annotations

import pytest
from flyteidl.core import compiler_pb2, identifier_pb2
from graphs import identifier
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.budget import GiveUp, Limits, Retry, decide, interruptible_now
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure
from aerodrome.propeller.engine.phases import NodePhase, WorkflowPhase
from aerodrome.propeller.engine.state import NodeState, Start, Step

USER, SYSTEM, UNKNOWN = ErrorKind.USER, ErrorKind.SYSTEM, ErrorKind.UNKNOWN


def failed(kind: ErrorKind, *, retryable: bool = True) -> Failure:
    return Failure("Broken", "it broke", kind, retryable=retryable)


def attempts_until_the_end(kinds: list[ErrorKind], *, max_attempts: int, limits: Limits) -> tuple[int, GiveUp]:
    """How many attempts there are when attempt n fails with `kinds[n]`, and what ends them."""
    systems = 0
    for attempt, kind in enumerate(kinds):
        verdict = decide(
            failed(kind), attempts=attempt, system_failures=systems, max_attempts=max_attempts, limits=limits
        )
        if isinstance(verdict, GiveUp):
            return attempt + 1, verdict
        assert verdict.spends_system is (kind is SYSTEM)
        systems += verdict.spends_system
    raise AssertionError("it would go on for ever")


@pytest.mark.parametrize(
    ("kinds", "max_attempts", "attempts", "counted"),
    [
        ([USER], 1, 1, "[1/1]"),
        ([UNKNOWN], 1, 1, "[1/1]"),
        ([USER, UNKNOWN, USER], 3, 3, "[3/3]"),
        ([SYSTEM] * 4, 1, 4, "[3/3]"),
        ([SYSTEM] * 3 + [USER], 1, 4, "[1/1]"),
        ([USER, SYSTEM, SYSTEM, USER], 2, 4, "[2/2]"),
        ([USER, SYSTEM, SYSTEM, SYSTEM, SYSTEM], 2, 5, "[3/3]"),
    ],
)
def test_each_cause_spends_its_own_budget(
    kinds: list[ErrorKind], max_attempts: int, attempts: int, counted: str
) -> None:
    number, verdict = attempts_until_the_end(kinds, max_attempts=max_attempts, limits=Limits())
    assert number == attempts
    assert verdict.failure.message == f"{counted} attempts done. Last error: {kinds[attempts - 1].name}::it broke"


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_exhaustion_is_always_the_users(kind: ErrorKind) -> None:
    _, verdict = attempts_until_the_end([kind] * 9, max_attempts=2, limits=Limits())
    assert verdict.failure.code == "RetriesExhausted|Broken"
    assert verdict.failure.kind is USER
    assert not verdict.failure.retryable


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_a_failure_that_is_not_retryable_ends_the_node_as_it_is(kind: ErrorKind) -> None:
    failure = failed(kind, retryable=False)
    assert decide(failure, attempts=0, system_failures=0, max_attempts=9, limits=Limits()) == GiveUp(failure)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_one_budget_counts_everything_where_the_cause_is_ignored(kind: ErrorKind) -> None:
    number, verdict = attempts_until_the_end([kind] * 9, max_attempts=2, limits=Limits(ignore_retry_cause=True))
    assert number == 2
    assert verdict.failure.message.startswith("[2/2] ")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(ErrorKind), min_size=20, max_size=20), st.integers(1, 4), st.integers(0, 4))
def test_attempts_stay_within_both_budgets(kinds: list[ErrorKind], max_attempts: int, systems: int) -> None:
    limits = Limits(max_system_failures=systems)
    number, _ = attempts_until_the_end(kinds, max_attempts=max_attempts, limits=limits)
    seen = kinds[:number]
    assert seen.count(SYSTEM) <= systems + 1
    assert number - seen.count(SYSTEM) <= max_attempts


def test_the_first_permission_is_the_retry_itself() -> None:
    verdict = decide(failed(SYSTEM), attempts=2, system_failures=2, max_attempts=1, limits=Limits())
    assert verdict == Retry(spends_system=True)


@pytest.mark.parametrize(
    ("threshold", "system_failures", "expected"),
    [
        (-1, 0, True),
        (-1, 2, True),
        (-1, 3, False),
        (-2, 1, True),
        (-2, 2, False),
        (0, 3, True),
        (0, 4, False),
        (1, 0, True),
        (1, 1, False),
        (2, 1, True),
        (2, 2, False),
    ],
)
def test_the_last_tries_run_on_capacity_that_stays(threshold: int, system_failures: int, expected: bool) -> None:
    limits = Limits(interruptible_failure_threshold=threshold)
    now = interruptible_now(
        True, attempts=system_failures, system_failures=system_failures, max_attempts=9, limits=limits
    )
    assert now is expected


@pytest.mark.parametrize(
    ("threshold", "attempts", "max_attempts", "expected"),
    [(-1, 0, 1, True), (-1, 1, 3, True), (-1, 2, 3, False), (1, 0, 3, True), (1, 1, 3, False)],
)
def test_attempts_count_where_the_cause_is_ignored(
    threshold: int, attempts: int, max_attempts: int, expected: bool
) -> None:
    limits = Limits(ignore_retry_cause=True, interruptible_failure_threshold=threshold)
    now = interruptible_now(True, attempts=attempts, system_failures=0, max_attempts=max_attempts, limits=limits)
    assert now is expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(-4, 4), st.booleans())
def test_nothing_is_interruptible_that_does_not_want_it(attempts: int, threshold: int, ignore: bool) -> None:
    limits = Limits(interruptible_failure_threshold=threshold, ignore_retry_cause=ignore)
    assert not interruptible_now(False, attempts=attempts, system_failures=0, max_attempts=3, limits=limits)


def test_user_failures_do_not_cost_interruptible_capacity() -> None:
    assert interruptible_now(True, attempts=8, system_failures=0, max_attempts=9, limits=Limits())


# Through the engine: one task node.


def one_task(retries: int) -> Closure:
    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("task", identifier_pb2.TASK))
    template = closure.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    node = template.nodes.add(id="n0")
    node.task_node.reference_id.CopyFrom(identifier("task", identifier_pb2.TASK))
    node.metadata.retries.retries = retries
    template.nodes.add(id=END)
    closure.primary.connections.downstream[START].ids.append("n0")
    closure.primary.connections.downstream["n0"].ids.append(END)
    return Closure(closure)


def begun(retries: int) -> tuple[Engine, NodeState]:
    engine = Engine(one_task(retries))
    engine.begin(1.0)
    node = engine.root.node("n0")
    engine.prepared(node, 2.0)
    return engine, node


def starts(step: Step) -> list[int]:
    return [command.attempt for command in step.permitted if isinstance(command, Start)]


def test_no_user_retries_and_three_system_failures_give_a_fourth_attempt_that_may_succeed() -> None:
    engine, node = begun(retries=0)
    seen = starts(engine.take())
    for attempt in range(3):
        engine.failed(node, attempt, failed(SYSTEM), 3.0 + attempt)
        seen += starts(engine.take())
    assert seen == [0, 1, 2, 3]
    assert (node.attempts, node.system_failures, node.phase) == (3, 3, NodePhase.RUNNING)
    engine.succeeded(node, 3, 9.0)
    engine.prepared(engine.root.node(END), 10.0)
    assert engine.phase is WorkflowPhase.SUCCEEDED


@pytest.mark.parametrize(("last", "counted"), [(SYSTEM, "[3/3]"), (USER, "[1/1]")])
def test_the_fourth_attempt_is_the_last(last: ErrorKind, counted: str) -> None:
    engine, node = begun(retries=0)
    for attempt, kind in enumerate([SYSTEM, SYSTEM, SYSTEM, last]):
        engine.take()
        engine.failed(node, attempt, failed(kind), 3.0 + attempt)
    assert starts(engine.take()) == []
    assert node.phase is NodePhase.FAILED
    assert node.attempts == 3, "the failed attempt keeps its number"
    assert node.failure is not None
    assert (node.failure.code, node.failure.kind) == ("RetriesExhausted|Broken", USER)
    assert node.failure.message.startswith(counted)
    assert engine.phase is WorkflowPhase.FAILED
    assert engine.failure == node.failure


def test_a_late_failure_of_an_attempt_that_is_over_spends_nothing() -> None:
    engine, node = begun(retries=1)
    engine.failed(node, 0, failed(USER), 3.0)
    engine.failed(node, 0, failed(USER), 4.0)
    assert (node.attempts, node.phase) == (1, NodePhase.RUNNING)
