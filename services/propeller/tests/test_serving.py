"""Propeller as a process of its own: a control plane over gRPC, its operational port, signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from flyteidl.admin import execution_pb2, launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.core import tasks_pb2
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from google.protobuf.json_format import ParseDict

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.propeller.main import serve
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database, postgres_server
from aerodrome.stdlib.pubsub.testing import free_port
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.storage.local import LocalStorage

__all__ = ["postgres_server"]

PROJECT, DOMAIN = "birds", "development"


class ControlPlane:
    """A control plane, and what tests make in it."""

    def __init__(self, address: str, stub: Any, store: Path) -> None:
        self.address = address
        self.stub = stub
        self.store = store

    async def register(self, name: str, template: Mapping[str, Any]) -> None:
        """A task, a workflow of nothing else, and its launch plan."""
        task = task_pb2.TaskCreateRequest(id=_id("TASK", name))
        ParseDict({"metadata": {"runtime": {"version": "1"}}, "interface": {}, **template}, task.spec.template)
        await self.stub.CreateTask(task)
        workflow = workflow_pb2.WorkflowCreateRequest(id=_id("WORKFLOW", name))
        workflow.spec.template.interface.SetInParent()
        workflow.spec.template.nodes.add(id="n0").task_node.reference_id.CopyFrom(task.id)
        await self.stub.CreateWorkflow(workflow)
        plan = launch_plan_pb2.LaunchPlanCreateRequest(id=_id("LAUNCH_PLAN", name))
        plan.spec.workflow_id.CopyFrom(workflow.id)
        await self.stub.CreateLaunchPlan(plan)

    async def run(self, plan: str, name: str) -> WorkflowExecution.Phase:
        """The phase in which an execution of a launch plan ends."""
        request = execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=name)
        request.spec.launch_plan.CopyFrom(_id("LAUNCH_PLAN", plan))
        get = execution_pb2.WorkflowExecutionGetRequest(id=(await self.stub.CreateExecution(request)).id)
        async with asyncio.timeout(60):
            while True:
                phase: WorkflowExecution.Phase = (await self.stub.GetExecution(get)).closure.phase
                if phase in (WorkflowExecution.SUCCEEDED, WorkflowExecution.FAILED, WorkflowExecution.ABORTED):
                    return phase
                await asyncio.sleep(0.05)


def _id(kind: str, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version="v1")


@pytest.fixture
async def control_plane(postgres_server: ServerForTests, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    config = AdminConfig.model_validate(
        {
            "flyte": {"admin": {"seed_projects": [PROJECT]}},
            "queues": {
                "executionQueues": [{"dynamic": "q7", "attributes": ["all"]}],
                "workflowConfigs": [{"tags": ["all"]}],
            },
        }
    )
    async with (
        fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database,
        LocalStorage(str(tmp_path / "store")) as storage,
        RpcServer(address="127.0.0.1:0") as server,
    ):
        admin = Admin(config, database=database, storage=storage, clock=SystemClock(), public_url=lambda: "http://h")
        await admin.prepare()
        for add_to_server, servicer in admin.services():
            server.add(add_to_server, servicer)
        background = asyncio.create_task(admin.run())
        try:
            async with DirectChannel([server]) as channel:
                yield ControlPlane(server.address, AdminServiceStub(channel), tmp_path / "store")
        finally:
            background.cancel()
            await asyncio.wait([background])


class Process:
    """A running propeller."""

    def __init__(self, process: asyncio.subprocess.Process, operations: str, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.operations = operations
        self._session = session

    async def ask(self, path: str) -> tuple[int, str]:
        """What its operational port says; (0, "") while there is none."""
        try:
            async with self._session.get(self.operations + path) as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def metrics(self) -> dict[str, float]:
        """What is scraped of it: values by name and labels."""
        lines = (await self.ask("/metrics"))[1].splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    async def shows(self, name: str, value: float) -> dict[str, float]:
        """What is scraped of it once it shows this value."""
        async with asyncio.timeout(30):
            while True:
                found = await self.metrics()
                if found[name] == value:
                    return found
                await asyncio.sleep(0.05)

    async def until(self, path: str, status: int) -> None:
        """Until it says so; fails with its own words if it has ended instead."""
        async with asyncio.timeout(60):
            while (await self.ask(path))[0] != status:
                assert self.process.returncode is None
                await asyncio.sleep(0.05)

    async def stopped(self) -> str:
        """What it said, once it has ended well."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            said = (await self.process.stderr.read()).decode()
            assert await self.process.wait() == 0, said
        return said


@asynccontextmanager
async def propeller(plane: ControlPlane, folder: Path, **settings: Any) -> AsyncIterator[Process]:
    port = free_port()
    config = folder / "propeller.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "propeller": {"prof-port": port, "runtime": {"directory": str(folder / "runtime")}} | settings,
                "admin": {"endpoint": plane.address, "insecure": True},
                "storage": {"type": "local", "container": str(plane.store)},
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from aerodrome.sandbox.cli import main; main()", "propeller", "serve",
        "--config", str(config), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            yield Process(process, f"http://127.0.0.1:{port}", session)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_says_how_it_is_and_drains_when_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    started, may_end = tmp_path / "started", tmp_path / "may end"
    script = f"touch '{started}'; until [ -e '{may_end}' ]; do sleep 0.05; done; cp \"$0\" '{tmp_path}/template'"
    shell = {"image": "any", "command": ["sh", "-c", script], "args": ["{{.taskTemplatePath}}"]}
    await control_plane.register("slow", {"type": "raw-container", "container": shell})
    async with propeller(control_plane, tmp_path) as its:
        await its.until("/readyz", 200)
        assert (await its.ask("/healthz"))[0] == (await its.ask("/healthcheck"))[0] == 200
        assert f'"endpoint": "{control_plane.address}"' in (await its.ask("/config"))[1]
        running = asyncio.create_task(control_plane.run("slow", "slow1"))
        async with asyncio.timeout(30):
            while not started.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
        its.process.send_signal(signal.SIGTERM)
        await its.until("/readyz", 503)
        assert (await its.ask("/healthz"))[0] == 200
        may_end.touch()
        said = await its.stopped()
        assert "Traceback" not in said
        assert await its.ask("/healthz") == (0, "")
    async with propeller(control_plane, tmp_path):
        assert await running == WorkflowExecution.SUCCEEDED
    # What its container was given is the task with the queue that the control plane has chosen.
    template = tasks_pb2.TaskTemplate.FromString((tmp_path / "template").read_bytes())
    assert [(entry.key, entry.value) for entry in template.container.config] == [("child_queue", "q7")]


async def test_what_it_does_is_counted_and_timed(control_plane: ControlPlane, tmp_path: Path) -> None:
    started, may_end = tmp_path / "started", tmp_path / "may end"
    script = f"touch '{started}'; until [ -e '{may_end}' ]; do sleep 0.05; done"
    for name, command in (("good", script), ("bad", "exit 3")):
        await control_plane.register(
            name, {"type": "raw-container", "container": {"image": "any", "command": ["sh", "-c", command]}}
        )
    scope = "flyte:propeller:all"
    async with propeller(control_plane, tmp_path) as its:
        await its.until("/readyz", 200)
        idle = await its.metrics()
        assert idle[f"{scope}:free_workers_count"] == 10_000
        assert idle[f"{scope}:node:success_duration_unlabeled_ms_count"] == 0
        running = asyncio.create_task(control_plane.run("good", "good1"))
        async with asyncio.timeout(30):
            while not started.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
        during = await its.shows(f"{scope}:execstats:active_task_executions", 1)
        assert during[f"{scope}:free_workers_count"] == 9_999
        assert during[f'{scope}:collector:flyteworkflow{{project="{PROJECT}",domain="{DOMAIN}"}}'] == 1
        for what in ("workflow", "node", "task"):
            assert during[f"{scope}:execstats:active_{what}_executions"] == 1, what
        assert during[f"{scope}:k8s_resources"] == 1
        may_end.touch()
        assert await running == WorkflowExecution.SUCCEEDED
        assert await control_plane.run("bad", "bad1") == WorkflowExecution.FAILED
        after = await its.shows(f"{scope}:execstats:active_workflow_executions", 0)
    good = f'{{project="{PROJECT}",domain="{DOMAIN}",wf="good"}}'
    bad = good.replace("good", "bad")
    once = (
        "workflow:acceptance_latency_ms", "workflow:completion_latency_ms", "node:transition_latency_ms",
        "node:queueing_latency_ms", "node:task:plugin_queue_latency_ms", "node:task:plugin_exec_latency_ms",
    )  # fmt: skip
    for name in (*once, "workflow:success_duration_ms"):
        assert after[f"{scope}:{name}_count{good}"] >= 1, name
    for name in (*once[:4], "workflow:failure_duration_ms", "node:perma_user_error_duration_ms"):
        assert after[f"{scope}:{name}_count{bad}"] >= 1, name
    assert after[f"{scope}:node:task:plugin_exec_latency_ms_count{good}"] == 1
    assert after[f"{scope}:workflow:accepted"] == after[f"{scope}:wf_enqueue"] == 2
    assert after[f"{scope}:round:round_total"] >= 2
    assert after[f"{scope}:workflow:event_recording:success_duration_unlabeled_ms_count"] >= 4
    for phase in ("SUCCEEDED", "FAILED"):
        assert after[f'{scope}:node:task:attempts{{tasktype="raw-container",phase="{phase}"}}'] == 1
    for what in ("workflow", "node", "task"):
        assert after[f"{scope}:execstats:active_{what}_executions"] == 0, what


async def test_a_port_that_is_taken_is_named(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
        async with propeller(control_plane, tmp_path, **{"prof-port": port}) as its:
            assert its.process.stderr is not None
            said = (await asyncio.wait_for(its.process.stderr.read(), 60)).decode()
            assert await its.process.wait() == 1
    assert f"propeller.prof-port is {port}, and 0 turns it off" in said


async def test_it_is_not_served_to_other_machines_by_accident(tmp_path: Path) -> None:
    overrides = {"propeller.host": "0.0.0.0", "propeller.runtime.directory": str(tmp_path)}
    with pytest.raises(FailedPrecondition, match="insecureBind"):
        await serve([], overrides)
