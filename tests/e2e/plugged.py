"""A platform with what plugins need: connectors, secrets, a database file; and a client that only launches and looks.

It shows the items of maps as nodes (`propeller.array-node-config.event-version`), as others do not.

There may be only one of flytekit's own clients in a process, so this one is flyteidl's stubs.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from flyteidl.admin import execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, literals_pb2
from flyteidl.service import admin_pb2_grpc

from .instance import Instance, free_port, running, wait_until

PROJECT = "flytesnacks"
DOMAIN = "development"
HERE = Path(__file__).parent
MODULES = ("plugged.py", "rest.py")
PASSWORD = "correct-horse-battery-staple"
TOKEN = "token-9f8e7d6c5b4a"
_OVER = {
    phases.WorkflowExecution.SUCCEEDED,
    phases.WorkflowExecution.FAILED,
    phases.WorkflowExecution.ABORTED,
    phases.WorkflowExecution.TIMED_OUT,
}


class PluggedInstance(Instance):
    """An instance in whose environment there is a secret."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "FLYTE_SECRET_API_TOKEN": TOKEN, "NUMBERS_DB": str(self.home / "numbers.db")}


@dataclass
class Plugged:
    """The platform, the connector beside it, and what was registered."""

    instance: Instance
    connector_port: int
    connector: subprocess.Popen[bytes] | None = None
    version: str = "v1"
    _channel: grpc.Channel | None = field(default=None, repr=False)

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        """The platform's service."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.instance.endpoint)
        return admin_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        """Give the connection back."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def launch(self, workflow: str, **inputs: Any) -> identifier_pb2.WorkflowExecutionIdentifier:
        """Start a workflow: of the module `plugged` by its short name, of another by its whole one."""
        plan = identifier_pb2.Identifier(
            resource_type=identifier_pb2.LAUNCH_PLAN,
            project=PROJECT,
            domain=DOMAIN,
            name=workflow if "." in workflow else f"plugged.{workflow}",
            version=self.version,
        )
        request = execution_pb2.ExecutionCreateRequest(
            project=PROJECT,
            domain=DOMAIN,
            name=f"f{uuid.uuid4().hex[:18]}",
            spec=execution_pb2.ExecutionSpec(launch_plan=plan),
            inputs=literal_map(inputs),
        )
        created: identifier_pb2.WorkflowExecutionIdentifier = self.admin.CreateExecution(request).id
        return created

    def get(self, execution: identifier_pb2.WorkflowExecutionIdentifier) -> execution_pb2.Execution:
        """The execution as it stands."""
        found: execution_pb2.Execution = self.admin.GetExecution(
            execution_pb2.WorkflowExecutionGetRequest(id=execution)
        )
        return found

    def finish(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, seconds: float = 60.0
    ) -> execution_pb2.Execution:
        """The execution once it is over."""

        def look() -> execution_pb2.Execution | None:
            found = self.get(execution)
            return found if found.closure.phase in _OVER else None

        return wait_until(f"{execution.name} is over", look, seconds=seconds, every=0.05)

    def run(self, workflow: str, **inputs: Any) -> execution_pb2.Execution:
        """Start a workflow and wait for its end."""
        return self.finish(self.launch(workflow, **inputs))

    def outputs(self, execution: execution_pb2.Execution) -> dict[str, literals_pb2.Literal]:
        """What a workflow gave; fails with its error if it did not succeed."""
        assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.closure.error.message
        data = self.admin.GetExecutionData(execution_pb2.WorkflowExecutionGetDataRequest(id=execution.id))
        return dict(data.full_outputs.literals)

    def values(self, execution: execution_pb2.Execution) -> list[Any]:
        """The primitive outputs of a workflow, in the order of their names."""
        return [plain(literal) for _, literal in sorted(self.outputs(execution).items())]

    def attempts(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, node: str = "n0"
    ) -> list[task_execution_pb2.TaskExecution]:
        """The attempts of a node, in order."""
        parent = identifier_pb2.NodeExecutionIdentifier(node_id=node, execution_id=execution)
        request = task_execution_pb2.TaskExecutionListRequest(node_execution_id=parent, limit=100)
        found = self.admin.ListTaskExecutions(request).task_executions
        return sorted(found, key=lambda each: each.id.retry_attempt)

    def nodes(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier
    ) -> Mapping[str, node_execution_pb2.NodeExecution]:
        """The nodes of an execution by id."""
        request = node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=execution, limit=100)
        return {each.id.node_id: each for each in self.admin.ListNodeExecutions(request).node_executions}

    def terminate(self, execution: identifier_pb2.WorkflowExecutionIdentifier) -> None:
        """Ask for the end of an execution."""
        self.admin.TerminateExecution(execution_pb2.ExecutionTerminateRequest(id=execution, cause="enough"))

    def start_connector(self) -> None:
        """Start the service beside the platform."""
        log = (self.instance.home / "connector.log").open("ab")
        self.connector = subprocess.Popen(
            [sys.executable, str(HERE / "scripts" / "serve_connectors.py"), str(self.connector_port), "connectors"],
            cwd=self.instance.home / "project",
            env={**self.instance.environment, "PYTHONPATH": "."},
            stdout=log,
            stderr=log,
        )
        log.close()

    def stop_connector(self) -> None:
        """Kill it."""
        if self.connector is not None:
            self.connector.kill()
            self.connector.wait()
            self.connector = None


@contextmanager
def plugged_platform(base: Path) -> Iterator[Plugged]:
    """A platform with everything that the module `plugged` needs; the connector starts meanwhile."""
    home, port = base / "home", free_port()
    project, secrets = home / "project", home / "secrets"
    shutil.copytree(HERE / "extended", project, ignore=shutil.ignore_patterns("__pycache__"))
    (secrets / "db").mkdir(mode=0o700, parents=True)
    (secrets / "db" / "password").write_text(PASSWORD)
    (secrets / "db" / "password").chmod(0o600)
    with sqlite3.connect(home / "numbers.db") as connection:
        connection.execute("create table numbers (n integer)")
        connection.executemany("insert into numbers values (?)", [(1,), (2,), (40,)])
    connection.close()
    config = home / "connectors.yaml"
    config.write_text(
        "propeller:\n  array-node-config: {event-version: 1}\n"
        "plugins:\n  connector-service:\n    pollInterval: 1s\n    connectors:\n"
        f"      slow: {{endpoint: 'localhost:{port}', insecure: true, defaultTimeout: 5s}}\n"
    )
    data = base / "data"
    data.mkdir()
    arguments = ["--config", str(config), "--secrets-dir", str(secrets)]
    plugged = Plugged(PluggedInstance(data, home, port=free_port(), arguments=arguments), port)
    plugged.start_connector()
    try:
        with running(plugged.instance):
            done = plugged.instance.pyflyte("register", "--version", plugged.version, *MODULES, cwd=project)
            assert done.returncode == 0, done.stdout + done.stderr
            try:
                yield plugged
            finally:
                plugged.close()
    finally:
        plugged.stop_connector()


def literal_map(values: Mapping[str, Any]) -> literals_pb2.LiteralMap:
    """Plain values as inputs."""
    return literals_pb2.LiteralMap(literals={name: literal(value) for name, value in values.items()})


def literal(value: Any) -> literals_pb2.Literal:
    """A plain value as a literal."""
    result = literals_pb2.Literal()
    match value:
        case list():
            result.collection.literals.extend(literal(each) for each in value)
        case bool():
            result.scalar.primitive.boolean = value
        case int():
            result.scalar.primitive.integer = value
        case float():
            result.scalar.primitive.float_value = value
        case _:
            result.scalar.primitive.string_value = str(value)
    return result


def plain(value: literals_pb2.Literal) -> Any:
    """The plain value of a literal; of a file its place."""
    match value.WhichOneof("value"):
        case "collection":
            return [plain(each) for each in value.collection.literals]
        case "scalar" if value.scalar.HasField("blob"):
            return value.scalar.blob.uri
    primitive = value.scalar.primitive
    return getattr(primitive, primitive.WhichOneof("value") or "string_value")
