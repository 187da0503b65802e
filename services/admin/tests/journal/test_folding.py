"""The rules of folding, without a database: tables, and properties over any order and repetition of events."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.core.execution_pb2 import ExecutionError, TaskLog
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import (
    EventReason,
    ExternalResourceInfo,
    NodeExecutionEvent,
    ParentNodeExecutionMetadata,
    TaskExecutionMetadata,
    WorkflowExecutionEvent,
)
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.admin.domain.attempts import (
    MAX_EXTERNAL_RESOURCES,
    MAX_REASONS,
    filtered_logs,
    fold_task,
    merge_patch,
    merged_logs,
)
from aerodrome.admin.domain.folding import (
    ItemChange,
    abort_workflow,
    fold_items,
    fold_node,
    fold_workflow,
)
from aerodrome.admin.domain.offloading import part
from aerodrome.admin.domain.phases import (
    NODE_NAMES,
    NODE_TERMINAL,
    NOTHING,
    TASK_NAMES,
    TASK_OVER,
    TASK_TERMINAL,
    WORKFLOW_NAMES,
    WORKFLOW_TERMINAL,
    NodePhase,
    TaskPhase,
    WorkflowPhase,
    Writer,
    node_may_become,
    workflow_may_become,
)
from aerodrome.admin.domain.rows import ABSENT, ExecutionRow, Folded
from aerodrome.admin.domain.verdicts import ACCEPTED, Refused, Verdict
from aerodrome.stdlib.errors import FailedPrecondition

from .conftest import Events


def fresh() -> Folded:
    """An execution of which nothing was reported yet."""
    own = ExecutionRow(execution_id=1, phase=WorkflowPhase.UNDEFINED, closure=ExecutionClosure(), cluster="local")
    return Folded(1, "flytesnacks", "development", "one", own, complete=True)


def fold(folded: Folded, event: Any, writer: Writer) -> Verdict:
    if isinstance(event, WorkflowExecutionEvent):
        return fold_workflow(folded.own, event, writer)
    if isinstance(event, NodeExecutionEvent):
        return fold_node(folded, event, writer)
    return fold_task(folded, event, writer)


def picture(folded: Folded) -> Any:
    """Everything that is stored of an execution, comparable."""

    def plain(row: Any) -> dict[str, Any]:
        return {
            name: value.SerializeToString(deterministic=True) if hasattr(value, "SerializeToString") else value
            for name in row.__slots__
            if name not in ("tasks",)
            for value in [getattr(row, name)]
        }

    return (
        plain(folded.own),
        {
            node_id: None if row is None else (plain(row), {key: plain(task) for key, task in row.tasks.items()})
            for node_id, row in folded.nodes.items()
        },
    )


WORKFLOW_PHASES = sorted(WORKFLOW_NAMES.values())
NODE_PHASES = sorted(name for name in NODE_NAMES.values() if name)
TASK_PHASES = sorted(name for name in TASK_NAMES.values() if name)


@st.composite
def some_events(draw: st.DrawFn) -> list[Any]:
    """Events of an execution with two nodes, in any order, with repeats."""
    events = Events(seconds=iter(draw(st.lists(st.integers(0, 50), min_size=60, max_size=60))))
    made: list[Any] = []
    for _ in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["workflow", "node", "node", "task", "task", "repeat"]))
        node_id = draw(st.sampled_from(["n0", "n1"]))
        result: dict[str, Any] = draw(
            st.sampled_from([{}, {"output_uri": "/o"}, {"error": ExecutionError(code="X", message="m")}])
        )
        if kind == "repeat" and made:
            made.append(draw(st.sampled_from(made)))
        elif kind == "workflow":
            made.append(events.workflow(draw(st.sampled_from(WORKFLOW_PHASES)), **result))
        elif kind == "node":
            parent = {"parent_node_metadata": ParentNodeExecutionMetadata(node_id="n0")} if node_id == "n1" else {}
            more = draw(st.fixed_dictionaries({}, optional={"is_parent": st.booleans(), "deck_uri": st.just("/d")}))
            made.append(events.node(node_id, draw(st.sampled_from(NODE_PHASES)), **result, **more, **parent))
        else:
            attempt, version = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            more = draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "reason": st.sampled_from(["a", "b"]),
                        "logs": st.lists(
                            st.builds(
                                TaskLog,
                                uri=st.sampled_from("uvw"),
                                name=st.sampled_from(["", "x", "y"]),
                                HideOnceFinished=st.booleans(),
                                ShowWhilePending=st.booleans(),
                            ),
                            max_size=3,
                        ),
                    },
                )
            )
            made.append(events.task(node_id, draw(st.sampled_from(TASK_PHASES)), attempt, version, **result, **more))
    return made


writers = st.sampled_from(list(Writer))


@settings(deadline=None)
@given(some_events(), writers)
def test_the_rows_are_the_fold_of_exactly_what_was_accepted(events: list[Any], writer: Writer) -> None:
    folded = fresh()
    accepted = []
    for event in events:
        before = copy.deepcopy(picture(folded))
        if fold(folded, event, writer) is ACCEPTED:
            accepted.append(event)
        else:
            assert picture(folded) == before, "what is not accepted changes nothing"
    again = fresh()
    assert all(fold(again, event, writer) is ACCEPTED for event in accepted)
    assert picture(again) == picture(folded)


@settings(deadline=None)
@given(some_events(), writers)
def test_terminal_phases_are_never_left_and_a_repeat_changes_nothing(events: list[Any], writer: Writer) -> None:
    folded = fresh()

    def phases() -> dict[Any, tuple[int, frozenset[int]]]:
        found: dict[Any, tuple[int, frozenset[int]]] = {"own": (folded.phase, WORKFLOW_TERMINAL)}
        for node_id, row in folded.nodes.items():
            assert row is not None
            found[node_id] = (row.phase, NODE_TERMINAL)
            for key, task in row.tasks.items():
                found[node_id, key] = (task.phase, TASK_TERMINAL)
        return found

    for event in events:
        before = phases()
        verdict = fold(folded, event, writer)
        after = phases()
        for what, (phase, terminal) in before.items():
            assert phase not in terminal or after[what][0] == phase
        queued = isinstance(event, WorkflowExecutionEvent) and event.phase == WorkflowPhase.QUEUED
        if verdict is ACCEPTED and not (queued and writer is Writer.EVENTS):
            assert fold(folded, event, writer) is not ACCEPTED


@settings(deadline=None)
@given(some_events())
def test_a_lease_holder_never_has_two_live_attempts_of_a_node(events: list[Any]) -> None:
    folded = fresh()
    for event in events:
        fold(folded, event, Writer.LEASE)
        for row in folded.nodes.values():
            assert row is not None
            live = [key.retry_attempt for key, task in row.tasks.items() if task.phase not in TASK_OVER]
            assert len(live) <= 1
            assert not live or live[0] == max(key.retry_attempt for key in row.tasks)
            assert [key.retry_attempt for key in row.tasks] == sorted(key.retry_attempt for key in row.tasks)


@settings(deadline=None)
@given(some_events(), some_events())
def test_nothing_of_a_lease_holder_starts_after_an_abort(before: list[Any], after: list[Any]) -> None:
    folded = fresh()
    for event in before:
        fold(folded, event, Writer.LEASE)
    if folded.is_over:
        with pytest.raises(FailedPrecondition):
            abort_workflow(folded.own, "cause", "me")
        return
    abort_workflow(folded.own, "cause", "me")
    live = {(node_id, row.phase) for node_id, row in folded.nodes.items() if row is not None}
    attempts = {(node_id, key) for node_id, row in folded.nodes.items() if row is not None for key in row.tasks}
    for event in after:
        fold(folded, event, Writer.LEASE)
    for node_id, row in folded.nodes.items():
        assert row is not None
        assert row.phase in NODE_TERMINAL | {NodePhase.FAILING} or (node_id, row.phase) in live
        for key, task in row.tasks.items():
            assert (node_id, key) in attempts or task.phase in TASK_OVER
    if folded.phase == WorkflowPhase.ABORTED:
        assert folded.own.closure.abort_metadata.cause == "cause"


def test_what_our_engine_does_is_legal() -> None:
    """The sequences of spec/data-plane.md sections 6.1 and 6.2."""
    w, n = WorkflowPhase, NodePhase
    for walk in (
        [w.UNDEFINED, w.RUNNING, w.SUCCEEDING, w.SUCCEEDED],
        [w.UNDEFINED, w.QUEUED, w.RUNNING, w.FAILING, w.FAILED],
        [w.UNDEFINED, w.FAILING, w.FAILED],
        [w.RUNNING, w.ABORTED],
        [w.ABORTING, w.ABORTED],
        [w.ABORTING, w.FAILED],
        [w.SUCCEEDING, w.FAILING],
    ):
        assert all(workflow_may_become(one, two) for one, two in itertools.pairwise(walk)), walk
    for steps in (
        [NOTHING, n.QUEUED, n.RUNNING, n.SUCCEEDED],
        [NOTHING, n.QUEUED, n.RUNNING, n.DYNAMIC_RUNNING, n.RUNNING, n.DYNAMIC_RUNNING, n.FAILED],
        [NOTHING, n.SUCCEEDED],
        [NOTHING, n.SKIPPED],
        [NOTHING, n.RECOVERED],
        [NOTHING, n.FAILED],
        [n.QUEUED, n.SUCCEEDED],
        [n.RUNNING, n.TIMED_OUT],
        [n.QUEUED, n.ABORTED],
    ):
        assert all(node_may_become(one, two) for one, two in itertools.pairwise(steps)), steps
    for one, two in (
        (w.RUNNING, w.QUEUED), (w.FAILING, w.RUNNING), (w.FAILING, w.SUCCEEDED), (w.SUCCEEDING, w.RUNNING),
        (w.UNDEFINED, w.SUCCEEDED), (w.ABORTING, w.RUNNING),
    ):  # fmt: skip
        assert not workflow_may_become(one, two)
    for first, second in (
        (n.RUNNING, n.QUEUED),
        (n.SUCCEEDED, n.RUNNING),
        (n.RUNNING, n.SKIPPED),
        (NOTHING, n.TIMED_OUT),
    ):
        assert not node_may_become(first, second)


def test_an_execution_that_never_ran_cannot_succeed() -> None:
    folded, events = fresh(), Events()
    abort_workflow(folded.own, "cause", "me")
    assert isinstance(fold(folded, events.workflow("SUCCEEDED"), Writer.LEASE), Refused)
    assert fold(folded, events.workflow("ABORTED"), Writer.LEASE) is ACCEPTED


def test_outputs_of_a_lease_holder_show_with_success_only() -> None:
    folded, events = fresh(), Events()
    fold(folded, events.workflow("RUNNING", output_uri="/early"), Writer.LEASE)
    fold(folded, events.node("n0", "RUNNING"), Writer.LEASE)
    fold(folded, events.node("n0", "FAILED", output_uri="/half"), Writer.LEASE)
    assert folded.own.closure.outputs.uri == ""
    node = folded.nodes["n0"]
    assert node is not None
    assert node.closure.output_uri == ""


# --- attempts


def run_task(*given_: dict[str, Any]) -> Any:
    """The closure after the reports; each is a phase and more fields of the event."""
    folded, events = fresh(), Events()
    fold(folded, events.node("n0", "RUNNING"), Writer.EVENTS)
    for fields in given_:
        verdict = fold(folded, events.task("n0", **fields), Writer.EVENTS)
        assert verdict is ACCEPTED, verdict
    node = folded.nodes["n0"]
    assert node is not None
    (row,) = node.tasks.values()
    return row


def log(uri: str, name: str = "", *, hide: bool = False, pending: bool = False) -> TaskLog:
    return TaskLog(uri=uri, name=name, HideOnceFinished=hide, ShowWhilePending=pending)


def test_latest_logs_come_first_and_replace_by_uri_and_by_name() -> None:
    old = [log("a", "x"), log("b", "y"), log("c"), log("d")]
    latest = [log("e", "x"), log("c", "z")]
    assert [each.uri for each in merged_logs(old, latest)] == ["e", "c", "b", "d"]
    assert merged_logs(old, []) == old


@pytest.mark.parametrize(
    ("phase", "kept"),
    [
        (TaskPhase.SUCCEEDED, ["plain", "pending"]),
        (TaskPhase.FAILED, ["plain", "pending"]),
        (TaskPhase.QUEUED, ["pending"]),
        (TaskPhase.INITIALIZING, ["pending"]),
        (TaskPhase.RUNNING, ["plain", "hide", "pending"]),
    ],
)
def test_logs_are_filtered_by_phase(phase: int, kept: list[str]) -> None:
    logs = [log("plain"), log("hide", hide=True), log("pending", pending=True)]
    assert [each.uri for each in filtered_logs(logs, phase)] == kept


def test_logs_of_the_first_event_are_not_filtered_and_dropped_ones_are_gone() -> None:
    row = run_task({"phase": "QUEUED", "logs": [log("a"), log("b", pending=True)]})
    assert [each.uri for each in row.closure.logs] == ["a", "b"]
    row = run_task(
        {"phase": "QUEUED", "logs": [log("a"), log("b", pending=True)]},
        {"phase": "INITIALIZING"},
        {"phase": "RUNNING", "logs": [log("c", hide=True)]},
        {"phase": "SUCCEEDED"},
    )
    assert [each.uri for each in row.closure.logs] == ["b"]


def test_reasons_are_kept_in_order_without_immediate_repeats() -> None:
    reasons = [EventReason(reason="one"), EventReason(reason="two")]
    row = run_task(
        {"phase": "QUEUED", "reason": "first"},
        {"phase": "QUEUED", "version": 1, "reason": "first"},
        {"phase": "RUNNING", "reasons": reasons, "reason": "ignored"},
        {"phase": "SUCCEEDED"},
    )
    assert [reason.message for reason in row.closure.reasons] == ["first", "one", "two"]
    assert row.closure.reason == "two"


def test_reasons_are_bounded() -> None:
    row = run_task(
        {"phase": "QUEUED", "reason": "first"},
        *({"phase": "RUNNING", "version": n, "reason": f"r{n}"} for n in range(MAX_REASONS + 50)),
    )
    assert len(row.closure.reasons) == MAX_REASONS
    assert row.closure.reasons[0].message == "first"
    assert row.closure.reasons[-1].message == f"r{MAX_REASONS + 49}"


def test_started_at_is_set_once_and_duration_at_the_end() -> None:
    row = run_task(
        {"phase": "QUEUED"}, {"phase": "RUNNING"}, {"phase": "RUNNING", "version": 1}, {"phase": "SUCCEEDED"}
    )
    assert row.closure.started_at.seconds + 2 == row.closure.updated_at.seconds
    assert row.duration == row.closure.duration.ToNanoseconds() == 2 * 10**9
    assert run_task({"phase": "QUEUED"}, {"phase": "FAILED"}).duration is None


def test_a_retryable_failure_shows_neither_error_nor_outputs() -> None:
    row = run_task({"phase": "RUNNING"}, {"phase": "RETRYABLE_FAILED", "error": ExecutionError(code="X")})
    assert not row.closure.HasField("error")


def test_metadata_is_replaced_where_it_says_something() -> None:
    row = run_task(
        {
            "phase": "QUEUED",
            "metadata": TaskExecutionMetadata(
                generated_name="pod", plugin_identifier="container", instance_class="INTERRUPTIBLE"
            ),
            "log_context": {"primary_pod_name": "p"},
        },
        {"phase": "RUNNING", "metadata": TaskExecutionMetadata(generated_name="pod-2"), "log_context": {}},
    )
    metadata = row.closure.metadata
    assert (metadata.generated_name, metadata.plugin_identifier, metadata.instance_class) == ("pod-2", "container", 1)
    assert row.closure.log_context.primary_pod_name == "p"


def resource(index: int, phase: str, *, retry: int = 0, **more: Any) -> ExternalResourceInfo:
    return ExternalResourceInfo(index=index, retry_attempt=retry, phase=phase, **more)


def test_external_resources_are_merged_by_index_and_attempt() -> None:
    custom = Struct()
    custom["a"] = 1
    first = [
        resource(2, "RUNNING", logs=[log("l", hide=True)], cache_status="CACHE_MISS", custom_info=custom),
        resource(0, "QUEUED", external_id="pod-0"),
    ]
    second = [
        resource(1, "RUNNING"),
        resource(2, "SUCCEEDED", logs=[log("m")]),
        resource(0, "FAILED"),
        resource(0, "RUNNING", retry=1),
    ]
    row = run_task(
        {"phase": "RUNNING", "metadata": TaskExecutionMetadata(external_resources=first)},
        {"phase": "RUNNING", "version": 1, "metadata": TaskExecutionMetadata(external_resources=second)},
        {"phase": "SUCCEEDED"},
    )
    merged = row.closure.metadata.external_resources
    assert [(each.index, each.retry_attempt, TASK_NAMES[each.phase]) for each in merged] == [
        (0, 0, "FAILED"),
        (0, 1, "RUNNING"),
        (1, 0, "RUNNING"),
        (2, 0, "SUCCEEDED"),
    ]
    assert merged[0].external_id == "pod-0"
    assert (merged[3].cache_status, dict(merged[3].custom_info)) == (1, {"a": 1})
    assert [each.uri for each in merged[3].logs] == ["m"]


def test_of_too_many_external_resources_failed_and_running_ones_are_kept() -> None:
    count = MAX_EXTERNAL_RESOURCES + 500
    many = [
        resource(n, "FAILED" if n >= count - 10 else "RUNNING" if n >= count - 20 else "SUCCEEDED")
        for n in range(count)
    ]
    row = run_task({"phase": "RUNNING", "metadata": TaskExecutionMetadata(external_resources=many)})
    kept = [each.index for each in row.closure.metadata.external_resources]
    assert len(kept) == MAX_EXTERNAL_RESOURCES
    assert kept == sorted(kept)
    assert set(range(count - 20, count)) <= set(kept)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7396, as it prints it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


@given(objects, objects)
def test_custom_info_is_patched_as_json(old: dict[str, Any], patch: dict[str, Any]) -> None:
    target, change = Struct(), Struct()
    target.update(old)
    change.update(patch)
    merge_patch(target, change)
    assert MessageToDict(target) == MessageToDict(_struct(patched(old, patch)))


def _struct(values: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


# --- items


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3), st.sampled_from(sorted(TASK_NAMES)[1:])),
        max_size=20,
    )
)
def test_items_only_go_forward(changes: list[tuple[int, int, int, int]]) -> None:
    folded, events = fresh(), Events()
    fold(folded, events.node("n0", "RUNNING"), Writer.LEASE)
    for first, more, attempt, phase in changes:
        before = {} if "n0" not in folded.items else dict(
            enumerate(zip(folded.items["n0"].phases, folded.items["n0"].attempts, strict=True))
        )  # fmt: skip
        change = ItemChange(first, first + more, attempt, 0, phase, b"", 0, "")
        verdict = fold_items(folded, "n0", [change])
        after = dict(enumerate(zip(folded.items["n0"].phases, folded.items["n0"].attempts, strict=True)))
        for index, (old_phase, old_attempt) in before.items():
            new_phase, new_attempt = after[index]
            assert new_attempt >= old_attempt
            if old_phase == TaskPhase.SUCCEEDED:
                assert (new_phase, new_attempt) == (old_phase, old_attempt)
            if verdict is not ACCEPTED:
                assert (new_phase, new_attempt) == (old_phase, old_attempt)
        if verdict is ACCEPTED:
            assert all(after[index] == (phase, attempt) for index in range(first, first + more + 1))
        else:
            assert all(item[0] == ABSENT for index, item in after.items() if index not in before)


@given(st.text(max_size=300))
def test_a_part_of_a_path_never_leads_elsewhere(text: str) -> None:
    made = part(text)
    assert made not in ("", ".", "..")
    assert "/" not in made
    assert "\0" not in made
    assert len(made) <= 128


def test_events_of_other_executions_are_told_apart() -> None:
    from aerodrome.admin.domain.folding import same_execution

    identifier = WorkflowExecutionIdentifier(project="flytesnacks", domain="development", name="one")
    assert same_execution(identifier, fresh())
    identifier.domain = "production"
    assert not same_execution(identifier, fresh())
