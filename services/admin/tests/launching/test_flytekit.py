"""Unmodified flytekit registers and launches over a real connection, and the service runs by itself."""

from __future__ import annotations

import asyncio
import enum
import typing
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest
from flyteidl.admin.common_pb2 import ResourceListRequest
from flyteidl.admin.execution_pb2 import WorkflowExecutionGetRequest
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flytekit import LaunchPlan, conditional, map_task, task, workflow
from flytekit.configuration import Config, Image, ImageConfig, PlatformConfig, SerializationSettings
from flytekit.core.schedule import CronSchedule
from flytekit.remote import FlyteRemote

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.admin.serving import serve
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.config import ConfigError
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage.local import LocalStorage


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Settings:
    rate: float
    names: list[str]


@task
def double(x: int) -> int:
    return 2 * x


@task
def describe(color: Color, settings: Settings, maybe: typing.Optional[int]) -> str:  # noqa: UP045
    return f"{color}{settings}{maybe}"


@workflow
def inner(x: int = 3) -> int:
    return double(x=x)


inner_plan = LaunchPlan.get_or_create(inner, name="inner_plan", default_inputs={"x": 4})


@workflow
def outer(xs: list[int], color: Color, settings: Settings, maybe: typing.Optional[int] = None) -> str:  # noqa: UP045
    map_task(double)(x=xs)
    first = inner(x=1)
    second = inner_plan(x=2)
    conditional("choice").if_(first > 1).then(double(x=second)).else_().then(double(x=first))
    return describe(color=color, settings=settings, maybe=maybe)


@workflow
def nightly(x: int = 1) -> int:
    return double(x=x)


nightly_plan = LaunchPlan.get_or_create(nightly, name="nightly_plan", schedule=CronSchedule(schedule="0 2 * * *"))


@pytest.fixture
async def endpoint(database: Database, tmp_path: Path) -> AsyncIterator[str]:
    """Where a control plane listens."""
    clock = SystemClock()
    async with LocalStorage(str(tmp_path / "store")) as storage:
        admin = Admin(
            AdminConfig(), database=database, storage=storage, clock=clock, public_url=lambda: "http://localhost"
        )
        await admin.prepare()
        server = RpcServer()
        for add_to_server, servicer in admin.services():
            server.add(add_to_server, servicer)
        background = asyncio.create_task(admin.run())
        async with server:
            yield server.address
        background.cancel()
        await asyncio.wait({background})


async def test_flytekit_registers_and_launches(endpoint: str) -> None:
    def use() -> typing.Any:
        remote = FlyteRemote(
            Config(platform=PlatformConfig(endpoint=endpoint, insecure=True)),
            default_project="flytesnacks",
            default_domain="development",
        )
        image = Image(name="default", fqn="example.com/image", tag="v1")
        settings = SerializationSettings(
            image_config=ImageConfig(default_image=image), project="flytesnacks", domain="development", version="v1"
        )
        for _ in range(2):  # the second time everything exists already, which is fine
            remote.register_launch_plan(inner_plan, version="v1", serialization_settings=settings)
            registered = remote.register_workflow(outer, settings, version="v1")
        name = outer.name
        found = remote.fetch_workflow(name=name, version="v1")
        assert found.id == registered.id
        execution = remote.execute(
            found,
            inputs={"xs": [1, 2], "color": "blue", "settings": Settings(0.5, ["a"])},
            execution_name="from-flytekit",
        )
        again = remote.execute(
            found, inputs={"xs": [], "color": "red", "settings": Settings(0.5, [])}, execution_name="from-flytekit"
        )
        assert again.id == execution.id
        single = remote.execute(remote.fetch_task(name=double.name, version="v1"), inputs={"x": 3})
        remote.register_launch_plan(nightly_plan, version="v1", serialization_settings=settings)
        plan = remote.fetch_launch_plan(name="nightly_plan", version="v1")
        remote.activate_launchplan(plan.id)
        return execution.id.name, single.id.name, remote.fetch_active_launchplan(name="nightly_plan").id.version

    assert (await asyncio.to_thread(use))[0] == "from-flytekit"
    async with grpc.aio.insecure_channel(endpoint) as channel:
        stub: Any = AdminServiceStub(channel)
        key = WorkflowExecutionIdentifier(project="flytesnacks", domain="development", name="from-flytekit")
        execution = await stub.GetExecution(WorkflowExecutionGetRequest(id=key))
        assert execution.closure.workflow_id.name == outer.name
        everything = ResourceListRequest(limit=10)
        everything.id.project, everything.id.domain = "flytesnacks", "development"
        assert len((await stub.ListExecutions(everything)).executions) == 2


async def test_the_service_runs_by_itself(postgres_server: ServerForTests, tmp_path: Path) -> None:
    dsn = await postgres_server.create()
    try:
        parts = urlsplit(dsn)
        options = parse_qs(parts.query)
        config = tmp_path / "admin.yaml"
        config.write_text(
            f"""
database:
  host: {options["host"][0]}
  port: {options.get("port", ["5432"])[0]}
  username: {unquote(parts.username or "postgres")}
  dbname: {parts.path.strip("/")}
storage: {{type: local, container: {tmp_path}/store}}
application: {{grpcPort: 0}}
logger: {{level: 2}}
"""
        )
        with pytest.raises(FailedPrecondition, match="is asked who they are"):
            await serve([config], {"server.host": "0.0.0.0"})
        with pytest.raises(ConfigError, match="did you mean"):
            await serve([config], {"registration.maxWorkflowNode": "3"})
        running = asyncio.create_task(serve([config], {}))
        async with Database(dsn) as database:
            async with asyncio.timeout(20):
                while not await is_seeded(database):
                    assert not running.done(), running.result()
                    await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
    finally:
        await postgres_server.drop(dsn)


async def is_seeded(database: Database) -> bool:
    if await database.fetchval("SELECT to_regclass('projects')") is None:
        return False
    return bool(await database.fetchval("SELECT count(*) FROM projects WHERE identifier = 'flytesnacks'"))
