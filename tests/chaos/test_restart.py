"""A stop in order, in the middle of a workflow, and a start on the same data directory."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from flyteidl.core import execution_pb2 as phases

from tests.e2e.instance import Instance, is_alive, running, wait_until

from .chores import OUTPUT, Client, Side, check_history, register

GRACE_SECONDS = 1


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """One that waits only a little for tasks when it stops."""
    config = tmp_path / "config.yaml"
    config.write_text(f"propeller: {{runtime: {{grace: {GRACE_SECONDS}s}}}}\n")
    with running(Instance(tmp_path / "the data", tmp_path / "home", arguments=["--config", str(config)])) as started:
        register(started, tmp_path / "project")
        yield started


@pytest.mark.parametrize("seconds", [0.2, 2.5], ids=["tasks-end-in-time", "tasks-are-cut-short"])
def test_what_ran_goes_on_and_what_was_there_is_there(instance: Instance, tmp_path: Path, seconds: float) -> None:
    client = Client(instance.endpoint)
    before = client.launch(f"before{secrets.token_hex(4)}", tmp_path / "before", seconds=0.0)
    assert client.finish(before).closure.phase == phases.WorkflowExecution.SUCCEEDED
    shown = client.execution(before)
    side = Side(tmp_path / "side")
    name = client.launch(f"stopped{secrets.token_hex(4)}", side.path, seconds=seconds)
    wait_until("the second chore starts", lambda: len(side.starts()) > 1)

    pid = instance.pid
    instance.down()
    assert not is_alive(pid)
    assert not instance.processes()
    assert not side.live()
    assert instance.aerodrome("status").returncode == 3
    instance.up()

    assert client.execution(before) == shown
    assert client.output(before) == OUTPUT
    execution = client.finish(name)
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.closure.error.message
    assert client.output(name) == OUTPUT
    taken = check_history(client, name, side)
    assert taken["a"] == 1
    if seconds < GRACE_SECONDS:
        assert set(taken.values()) == {1}
    client.close()
