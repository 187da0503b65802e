"""The data catalog by itself: a process that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
import yaml
from flyteidl.datacatalog import datacatalog_pb2 as catalog
from flyteidl.datacatalog.datacatalog_pb2_grpc import DataCatalogStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aerodrome.datacatalog.config import CatalogConfig
from aerodrome.datacatalog.main import serve
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.testing import ServerForTests

RUN = """
import asyncio, pathlib, sys
from aerodrome.datacatalog.main import serve
asyncio.run(serve([pathlib.Path(sys.argv[1])], {}))
"""


def configuration(server: ServerForTests, folder: Path, port: int) -> Path:
    parts = urlsplit(server.dsn)
    query = parse_qs(parts.query)
    postgres = {
        "host": query["host"][0],
        "port": int(query.get("port", ["5432"])[0]),
        "username": parts.username,
        "dbname": f"catalog_{port}",
    }
    (folder / "store").mkdir()
    path = folder / "catalog.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "database": {"postgres": postgres},
                "storage": {"type": "local", "container": str(folder / "store")},
                "application": {"grpcPort": port},
                "datacatalog": {"profilerPort": 0, "max-reservation-heartbeat": "3s"},
            }
        )
    )
    return path


async def test_a_process_serves_until_it_is_told_to_stop(postgres_server: ServerForTests, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = configuration(postgres_server, tmp_path, port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = DataCatalogStub(channel)
            identity = catalog.DatasetID(project="p", domain="d", name="n", version="v")
            wanted = catalog.Dataset(id=identity)
            await stub.CreateDataset(catalog.CreateDatasetRequest(dataset=wanted), wait_for_ready=True)
            assert (await stub.GetDataset(catalog.GetDatasetRequest(dataset=identity))).dataset.id.UUID
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="datacatalog"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_is_not_served_to_other_machines_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("application: {host: 0.0.0.0}\n")
    with pytest.raises(FailedPrecondition, match="insecureBind"):
        await serve([path], {})


def test_the_settings_have_the_names_of_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(
        "datacatalog: {storage-prefix: m, heartbeat-grace-period-multiplier: 5, max-reservation-heartbeat: 20s}\n"
        "application: {grpcPort: 8089, grpcServerReflection: false, grpcMaxRecvMsgSizeMBs: 6}\n"
    )
    config = load(CatalogConfig, [path])
    assert (config.datacatalog.storage_prefix, config.datacatalog.heartbeat_grace_period_multiplier) == ("m", 5)
    assert config.datacatalog.max_reservation_heartbeat.total_seconds() == 20
    assert (config.application.grpc_port, config.application.grpc_max_recv_msg_size_mbs) == (8089, 6)
