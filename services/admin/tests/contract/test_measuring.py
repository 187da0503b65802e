"""What dashboards read: spec/control-plane.md, section 14.4."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aerodrome.admin.rpc.measuring import ENDPOINTS, measure
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.telemetry import Metrics, Telemetry

from .doors import METHODS, by_grpc, granted, place_of, request_of
from .serving import Served, reference, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODES = [{"id": "a", "taskNode": {"referenceId": reference("TASK", "t")}}]


@pytest.fixture(scope="module")
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture(scope="module")
def metrics(telemetry: Telemetry) -> Metrics:
    return telemetry.metrics


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory, telemetry: Telemetry
) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store"), telemetry=telemetry) as made:
        await made.register("w", NODES, tasks=["t"])
        yield made


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Of a counter, as it would be scraped."""
    shown = ",".join(f'{key}="{text}"' for key, text in labels.items())
    wanted = f"{name}{{{shown}}}" if shown else name
    for line in metrics.render().decode().splitlines():
        found, _, number = line.rpartition(" ")
        if found == wanted:
            return float(number)
    return 0


async def test_every_rpc_is_counted_by_its_code_and_timed(platform: Served, metrics: Metrics) -> None:
    measured = [rpc for rpc in METHODS if METHODS[rpc].containing_service.name != "DataProxyService"]
    assert ENDPOINTS.keys() == set(measured)
    for rpc in measured:
        part = "signal" if METHODS[rpc].containing_service.name == "SignalService" else "admin"
        prefix = f"flyte:admin:{part}:{ENDPOINTS[rpc]}"
        before = [value(metrics, f"{prefix}:{what}") for what in ("success", "errors", "duration_ms_count")]
        answer = await by_grpc(platform, rpc, request_of(rpc))
        after = [value(metrics, f"{prefix}:{what}") for what in ("success", "errors", "duration_ms_count")]
        good = answer.code == "OK"
        assert [b - a for a, b in zip(before, after, strict=True)] == [good, not good, 1], rpc
        code = "OK" if good else "".join(word.capitalize() for word in answer.code.split("_"))
        assert value(metrics, f"{prefix}:codes:{code}") >= 1


async def test_what_is_recorded_is_counted_once(platform: Served, metrics: Metrics) -> None:
    scope = "flyte:admin"
    execution = await platform.launch("w", "counted")
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "a", "RUNNING", "00:02")
    for _ in range(2):
        event = {
            "taskId": reference("TASK", "t"), "phase": "RUNNING", "occurredAt": "2026-01-01T00:00:03Z",
            "parentNodeExecutionId": {"executionId": place_of("counted"), "nodeId": "a"},
        }  # fmt: skip
        await by_grpc(platform, "CreateTaskEvent", request_of("CreateTaskEvent", {"event": event}))
    await platform.workflow_event(execution, "FAILED", "00:04", error={"code": "x", "message": "y"})
    await granted(platform, "GetExecution", {"id": place_of("counted")})
    assert value(metrics, f"{scope}:execution_manager:executions_created") == 1
    assert value(metrics, f"{scope}:execution_manager:execution_events_created") == 2
    assert value(metrics, f"{scope}:node_execution_manager:node_execution_events_created") == 1
    assert value(metrics, f"{scope}:task_execution_manager:task_execution_events_created") == 1
    assert value(metrics, f"{scope}:execution_manager:executions_terminated", phase="FAILED") == 1


class Broken:
    """A servicer with a defect."""

    async def GetVersion(self, request: Any, context: Any) -> Any:
        raise ZeroDivisionError

    async def GetProject(self, request: Any, context: Any) -> Any:
        raise asyncio.CancelledError


async def test_a_defect_is_counted_apart(metrics: Metrics) -> None:
    broken: Any = Broken()
    measure(broken, metrics, scope="broken:")
    with pytest.raises(ZeroDivisionError):
        await broken.GetVersion(None, None)
    with pytest.raises(asyncio.CancelledError):
        await broken.GetProject(None, None)
    assert value(metrics, "broken:admin:admin:handler_panic") == 1
    assert value(metrics, "broken:admin:admin:get_version:codes:Internal") == 1
    assert value(metrics, "broken:admin:admin:get_project:codes:Cancelled") == 1
