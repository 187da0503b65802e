"""A control plane behind a real gRPC server and the HTTP gateway, for the tests of a module, and requests to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from flyteidl.admin import event_pb2, execution_pb2, launch_plan_pb2, project_pb2, task_pb2, workflow_pb2
from flyteidl.core.identifier_pb2 import Identifier, WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import Literal
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flyteidl.service.dataproxy_pb2_grpc import DataProxyServiceStub
from flyteidl.service.signal_pb2_grpc import SignalServiceStub
from google.protobuf.json_format import ParseDict

from aerodrome.admin import gateway
from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.admin.managers.announcing import NOBODY, open_outside
from aerodrome.idl.journal.v1.journal_pb2_grpc import JournalServiceStub
from aerodrome.stdlib import http
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage import LocalSigner
from aerodrome.stdlib.storage.http import routes as storage_routes
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.telemetry import Telemetry

PROJECT, DOMAIN = "flytesnacks", "development"
DEFAULTS = {"flyte": {"admin": {"seed_projects": [PROJECT]}}}


@dataclass
class Served:
    """What tests speak to."""

    admin: Any
    signals: Any
    data: Any
    journal: Any
    database: Database
    storage: LocalStorage
    url: str
    session: aiohttp.ClientSession
    channel: grpc.aio.Channel

    async def ask(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """A request over HTTP: its status and the JSON of its answer."""
        async with self.session.request(verb, self.url + path, json=body) as response:
            return response.status, json.loads(await response.read())

    async def register_project(self, name: str) -> str:
        """A project of a test's own."""
        await self.admin.RegisterProject(
            project_pb2.ProjectRegisterRequest(project=project_pb2.Project(id=name, name=name))
        )
        return name

    async def register(self, name: str, nodes: list[dict[str, Any]], *, tasks: list[str], **more: Any) -> None:
        """A workflow of these nodes with a launch plan of the same name, and the tasks that it runs."""
        for task in tasks:
            request = task_pb2.TaskCreateRequest(id=identifier("TASK", task))
            template = request.spec.template
            template.type = "python-task"
            template.metadata.runtime.version = "1"
            template.interface.SetInParent()
            template.container.image = "python:3.11"
            template.container.args.append("run")
            await self.admin.CreateTask(request)
        workflow = ParseDict(
            {"spec": {"template": {"interface": {}, "nodes": nodes}, **more}}, workflow_pb2.WorkflowCreateRequest()
        )
        workflow.id.CopyFrom(identifier("WORKFLOW", name))
        await self.admin.CreateWorkflow(workflow)
        plan = launch_plan_pb2.LaunchPlanCreateRequest(id=identifier("LAUNCH_PLAN", name))
        plan.spec.workflow_id.CopyFrom(workflow.id)
        await self.admin.CreateLaunchPlan(plan)

    async def launch(self, plan: str, name: str) -> WorkflowExecutionIdentifier:
        """An execution of a launch plan."""
        request = execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=name)
        request.spec.launch_plan.CopyFrom(identifier("LAUNCH_PLAN", plan))
        request.inputs.SetInParent()
        created: WorkflowExecutionIdentifier = (await self.admin.CreateExecution(request)).id
        return created

    async def workflow_event(self, execution: WorkflowExecutionIdentifier, phase: str, at: str, **more: Any) -> None:
        """What an outside engine says of an execution; `at` is a time of 2026-01-01."""
        request = event_pb2.WorkflowExecutionEventRequest()
        ParseDict({"event": {"phase": phase, "occurredAt": instant(at), **more}}, request)
        request.event.execution_id.CopyFrom(execution)
        await self.admin.CreateWorkflowEvent(request)

    async def node_event(
        self, execution: WorkflowExecutionIdentifier, node: str, phase: str, at: str, *, parent: str = "", **more: Any
    ) -> None:
        """What an outside engine says of a node."""
        request = event_pb2.NodeExecutionEventRequest()
        event = {"phase": phase, "occurredAt": instant(at), "specNodeId": node.rpartition("/")[2], "eventVersion": 1}
        ParseDict({"event": {**event, **more}}, request)
        request.event.id.execution_id.CopyFrom(execution)
        request.event.id.node_id = node.replace("/", "-")
        if parent:
            request.event.parent_node_metadata.node_id = parent.replace("/", "-")
        await self.admin.CreateNodeEvent(request)

    async def task_event(
        self, execution: WorkflowExecutionIdentifier, node: str, task: str, attempt: int, phase: str, at: str
    ) -> None:
        """What an outside engine says of an attempt."""
        request = event_pb2.TaskExecutionEventRequest()
        ParseDict({"event": {"phase": phase, "occurredAt": instant(at), "retryAttempt": attempt}}, request)
        request.event.task_id.CopyFrom(identifier("TASK", task))
        request.event.parent_node_execution_id.execution_id.CopyFrom(execution)
        request.event.parent_node_execution_id.node_id = node.replace("/", "-")
        await self.admin.CreateTaskEvent(request)


def identifier(kind: str, name: str, version: str = "v1") -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version=version)


def reference(kind: str, name: str) -> dict[str, Any]:
    """The same, as JSON."""
    return {"resourceType": kind, "project": PROJECT, "domain": DOMAIN, "name": name, "version": "v1"}


def instant(at: str) -> str:
    """`00:01.5` is one and a half seconds into 2026."""
    return f"2026-01-01T00:{at}Z"


def integer(value: int) -> Literal:
    literal = Literal()
    literal.scalar.primitive.integer = value
    return literal


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """The code and the text of the error that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


@asynccontextmanager
async def served(
    server: ServerForTests,
    directory: Path,
    config: Mapping[str, Any] | None = None,
    bus: Bus | None = None,
    telemetry: Telemetry | None = None,
) -> AsyncIterator[Served]:
    """A control plane on a database of its own, for as long as the block lasts; it announces on `bus`."""
    settings = AdminConfig.model_validate(DEFAULTS | dict(config or {}))
    clock = ManualClock()
    where: list[str] = []
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            fresh_database(server, "aerodrome.admin.migrations", service="admin")
        )
        signer = LocalSigner(b"0123456789abcdef", lambda: where[0], clock)
        storage = await stack.enter_async_context(LocalStorage(str(directory), signer=signer))
        admin = Admin(
            settings,
            database=database,
            storage=storage,
            clock=clock,
            public_url=lambda: where[0],
            telemetry=telemetry,
            bus=bus,
            outside=NOBODY if bus is None else await open_outside(settings, bus, stack),
        )
        await admin.prepare()
        rpcs = RpcServer()
        for add_to_server, servicer in admin.services():
            rpcs.add(add_to_server, servicer)
        await stack.enter_async_context(rpcs)
        app = web.Application(middlewares=http.middlewares())
        app.add_routes(gateway.routes(rpcs.registry))
        app.add_routes(storage_routes(storage, signer))
        port = await stack.enter_async_context(http.listen(app, "127.0.0.1", 0))
        where.append(f"http://127.0.0.1:{port}")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(rpcs.address))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        background = asyncio.create_task(admin.run())
        try:
            yield Served(
                AdminServiceStub(channel),
                SignalServiceStub(channel),
                DataProxyServiceStub(channel),
                JournalServiceStub(channel),
                database,
                storage,
                where[0],
                session,
                channel,
            )
        finally:
            background.cancel()
            await asyncio.wait({background})
