"""Launch plans written with flytekit that limit how many of their executions are in progress."""

from __future__ import annotations

from pathlib import Path

import pytest
from flyteidl.core.execution_pb2 import WorkflowExecution
from flytekit.exceptions.user import FlyteEntityAlreadyExistsException
from flytekit.remote import FlyteWorkflowExecution

from .conftest import Registered
from .instance import wait_until


class Held:
    """An execution that goes on until the test lets it end."""

    def __init__(self, registered: Registered, plan: str, marker: Path) -> None:
        self.registered = registered
        self.marker = marker
        self.execution: FlyteWorkflowExecution = registered.launch(f"limited.{plan}", {"marker": str(marker)})

    @property
    def phase(self) -> str:
        now = self.registered.remote.client.get_execution(self.execution.id)
        return str(WorkflowExecution.Phase.Name(now.closure.phase))

    @property
    def waits_for(self) -> str:
        now = self.registered.remote.client.get_execution(self.execution.id)
        return str(now.spec.annotations.values.get("aerodrome/waits-for", ""))

    def wait_for_begin(self) -> None:
        # Not before what it says is written: what it is told would be overwritten.
        wait_until("the task began", lambda: (self.marker.exists() and self.marker.read_text() == "began") or None)

    def end(self) -> None:
        self.marker.write_text("end")
        assert self.registered.finish(self.execution).closure.phase == WorkflowExecution.SUCCEEDED


def test_one_too_many_waits_and_begins_after_the_end_of_the_first(registered: Registered, tmp_path: Path) -> None:
    first, second, third = (Held(registered, "waiting", tmp_path / name) for name in ("first", "second", "third"))
    first.wait_for_begin()
    assert (second.phase, third.phase) == ("QUEUED", "QUEUED")
    assert second.waits_for.startswith("room: at most 1 executions of launch plan")
    assert not second.marker.exists()
    registered.remote.terminate(second.execution, "not needed")
    assert second.phase == "ABORTED"
    first.end()
    third.wait_for_begin()
    assert third.waits_for == ""
    third.end()
    assert not second.marker.exists()


def test_the_newest_replaces_the_one_before(registered: Registered, tmp_path: Path) -> None:
    first = Held(registered, "replacing", tmp_path / "first")
    first.wait_for_begin()
    second = Held(registered, "replacing", tmp_path / "second")
    assert registered.finish(first.execution).closure.phase == WorkflowExecution.ABORTED
    second.wait_for_begin()
    second.end()


def test_one_too_many_is_skipped(registered: Registered, tmp_path: Path) -> None:
    first = Held(registered, "skipping", tmp_path / "first")
    client = registered.remote.client
    inputs = client.get_execution_data(first.execution.id).full_inputs
    with pytest.raises(FlyteEntityAlreadyExistsException):
        client.create_execution("flytesnacks", "development", "one-too-many", first.execution.spec, inputs)
    first.wait_for_begin()
    first.end()
