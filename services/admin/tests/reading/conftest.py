"""The reading calls as a client sees them, over rows that are put into the tables by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin import execution_pb2, launch_plan_pb2, node_execution_pb2, task_execution_pb2, task_pb2
from flyteidl.core import interface_pb2, types_pb2
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.service import admin_pb2_grpc, dataproxy_pb2_grpc

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.dataproxy import DataProxyManager
from aerodrome.admin.managers.reading import ReadingManager
from aerodrome.admin.rpc.dataproxy import DataProxyRpcs
from aerodrome.admin.rpc.reading import ReadingRpcs
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage import LocalSigner
from aerodrome.stdlib.storage.memory import MemStorage

__all__ = ["postgres_server"]

START = datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """Inserts rows; whatever is not given is made up, later rows being later."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._numbers = itertools.count(1)

    def _time(self) -> datetime:
        return START + timedelta(seconds=next(self._numbers))

    async def _insert(self, table: str, returning: str, row: dict[str, Any]) -> Any:
        columns = ", ".join(f'"{column}"' for column in row)
        values = ", ".join(f"${index}" for index in range(1, len(row) + 1))
        return await self._db.fetchval(
            f"INSERT INTO {table} ({columns}) VALUES ({values}) RETURNING {returning}", *row.values()
        )

    async def task(self, name: str = "t", version: str = "v1", **row: Any) -> int:
        created = row.pop("created_at", self._time())
        closure = task_pb2.TaskClosure()
        closure.compiled_task.template.type = row.get("type", "python-task")
        closure.created_at.FromDatetime(created)
        return int(await self._insert("tasks", "id", {
            "project": "p", "domain": "d", "name": name, "version": version, "created_at": created,
            "closure": closure.SerializeToString(), "digest": b"x", "type": "python-task",
        } | row))  # fmt: skip

    async def workflow(self, name: str = "w", version: str = "v1", **row: Any) -> int:
        interface = interface_pb2.TypedInterface()
        interface.inputs.variables["a"].type.simple = types_pb2.INTEGER
        return int(await self._insert("workflows", "id", {
            "project": "p", "domain": "d", "name": name, "version": version, "created_at": self._time(),
            "typed_interface": interface.SerializeToString(), "remote_closure_identifier": f"mem://s/{name}/{version}",
            "digest": b"x",
        } | row))  # fmt: skip

    async def launch_plan(self, workflow_id: int, name: str = "lp", version: str = "v1", **row: Any) -> int:
        spec = launch_plan_pb2.LaunchPlanSpec(workflow_id=Identifier(name=name))
        closure = launch_plan_pb2.LaunchPlanClosure()
        closure.expected_inputs.parameters["a"].required = True
        return int(await self._insert("launch_plans", "id", {
            "project": "p", "domain": "d", "name": name, "version": version, "created_at": self._time(),
            "spec": spec.SerializeToString(), "closure": closure.SerializeToString(), "workflow_id": workflow_id,
            "digest": b"x",
        } | row))  # fmt: skip

    async def named_entity(self, resource_type: int, name: str, **row: Any) -> None:
        await self._insert(
            "named_entity_metadata",
            "name",
            {"resource_type": resource_type, "project": "p", "domain": "d", "name": name} | row,
        )

    async def description(self, resource_type: int, name: str, version: str, **row: Any) -> None:
        await self._insert("description_entities", "id", {
            "resource_type": resource_type, "project": "p", "domain": "d", "name": name, "version": version,
            "created_at": self._time(),
        } | row)  # fmt: skip

    async def execution(
        self,
        name: str,
        *,
        phase: str = "RUNNING",
        spec: execution_pb2.ExecutionSpec | None = None,
        closure: execution_pb2.ExecutionClosure | None = None,
        tags: tuple[str, ...] = (),
        **row: Any,
    ) -> int:
        created = row.pop("created_at", self._time())
        closure = closure or execution_pb2.ExecutionClosure()
        closure.MergeFrom(execution_pb2.ExecutionClosure(phase=phase))
        execution_id = await self._insert("executions", "execution_id", {
            "execution_project": "p", "execution_domain": "d", "execution_name": name, "created_at": created,
            "updated_at": created, "phase": phase, "workflow_id": 1, "launch_entity": "launch_plan",
            "spec": (spec or execution_pb2.ExecutionSpec(max_parallelism=25)).SerializeToString(),
            "closure": closure.SerializeToString(),
            "execution_created_at": created, "execution_updated_at": created,
        } | row)  # fmt: skip
        for tag in tags:
            key, _, value = tag.partition("=")
            await self._insert("execution_tags", "key", {"execution_id": execution_id, "key": key, "value": value})
        return int(execution_id)

    async def node(
        self,
        execution_id: int,
        node_id: str,
        *,
        phase: str = "SUCCEEDED",
        closure: node_execution_pb2.NodeExecutionClosure | None = None,
        metadata: node_execution_pb2.NodeExecutionMetaData | None = None,
        **row: Any,
    ) -> int:
        closure = closure or node_execution_pb2.NodeExecutionClosure()
        metadata = metadata or node_execution_pb2.NodeExecutionMetaData(spec_node_id=node_id)
        created = row.pop("created_at", self._time())
        return int(await self._insert("node_executions", "id", {
            "execution_id": execution_id, "node_id": node_id, "phase": phase, "created_at": created,
            "updated_at": created, "closure": closure.SerializeToString(),
            "node_execution_metadata": metadata.SerializeToString(), "event_version": 2,
        } | row))  # fmt: skip

    async def task_execution(
        self,
        execution_id: int,
        node_id: str,
        retry_attempt: int = 0,
        *,
        phase: str = "SUCCEEDED",
        closure: task_execution_pb2.TaskExecutionClosure | None = None,
        **row: Any,
    ) -> int:
        closure = closure or task_execution_pb2.TaskExecutionClosure(task_type="python-task")
        created = row.pop("created_at", self._time())
        return int(await self._insert("task_executions", "id", {
            "execution_id": execution_id, "node_id": node_id, "retry_attempt": retry_attempt, "project": "p",
            "domain": "d", "name": "t", "version": "v1", "phase": phase, "created_at": created,
            "updated_at": created, "closure": closure.SerializeToString(),
        } | row))  # fmt: skip


class Explained:
    """Stands in front of a database, and keeps the plans of what it is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.plans: list[Any] = []

    @asynccontextmanager
    async def transaction(self, **options: Any) -> Any:
        async with self._database.transaction(**options) as self._conn:
            yield self

    async def execute(self, statement: str) -> None:
        await self._conn.execute(statement)

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        plan = await self._conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *values)
        self.plans.append(json.loads(plan)[0]["Plan"])
        return await self._conn.fetch(statement, *values)

    @property
    def blocks(self) -> int:
        """How many blocks were looked at."""
        return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in self.plans)


class Ids:
    """Identifiers in project p, domain d."""

    def execution(self, name: str) -> WorkflowExecutionIdentifier:
        return WorkflowExecutionIdentifier(project="p", domain="d", name=name)

    def node(self, execution: str, node_id: str) -> NodeExecutionIdentifier:
        return NodeExecutionIdentifier(execution_id=self.execution(execution), node_id=node_id)

    def task(self, name: str = "t", version: str = "v1") -> Identifier:
        return Identifier(resource_type=ResourceType.TASK, project="p", domain="d", name=name, version=version)

    def task_execution(self, execution: str, node_id: str, retry_attempt: int = 0) -> TaskExecutionIdentifier:
        return TaskExecutionIdentifier(
            task_id=self.task(), node_execution_id=self.node(execution, node_id), retry_attempt=retry_attempt
        )


class ReadOnlyAdmin(ReadingRpcs, admin_pb2_grpc.AdminServiceServicer):
    """AdminService with nothing but its reading part."""

    def __init__(self, reading: ReadingManager, data: DataManager) -> None:
        self._reading = reading
        self._data = data


@pytest.fixture
def ids() -> Ids:
    return Ids()


@pytest.fixture
async def database(postgres_server: ServerForTests) -> AsyncIterator[Database]:
    async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
        yield database


@pytest.fixture
def rows(database: Database) -> Rows:
    return Rows(database)


@pytest.fixture
def explained(database: Database) -> Explained:
    return Explained(database)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def storage(clock: ManualClock) -> AsyncIterator[MemStorage]:
    signer = LocalSigner(b"0123456789abcdef", lambda: "http://localhost:30080", clock)
    async with MemStorage("s", clock=clock, signer=signer) as storage:
        yield storage


@pytest.fixture
def config() -> AdminConfig:
    return AdminConfig()


@pytest.fixture
async def channel(database: Database, storage: MemStorage, config: AdminConfig) -> AsyncIterator[DirectChannel]:
    registry = Registry()
    reading = ReadingManager(database)
    data = DataManager(database, storage, config.remote_data)
    proxy = DataProxyManager(database, storage, config.server.data_proxy, reading=reading, data=data)
    registry.add(admin_pb2_grpc.add_AdminServiceServicer_to_server, ReadOnlyAdmin(reading, data))
    registry.add(dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server, DataProxyRpcs(proxy))
    async with DirectChannel([registry]) as channel:
        yield channel


@pytest.fixture
def admin(channel: DirectChannel) -> Any:
    return admin_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture
def proxy(channel: DirectChannel) -> Any:
    return dataproxy_pb2_grpc.DataProxyServiceStub(channel)
