"""Connectors, spoken to over gRPC: who runs what, and what their answers mean."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, literals_pb2, tasks_pb2
from flyteidl.service import agent_pb2_grpc

from aerodrome.plugins.api import DiscoveringPlugin, ErrorKind, ImmediatePlugin, Phase, PluginError, TaskContext
from aerodrome.plugins.connectors import ConnectorPlugin
from aerodrome.plugins.connectors.config import AgentServiceConfig, ConnectorConfig, ConnectorServiceConfig
from aerodrome.plugins.registry import Host, Registry
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, Unavailable

from .conftest import MakeContext, MakeTask

_T = execution_pb2.TaskExecution


class Service(
    agent_pb2_grpc.AsyncAgentServiceServicer,
    agent_pb2_grpc.SyncAgentServiceServicer,
    agent_pb2_grpc.AgentMetadataServiceServicer,
):
    """A connector that says what a test wants."""

    def __init__(self) -> None:
        self.agents = [
            agent(("job", 0), ("job", 2)),
            agent(("sum", 0), is_sync=True),
            agent_pb2.Agent(name="old", supported_task_types=["old-job"]),
        ]
        self.resource = agent_pb2.Resource(phase=_T.RUNNING)
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.created: list[agent_pb2.CreateTaskRequest] = []
        self.seen: list[agent_pb2.GetTaskRequest] = []
        self.deleted: list[bytes] = []
        self.streamed: list[agent_pb2.ExecuteTaskSyncRequest] = []

    async def _fail(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.error is not None:
            await context.abort(*self.error)

    async def ListAgents(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        return agent_pb2.ListAgentsResponse(agents=self.agents)

    async def CreateTask(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        self.created.append(request)
        return agent_pb2.CreateTaskResponse(resource_meta=b"\xff\x00meta")

    async def GetTask(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        self.seen.append(request)
        return agent_pb2.GetTaskResponse(resource=self.resource)

    async def DeleteTask(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        self.deleted.append(request.resource_meta)
        return agent_pb2.DeleteTaskResponse()

    async def ExecuteTaskSync(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            self.streamed.append(request)
        await self._fail(context)
        yield agent_pb2.ExecuteTaskSyncResponse(header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=self.resource))


def agent(*categories: tuple[str, int], is_sync: bool = False) -> agent_pb2.Agent:
    known = [agent_pb2.TaskCategory(name=name, version=version) for name, version in categories]
    return agent_pb2.Agent(name="a", is_sync=is_sync, supported_task_categories=known)


@asynccontextmanager
async def serving(service: Service, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    server = grpc.aio.server()
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(service, server)
    agent_pb2_grpc.add_SyncAgentServiceServicer_to_server(service, server)
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def plugin(service: Service) -> AsyncIterator[ConnectorPlugin]:
    async with serving(service) as port:
        config = ConnectorServiceConfig(connectors={"one": ConnectorConfig(endpoint=f"127.0.0.1:{port}")})
        yield ConnectorPlugin(config, ManualClock())


@pytest.fixture
def context(make_context: MakeContext, make_task: MakeTask) -> TaskContext:
    inputs = literals_pb2.LiteralMap()
    inputs.literals["x"].scalar.primitive.integer = 3
    task = make_task(type="job", container=tasks_pb2.Container(image="i", args=["--x", "{{.inputs.x}}", "{{.input}}"]))
    return make_context(task, inputs=lambda: inputs, attempt=1, environment={"A": "b"}, labels={"l": "m"})


def of_type(context: TaskContext, task_type: str, version: int = 0) -> TaskContext:
    from dataclasses import replace

    task = tasks_pb2.TaskTemplate()
    task.CopyFrom(context.task)
    task.type, task.task_type_version = task_type, version
    return replace(context, task=task)


async def test_it_runs_what_its_connectors_say_that_they_run(plugin: ConnectorPlugin, service: Service) -> None:
    assert isinstance(plugin, ImmediatePlugin)
    assert isinstance(plugin, DiscoveringPlugin)
    assert plugin.task_types == frozenset()
    await plugin.discover("job")
    assert plugin.task_types == {"job", "sum", "old-job"}


async def test_a_type_is_looked_for_again_but_not_all_the_time(service: Service) -> None:
    clock = ManualClock()
    async with serving(service) as port:
        config = ConnectorServiceConfig(connectors={"one": ConnectorConfig(endpoint=f"127.0.0.1:{port}")})
        plugin = ConnectorPlugin(config, clock)
        await plugin.discover("new-job")
        service.agents.append(agent(("new-job", 0)))
        await plugin.discover("new-job")
        assert "new-job" not in plugin.task_types
        await clock.advance(timedelta(seconds=1))
        await plugin.discover("new-job")
        assert "new-job" in plugin.task_types


async def test_a_connector_takes_a_job_with_all_that_belongs_to_it(
    plugin: ConnectorPlugin, service: Service, context: TaskContext
) -> None:
    await plugin.discover("job")
    assert not plugin.is_immediate(context)
    assert await plugin.create(context) == b"\xff\x00meta"
    (request,) = service.created
    assert list(request.template.container.args) == ["--x", "3", context.inputs_path]
    assert request.inputs.literals["x"].scalar.primitive.integer == 3
    assert request.output_prefix == context.output_prefix
    metadata = request.task_execution_metadata
    assert metadata.task_execution_id.retry_attempt == 1
    assert metadata.task_execution_id.node_execution_id.execution_id == context.execution_id
    assert (dict(metadata.environment_variables), dict(metadata.labels)) == ({"A": "b"}, {"l": "m"})
    assert list(context.task.container.args) == ["--x", "{{.inputs.x}}", "{{.input}}"], "the task itself was changed"
    await plugin.delete(context, b"meta")
    assert service.deleted == [b"meta"]


@pytest.mark.parametrize(
    ("resource", "phase", "code"),
    [
        (agent_pb2.Resource(phase=_T.QUEUED), Phase.QUEUED, ""),
        (agent_pb2.Resource(phase=_T.WAITING_FOR_RESOURCES), Phase.WAITING_FOR_RESOURCES, ""),
        (agent_pb2.Resource(phase=_T.INITIALIZING), Phase.INITIALIZING, ""),
        (agent_pb2.Resource(phase=_T.RUNNING), Phase.RUNNING, ""),
        (agent_pb2.Resource(phase=_T.SUCCEEDED), Phase.SUCCEEDED, ""),
        (agent_pb2.Resource(phase=_T.FAILED), Phase.PERMANENT_FAILURE, "TaskFailedWithError"),
        (agent_pb2.Resource(phase=_T.ABORTED), Phase.PERMANENT_FAILURE, "TaskFailedWithError"),
        (agent_pb2.Resource(phase=_T.RETRYABLE_FAILED), Phase.RETRYABLE_FAILURE, "TaskFailedWithError"),
        (
            agent_pb2.Resource(phase=_T.FAILED, agent_error=agent_pb2.AgentError(code="Mine")),
            Phase.PERMANENT_FAILURE,
            "Mine",
        ),
        (agent_pb2.Resource(state=agent_pb2.PENDING), Phase.INITIALIZING, ""),
        (agent_pb2.Resource(state=agent_pb2.RUNNING), Phase.RUNNING, ""),
        (agent_pb2.Resource(state=agent_pb2.SUCCEEDED), Phase.SUCCEEDED, ""),
        (agent_pb2.Resource(state=agent_pb2.PERMANENT_FAILURE), Phase.PERMANENT_FAILURE, "TaskFailedWithError"),
        (agent_pb2.Resource(phase=99), Phase.RETRYABLE_FAILURE, "TaskFailedWithError"),  # type: ignore[arg-type]
    ],
)
async def test_a_phase_means_what_the_contract_says(
    plugin: ConnectorPlugin,
    service: Service,
    context: TaskContext,
    resource: agent_pb2.Resource,
    phase: Phase,
    code: str,
) -> None:
    await plugin.discover("job")
    service.resource = resource
    outcome = await plugin.get(context, b"meta")
    assert outcome.info.phase is phase
    assert (outcome.info.failure.code if outcome.info.failure else "") == code
    assert outcome.outputs is None
    assert service.seen[0].resource_meta == b"meta"
    assert service.seen[0].task_category == agent_pb2.TaskCategory(name="job", version=0)


async def test_outputs_logs_and_information_come_with_the_phase(
    plugin: ConnectorPlugin, service: Service, context: TaskContext
) -> None:
    await plugin.discover("job")
    service.resource = agent_pb2.Resource(phase=_T.SUCCEEDED, message="done")
    service.resource.outputs.literals["o0"].scalar.primitive.integer = 1
    service.resource.log_links.add(uri="http://log")
    service.resource.custom_info["a"] = "b"
    outcome = await plugin.get(context, b"")
    assert outcome.outputs == service.resource.outputs
    assert [log.uri for log in outcome.info.logs] == ["http://log"]
    assert outcome.info.custom_info == service.resource.custom_info
    assert outcome.info.reason == "done"


async def test_a_whole_task_is_done_in_one_call(
    plugin: ConnectorPlugin, service: Service, context: TaskContext
) -> None:
    await plugin.discover("sum")
    immediate = of_type(context, "sum")
    assert plugin.is_immediate(immediate)
    service.resource = agent_pb2.Resource(phase=_T.SUCCEEDED)
    service.resource.outputs.literals["o0"].scalar.primitive.integer = 7
    outcome = await plugin.execute(immediate)
    assert outcome.info.phase is Phase.SUCCEEDED
    assert outcome.outputs == service.resource.outputs
    header, inputs = service.streamed
    assert header.header.template.type == "sum"
    assert inputs.inputs.literals["x"].scalar.primitive.integer == 3
    service.resource = agent_pb2.Resource(phase=_T.RUNNING)
    assert (await plugin.execute(immediate)).info.phase is Phase.RETRYABLE_FAILURE


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "TaskFailedWithError", ErrorKind.USER),
        (grpc.StatusCode.NOT_FOUND, "TaskFailedWithError", ErrorKind.USER),
        (grpc.StatusCode.UNAVAILABLE, "ConnectorUnavailable", ErrorKind.SYSTEM),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "ConnectorUnavailable", ErrorKind.SYSTEM),
    ],
)
async def test_a_refused_job_fails_its_attempt(
    plugin: ConnectorPlugin, service: Service, context: TaskContext, status: grpc.StatusCode, code: str, kind: ErrorKind
) -> None:
    await plugin.discover("job")
    service.error = (status, "no")
    for call in (plugin.create(context), plugin.execute(of_type(context, "sum"))):
        with pytest.raises(PluginError) as raised:
            await call
        failure = raised.value.failure
        assert (failure.code, failure.kind, failure.retryable) == (code, kind, True)
        assert "connector one" in failure.message


async def test_a_state_that_cannot_be_read_may_be_readable_later(
    plugin: ConnectorPlugin, service: Service, context: TaskContext
) -> None:
    await plugin.discover("job")
    service.error = (grpc.StatusCode.UNAVAILABLE, "restarting")
    with pytest.raises(Unavailable):
        await plugin.get(context, b"")


async def test_configuration_wins_over_what_connectors_say(service: Service, context: TaskContext) -> None:
    other = Service()
    async with serving(service) as first, serving(other) as second:
        config = ConnectorServiceConfig(
            default_connector=ConnectorConfig(endpoint=f"127.0.0.1:{first}"),
            connectors={"two": ConnectorConfig(endpoint=f"127.0.0.1:{second}")},
            connector_for_task_types={"job": "two"},
            supported_task_types=("unannounced",),
        )
        plugin = ConnectorPlugin(config, ManualClock())
        await plugin.create(context)
        assert len(other.created) == 1
        await plugin.create(of_type(context, "unannounced"))
        assert len(service.created) == 1


async def test_another_version_serves_where_there_is_none_of_this(
    plugin: ConnectorPlugin, service: Service, context: TaskContext
) -> None:
    await plugin.discover("job")
    await plugin.create(of_type(context, "job", 5))
    assert service.created[0].template.task_type_version == 5


async def test_a_connector_that_is_down_is_named_by_whoever_misses_it(make_context: MakeContext) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{nobody.getsockname()[1]}"
        config = ConnectorServiceConfig(connectors={"gone": ConnectorConfig(endpoint=endpoint)})
        registry = Registry.load(Host(connectors=config))
        await registry.discover("spark")
        with pytest.raises(PluginError, match=f"gone .{endpoint}.") as raised:
            registry.resolve("spark")
        assert "plugins.connector-service.connectors" in raised.value.failure.message


async def test_a_connector_comes_before_the_plugin_that_claims_the_type(service: Service) -> None:
    service.agents = [agent(("python-task", 0), ("spark", 0))]
    async with serving(service) as port:
        config = AgentServiceConfig.model_validate({"agents": {"one": {"endpoint": f"127.0.0.1:{port}"}}})
        registry = Registry.load(Host(agents=config))
        assert registry.resolve("python-task").id == "container"
        await registry.discover("spark")
        assert registry.resolve("spark").id == "agent-service"
        assert registry.names["spark"] == registry.names["python-task"] == "agent-service"
        assert registry.names["echo"] == "echo"
        assert "nobody" not in registry.names
        assert set(registry.names) >= {"spark", "echo", "sidecar"}
        assert registry.resolve("python-task").id == "agent-service"


def test_without_endpoints_there_is_no_such_plugin() -> None:
    assert not {"agent-service", "connector-service"} & set(Registry.load(Host()).plugins)


def test_a_type_given_to_nobody_is_refused_at_the_start() -> None:
    config = ConnectorServiceConfig(connector_for_task_types={"job": "one"})
    with pytest.raises(FailedPrecondition, match="gives job to 'one'"):
        ConnectorPlugin(config, ManualClock())


@pytest.mark.parametrize("task_type", ["spark", "ray", "dask", "pytorch", "tensorflow", "mpi"])
def test_a_type_that_needs_an_operator_says_what_to_configure(task_type: str) -> None:
    with pytest.raises(PluginError, match=f"no plugin runs tasks of type '{task_type}'") as raised:
        Registry.load(Host()).resolve(task_type)
    assert f"default-for-task-types: {{{task_type}: container}}" in raised.value.failure.message
    assert raised.value.failure.code == "PluginNotFound"


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises((ValueError, InvalidArgument)):
        ConnectorServiceConfig.model_validate({"connectors": {"one": {"endpont": "x"}}})
