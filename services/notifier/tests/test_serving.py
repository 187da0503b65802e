"""The notifier as a process of its own: its ports, its bus in the database, its stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import grpc
import pytest

from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.idl.notifier.v1.notifier_pb2_grpc import NotifierServiceStub
from aerodrome.notifier.main import GROUP, TOPIC, serve
from aerodrome.notifier.testing import Endpoint
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.pubsub.postgres import PostgresBus, ensure_tables
from aerodrome.stdlib.pubsub.testing import free_port

from .conftest import HOOK_SECRET, ended


@pytest.mark.timeout(60)
async def test_it_serves_until_it_is_told_to_stop(
    postgres_server: ServerForTests, receiver: Endpoint, tmp_path: Path
) -> None:
    dsn = await postgres_server.create()
    port, operational = free_port(), free_port()
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(_settings(dsn, receiver, port, operational)))  # JSON is YAML
    serving = asyncio.create_task(serve([file], {}))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            make: Any = NotifierServiceStub
            stub = make(channel)
            await stub.ListDeliveries(messages.ListDeliveriesRequest(), wait_for_ready=True, timeout=30)
            async with Database(dsn, min_size=1, max_size=4) as database:
                await ensure_tables(database)
                async with PostgresBus(database) as bus:
                    await bus.declare(TOPIC, GROUP)
                    await bus.publish(TOPIC, ended().SerializeToString(), id="m")
                    await asyncio.to_thread(receiver.wait, 1)
            log = await stub.ListDeliveries(messages.ListDeliveriesRequest())
            assert [each.execution_name for each in log.deliveries] == ["run"]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{operational}") as session:
            async with session.get("/healthcheck") as response:
                assert response.status == 200
            async with session.get("/metrics") as response:
                assert "notifier:message_total 1" in await response.text()
            async with session.get("/config") as response:
                shown = await response.text()
                assert HOOK_SECRET not in shown
                assert "its-secret-path" not in shown
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(20):
            await serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await postgres_server.drop(dsn)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"notifier": {"server": {"host": "0.0.0.0"}}}, "insecureBind"),
        ({"bus": {"type": "memory"}}, "name the bus of the control plane"),
    ],
)
async def test_it_refuses_what_is_not_safe_or_cannot_work(section: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(section))
    with pytest.raises(FailedPrecondition, match=says):
        await serve([file], {})


def _settings(dsn: str, receiver: Endpoint, port: int, operational: int) -> dict[str, Any]:
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    return {
        "database": {
            "host": query["host"][0] if "host" in query else parts.hostname,
            "port": int(query["port"][0]) if "port" in query else parts.port,
            "dbname": parts.path.lstrip("/"),
            "username": parts.username or "postgres",
        },
        "bus": {"type": "postgres"},
        "notifier": {
            "server": {"port": port},
            "profilerPort": operational,
            "channels": {"hook": {"type": "webhook", "url": receiver.url, "secret": HOOK_SECRET}},
            "rules": [{"name": "all", "channels": ["hook"]}],
            "network": {"allow": ["127.0.0.0/8"]},
        },
    }
