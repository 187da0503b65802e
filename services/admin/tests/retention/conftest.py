"""A control plane whose executions are made as clients and engines make them, with blobs where those lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import execution_pb2, launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    WorkflowExecutionIdentifier,
)
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.idl.retention.v1.retention_pb2 import DeleteExecutionRequest, ExecutionKey, Policy, SetPolicyRequest
from aerodrome.idl.retention.v1.retention_pb2_grpc import RetentionServiceStub
from aerodrome.plugins.names import generated_name, raw_output_shard
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.local import LocalStorage

__all__ = ["postgres_server"]

PROJECT, DOMAIN = "flytesnacks", "development"
GROWING = ("journal", "node_executions", "task_executions", "node_items")


@dataclass
class Forgetful:
    """A catalog that remembers what it was told to forget."""

    told: list[str] = field(default_factory=list)
    refuses: int = 0
    """How often it is not available first."""

    async def evict_execution(self, project: str, domain: str, name: str) -> None:
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("the catalog is away")
        self.told.append(f"{project}/{domain}/{name}")


@dataclass
class Pods:
    """A runtime that remembers which pods it was told to forget."""

    forgotten: list[str] = field(default_factory=list)
    refuses: int = 0
    """How often it is not available first."""

    async def forget_pods(self, namespace: str, names: Sequence[str]) -> None:
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("the runtime is away")
        self.forgotten.extend(f"{namespace}/{name}" for name in names)


@dataclass
class World:
    """The control plane, and how to make things in it."""

    admin: Admin
    stub: Any
    retention: Any
    database: Database
    storage: LocalStorage
    clock: ManualClock
    catalog: Forgetful
    pods: Pods

    async def register(self, project: str = PROJECT, domain: str = DOMAIN) -> None:
        """One task, one workflow of it, one launch plan."""

        def key(kind: ResourceType, name: str) -> Identifier:
            return Identifier(resource_type=kind, project=project, domain=domain, name=name, version="v1")

        task = task_pb2.TaskCreateRequest(id=key(ResourceType.TASK, "t"))
        task.spec.template.type = "python-task"
        task.spec.template.metadata.runtime.version = "1"
        task.spec.template.interface.SetInParent()
        task.spec.template.container.image = "python"
        await self.stub.CreateTask(task)
        workflow = workflow_pb2.WorkflowCreateRequest(id=key(ResourceType.WORKFLOW, "w"))
        workflow.spec.template.interface.SetInParent()
        node = workflow.spec.template.nodes.add(id="n0")
        node.task_node.reference_id.CopyFrom(key(ResourceType.TASK, "t"))
        await self.stub.CreateWorkflow(workflow)
        plan = launch_plan_pb2.LaunchPlanCreateRequest(id=key(ResourceType.LAUNCH_PLAN, "lp"))
        plan.spec.workflow_id.CopyFrom(key(ResourceType.WORKFLOW, "w"))
        await self.stub.CreateLaunchPlan(plan)

    async def launch(
        self,
        name: str,
        *,
        project: str = PROJECT,
        domain: str = DOMAIN,
        spec: execution_pb2.ExecutionSpec | None = None,
    ) -> int:
        """An execution that nobody runs yet."""
        request = execution_pb2.ExecutionCreateRequest(project=project, domain=domain, name=name, spec=spec)
        request.spec.launch_plan.CopyFrom(
            Identifier(resource_type=ResourceType.LAUNCH_PLAN, project=project, domain=domain, name="lp", version="v1")
        )
        await self.stub.CreateExecution(request)
        return await self.id_of(name, project, domain)

    async def id_of(self, name: str, project: str = PROJECT, domain: str = DOMAIN) -> int:
        """The number of an execution."""
        return int(
            await self.database.fetchval(
                "SELECT execution_id FROM executions WHERE execution_project = $1 AND execution_domain = $2 "
                "AND execution_name = $3",
                project, domain, name,
            )
        )  # fmt: skip

    async def run(
        self,
        name: str,
        phase: str = "SUCCEEDED",
        *,
        project: str = PROJECT,
        domain: str = DOMAIN,
        spec: execution_pb2.ExecutionSpec | None = None,
        raw_base: str = "",
    ) -> int:
        """An execution that ran to its end, reported by an outside engine, with a blob at each place of it."""
        execution_id = await self.launch(name, project=project, domain=domain, spec=spec)
        key = WorkflowExecutionIdentifier(project=project, domain=domain, name=name)
        node_key = NodeExecutionIdentifier(node_id="n0", execution_id=key)
        at = self.clock.now()

        async def report(event: Any) -> None:
            event.occurred_at.FromDatetime(at)
            event.producer_id = "local"
            if isinstance(event, WorkflowExecutionEvent):
                await self.stub.CreateWorkflowEvent(WorkflowExecutionEventRequest(event=event))
            elif isinstance(event, NodeExecutionEvent):
                await self.stub.CreateNodeEvent(NodeExecutionEventRequest(event=event))
            else:
                await self.stub.CreateTaskEvent(TaskExecutionEventRequest(event=event))

        await report(WorkflowExecutionEvent(execution_id=key, phase=WorkflowExecution.RUNNING))
        await report(NodeExecutionEvent(id=node_key, phase=NodeExecution.RUNNING, spec_node_id="n0", event_version=1))
        task = Identifier(resource_type=ResourceType.TASK, project=project, domain=domain, name="t", version="v1")
        await report(
            TaskExecutionEvent(
                task_id=task, parent_node_execution_id=node_key, phase=TaskExecution.RUNNING, task_type="python-task"
            )
        )
        succeeded = TaskExecutionEvent(
            task_id=task, parent_node_execution_id=node_key, phase=TaskExecution.SUCCEEDED, task_type="python-task"
        )
        succeeded.output_data.SetInParent()
        await report(succeeded)
        await report(NodeExecutionEvent(id=node_key, phase=NodeExecution.SUCCEEDED, spec_node_id="n0", event_version=1))
        await self.database.execute(
            "INSERT INTO node_items (execution_id, node_id, item_index, phase) VALUES ($1, 'n0', 3, 3)", execution_id
        )
        ended = WorkflowExecutionEvent(execution_id=key, phase=phase)
        if phase == "FAILED":
            ended.error.message = "no"
        await report(ended)
        for blob in self.blobs(name, project, domain, raw_base):
            await self.storage.write(blob, b"12345")
        return execution_id

    def blobs(self, name: str, project: str = PROJECT, domain: str = DOMAIN, raw_base: str = "") -> list[str]:
        """References of what the data plane wrote for an execution of that name."""
        join = self.storage.join
        directory = join("metadata", "propeller", f"{project}-{domain}-{name}")
        raw_base = raw_base or join("data")
        found = [f"{directory}/n0/data/inputs.pb", f"{directory}/n0/data/0/outputs.pb"]
        for node in ("n0", "n0-0-n3"):
            generated = generated_name(name, node, 0)
            found.append(f"{raw_base}/{raw_output_shard(generated)}/{generated}/abc/file")
        return found

    async def everything(self) -> dict[str, bytes]:
        """All objects of the store."""
        return {
            reference: await self.storage.read(reference) async for reference, _ in self.storage.list(self.storage.base)
        }

    async def rows_of(self, execution_id: int) -> dict[str, int]:
        """Tables that have rows of an execution, whatever tables there are."""
        tables = await self.database.fetch(
            "SELECT c.table_name AS name FROM information_schema.columns c "
            "JOIN information_schema.tables t USING (table_schema, table_name) "
            "WHERE c.table_schema = current_schema() AND c.column_name = 'execution_id' AND t.table_type = 'BASE TABLE'"
        )
        found = {}
        for row in tables:
            count = await self.database.fetchval(
                f'SELECT count(*) FROM "{row["name"]}" WHERE execution_id = $1', execution_id
            )
            if count:
                found[str(row["name"])] = int(count)
        return found

    async def delete(self, name: str, project: str = PROJECT, domain: str = DOMAIN) -> Any:
        """Delete for good, as a client does."""
        return await self.retention.DeleteExecution(
            DeleteExecutionRequest(execution=ExecutionKey(project=project, domain=domain, name=name))
        )

    async def keep(self, project: str = "", domain: str = "", **days: Any) -> None:
        """Set a policy, as a client does."""
        await self.retention.SetPolicy(SetPolicyRequest(policy=Policy(project=project, domain=domain, **days)))

    async def exists(self, name: str, project: str = PROJECT, domain: str = DOMAIN) -> bool:
        """Whether there is such an execution."""
        return bool(
            await self.database.fetchval(
                "SELECT true FROM executions WHERE execution_project = $1 AND execution_domain = $2 "
                "AND execution_name = $3",
                project, domain, name,
            )
        )  # fmt: skip

    def days_pass(self, days: float) -> None:
        """Later it is so late; sleepers, such as the journal's housekeeping, are not woken for every second of it."""
        self.clock.set(self.clock.now() + timedelta(days=days))


@asynccontextmanager
async def running(part: Any) -> AsyncIterator[None]:
    """Runs a part of the control plane for the block."""
    task = asyncio.create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
        yield database


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    config = AdminConfig.model_validate(
        {
            "flyte": {"admin": {"seed_projects": ["flytesnacks", "other"]}},
            "retention": {"pause": "0s", "retry_interval": "10s"},
        }
    )
    clock, catalog = ManualClock(datetime.now(UTC)), Forgetful()
    async with LocalStorage(str(tmp_path / "store")) as storage:
        admin = Admin(
            config,
            database=database,
            storage=storage,
            clock=clock,
            public_url=lambda: "http://here",
            catalog=catalog,
        )
        pods = Pods()
        admin.retention.use_runtime(pods)
        await admin.prepare()
        registry = Registry()
        for add_to_server, servicer in admin.services():
            registry.add(add_to_server, servicer)
        journal = admin.managers.journal
        async with DirectChannel([registry]) as channel, running(journal):
            world = World(
                admin, AdminServiceStub(channel), RetentionServiceStub(channel), database, storage, clock, catalog, pods
            )
            await world.register()
            yield world
