"""Launching the six chores of `workflows/chores.py`, and reading what became of them: from the API, through calls that
survive a platform that is away for a while, and from the side file that the tasks write.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from flyteidl.admin import common_pb2, execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, literals_pb2
from flyteidl.service import admin_pb2_grpc

from tests.e2e.instance import Instance, is_alive, wait_until

PROJECT = "flytesnacks"
DOMAIN = "development"
VERSION = "v1"
NAMES: Mapping[str, str] = {"n0": "a", "n1": "b", "n2": "c", "n3": "d", "n4": "e", "n5": "f"}
"""What each node's chore is called."""
OUTPUT = "f(e(b(a())+c(a())+d(a())))"
TERMINAL = frozenset(
    {
        phases.WorkflowExecution.SUCCEEDED,
        phases.WorkflowExecution.FAILED,
        phases.WorkflowExecution.ABORTED,
        phases.WorkflowExecution.TIMED_OUT,
    }
)

_AWAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # grpc's own answer to a call that comes in the very moment in which a server stops
)
Name = identifier_pb2.WorkflowExecutionIdentifier
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One line of the side file."""

    what: str
    name: str
    attempt: int
    pid: int
    place: str
    """The working directory of the attempt."""


class Side:
    """The side file of one execution."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        """What was written completely so far."""
        if not self.path.exists():
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        return [_line(text) for text in whole.split("\n") if text]

    def starts(self) -> list[tuple[str, int]]:
        """Name and attempt of each start."""
        return [(line.name, line.attempt) for line in self.lines() if line.what == "start"]

    def live(self) -> list[Line]:
        """Starts whose process still runs."""
        return [line for line in self.lines() if line.what == "start" and is_alive(line.pid)]


def _line(text: str) -> Line:
    what, name, attempt, pid, place = text.split(" ", 4)
    return Line(what, name, int(attempt), int(pid), place)


class Client:
    """The public API, patient with a platform that is not there or has lost its database for a moment."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=[("grpc.max_reconnect_backoff_ms", 200)])
        self.stub = admin_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def call(self, rpc: Callable[..., T], request: Any, *, seconds: float = 60.0) -> T:
        """Call until there is an answer."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return rpc(request, timeout=10.0, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() not in _AWAY:
                    raise
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def launch(self, name: str, side: Path, *, seconds: float) -> Name:
        """Start the chores under a name; the same again is the same execution, so it may be repeated."""
        plan = identifier_pb2.Identifier(
            resource_type=identifier_pb2.LAUNCH_PLAN,
            project=PROJECT,
            domain=DOMAIN,
            name="chores.chores",
            version=VERSION,
        )
        values = {
            "side": literals_pb2.Primitive(string_value=str(side)),
            "seconds": literals_pb2.Primitive(float_value=seconds),
        }
        inputs = {
            key: literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=value)) for key, value in values.items()
        }
        request = execution_pb2.ExecutionCreateRequest(
            project=PROJECT,
            domain=DOMAIN,
            name=name,
            spec=execution_pb2.ExecutionSpec(launch_plan=plan),
            inputs=literals_pb2.LiteralMap(literals=inputs),
        )
        return self.call(self.stub.CreateExecution, request).id

    def execution(self, name: Name) -> execution_pb2.Execution:
        return self.call(self.stub.GetExecution, execution_pb2.WorkflowExecutionGetRequest(id=name))

    def finish(self, name: Name, *, seconds: float = 60.0) -> execution_pb2.Execution:
        """The execution once it is over."""

        def over() -> execution_pb2.Execution | None:
            execution = self.execution(name)
            return execution if execution.closure.phase in TERMINAL else None

        return wait_until(f"{name.name} is over", over, seconds=seconds, every=0.05)

    def output(self, name: Name) -> str:
        data = self.call(self.stub.GetExecutionData, execution_pb2.WorkflowExecutionGetDataRequest(id=name))
        return str(data.full_outputs.literals["o0"].scalar.primitive.string_value)

    def nodes(self, name: Name) -> dict[str, node_execution_pb2.NodeExecution]:
        """The nodes that run chores, by the names of these."""
        request = node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=name, limit=100)
        listed = self.call(self.stub.ListNodeExecutions, request).node_executions
        return {NAMES[each.id.node_id]: each for each in listed if each.id.node_id in NAMES}

    def succeeded(self, name: Name) -> set[str]:
        """The chores that are known to have succeeded."""
        done = phases.NodeExecution.SUCCEEDED
        return {chore for chore, node in self.nodes(name).items() if node.closure.phase == done}

    def attempts(self, node: node_execution_pb2.NodeExecution) -> Sequence[task_execution_pb2.TaskExecution]:
        """The attempts of a node, the first one first."""
        request = task_execution_pb2.TaskExecutionListRequest(
            node_execution_id=node.id,
            limit=100,
            sort_by=common_pb2.Sort(key="retry_attempt", direction=common_pb2.Sort.ASCENDING),
        )
        return self.call(self.stub.ListTaskExecutions, request).task_executions


def register(instance: Instance, folder: Path, file: str = "chores.py") -> None:
    """Register the chores, or other workflows, from a place of their own."""
    shutil.copytree(Path(__file__).parent / "workflows", folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = instance.pyflyte("register", "--version", VERSION, file, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def check_history(client: Client, name: Name, side: Side) -> dict[str, int]:
    """An execution that succeeded tells a consistent story; returns how many attempts each chore took.

    Every node succeeded, by its last attempt only; no attempt started twice or after the one that succeeded; what the
    API shows is what ran.
    """
    nodes = client.nodes(name)
    assert set(nodes) == set(NAMES.values())
    taken = {}
    for chore, node in nodes.items():
        assert node.closure.phase == phases.NodeExecution.SUCCEEDED, chore
        attempts = client.attempts(node)
        assert [each.id.retry_attempt for each in attempts] == list(range(len(attempts))), chore
        *earlier, last = (each.closure.phase for each in attempts)
        assert last == phases.TaskExecution.SUCCEEDED, chore
        assert all(phase in (phases.TaskExecution.FAILED, phases.TaskExecution.ABORTED) for phase in earlier), chore
        taken[chore] = len(attempts)
    starts = side.starts()
    assert len(set(starts)) == len(starts), f"an attempt started twice: {starts}"
    assert set(starts) <= {(chore, attempt) for chore, count in taken.items() for attempt in range(count)}
    assert {(chore, count - 1) for chore, count in taken.items()} <= set(starts)
    return taken
