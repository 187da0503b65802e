"""Limits of launch plans: they hold for any number of callers and processes, and what waits begins."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest
from flyteidl.admin import common_pb2, event_pb2, execution_pb2, launch_plan_pb2
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import ResourceType
from flyteidl.event.event_pb2 import WorkflowExecutionEvent
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.admin.managers.replaying import differences

CODE = grpc.StatusCode
LAUNCH_PLAN = ResourceType.LAUNCH_PLAN
PATIENCE = 20
"""Seconds after which a test gives up waiting."""


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return str(caught.value.details())


def limited(build: Any, name: str, most: int, behavior: str = "", version: str = "v1") -> Any:
    """A launch plan of which at most `most` executions are in progress."""
    request = build.launch_plan_request(name, version)
    request.spec.concurrency_policy.max = most
    request.spec.concurrency_policy.behavior = launch_plan_pb2.CONCURRENCY_LIMIT_BEHAVIOR_SKIP
    if behavior:
        request.spec.annotations.values["aerodrome/concurrency"] = behavior
    return request


@pytest.fixture
async def ready(platform: Any, build: Any) -> Any:
    """A platform with a workflow, and a launch plan for each behaviour."""
    await platform.stub.CreateTask(build.task_request())
    await platform.stub.CreateWorkflow(build.workflow_request())
    for name, most, behavior in (("skip", 5, ""), ("wait", 1, "wait"), ("three", 3, "wait"), ("replace", 1, "replace")):
        await platform.stub.CreateLaunchPlan(limited(build, name, most, behavior))
    return platform


async def create(platform: Any, build: Any, name: str, plan: str, version: str = "v1") -> None:
    await platform.stub.CreateExecution(build.execution_request(name, build.identifier(LAUNCH_PLAN, plan, version)))


async def get(platform: Any, build: Any, name: str) -> execution_pb2.Execution:
    return await platform.stub.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=build.key(name)))


async def phase(platform: Any, build: Any, name: str) -> str:
    return WorkflowExecution.Phase.Name((await get(platform, build, name)).closure.phase)


async def report(platform: Any, build: Any, name: str, phase: str) -> None:
    """Report as an outside engine does."""
    event = WorkflowExecutionEvent(execution_id=build.key(name), phase=phase, producer_id="propeller")
    event.occurred_at.FromDatetime(platform.clock.now())
    await platform.stub.CreateWorkflowEvent(event_pb2.WorkflowExecutionEventRequest(event=event))


async def agrees_with_its_journal(platform: Any, name: str) -> None:
    key = await platform.database.fetchval("SELECT execution_id FROM executions WHERE execution_name = $1", name)
    async with platform.database.transaction(isolation="repeatable_read") as connection:
        assert await differences(connection, key) == []


class TestSkip:
    async def test_a_burst_over_several_connections_to_two_processes_never_exceeds_the_limit(
        self, ready: Any, build: Any, tmp_path: Path
    ) -> None:
        async with two_processes(ready.database.dsn, tmp_path) as addresses, AsyncExitStack() as stack:
            stubs: list[Any] = [
                AdminServiceStub(await stack.enter_async_context(grpc.aio.insecure_channel(address, OWN_CONNECTION)))
                for address in addresses
                for _ in range(4)
            ]
            launch = build.identifier(LAUNCH_PLAN, "skip")
            answers = await asyncio.gather(
                *(
                    stubs[at % len(stubs)].CreateExecution(build.execution_request(f"e{at}", launch), timeout=60)
                    for at in range(200)
                ),
                return_exceptions=True,
            )
            lost = [each for each in answers if isinstance(each, BaseException)]
            assert {(each.code(), each.details()) for each in lost if isinstance(each, grpc.aio.AioRpcError)} == {
                (CODE.ALREADY_EXISTS, "concurrency limit (5) reached for launch plan skip; skipping execution")
            }
            assert len(lost) == 195
        assert await ready.database.fetchval("SELECT count(*) FROM executions") == 5

    async def test_what_is_being_aborted_and_what_is_over_does_not_count(self, ready: Any, build: Any) -> None:
        for at in range(5):
            await create(ready, build, f"e{at}", "skip")
        assert "limit (5)" in await refused(create(ready, build, "more", "skip"), CODE.ALREADY_EXISTS)
        await ready.stub.TerminateExecution(execution_pb2.ExecutionTerminateRequest(id=build.key("e0"), cause="enough"))
        await create(ready, build, "more", "skip")
        assert "limit (5)" in await refused(create(ready, build, "e9", "skip"), CODE.ALREADY_EXISTS)
        await report(ready, build, "e1", "FAILED")
        await create(ready, build, "e9", "skip")

    async def test_a_version_without_a_limit_counts_and_is_not_limited(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateLaunchPlan(build.launch_plan_request("skip", "v2"))
        for at in range(6):
            await create(ready, build, f"e{at}", "skip", "v2")
        await refused(create(ready, build, "more", "skip"), CODE.ALREADY_EXISTS)


class TestWait:
    async def test_one_too_many_waits_and_says_for_what_until_there_is_room(
        self, ready: Any, build: Any, engine: Any
    ) -> None:
        async with engine(ready) as plane:
            await create(ready, build, "first", "wait")
            await create(ready, build, "second", "wait")
            assert await plane.take() == "first"
            await plane.nothing_comes()
            waits = await get(ready, build, "second")
            assert waits.closure.phase == WorkflowExecution.QUEUED
            text = waits.spec.annotations.values["aerodrome/waits-for"]
            assert text.startswith(
                "room: at most 1 executions of launch plan flytesnacks:development:wait are in progress"
            )
            assert waits.spec.annotations.values["aerodrome/concurrency"] == "wait"
            everything = common_pb2.ResourceListRequest(limit=10, filters="eq(phase,QUEUED)")
            everything.id.project, everything.id.domain = "flytesnacks", "development"
            (listed,) = (await ready.stub.ListExecutions(everything)).executions
            assert listed == waits
            await plane.report("first", "RUNNING", "FAILED")
            assert await plane.resumed() == "second"
            begun = await get(ready, build, "second")
            assert "aerodrome/waits-for" not in begun.spec.annotations.values
            assert await plane.report("second", "RUNNING", "SUCCEEDING", "SUCCEEDED") == [1, 1, 1]
            await agrees_with_its_journal(ready, "second")
        assert await ready.database.fetchval("SELECT count(*) FROM waiting_executions") == 0

    async def test_waiting_ones_begin_in_their_order_and_never_exceed_the_limit(
        self, ready: Any, build: Any, engine: Any, another: Any
    ) -> None:
        async with another() as second, engine(ready) as plane, engine(second) as other:
            names = [f"e{at:02}" for at in range(30)]
            for at, name in enumerate(names):
                await create((ready, second)[at % 2], build, name, "three")
            running: set[str] = set()
            begun: list[str] = []

            async def drive(plane: Any) -> None:
                while len(begun) < len(names):
                    name = await plane.take()
                    begun.append(name)
                    running.add(name)
                    assert len(running) <= 3
                    await plane.report(name, "RUNNING")
                    await asyncio.sleep(0)
                    running.remove(name)  # before it is reported: from then on another may begin
                    await plane.report(name, "SUCCEEDING", "SUCCEEDED")

            drivers = [asyncio.create_task(drive(each)) for each in (plane, other)]
            async with asyncio.timeout(PATIENCE):
                while len(begun) < len(names):
                    done, _ = await asyncio.wait(drivers, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
                    for each in done:
                        each.result()
            for each in drivers:
                each.cancel()
            await asyncio.wait(drivers)
        assert sorted(begun) == names
        assert all(abs(names.index(name) - at) <= 3 for at, name in enumerate(begun)), begun  # three at a time race

    async def test_a_burst_waits_as_a_whole_but_for_the_first(self, ready: Any, build: Any, another: Any) -> None:
        async with another() as second:
            await asyncio.gather(*(create((ready, second)[at % 2], build, f"e{at}", "three") for at in range(60)))
        states = await ready.database.fetch("SELECT state, count(*) FROM leases GROUP BY state ORDER BY state")
        assert [tuple(row.values()) for row in states] == [("open", 3), ("waiting", 57)]

    async def test_an_outside_engine_may_not_begin_what_waits(self, ready: Any, build: Any) -> None:
        await create(ready, build, "first", "wait")
        await create(ready, build, "second", "wait")
        text = await refused(report(ready, build, "second", "RUNNING"), CODE.FAILED_PRECONDITION)
        assert "waits for room" in text
        await report(ready, build, "first", "RUNNING")
        await report(ready, build, "first", "SUCCEEDED")
        async with asyncio.timeout(PATIENCE):
            while True:
                second = await get(ready, build, "second")
                if "aerodrome/waits-for" not in second.spec.annotations.values:
                    break
                await asyncio.sleep(0.01)
        await report(ready, build, "second", "RUNNING")
        assert await phase(ready, build, "second") == "RUNNING"

    async def test_one_that_is_terminated_while_it_waits_ends_at_once(
        self, ready: Any, build: Any, engine: Any
    ) -> None:
        for name in ("first", "second", "third"):
            await create(ready, build, name, "wait")
        request = execution_pb2.ExecutionTerminateRequest(id=build.key("second"), cause="not needed")
        await ready.stub.TerminateExecution(request)
        ended = await get(ready, build, "second")
        assert ended.closure.phase == WorkflowExecution.ABORTED
        assert ended.closure.abort_metadata.cause == "not needed"
        await agrees_with_its_journal(ready, "second")
        await refused(ready.stub.TerminateExecution(request), CODE.FAILED_PRECONDITION)
        async with engine(ready) as plane:
            assert await plane.take() == "first"
            await plane.nothing_comes()
            await plane.report("first", "RUNNING", "SUCCEEDING", "SUCCEEDED")
            assert await plane.resumed() == "third"

    async def test_waiting_survives_a_restart_and_a_lost_end(
        self, ready: Any, build: Any, engine: Any, another: Any
    ) -> None:
        for name in ("first", "second", "third"):
            await create(ready, build, name, "wait")
        # as if the process that recorded the end had died right after
        await ready.database.execute("UPDATE executions SET phase = 'SUCCEEDED' WHERE execution_name = 'first'")
        await ready.database.execute(
            "UPDATE leases SET state = 'closed' WHERE execution_id = (SELECT min(execution_id) FROM executions)"
        )
        async with another() as restarted, engine(restarted) as plane:
            assert await plane.take() == "second"
            await plane.nothing_comes()
            await ready.database.execute("UPDATE executions SET phase = 'SUCCEEDED' WHERE execution_name = 'second'")
            await restarted.clock.advance(5)
            assert await plane.resumed() == "third"

    async def test_a_failed_launch_takes_nobodys_place(self, ready: Any, build: Any) -> None:
        await create(ready, build, "first", "wait")
        request = build.execution_request("failed", build.identifier(LAUNCH_PLAN, "wait"))
        request.spec.execution_cluster_label.value = "nowhere"
        await ready.stub.CreateExecution(request)
        assert await phase(ready, build, "failed") == "FAILED"
        await refused(create(ready, build, "first", "wait"), CODE.ALREADY_EXISTS)
        assert await ready.database.fetchval("SELECT count(*) FROM waiting_executions") == 0

    async def test_other_launch_plans_do_not_wait(self, ready: Any, build: Any, engine: Any) -> None:
        async with engine(ready) as plane:
            await create(ready, build, "first", "wait")
            await create(ready, build, "second", "wait")
            await create(ready, build, "other", "three")
            assert {await plane.take(), await plane.take()} == {"first", "other"}


class TestReplace:
    async def test_the_oldest_is_aborted_and_the_new_one_begins_after_its_end(
        self, ready: Any, build: Any, engine: Any
    ) -> None:
        async with engine(ready) as plane:
            await create(ready, build, "first", "replace")
            assert await plane.take() == "first"
            await plane.report("first", "RUNNING")
            await create(ready, build, "second", "replace")
            ended = await get(ready, build, "first")
            assert ended.closure.phase == WorkflowExecution.ABORTING
            assert ended.closure.abort_metadata.cause == (
                "replaced by execution flytesnacks:development:second: at most 1 executions of launch plan replace are "
                "in progress at a time"
            )
            await plane.nothing_comes()  # the first may have something that runs
            plane._next["first"] += 1  # the abort is an entry of the journal too
            await plane.report("first", "ABORTED")
            assert await plane.resumed() == "second"
            await agrees_with_its_journal(ready, "first")

    async def test_one_that_waited_is_replaced_as_well(self, ready: Any, build: Any, engine: Any) -> None:
        async with engine(ready) as plane:
            await create(ready, build, "first", "replace")
            assert await plane.take() == "first"
            await create(ready, build, "second", "replace")
            await create(ready, build, "third", "replace")
            assert [await phase(ready, build, name) for name in ("first", "second", "third")] == [
                "ABORTING", "ABORTED", "QUEUED",
            ]  # fmt: skip

    async def test_a_refused_create_aborts_nothing(self, ready: Any, build: Any) -> None:
        await create(ready, build, "first", "replace")
        await refused(create(ready, build, "first", "replace"), CODE.ALREADY_EXISTS)
        assert await phase(ready, build, "first") == "UNDEFINED"

    async def test_simultaneous_creates_leave_one(self, ready: Any, build: Any, another: Any) -> None:
        async with another() as second:
            await asyncio.gather(*(create((ready, second)[at % 2], build, f"e{at}", "replace") for at in range(10)))
        live = await ready.database.fetch(
            "SELECT phase, count(*) FROM executions WHERE phase <> 'ABORTED' GROUP BY phase ORDER BY phase"
        )
        assert [tuple(row.values()) for row in live] == [("ABORTING", 1), ("QUEUED", 1)]


class TestAsking:
    @pytest.mark.parametrize(
        ("most", "behavior", "text"),
        [
            (1, "sometimes", "invalid value for annotations [aerodrome/concurrency]: [sometimes] is not known"),
            (0, "wait", "missing concurrency_policy.max"),
            (0, "replace", "missing concurrency_policy.max"),
        ],
    )
    async def test_what_makes_no_sense_is_not_registered(
        self, most: int, behavior: str, text: str, ready: Any, build: Any
    ) -> None:
        request = limited(build, "odd", most, behavior)
        assert text in await refused(ready.stub.CreateLaunchPlan(request), CODE.INVALID_ARGUMENT)

    async def test_an_unknown_behavior_is_not_registered(self, ready: Any, build: Any) -> None:
        request = limited(build, "odd", 1)
        request.spec.concurrency_policy.behavior = 7
        text = await refused(ready.stub.CreateLaunchPlan(request), CODE.INVALID_ARGUMENT)
        assert text.startswith("invalid value for concurrency_policy.behavior: 7 is not known")


OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

_SERVE = "import asyncio, pathlib, sys; from aerodrome.admin.serving import serve; \
asyncio.run(serve([pathlib.Path(sys.argv[1])], {}))"


@asynccontextmanager
async def two_processes(dsn: str, directory: Path) -> AsyncIterator[list[str]]:
    """Two processes of the control plane on one database and one store; their addresses."""
    parts = urlsplit(dsn)
    options = parse_qs(parts.query)
    processes, addresses = [], []
    for at in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = directory / f"admin{at}.yaml"
        config.write_text(
            f"""
database:
  host: {options["host"][0]}
  port: {options.get("port", ["5432"])[0]}
  username: {unquote(parts.username or "postgres")}
  dbname: {parts.path.strip("/")}
storage: {{type: local, container: {directory}/store}}
application: {{grpcPort: {port}, httpPort: 0}}
flyteadmin: {{profilerPort: 0}}
logger: {{level: 2}}
"""
        )
        processes.append(await asyncio.create_subprocess_exec(sys.executable, "-c", _SERVE, str(config)))
        addresses.append(f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(60):
            for address in addresses:
                async with grpc.aio.insecure_channel(address) as channel:
                    await channel.channel_ready()
        yield addresses
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()
