"""Launch plans inside workflows: executions of their own, in every way in which they and their parents may end."""

from __future__ import annotations

from pathlib import Path

import pytest
from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as phases
from flytekit.remote import FlyteRemote

from .conftest import Registered
from .instance import is_alive, wait_until
from .seen import Seen, phases_of


@pytest.fixture(scope="module")
def seen(remote: FlyteRemote) -> Seen:
    return Seen(remote)


def noted(marker: Path) -> int:
    """The process of the task that noted it."""
    return int(wait_until("the task runs", lambda: marker.read_text().split() if marker.exists() else None)[0])


def test_a_launch_plan_runs_as_an_execution_of_its_own(registered: Registered, seen: Seen) -> None:
    execution = registered.run("nodes.parent", {"value": 1})
    assert execution.outputs["o0"] == 4

    nodes = seen.nodes(execution)
    assert phases_of(nodes) == {"n0": "SUCCEEDED", "n1": "SUCCEEDED", "n2": "SUCCEEDED"}
    assert nodes["n0"].flags == set()
    assert nodes["n0"].message.closure.output_uri.endswith("/n0/data/0/outputs.pb")
    assert nodes["n0"].child.name != nodes["n1"].child.name
    child = seen.execution(nodes["n0"].child)
    metadata = child.spec.metadata
    assert metadata.mode == execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
    assert metadata.nesting == 1
    assert metadata.parent_node_execution.node_id == nodes["n0"].id
    assert metadata.parent_node_execution.execution_id.name == execution.id.name
    assert child.spec.launch_plan.name == "nodes.child_plan"
    assert phases_of(seen.nodes(child.id)) == {"n0": "SUCCEEDED"}


def test_the_error_of_a_child_is_its_parents_error(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.run("nodes.failing_parent", {"value": 1, "folder": str(tmp_path)})
    nodes = seen.nodes(execution)
    child = seen.execution(nodes["n1"].child)
    assert phases_of(nodes) == {"n0": "SUCCEEDED", "n1": "FAILED"}
    assert child.closure.phase == phases.WorkflowExecution.FAILED
    assert nodes["n1"].error == child.closure.error
    assert seen.execution(execution).closure.error == child.closure.error
    assert "broken is broken" in child.closure.error.message


def test_an_abort_reaches_children_of_children(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.launch("nodes.endless_parent", {"folder": str(tmp_path)})
    pid = noted(tmp_path / "endless")
    registered.remote.terminate(execution, "enough")
    assert seen.finished(execution, seconds=10) == "ABORTED"
    node = seen.nodes(execution)["n0"]
    inner = seen.nodes(node.child)["n0"]
    for each, around in ((node, execution.id.name), (inner, node.child.name)):
        child = seen.execution(each.child)
        assert each.phase == "ABORTED"
        assert (each.error.code, child.closure.phase) == ("NodeAborted", phases.WorkflowExecution.ABORTED)
        assert f"cascading abort of {around}" in child.closure.abort_metadata.cause
        assert "enough" in child.closure.abort_metadata.cause
    assert not is_alive(pid)


def test_a_child_that_takes_too_long_is_ended(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.launch("nodes.overlong_parent", {"folder": str(tmp_path)})
    pid = noted(tmp_path / "endless")
    assert seen.finished(execution) == "FAILED"
    node = seen.nodes(execution)["n0"]
    assert "TimeoutExpired" in node.error.code
    assert seen.phase(node.child) == "ABORTED"
    assert not is_alive(pid)


def test_a_child_that_somebody_aborts_fails_its_parent(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.launch("nodes.endless_parent", {"folder": str(tmp_path)})
    noted(tmp_path / "endless")
    child = seen.nodes(execution)["n0"].child
    seen.terminate(child, "not this one")
    assert seen.finished(execution, seconds=10) == "FAILED"
    error = seen.nodes(execution)["n0"].error
    assert (error.code, error.kind) == ("RemoteChildWorkflowExecutionFailed", phases.ExecutionError.USER)
    assert "not this one" in error.message
