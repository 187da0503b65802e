"""The console before an API that a test fills."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from flyteidl.admin import (
    common_pb2,
    execution_pb2,
    launch_plan_pb2,
    node_execution_pb2,
    project_pb2,
    task_execution_pb2,
    task_pb2,
    workflow_pb2,
)
from flyteidl.core import execution_pb2 as core
from flyteidl.core import identifier_pb2
from flyteidl.service import admin_pb2_grpc, dataproxy_pb2, dataproxy_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome import console
from aerodrome.stdlib import http
from aerodrome.stdlib.errors import NotFound
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry

BEGAN = Timestamp(seconds=1_700_000_000)


class Api(admin_pb2_grpc.AdminServiceServicer, dataproxy_pb2_grpc.DataProxyServiceServicer):
    """The rpcs that the console uses, over dictionaries."""

    def __init__(self) -> None:
        self.project = project_pb2.Project(id="p", name="Project", domains=[project_pb2.Domain(id="d", name="dev")])
        self.executions: dict[str, Any] = {}
        self.execution_data: dict[str, Any] = {}
        self.nodes: dict[str, list[Any]] = defaultdict(list)
        """By the parent node's id."""
        self.node_data: dict[str, Any] = {}
        self.attempts: dict[str, list[Any]] = defaultdict(list)
        self.workflow: Any = None
        self.task: Any = None
        self.launch_plan: Any = None
        self.deck_url = ""
        self.asked: list[Any] = []

    def execution(self, name: str = "n", phase: Any = core.WorkflowExecution.SUCCEEDED) -> Any:
        found = execution_pb2.Execution(
            id=identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name=name)
        )
        found.closure.phase = phase
        found.closure.created_at.CopyFrom(BEGAN)
        found.closure.started_at.CopyFrom(BEGAN)
        found.closure.workflow_id.CopyFrom(self.identifier("my.wf", identifier_pb2.WORKFLOW))
        found.spec.launch_plan.CopyFrom(self.identifier("my.plan", identifier_pb2.LAUNCH_PLAN))
        self.executions[name] = found
        return found

    def node(self, node_id: str, *, parent: str = "", phase: Any = core.NodeExecution.SUCCEEDED) -> Any:
        found = node_execution_pb2.NodeExecution()
        found.id.execution_id.CopyFrom(identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="n"))
        found.id.node_id = node_id
        found.metadata.spec_node_id = node_id.rpartition("-0-")[2]
        found.closure.phase = phase
        found.closure.created_at.CopyFrom(BEGAN)
        found.closure.started_at.CopyFrom(BEGAN)
        self.nodes[parent].append(found)
        return found

    def attempt(self, node_id: str, number: int = 0, phase: Any = core.TaskExecution.SUCCEEDED) -> Any:
        found = task_execution_pb2.TaskExecution()
        found.id.node_execution_id.node_id = node_id
        found.id.task_id.CopyFrom(self.identifier("my.task", identifier_pb2.TASK))
        found.id.retry_attempt = number
        found.closure.phase = phase
        found.closure.task_type = "python-task"
        self.attempts[node_id].append(found)
        return found

    @staticmethod
    def identifier(name: str, kind: Any) -> Any:
        return identifier_pb2.Identifier(resource_type=kind, project="p", domain="d", name=name, version="v/1")

    async def ListProjects(self, request: Any, context: Any) -> Any:
        return project_pb2.Projects(projects=[self.project])

    async def ListExecutions(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        at = int(request.token or 0)
        found = list(self.executions.values())
        token = str(at + request.limit) if at + request.limit < len(found) else ""
        return execution_pb2.ExecutionList(executions=found[at : at + request.limit], token=token)

    async def GetExecution(self, request: Any, context: Any) -> Any:
        try:
            return self.executions[request.id.name]
        except KeyError:
            raise NotFound(f"missing entity of type execution with identifier <b>{request.id.name}</b>") from None

    async def GetExecutionData(self, request: Any, context: Any) -> Any:
        return self.execution_data.get(request.id.name, execution_pb2.WorkflowExecutionGetDataResponse())

    async def ListNodeExecutions(self, request: Any, context: Any) -> Any:
        at = int(request.token or 0)
        found = self.nodes[request.unique_parent_id]
        token = str(at + request.limit) if at + request.limit < len(found) else ""
        return node_execution_pb2.NodeExecutionList(node_executions=found[at : at + request.limit], token=token)

    async def GetNodeExecution(self, request: Any, context: Any) -> Any:
        for nodes in list(self.nodes.values()):
            for node in nodes:
                if node.id.node_id == request.id.node_id:
                    return node
        raise NotFound("missing entity of type node execution")

    async def GetNodeExecutionData(self, request: Any, context: Any) -> Any:
        return self.node_data.get(request.id.node_id, node_execution_pb2.NodeExecutionGetDataResponse())

    async def ListTaskExecutions(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        found = self.attempts[request.node_execution_id.node_id]
        return task_execution_pb2.TaskExecutionList(task_executions=found[: request.limit])

    async def GetWorkflow(self, request: Any, context: Any) -> Any:
        return self._found(self.workflow, request)

    async def GetTask(self, request: Any, context: Any) -> Any:
        return self._found(self.task, request)

    async def GetLaunchPlan(self, request: Any, context: Any) -> Any:
        return self._found(self.launch_plan, request)

    async def CreateDownloadLink(self, request: Any, context: Any) -> Any:
        if not self.deck_url:
            raise NotFound("no deck")
        return dataproxy_pb2.CreateDownloadLinkResponse(
            pre_signed_urls=dataproxy_pb2.PreSignedURLs(signed_url=[self.deck_url])
        )

    def _found(self, entity: Any, request: common_pb2.ObjectGetRequest) -> Any:
        self.asked.append(request)
        if entity is None:
            raise NotFound("missing entity")
        return entity


class Page(HTMLParser):
    """A page as a browser takes it: its tags, its text, and where its links go."""

    def __init__(self, status: int, headers: Any, source: str) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.source = source
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: dict[str, str] = {}
        self.texts: list[str] = []
        self.refresh: str | None = None
        self._href: str | None = None
        if headers.get("Content-Type", "").startswith("text/html"):
            self.feed(source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.attributes |= found.keys()
        if tag == "a":
            self._href = found.get("href")
        if tag == "meta" and found.get("http-equiv") == "refresh":
            self.refresh = found["content"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._href = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._href is not None and data.strip():
            self.links.setdefault(data.strip(), self._href)


class Site:
    """The console, listening."""

    def __init__(self, api: Api, url: str, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.logs: dict[tuple[Any, ...], str] = {}
        self._url = url
        self._session = session

    async def get(self, path: str) -> Page:
        import yarl

        async with self._session.get(yarl.URL(self._url + path, encoded=True), allow_redirects=False) as answer:
            return Page(answer.status, answer.headers, await answer.text())

    async def read_log(self, *named: Any) -> str | None:
        return self.logs.get(named)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    api = Api()
    registry = Registry()
    registry.add(admin_pb2_grpc.add_AdminServiceServicer_to_server, api)
    registry.add(dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server, api)
    app = web.Application(middlewares=http.middlewares())
    async with asyncio.timeout(100), DirectChannel([registry]) as channel, aiohttp.ClientSession() as session:
        made = Site(api, "", session)
        app.add_routes(console.routes(channel, read_log=lambda *named: made.read_log(*named)))
        async with http.listen(app, "127.0.0.1", 0) as port:
            made._url = f"http://127.0.0.1:{port}"
            yield made


@pytest.fixture
def entities() -> tuple[Any, Any, Any]:
    """A workflow, a task and a launch plan."""
    workflow: Any = workflow_pb2.Workflow()
    task: Any = task_pb2.Task()
    plan: Any = launch_plan_pb2.LaunchPlan()
    workflow.id.CopyFrom(Api.identifier("my.wf", identifier_pb2.WORKFLOW))
    template = workflow.closure.compiled_workflow.primary.template
    template.interface.inputs.variables["count"].type.simple = 1
    template.nodes.add(id="start-node")
    node = template.nodes.add(id="n0", upstream_node_ids=["start-node"])
    node.metadata.name = "prepare"
    node.task_node.reference_id.name = "my.prepare"
    task.id.CopyFrom(Api.identifier("my.task", identifier_pb2.TASK))
    task.closure.compiled_task.template.type = "python-task"
    task.closure.compiled_task.template.container.image = "registry/image:1"
    task.closure.compiled_task.template.interface.outputs.variables["o0"].type.blob.format = "csv"
    plan.id.CopyFrom(Api.identifier("my.plan", identifier_pb2.LAUNCH_PLAN))
    plan.closure.state = launch_plan_pb2.ACTIVE
    plan.spec.entity_metadata.schedule.rate.value = 5
    plan.spec.entity_metadata.schedule.rate.unit = 1
    parameter = plan.closure.expected_inputs.parameters["count"]
    parameter.var.type.simple = 1
    parameter.default.scalar.primitive.integer = 7
    return workflow, task, plan
