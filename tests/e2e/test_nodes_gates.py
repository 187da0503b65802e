"""Gates: a pause, a value, an approval; set by the SDK, and waited for no longer than permitted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flyteidl.core import execution_pb2 as phases
from flytekit.remote import FlyteRemote, FlyteWorkflowExecution

from .conftest import Registered
from .instance import wait_until
from .seen import Seen, phases_of


@pytest.fixture(scope="module")
def seen(remote: FlyteRemote) -> Seen:
    return Seen(remote)


def waits_for(remote: FlyteRemote, execution: FlyteWorkflowExecution, signal: str) -> None:
    """Until the execution asks for it."""

    def look() -> bool:
        return signal in [each.id.signal_id for each in remote.list_signals(execution.id.name)]

    wait_until(f"{signal} is asked for", look)


def test_a_workflow_goes_on_with_what_it_waited_for(registered: Registered, seen: Seen) -> None:
    remote = registered.remote
    execution = registered.launch("nodes.waiting_inside", {"value": 1})
    waits_for(remote, execution, "number")
    assert seen.nodes(execution)["n0"].inside["n0"].phase == "RUNNING"
    remote.set_signal("number", execution.id.name, 5)
    waits_for(remote, execution, "sure")
    asked = time.monotonic()
    remote.approve("sure", execution.id.name)
    assert seen.finished(execution) == "SUCCEEDED"
    assert time.monotonic() - asked < 5, "it was not told of the approval"
    nodes = seen.nodes(execution)
    names = {f"n{number}": "SUCCEEDED" for number in range(5)}
    assert phases_of(nodes) == {"n0": ("SUCCEEDED", names)}
    assert registered.finish(execution).outputs["o0"] == 7
    closure = nodes["n0"].inside["n3"].message.closure  # the pause
    assert closure.updated_at.ToMilliseconds() - closure.created_at.ToMilliseconds() >= 300


def test_a_rejection_fails_the_workflow(registered: Registered, seen: Seen) -> None:
    remote = registered.remote
    execution = registered.launch("nodes.gated", {"value": 1})
    waits_for(remote, execution, "number")
    remote.set_signal("number", execution.id.name, 5)
    waits_for(remote, execution, "sure")
    remote.reject("sure", execution.id.name)
    assert seen.finished(execution) == "FAILED"
    error = seen.nodes(execution)["n2"].error
    assert (error.code, error.kind) == ("ReceivedRejectSignal", phases.ExecutionError.USER)


def test_a_gate_waits_no_longer_than_it_may(registered: Registered, seen: Seen) -> None:
    execution = registered.launch("nodes.impatient", {})
    assert seen.finished(execution) == "FAILED"
    assert "TimeoutExpired" in seen.nodes(execution)["n0"].error.code


def test_an_abort_ends_a_gate_inside_of_a_dynamic_workflow(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.launch("nodes.dynamic_gated", {})
    waits_for(registered.remote, execution, "inner")
    registered.remote.terminate(execution, "enough")
    assert seen.finished(execution, seconds=10) == "ABORTED"
    node = seen.nodes(execution)["n0"]
    assert (node.phase, node.phases()) == ("ABORTED", {"dn0": "ABORTED"})
