"""A platform that is killed while nodes of every kind wait goes on with each of them where it stood."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, signal_pb2, task_execution_pb2
from flyteidl.core import identifier_pb2, literals_pb2
from flyteidl.service import admin_pb2_grpc, signal_pb2_grpc

from .conftest import DOMAIN, PROJECT, WORKFLOWS
from .instance import Instance, kill, running, wait_until, wait_until_dead
from .plugged import literal, literal_map
from .seen import Seen, phases_of

LAUNCH_PLAN = identifier_pb2.LAUNCH_PLAN
PAUSE_SECONDS = 8
"""Between the first attempts of items and the next ones; the crash falls into it."""


class Client:
    """The public API of one instance, without the SDK."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self.signals: Any = signal_pb2_grpc.SignalServiceStub(channel)
        self.seen = Seen(stub=self.admin)

    def launch(
        self, name: str, annotations: Mapping[str, str] | None = None, **inputs: int | str
    ) -> identifier_pb2.WorkflowExecutionIdentifier:
        plan = identifier_pb2.Identifier(
            resource_type=LAUNCH_PLAN, project=PROJECT, domain=DOMAIN, name=f"nodes.{name}", version="v1"
        )
        spec = execution_pb2.ExecutionSpec(launch_plan=plan, annotations=common_pb2.Annotations(values=annotations))
        request = execution_pb2.ExecutionCreateRequest(
            project=PROJECT, domain=DOMAIN, spec=spec, inputs=literal_map(inputs)
        )
        identifier: identifier_pb2.WorkflowExecutionIdentifier = self.admin.CreateExecution(request).id
        return identifier

    def launched_by(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, node_id: str
    ) -> identifier_pb2.WorkflowExecutionIdentifier | None:
        """What a node has launched, as soon as it is known."""
        node = self.seen.nodes(execution).get(node_id)
        return node.child if node is not None and node.child.name else None

    def failed_items(self, execution: identifier_pb2.WorkflowExecutionIdentifier) -> int:
        """How many items of the map `n0` wait for their second attempt."""
        if "n0" not in (nodes := self.seen.nodes(execution)) or not self.seen.attempts(nodes["n0"]):
            return 0
        identifier = nodes["n0"].message.id
        listed = self.admin.ListTaskExecutions(
            task_execution_pb2.TaskExecutionListRequest(node_execution_id=identifier, limit=1)
        )
        request = task_execution_pb2.TaskExecutionGetRequest(id=listed.task_executions[0].id)
        items = self.admin.GetTaskExecution(request).closure.metadata.external_resources
        return sum(item.retry_attempt == 1 for item in items)

    def asked(self, execution: identifier_pb2.WorkflowExecutionIdentifier, signal: str) -> None:
        """Wait until the execution asks for a signal."""

        def look() -> bool:
            request = signal_pb2.SignalListRequest(workflow_execution_id=execution, limit=10)
            return signal in [each.id.signal_id for each in self.signals.ListSignals(request).signals]

        wait_until(f"{signal} is asked for", look)

    def give(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, signal: str, value: literals_pb2.Literal
    ) -> None:
        identifier = identifier_pb2.SignalIdentifier(signal_id=signal, execution_id=execution)
        self.signals.SetSignal(signal_pb2.SignalSetRequest(id=identifier, value=value))


def yes() -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(boolean=True)))


@pytest.fixture
def own_instance(tmp_path: Path) -> Iterator[Instance]:
    with running(Instance(tmp_path / "data", tmp_path / "home")) as instance:
        folder = tmp_path / "project"
        folder.mkdir()
        shutil.copy(WORKFLOWS / "nodes.py", folder)
        done = instance.pyflyte("register", "--version", "v1", "nodes.py", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield instance


def instants(folder: Path, number: int) -> list[float]:
    """When the attempts of an item began."""
    note = folder / str(number)
    return [float(line) for line in note.read_text().splitlines()] if note.exists() else []


def test_nodes_that_wait_go_on_after_a_crash(own_instance: Instance, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.mkdir()
    policy = {"aerodrome.retry.backoff": f"{PAUSE_SECONDS}s", "aerodrome.retry.jitter": "0"}
    with grpc.insecure_channel(own_instance.endpoint) as channel:
        before = Client(channel)
        gate, child, made = (
            before.launch("waiting_inside", value=1),
            before.launch("gated_parent", value=1),
            before.launch("dynamic_gated"),
        )
        pause = before.launch("long_pause")
        for execution, signal in ((gate, "number"), (made, "inner")):
            before.asked(execution, signal)
        launched = wait_until("the child is launched", lambda: before.launched_by(child, "n0"))
        before.asked(launched, "number")
        retried = before.launch("patient_items", annotations=policy, folder=str(items))
        wait_until("both items have failed", lambda: before.failed_items(retried) == 2)

    pid = own_instance.pid
    kill(pid)
    wait_until_dead([pid])
    own_instance.up()

    with grpc.insecure_channel(own_instance.endpoint) as channel:
        after = Client(channel)
        for execution in (gate, launched):
            after.give(execution, "number", literal(5))
            after.asked(execution, "sure")
            after.give(execution, "sure", yes())
        after.give(made, "inner", literal(1))
        for execution in (gate, child, launched, made, pause, retried):
            assert after.seen.finished(execution, seconds=30) == "SUCCEEDED"
        assert phases_of(after.seen.nodes(made)) == {"n0": ("SUCCEEDED", {"dn0": "SUCCEEDED", "dn1": "SUCCEEDED"})}
        closure = after.seen.nodes(pause)["n0"].message.closure
        assert 4_000 <= closure.updated_at.ToMilliseconds() - closure.created_at.ToMilliseconds() < 20_000
        listed = after.admin.ListExecutions(
            common_pb2.ResourceListRequest(
                id=common_pb2.NamedEntityIdentifier(project=PROJECT, domain=DOMAIN), limit=100
            )
        )
        assert len(listed.executions) == 6, "something was launched twice"
    for number in range(2):
        first, second = instants(items, number)
        assert PAUSE_SECONDS <= second - first < PAUSE_SECONDS + 15, "the crash changed its pause"
