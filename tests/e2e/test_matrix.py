"""What no other file tries of {task, sub-workflow, launch plan, branch, gate, dynamic, array} and {success, failure,
retry, timeout, abort, recovery, cache hit}: phases, ids, parents, places and flags of each.

All of them are launched at once, so that they take as long as the longest.  Source: spec/data-plane.md, 6.2, 6.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flytekit.remote import FlyteRemote, FlyteWorkflowExecution

from .conftest import Registered
from .instance import wait_until
from .seen import Seen, SeenNode, phases_of, runs

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sub-workflow retry": ("sub_retry", {}),
    "sub-workflow timeout": ("sub_timeout", {}),
    "sub-workflow abort": ("sub_abort", {}),
    "branch retry": ("branch", {"way": 1}),
    "branch failure": ("branch", {"way": 2}),
    "branch timeout": ("branch", {"way": 3}),
    "branch abort": ("branch", {"way": 4}),
    "branch without an arm": ("branch", {"way": 5}),
    "launch plan retry": ("plan_failure", {}),
    "dynamic timeout": ("dynamic_timeout", {}),
    "gate recovery": ("gate_recovery", {}),
}


@dataclass
class Case:
    """One execution, and where its tasks note that they ran."""

    execution: FlyteWorkflowExecution
    folder: Path


@pytest.fixture(scope="module")
def seen(remote: FlyteRemote) -> Seen:
    return Seen(remote)


@pytest.fixture(scope="module")
def cases(registered: Registered, seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    begun: dict[str, Case] = {}
    for name, (workflow, inputs) in CASES.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        execution = registered.launch(f"matrix.{workflow}", {**inputs, "folder": str(folder)})
        begun[name] = Case(execution, folder)
    yield begun
    for case in begun.values():
        if seen.phase(case.execution) in ("RUNNING", "QUEUED"):
            registered.remote.terminate(case.execution, "the tests are over")


def check_shape(case: Case, nodes: dict[str, SeenNode], parent: SeenNode | None = None) -> None:
    """Ids, parents and places of nodes, and of everything inside."""
    for name, node in nodes.items():
        message = node.message
        assert message.id.execution_id.name == case.execution.id.name
        expected = name if parent is None else f"{parent.id}-{message.metadata.retry_group}-{name}"
        assert message.id.node_id == expected
        if name != "start-node":
            # Where no process looks for them, nodes share what they were given.
            assert message.input_uri.endswith("/inputs.pb") or "/shared/" in message.input_uri
            assert f"-{case.execution.id.name}/" in message.input_uri
        good = node.phase in ("SUCCEEDED", "RECOVERED")
        assert bool(message.closure.output_uri) == good, f"{expected} is {node.phase}"
        assert message.closure.HasField("error") == (node.phase in ("FAILED", "ABORTED"))
        check_shape(case, node.inside, node)


def ended(case: Case, seen: Seen) -> tuple[str, dict[str, SeenNode]]:
    phase = seen.finished(case.execution)
    nodes = seen.nodes(case.execution)
    check_shape(case, nodes)
    return phase, nodes


def aborted(case: Case, seen: Seen, registered: Registered) -> dict[str, SeenNode]:
    wait_until("its task runs", lambda: (case.folder / "endless").exists(), seconds=30)
    registered.remote.terminate(case.execution, "enough")
    phase, nodes = ended(case, seen)
    assert phase == "ABORTED"
    return nodes


def test_a_task_in_a_sub_workflow_is_retried(cases: dict[str, Case], seen: Seen) -> None:
    case = cases["sub-workflow retry"]
    phase, nodes = ended(case, seen)
    assert (phase, phases_of(nodes)) == ("SUCCEEDED", {"n0": ("SUCCEEDED", {"n0": "SUCCEEDED"})})
    assert nodes["n0"].flags == {"parent"}
    inner = nodes["n0"].inside["n0"]
    assert seen.attempts(inner) == ["FAILED", "SUCCEEDED"]
    assert inner.message.closure.output_uri.endswith("/n0/data/0/n0/1/outputs.pb")
    assert runs(case.folder) == {"flaky": 2}


def test_a_sub_workflow_that_takes_too_long_is_ended_with_what_is_inside(cases: dict[str, Case], seen: Seen) -> None:
    case = cases["sub-workflow timeout"]
    phase, nodes = ended(case, seen)
    assert (phase, phases_of(nodes)) == ("FAILED", {"n0": ("FAILED", {"n0": "ABORTED"})})
    assert "TimeoutExpired" in nodes["n0"].error.code
    assert set(seen.attempts(nodes["n0"].inside["n0"])) <= {"ABORTED"}


def test_an_abort_reaches_into_a_sub_workflow(cases: dict[str, Case], seen: Seen, registered: Registered) -> None:
    nodes = aborted(cases["sub-workflow abort"], seen, registered)
    assert phases_of(nodes) == {"n0": ("ABORTED", {"n0": "ABORTED"})}
    assert seen.attempts(nodes["n0"].inside["n0"]) == ["ABORTED"]


def test_the_arm_of_a_branch_is_retried(cases: dict[str, Case], seen: Seen) -> None:
    case = cases["branch retry"]
    phase, nodes = ended(case, seen)
    arm = nodes["n0"].inside["n0-n0"]
    assert (phase, nodes["n0"].phase, arm.phase) == ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED")
    assert list(nodes["n0"].inside) == ["n0-n0"], "arms that are not taken are not told of"
    assert seen.attempts(arm) == ["FAILED", "SUCCEEDED"]
    assert runs(case.folder) == {"flaky": 2}


def test_the_error_of_an_arm_is_the_branchs(cases: dict[str, Case], seen: Seen) -> None:
    phase, nodes = ended(cases["branch failure"], seen)
    (arm,) = nodes["n0"].inside.values()
    assert (phase, nodes["n0"].phase, arm.phase) == ("FAILED", "FAILED", "FAILED")
    assert nodes["n0"].error.code == arm.error.code
    assert "broken for good" in nodes["n0"].error.message


def test_an_arm_that_takes_too_long_is_ended(cases: dict[str, Case], seen: Seen) -> None:
    phase, nodes = ended(cases["branch timeout"], seen)
    (arm,) = nodes["n0"].inside.values()
    assert (phase, nodes["n0"].phase, arm.phase) == ("FAILED", "FAILED", "FAILED")
    assert "TimeoutExpired" in arm.error.code


def test_an_abort_reaches_the_arm_of_a_branch(cases: dict[str, Case], seen: Seen, registered: Registered) -> None:
    nodes = aborted(cases["branch abort"], seen, registered)
    (arm,) = nodes["n0"].inside.values()
    assert (nodes["n0"].phase, arm.phase, seen.attempts(arm)) == ("ABORTED", "ABORTED", ["ABORTED"])


def test_a_branch_that_no_arm_fits_fails_with_its_words(cases: dict[str, Case], seen: Seen) -> None:
    phase, nodes = ended(cases["branch without an arm"], seen)
    assert (phase, phases_of(nodes)) == ("FAILED", {"n0": "FAILED"})
    assert "there is no such way" in nodes["n0"].error.message


def test_a_child_that_failed_is_launched_again_by_a_recovery_only(cases: dict[str, Case], seen: Seen) -> None:
    """Retries of a launch plan's node do not apply: its child's failure is final.  Source: spec/data-plane.md, 3.5."""
    case = cases["launch plan retry"]
    phase, nodes = ended(case, seen)
    assert (phase, phases_of(nodes)) == ("FAILED", {"n0": "FAILED"})
    assert runs(case.folder) == {"child": 1}
    child = seen.execution(nodes["n0"].child)
    assert child.spec.metadata.parent_node_execution == nodes["n0"].message.id
    assert nodes["n0"].error == child.closure.error
    recovered = seen.recover(case.execution)
    assert seen.finished(recovered) == "SUCCEEDED"
    assert runs(case.folder) == {"child": 2}
    (node,) = [node for name, node in seen.nodes(recovered).items() if name == "n0"]
    assert (node.phase, seen.phase(node.child)) == ("SUCCEEDED", "SUCCEEDED")
    assert node.child != nodes["n0"].child


def test_a_dynamic_task_that_takes_too_long_is_ended_with_what_it_made(cases: dict[str, Case], seen: Seen) -> None:
    phase, nodes = ended(cases["dynamic timeout"], seen)
    assert (phase, nodes["n0"].phase) == ("FAILED", "FAILED")
    assert "TimeoutExpired" in nodes["n0"].error.code
    if nodes["n0"].inside:  # its own attempt was in time
        assert nodes["n0"].flags == {"parent", "dynamic"}
        assert nodes["n0"].phases() == {"dn0": "ABORTED"}


def test_what_was_approved_is_not_asked_for_again_by_a_recovery(
    cases: dict[str, Case], seen: Seen, registered: Registered
) -> None:
    case, remote = cases["gate recovery"], registered.remote

    def asked(name: str) -> list[str]:
        return [each.id.signal_id for each in remote.list_signals(name)]

    wait_until("an approval is asked for", lambda: "sure" in asked(case.execution.id.name))
    remote.approve("sure", case.execution.id.name)
    phase, nodes = ended(case, seen)
    assert (phase, phases_of(nodes)) == ("FAILED", {"n0": "SUCCEEDED", "n1": "SUCCEEDED", "n2": "FAILED"})
    recovered = seen.recover(case.execution)
    assert seen.finished(recovered) == "SUCCEEDED"
    assert phases_of(seen.nodes(recovered)) == {"n0": "RECOVERED", "n1": "RECOVERED", "n2": "SUCCEEDED"}
    assert asked(recovered.name) == []
