"""The control plane as a process of its own, over each of its doors."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import grpc
import yaml
from flyteidl.admin import project_pb2, version_pb2
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flyteidl.service.dataproxy_pb2 import CreateUploadLocationRequest
from flyteidl.service.dataproxy_pb2_grpc import DataProxyServiceStub

from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.pubsub.testing import free_port

__all__ = ["postgres_server"]

_SERVE = """
import asyncio, pathlib, sys
from aerodrome.admin.serving import serve
from aerodrome.stdlib.errors import AerodromeError
try:
    asyncio.run(serve([pathlib.Path(sys.argv[1])], {}))
except AerodromeError as error:
    sys.exit(error.message)
"""


class Process:
    """One control plane; it can be stopped and started again with the same configuration."""

    def __init__(self, dsn: str, directory: Path, **server: Any) -> None:
        parts, self.grpc_port, self.http_port, self.profiler_port = urlsplit(dsn), free_port(), free_port(), free_port()
        options = parse_qs(parts.query)
        self.config = directory / "admin.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "database": {
                        "host": options["host"][0],
                        "port": int(options.get("port", ["5432"])[0]),
                        "username": unquote(parts.username or "postgres"),
                        "password": "swordfish",
                        "dbname": parts.path.strip("/"),
                    },
                    "storage": {"type": "local", "container": str(directory / "store")},
                    "server": {"grpcPort": self.grpc_port, "httpPort": self.http_port, **server},
                    "flyteadmin": {"profilerPort": self.profiler_port},
                    "logger": {"level": 3},
                }
            )
        )
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SERVE, str(self.config), stderr=asyncio.subprocess.PIPE
        )

    async def ready(self) -> None:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            await channel.channel_ready()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def refusal(self) -> str:
        """Why it did not start."""
        await self.start()
        assert self.process is not None
        async with asyncio.timeout(60):
            _, said = await self.process.communicate()
        assert self.process.returncode == 1
        return said.decode()


@asynccontextmanager
async def process(server: ServerForTests, directory: Path, **settings: Any) -> AsyncIterator[Process]:
    async with fresh_database(server) as database:
        made = Process(database.dsn, directory, **settings)
        try:
            yield made
        finally:
            if made.process is not None and made.process.returncode is None:
                made.process.kill()
                await made.process.wait()


async def test_all_doors_answer_and_a_restart_honours_the_urls_that_were_signed_before(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    async with process(postgres_server, tmp_path) as admin, aiohttp.ClientSession() as session:
        await admin.start()
        await admin.ready()
        http, ops = f"http://127.0.0.1:{admin.http_port}", f"http://127.0.0.1:{admin.profiler_port}"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{admin.grpc_port}") as channel:
            stub: Any = AdminServiceStub(channel)
            assert (await stub.GetVersion(version_pb2.GetVersionRequest())).control_plane_version.Version
            await stub.RegisterProject(
                project_pb2.ProjectRegisterRequest(project=project_pb2.Project(id="birds", name="birds"))
            )
            proxy: Any = DataProxyServiceStub(channel)
            upload = await proxy.CreateUploadLocation(
                CreateUploadLocationRequest(project="birds", domain="development", filename="a.txt", filename_root="r")
            )
        async with session.get(f"{http}/api/v1/projects") as response:
            assert "birds" in [each["id"] for each in (await response.json())["projects"]]
        async with session.get(f"{http}/healthcheck") as response:
            assert response.status == 200
        async with session.get(f"{http}/api/v1/openapi") as response:
            assert "/api/v1/projects" in await response.text()
        async with session.get(f"{ops}/metrics") as response:
            assert "aerodrome:loop_lag_max_seconds" in await response.text()
        async with session.get(f"{ops}/config") as response:
            shown = await response.text()
            assert json.loads(shown)["flyteadmin"]["profiler_port"] == admin.profiler_port
            assert "swordfish" not in shown
        async with session.get(f"{ops}/version") as response:
            assert (await response.json())["version"]

        assert await admin.stop() == 0
        await admin.start()
        await admin.ready()
        async with session.put(upload.signed_url, data=b"kept", headers=dict(upload.headers)) as response:
            assert response.status == 200, await response.text()
        assert Path(upload.native_url).read_bytes() == b"kept"
        assert await admin.stop() == 0


async def test_foreign_names_are_refused_and_cors_needs_identity(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    async with process(postgres_server, tmp_path) as admin, aiohttp.ClientSession() as session:
        await admin.start()
        await admin.ready()
        url = f"http://127.0.0.1:{admin.http_port}/api/v1/projects"
        async with session.get(url, headers={"Host": "evil.example"}) as response:
            assert response.status == 421
        async with session.get(url, headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403
    async with process(postgres_server, tmp_path, security={"allowCors": True}) as admin:
        assert "turn CORS off" in await admin.refusal()


async def test_pages_of_configured_origins_may_read_where_the_network_is_closed(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    settings = {"allowCors": True, "allowedOrigins": ["https://console.example"]}
    async with (
        process(postgres_server, tmp_path, host="0.0.0.0", insecureBind=True, security=settings) as admin,
        aiohttp.ClientSession() as session,
    ):
        await admin.start()
        await admin.ready()
        url = f"http://127.0.0.1:{admin.http_port}/api/v1/projects"
        origin = {"Origin": "https://console.example"}
        async with session.get(url, headers=origin) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://console.example"
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
        asking = {**origin, "Access-Control-Request-Method": "POST"}
        async with session.options(url, headers=asking) as response:
            assert response.status == 200
            assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
        async with session.get(url, headers={"Origin": "https://evil.example"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_taken_port_is_named_with_what_to_change(postgres_server: ServerForTests, tmp_path: Path) -> None:
    async with process(postgres_server, tmp_path) as admin:

        async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(nothing, "127.0.0.1", admin.profiler_port):
            assert "flyteadmin.profilerPort" in await admin.refusal()
