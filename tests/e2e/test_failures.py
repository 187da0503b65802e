"""What users see of failures, retries, timeouts and aborts, and what is left of them: nothing."""

from __future__ import annotations

from pathlib import Path

from flyteidl.core import execution_pb2 as phases
from flytekit.remote import FlyteNodeExecution, FlyteWorkflowExecution

from .conftest import Registered
from .instance import is_alive, wait_until


def only_task_node(execution: FlyteWorkflowExecution | FlyteNodeExecution) -> FlyteNodeExecution:
    """The one node that runs a task, or holds the node that does."""
    nodes = execution.node_executions if isinstance(execution, FlyteWorkflowExecution) else None
    held = nodes if nodes is not None else execution.subworkflow_node_executions
    (node,) = [each for name, each in held.items() if "start-node" not in name and "end-node" not in name]
    return node


def pids(marker: Path) -> list[int]:
    """What the task noted, once it did."""
    return wait_until(
        "the task started its children",
        lambda: [int(text) for text in marker.read_text().split()] if marker.exists() else None,
    )


def test_an_ordinary_exception_shows_its_traceback_at_every_level_and_is_not_retried(
    registered: Registered, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    execution = registered.run("failures.failing", {"marker": str(marker)})

    outer = only_task_node(execution)
    inner = only_task_node(outer)
    (attempt,) = inner.task_executions
    assert execution.closure.phase == phases.WorkflowExecution.FAILED
    client = registered.remote.client  # lists shorten messages, so each level is asked for itself
    for error in (
        client.get_execution(execution.id).closure.error,
        client.get_node_execution(outer.id).closure.error,
        client.get_node_execution(inner.id).closure.error,
        client.get_task_execution(attempt.id).closure.error,
    ):
        assert "ZeroDivisionError" in error.message
        assert "in deeper" in error.message
        assert "return dividend // divisor" in error.message
        assert error.kind == phases.ExecutionError.USER
    assert attempt.closure.phase == phases.TaskExecution.FAILED
    assert marker.read_text().split("\n") == ["divide 0", ""]


def test_a_recoverable_exception_is_retried_and_every_attempt_stays_visible(
    registered: Registered, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    execution = registered.run("failures.retrying", {"marker": str(marker)})

    attempts = only_task_node(execution).task_executions
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED
    assert execution.outputs["o0"] == 2
    assert [each.id.retry_attempt for each in attempts] == [0, 1, 2]
    failed, succeeded = phases.TaskExecution.FAILED, phases.TaskExecution.SUCCEEDED
    assert [each.closure.phase for each in attempts] == [failed, failed, succeeded]
    assert "attempt 0 had no luck" in attempts[0].error.message
    assert "attempt 1 had no luck" in attempts[1].error.message
    assert marker.read_text().split("\n") == ["flaky 0", "flaky 1", "flaky 2", ""]


def test_a_timeout_ends_the_process_and_its_children(registered: Registered, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    execution = registered.run("failures.timing_out", {"marker": str(marker)})

    assert execution.closure.phase == phases.WorkflowExecution.FAILED
    assert "TimeoutExpired" in execution.error.code
    assert "longer than 2 s" in execution.error.message
    assert len(marker.read_text().split("\n")) == 2, "it ran more than once"
    assert not [pid for pid in pids(marker) if is_alive(pid)]


def test_an_abort_leaves_no_process_whatever_it_did_to_get_away(registered: Registered, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    execution = registered.launch("failures.aborted", {"marker": str(marker)})
    started = pids(marker)
    assert all(is_alive(pid) for pid in started)

    registered.remote.terminate(execution, cause="seen enough")
    over = registered.finish(execution)

    assert over.closure.phase == phases.WorkflowExecution.ABORTED
    assert "seen enough" in registered.remote.client.get_execution(execution.id).closure.abort_metadata.cause
    wait_until("every process of the task has ended", lambda: not [pid for pid in started if is_alive(pid)])
