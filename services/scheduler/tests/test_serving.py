"""The scheduler as a process of its own: a control plane over gRPC, announcements over the database, signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest
import yaml
from flyteidl.admin.common_pb2 import NamedEntityIdentifier, ResourceListRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanState, LaunchPlanUpdateRequest
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.idl.scheduler.v1 import scheduler_pb2 as messages
from aerodrome.idl.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from aerodrome.scheduler.main import serve
from aerodrome.stdlib.clock import ManualClock, SystemClock
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.pubsub.config import BusConfig
from aerodrome.stdlib.pubsub.opening import open_bus
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage.local import LocalStorage

from .conftest import DOMAIN, PROJECT, World, cron, register


async def test_it_fires_what_is_announced_and_ends_when_told(postgres_server: ServerForTests, tmp_path: Path) -> None:
    dsn = await postgres_server.create(("aerodrome.admin.migrations", "admin"))
    config = AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": [PROJECT]}}})
    try:
        async with (
            Database(dsn, min_size=2, max_size=12, application_name="test") as database,
            open_bus(BusConfig(type="postgres"), database=database) as bus,
            LocalStorage(str(tmp_path / "store")) as storage,
            RpcServer(address="127.0.0.1:0") as server,
        ):
            admin = Admin(
                config, database=database, storage=storage, clock=SystemClock(), public_url=lambda: "http://h", bus=bus
            )
            await admin.prepare()
            for add_to_server, servicer in admin.services():
                server.add(add_to_server, servicer)
            background = asyncio.create_task(admin.run())
            try:
                await _live(server.address, dsn, tmp_path, database)
            finally:
                background.cancel()
                await asyncio.wait([background])
    finally:
        await postgres_server.drop(dsn)


async def _live(address: str, dsn: str, directory: Path, database: Database) -> None:
    file = directory / "scheduler.yaml"
    async with RpcServer(address="127.0.0.1:0") as free:
        port = int(free.address.rpartition(":")[2])
    file.write_text(
        yaml.safe_dump(
            {
                "scheduler": {"server": {"port": port}, "profilerPort": 0, "resync": "1h"},
                "admin": {"endpoint": address, "insecure": True},
                "database": _database(dsn),
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from aerodrome.sandbox.cli import main; main()", "scheduler", "serve",
        "--config", str(file), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with (
            grpc.aio.insecure_channel(address) as channel,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as its,
        ):
            make: Any = AdminServiceStub
            world = World(ManualClock(), database, channel, make(channel), Any)  # type: ignore[arg-type]
            await register(world)
            ask: Any = SchedulerServiceStub
            empty = await ask(its).ListSchedules(messages.ListSchedulesRequest(), timeout=30, wait_for_ready=True)
            assert not empty.schedules
            launch_plan = await world.launch_plan(cron("@every 1s"))
            async with asyncio.timeout(30):
                while len(await _executions(world)) < 2:  # noqa: ASYNC110 - each look asks the control plane
                    await asyncio.sleep(0.1)
            await world.stub.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=launch_plan, state=LaunchPlanState.INACTIVE))
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = (await asyncio.wait_for(process.stderr.read(), 20)).decode()
        assert await asyncio.wait_for(process.wait(), 20) == 0, said
        assert "Traceback" not in said
        assert await database.fetchval("SELECT expires_at = '-infinity' FROM scheduler_leader")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _executions(world: World) -> list[Any]:
    request = ResourceListRequest(id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN), limit=100)
    return list((await world.stub.ListExecutions(request)).executions)


def _database(dsn: str) -> dict[str, Any]:
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    found: dict[str, Any] = {"dbname": unquote(parts.path[1:]), "host": query["host"][0], "options": ""}
    if parts.username:
        found["username"] = unquote(parts.username)
    if parts.password:
        found["password"] = unquote(parts.password)
    if "port" in query:
        found["port"] = int(query["port"][0])
    return {"postgres": found}


async def test_it_is_not_served_to_other_machines_by_accident(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="insecureBind"):
        await serve([], {"scheduler.server.host": "0.0.0.0"})
