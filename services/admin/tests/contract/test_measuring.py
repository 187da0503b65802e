"""What dashboards read: spec/control-plane.md, section 14.4."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, ExecutionMetadata
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.managers.gauges import GaugeKeeper
from aerodrome.admin.rpc.measuring import ENDPOINTS, measure
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.telemetry import Metrics, Telemetry

from .doors import METHODS, by_grpc, granted, place_of, request_of
from .serving import Served, identifier, reference, refused, served

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
    for manager, part in (("node_execution_manager", "node"), ("task_execution_manager", "task")):
        assert value(metrics, f"{scope}:{manager}:{part}_executions_created") == 1
        assert value(metrics, f"{scope}:{manager}:closure_size_bytes_count") >= 1
    lasted = f"{scope}:execution_manager:flytesnacks:development:workflow_execution_duration_ns"
    assert value(metrics, f"{lasted}_count") == 1
    assert value(metrics, f"{lasted}_sum") == pytest.approx(3e9)


async def test_what_ends_is_counted_by_its_phase(platform: Served, metrics: Metrics) -> None:
    execution = await platform.launch("w", "ending")
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "a", "RUNNING", "00:02")
    for attempt, phase in ((0, "RETRYABLE_FAILED"), (1, "SUCCEEDED")):
        await platform.task_event(execution, "a", "t", attempt, "RUNNING", "00:03")
        await platform.task_event(execution, "a", "t", attempt, phase, "00:04")
    await platform.node_event(execution, "a", "SUCCEEDED", "00:05")
    scope = "flyte:admin"
    for phase in ("RETRYABLE_FAILED", "SUCCEEDED"):
        name = f"{scope}:task_execution_manager:task_executions_terminated"
        assert value(metrics, name, phase=phase) == 1
    assert value(metrics, f"{scope}:task_execution_manager:task_executions_created") == 3
    assert value(metrics, f"{scope}:node_execution_manager:node_executions_terminated", phase="SUCCEEDED") == 1


async def test_what_is_in_progress_is_counted_now_and_then(platform: Served, telemetry: Telemetry) -> None:
    execution = await platform.launch("w", "going-on")
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "a", "RUNNING", "00:02")
    await platform.task_event(execution, "a", "t", 0, "RUNNING", "00:03")
    where = {
        "executions": "execution_manager:active_executions",
        "node_executions": "node_execution_manager:active_node_executions",
        "task_executions": "task_execution_manager:active_executions",
    }
    metrics = Metrics()
    keeper = GaugeKeeper(platform.database, ManualClock(), AdminConfig(), metrics)
    await keeper.count()
    for table, name in where.items():
        alive = await platform.database.fetchval(
            f"SELECT count(*) FROM {table} x JOIN executions e USING (execution_id) "
            "WHERE x.phase = ANY ($1) AND e.phase = ANY ($1)",
            ["UNDEFINED", "QUEUED", "RUNNING"],
        )
        assert value(metrics, f"flyte:admin:{name}") == alive >= 1, table
    assert value(telemetry.metrics, "flyte:admin:execution_manager:active_executions") >= 0  # shown before it counts


async def test_a_count_that_takes_too_long_is_tried_again_later_and_later(platform: Served) -> None:
    clock, metrics = ManualClock(), Metrics()
    keeper = GaugeKeeper(platform.database, clock, AdminConfig(), metrics)

    def pauses() -> list[float]:
        return [line["seconds"] for line in said if "not counted" in line["msg"]]

    with capture() as said:
        async with platform.database.transaction() as conn:
            await conn.execute("LOCK TABLE executions IN ACCESS EXCLUSIVE MODE")
            counting = asyncio.create_task(keeper.run())
            try:
                async with asyncio.timeout(30):
                    while len(pauses()) < 2:
                        await asyncio.sleep(0.05)
                        await clock.advance(60)
            finally:
                counting.cancel()
                await asyncio.wait([counting])
    assert pauses()[:2] == [60, 120]


async def test_what_is_registered_shown_and_refused_is_counted(platform: Served, metrics: Metrics) -> None:
    scope = "flyte:admin"
    before = value(metrics, f"{scope}:task_manager:num_registered")
    await platform.register("counted", [{**NODES[0], "taskNode": {"referenceId": reference("TASK", "u")}}], tasks=["u"])
    assert value(metrics, f"{scope}:task_manager:num_registered") == before + 1
    for name in (
        "task_manager:closure", "launch_plan_manager:spec", "launch_plan_manager:closure",
        "workflow_manager:typed_interface",
    ):  # fmt: skip
        assert value(metrics, f"{scope}:{name}_size_bytes_count") >= 1, name
    failures = value(metrics, f"{scope}:workflow_manager:compilation_failures")
    _, said = await refused(
        platform.register("bad", [{"id": "a", "taskNode": {"referenceId": reference("TASK", "none")}}], tasks=[])
    )
    assert "failed to compile" in said
    assert value(metrics, f"{scope}:workflow_manager:compilation_failures") == failures + 1
    execution = await platform.launch("counted", "shown")
    shown = value(metrics, f"{scope}:user_execution_metrics:output_size_bytes_count")
    await granted(platform, "GetExecutionData", {"id": place_of("shown")})
    assert value(metrics, f"{scope}:user_execution_metrics:output_size_bytes_count") == shown + 1
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.node_event(execution, "a", "RUNNING", "00:02")
    await granted(platform, "GetNodeExecutionData", {"id": {"executionId": place_of("shown"), "nodeId": "a"}})
    for what in ("input", "output"):
        assert value(metrics, f"{scope}:node_execution_manager:{what}_size_bytes_count") == 1


async def test_an_event_of_what_nobody_knows_is_counted_where_dashboards_look(
    platform: Served, metrics: Metrics
) -> None:
    name = "flyte:admin:node_execution_manager:missing_workflow_execution"
    before = value(metrics, name)
    unknown = WorkflowExecutionIdentifier(project="flytesnacks", domain="development", name="nobody")
    code, _ = await refused(platform.node_event(unknown, "a", "RUNNING", "00:02"))
    assert code == "NOT_FOUND"
    assert value(metrics, name) == before + 1
    assert value(metrics, "flyte:admin:builder:flytepropeller:build_successes") >= 1


async def test_how_late_a_schedules_execution_is_made_is_timed(platform: Served, metrics: Metrics) -> None:
    request = ExecutionCreateRequest(project="flytesnacks", domain="development", name="late")
    request.spec.launch_plan.CopyFrom(identifier("LAUNCH_PLAN", "w"))
    request.spec.metadata.mode = ExecutionMetadata.SCHEDULED
    request.spec.metadata.scheduled_at.seconds = 10**17  # no time that there is
    await platform.admin.CreateExecution(request)
    name = "flyte:admin:execution_manager:flytesnacks:development:scheduled_execution_delay_ns"
    assert value(metrics, f"{name}_count") == 1


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
