"""Two data planes of one cluster, in processes of their own: an execution has one driver, however long one sleeps.

The control plane is a platform whose own data plane serves another cluster, so that all work is left to these two.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2
from flyteidl.event import event_pb2

from aerodrome.idl.journal.v1 import journal_pb2, journal_pb2_grpc
from tests.e2e.instance import Instance, clean_environment, wait_until

from .chores import OUTPUT, Client, Side, check_history, register

TERM_SECONDS = 3
CHORE_SECONDS = 0.7


class Propeller:
    """`aerodrome propeller serve` with a configuration file, a runtime directory and a log of its own."""

    def __init__(self, folder: Path, instance: Instance) -> None:
        folder.mkdir()
        self.runtime = folder / "runtime"
        self._log = folder / "log"
        config = folder / "config.yaml"
        settings = {
            "propeller": {"cluster-id": "local", "prof-port": 0, "runtime": {"directory": str(self.runtime)}},
            "admin": {"endpoint": instance.endpoint, "insecure": True},
            "storage": {"type": "local", "container": str(instance.data_dir / "store")},
        }
        config.write_text(json.dumps(settings))  # JSON is YAML
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "aerodrome"), "propeller", "serve", "--config", str(config)],
                env=clean_environment(folder / "home"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def log(self) -> list[dict[str, Any]]:
        """What it said, a message each."""
        lines = self._log.read_text().split("\n")
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def said(self, message: str, **fields: Any) -> list[dict[str, Any]]:
        """Its messages of this text and with these fields."""
        return [each for each in self.log() if each["msg"] == message and fields.items() <= each.items()]

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it in order; it gives its leases back."""
        self.resume()
        self._process.terminate()
        assert self._process.wait(timeout=30) == 0, self._log.read_text()[-3000:]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    base = tmp_path_factory.mktemp("two")
    config = base / "config.yaml"
    settings = {"propeller": {"cluster-id": "elsewhere"}, "journal": {"session-term": f"{TERM_SECONDS}s"}}
    config.write_text(json.dumps(settings))
    instance = Instance(base / "the data", base / "home", arguments=["--config", str(config)])
    try:
        instance.up()
        register(instance, base / "project")
        yield instance
        instance.down()
        wait_until("no process of the instance is left", lambda: not instance.processes(), seconds=20)
    finally:
        instance.kill_all()


@pytest.fixture
def client(instance: Instance) -> Iterator[Client]:
    client = Client(instance.endpoint)
    yield client
    client.close()


@pytest.fixture
def pair(instance: Instance, tmp_path: Path) -> Iterator[tuple[Propeller, Propeller]]:
    """Both are there and have a session before any work is."""
    both = Propeller(tmp_path / "one", instance), Propeller(tmp_path / "other", instance)
    try:
        for each in both:
            wait_until("it has a session", partial(each.said, "session opened"))
        yield both
        for each in both:
            each.stop()
    finally:
        for each in both:
            each.kill()
            Instance(each.runtime, tmp_path).kill_all()


def split(pair: tuple[Propeller, Propeller], side: Side) -> tuple[Propeller, Propeller]:
    """The holder, once the first chore has started, and the other one."""
    (first,) = wait_until("the first chore starts", side.lines)[:1]
    one, other = pair
    return (one, other) if first.place.startswith(str(one.runtime)) else (other, one)


def started_by(propeller: Propeller, side: Side) -> list[tuple[str, int]]:
    """Name and attempt of what it started."""
    lines = [line for line in side.lines() if line.what == "start"]
    return [(line.name, line.attempt) for line in lines if line.place.startswith(str(propeller.runtime))]


def test_a_holder_that_slept_past_its_term_starts_nothing_and_writes_nothing(
    instance: Instance, client: Client, pair: tuple[Propeller, Propeller], tmp_path: Path
) -> None:
    side = Side(tmp_path / "side")
    name = client.launch(f"slept{secrets.token_hex(4)}", side.path, seconds=CHORE_SECONDS)
    holder, other = split(pair, side)
    running = phases.TaskExecution.RUNNING
    wait_until(
        "the journal has its first start", lambda: client.attempts(client.nodes(name)["a"])[0].closure.phase == running
    )
    holder.pause()
    (lost,) = holder.said("execution leased")
    begun = started_by(holder, side)
    assert begun == [("a", 0)]

    wait_until("the other one starts something", lambda: started_by(other, side))
    (taken_over,) = other.said("execution leased")
    assert taken_over["execution"] == lost["execution"]
    assert taken_over["epoch"] > lost["epoch"]
    assert append(instance, holder, lost) == journal_pb2.APPEND_STATUS_STALE
    holder.resume()
    wait_until("it has noticed", lambda: holder.said("lease lost, dropped", epoch=lost["epoch"]))

    execution = client.finish(name)
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.closure.error.message
    wait_until("it works again", lambda: len(holder.said("session opened")) > 1)
    wait_until("no task is left", lambda: not side.live())
    assert append(instance, holder, lost) == journal_pb2.APPEND_STATUS_STALE
    assert client.execution(name) == execution
    assert client.output(name) == OUTPUT
    assert started_by(holder, side) == begun, "it went on with what was not its own any more"
    assert all(each["epoch"] == lost["epoch"] for each in holder.said("append refused"))
    # Nobody can say what became of the attempt whose holder was gone, so there is another one.
    assert check_history(client, name, side) == {**dict.fromkeys("abcdef", 1), "a": 2}


def test_a_short_nap_costs_nothing(client: Client, pair: tuple[Propeller, Propeller], tmp_path: Path) -> None:
    side = Side(tmp_path / "side")
    name = client.launch(f"nap{secrets.token_hex(4)}", side.path, seconds=CHORE_SECONDS)
    holder, other = split(pair, side)
    holder.pause()
    wait_until("the first chore ends by itself", lambda: len(side.lines()) >= 2)
    holder.resume()

    assert client.finish(name).closure.phase == phases.WorkflowExecution.SUCCEEDED
    assert client.output(name) == OUTPUT
    assert set(check_history(client, name, side).values()) == {1}
    assert not other.said("execution leased")


def append(instance: Instance, holder: Propeller, lease: dict[str, Any]) -> int:
    """What the journal says to an append in the name of a holder, by the lease that it was given."""
    project, domain, name = lease["execution"].split("/")
    event = event_pb2.WorkflowExecutionEvent(
        execution_id=identifier_pb2.WorkflowExecutionIdentifier(project=project, domain=domain, name=name),
        phase=phases.WorkflowExecution.FAILED,
        producer_id="propeller",
    )
    event.occurred_at.GetCurrentTime()
    change = journal_pb2.WorkflowChange(event=event.SerializeToString())
    execution = journal_pb2.ExecutionAppend(
        execution_id=lease["id"],
        epoch=lease["epoch"],
        first_sequence=2,
        transitions=[journal_pb2.Transition(workflow=change)],
    )
    session = holder.said("session opened")[0]["session"]
    with grpc.insecure_channel(instance.endpoint) as channel:
        stub = journal_pb2_grpc.JournalServiceStub(channel)
        answer = stub.Append(journal_pb2.AppendRequest(session_id=session, executions=[execution]), timeout=10)
    return int(answer.executions[0].status)
