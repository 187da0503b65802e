"""What the control plane takes: launches, gets, registration, memory under load, and launches during a sweep.

A real PostgreSQL (fsync and synchronous_commit on), the whole control plane behind real gRPC in this process, and the
client in another process.  No data plane is attached, so that nothing but the control plane is measured.

    python tests/bench/control_plane.py --seconds 10 --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from flyteidl.admin.common_pb2 import NamedEntityIdentifier, ResourceListRequest, Sort
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionCreateRequest, WorkflowExecutionGetRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, WorkflowExecutionIdentifier
from flyteidl.core.types_pb2 import INTEGER
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

PROJECT, DOMAIN = "flytesnacks", "development"
OTHER = "other"
"""A project with little to do, beside the crowd of the first one."""
IN_FLIGHT = 32
CROWD = 64
"""Launches in flight of the project that takes all it can get."""
WIDE_NODES = 5_000
OLD = 1_500
"""Executions that a sweep deletes while others are launched."""
OLD_NODES = 20
PACED_PER_SECOND = 50
"""Launches a second beside the sweep."""


@dataclass(frozen=True)
class Load:
    """How long things are measured."""

    seconds: float = 8.0
    """For each of the rates."""
    minutes: float = 0.5
    """Of mixed load over which memory is watched."""


async def measure(load: Load | None = None) -> dict[str, Any]:
    """Everything; rates per second, times in the unit of their name."""
    load = load or Load()
    with tempfile.TemporaryDirectory(prefix="aerodrome-bench-") as directory:
        async with _service(Path(directory)) as service:
            figures: dict[str, Any] = {}
            figures |= await service.client("register")
            figures |= _named("create", await service.client("create", load.seconds))
            figures |= _named("get", await service.client("get", load.seconds))
            figures |= await _fairness(service, load.seconds)
            figures |= await _memory(service, load.minutes * 60)
            figures |= await _sweep(service)
            return figures


def _named(what: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{what}_{key}": value for key, value in figures.items()}


# --- the service


class Service:
    """The control plane in this process."""

    def __init__(self, address: str, admin: Any, database: Any, storage: Any) -> None:
        self.address, self.admin, self.database, self.storage = address, admin, database, storage

    async def client(self, what: str, seconds: float = 0.0) -> dict[str, Any]:
        """What the client's process found out."""
        client = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--client", self.address, "--what", what, "--seconds", str(seconds),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await client.communicate()
        if client.returncode != 0:
            raise RuntimeError(f"the client's process ended with {client.returncode}")
        figures: dict[str, Any] = json.loads(output)
        return figures


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[Service]:
    from aerodrome.admin.config import AdminConfig
    from aerodrome.admin.main import DEFAULT_MESSAGE_BYTES, Admin
    from aerodrome.stdlib.clock import SystemClock
    from aerodrome.stdlib.postgres.database import Database
    from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
    from aerodrome.stdlib.postgres.migrations import migrate
    from aerodrome.stdlib.rpc.server import RpcServer
    from aerodrome.stdlib.service import settle
    from aerodrome.stdlib.storage.local import LocalStorage

    config = AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": [PROJECT, OTHER]}}})
    postgres = EmbeddedPostgres(directory / "pg")
    dsn = await postgres.start()
    try:
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(Database(dsn, min_size=2, max_size=20))
            storage = await stack.enter_async_context(LocalStorage(str(directory / "store")))
            await migrate(database, "aerodrome.admin.migrations", service="admin")
            admin = Admin(
                config, database=database, storage=storage, clock=SystemClock(), public_url=lambda: "http://here"
            )
            await admin.prepare()
            server = await stack.enter_async_context(
                RpcServer(address="127.0.0.1:0", max_message_bytes=DEFAULT_MESSAGE_BYTES)
            )
            for add_to_server, servicer in admin.services():
                server.add(add_to_server, servicer)
            background = asyncio.create_task(admin.run())
            settle()
            try:
                yield Service(server.address, admin, database, storage)
            finally:
                background.cancel()
                await asyncio.wait({background})
    finally:
        await postgres.stop()


async def _fairness(service: Service, seconds: float) -> dict[str, Any]:
    """Launches of one project at a steady pace: alone, and while another one launches whatever it can."""
    alone = await service.client("light", seconds)
    crowd = asyncio.create_task(service.client("crowd", seconds + 3))
    try:
        await asyncio.sleep(2)  # until it has begun
        beside = await service.client("light", seconds)
    finally:
        crowding = await crowd
    return (
        _named("light_alone", alone)
        | _named("light_beside", beside)
        | {"crowd_per_second": crowding["per_second"], "light_p99_ratio": beside["p99_ms"] / alone["p99_ms"]}
    )


async def _memory(service: Service, seconds: float) -> dict[str, Any]:
    """How much larger this process is after mixed load than once it was warm."""
    await service.client("mixed", min(10.0, seconds))
    gc.collect()
    before = _resident_mb()
    await service.client("mixed", seconds)
    gc.collect()
    after = _resident_mb()
    return {"memory_before_mb": before, "memory_after_mb": after, "memory_growth_mb": after - before}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def _sweep(service: Service) -> dict[str, Any]:
    """Launches at a steady pace: alone, and while retention deletes what is old."""
    await _fill_old(service)
    alone = await service.client("paced", 5.0)
    await service.database.execute(
        "INSERT INTO retention_policies (project, domain, keep_executions_days, updated_at) VALUES ('', '', 30, now())"
    )
    sweeping = asyncio.create_task(_timed_sweep(service))
    beside = await service.client("paced", 8.0)
    deleted, seconds = await sweeping
    return {
        "paced_alone_p99_ms": alone["p99_ms"], "paced_alone_max_ms": alone["max_ms"],
        "swept_p99_ms": beside["p99_ms"], "swept_max_ms": beside["max_ms"],
        "swept_per_second": round(deleted / seconds, 1), "swept": deleted,
    }  # fmt: skip


async def _timed_sweep(service: Service) -> tuple[int, float]:
    began = time.perf_counter()
    deleted = await service.admin.retention.sweep()
    if deleted < OLD:
        raise RuntimeError(f"the sweep deleted {deleted} of {OLD} executions")
    return deleted, time.perf_counter() - began


async def _fill_old(service: Service) -> None:
    """Executions that ended last year, with nodes, attempts, a journal and blobs."""
    database = service.database
    await database.execute("SELECT ensure_execution_partitions(now() - interval '400 days', now())")
    closure = ExecutionClosure(phase="SUCCEEDED").SerializeToString()
    old = "execution_id_at(now() - interval '200 days') + number"
    await database.execute(
        f"""
        INSERT INTO executions (execution_id, execution_project, execution_domain, execution_name, created_at, phase,
            spec, closure, workflow_id, launch_entity, execution_created_at, execution_updated_at)
        SELECT {old}, $1, $2, 'old' || number, now() - interval '200 days', 'SUCCEEDED', '', $3, 1, 'launch_plan',
            now() - interval '200 days', now() - interval '199 days'
        FROM generate_series(1, {OLD}) AS number
        """,
        PROJECT, DOMAIN, closure,
    )  # fmt: skip
    each = f"FROM generate_series(1, {OLD}) AS number, generate_series(1, {OLD_NODES}) AS node"
    body = b"x" * 300
    await database.execute(
        "INSERT INTO node_executions (execution_id, node_id, phase, closure, node_execution_metadata) "
        f"SELECT {old}, 'n' || node, 'SUCCEEDED', $1, '' {each}",
        body,
    )
    await database.execute(
        "INSERT INTO task_executions (execution_id, node_id, retry_attempt, project, domain, name, version, phase, "
        f"closure) SELECT {old}, 'n' || node, 0, $1, $2, 't', 'v1', 'SUCCEEDED', $3 {each}",
        PROJECT, DOMAIN, body,
    )  # fmt: skip
    await database.execute(
        "INSERT INTO journal (execution_id, sequence, epoch, kind, body) "
        f"SELECT {old}, 6 * node + step, 1, 2, $1 {each}, generate_series(1, 6) AS step",
        body,
    )
    for number in range(1, OLD + 1):
        await service.storage.write(
            service.storage.join("metadata", "propeller", f"{PROJECT}-{DOMAIN}-old{number}", "n1", "data", "inputs.pb"),
            body,
        )
    await database.execute("ANALYZE executions, node_executions, task_executions, journal")


# --- the client


def _key(kind: ResourceType, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version="v1")


def _launch(name: str, project: str = PROJECT) -> ExecutionCreateRequest:
    request = ExecutionCreateRequest(project=project, domain=DOMAIN, name=name)
    request.spec.launch_plan.CopyFrom(_key(ResourceType.LAUNCH_PLAN, "lp"))
    request.inputs.literals["a"].scalar.primitive.integer = 7
    return request


async def _register(stub: Any) -> dict[str, Any]:
    """One task, a small workflow with a launch plan, and a workflow of many nodes, each of which feeds the next."""
    task = TaskCreateRequest(id=_key(ResourceType.TASK, "t"))
    template = task.spec.template
    template.type = "python-task"
    template.metadata.runtime.version = "1"
    template.interface.inputs.variables["a"].type.simple = INTEGER
    template.interface.outputs.variables["o0"].type.simple = INTEGER
    template.container.image = "python"
    template.container.args.append("run")
    await stub.CreateTask(task)
    await stub.CreateWorkflow(_workflow("w", 1))
    plan = LaunchPlanCreateRequest(id=_key(ResourceType.LAUNCH_PLAN, "lp"))
    plan.spec.workflow_id.CopyFrom(_key(ResourceType.WORKFLOW, "w"))
    await stub.CreateLaunchPlan(plan)
    taken = []
    for number in range(3):
        wide = _workflow(f"wide{number}", WIDE_NODES)
        began = time.perf_counter()
        await stub.CreateWorkflow(wide)
        taken.append(time.perf_counter() - began)
    return {"register_first_s": taken[0], "register_s": sorted(taken)[1]}


def _workflow(name: str, nodes: int) -> WorkflowCreateRequest:
    request = WorkflowCreateRequest(id=_key(ResourceType.WORKFLOW, name))
    template = request.spec.template
    template.interface.inputs.variables["a"].type.simple = INTEGER
    for number in range(nodes):
        node = template.nodes.add(id=f"n{number}")
        node.task_node.reference_id.CopyFrom(_key(ResourceType.TASK, "t"))
        binding = node.inputs.add(var="a")
        promise = binding.binding.promise
        promise.node_id, promise.var = (f"n{number - 1}", "o0") if number else ("", "a")
        if number:
            node.upstream_node_ids.append(f"n{number - 1}")
    return request


async def _rate(call: Callable[[int], Awaitable[Any]], seconds: float, in_flight: int = IN_FLIGHT) -> dict[str, Any]:
    """`call` with its number, so many at a time, for so long."""
    taken: list[float] = []
    numbers = iter(range(10**9))
    end = time.perf_counter() + seconds

    async def one() -> None:
        while (began := time.perf_counter()) < end:
            await call(next(numbers))
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(in_flight)))
    return {"per_second": len(taken) / (time.perf_counter() - began)} | _latencies(taken)


async def _paced(call: Callable[[int], Awaitable[Any]], seconds: float) -> dict[str, Any]:
    """`call` at a steady pace, whatever the calls before take."""
    taken: list[float] = []

    async def one(number: int) -> None:
        began = time.perf_counter()
        await call(number)
        taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * PACED_PER_SECOND)):
            await asyncio.sleep(max(0.0, began + number / PACED_PER_SECOND - time.perf_counter()))
            group.create_task(one(number))
    return _latencies(taken)


def _latencies(taken: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(taken)
    return {
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
        "max_ms": 1000 * ordered[-1],
    }


async def _be_client(address: str, what: str, seconds: float) -> None:
    """Print what was found out, and end at once: a thread of grpc's now and then crashes while a channel is closed."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    figures = await drive(grpc.aio.insecure_channel(address, options=options), what, seconds)
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    os._exit(0)


async def drive(channel: grpc.aio.Channel, what: str, seconds: float) -> dict[str, Any]:
    """Be the client."""
    dice = random.Random()
    prefix = f"f{dice.getrandbits(60):x}"
    stub: Any = AdminServiceStub(channel)
    if what == "register":
        return await _register(stub)

    async def create(number: int) -> None:
        await stub.CreateExecution(_launch(f"{prefix}{number}"), timeout=30)

    if what == "create":
        await _rate(create, 1.0)
        prefix += "x"
        return await _rate(create, seconds)
    if what == "crowd":
        return await _rate(create, seconds, CROWD)
    if what == "paced":
        await _rate(create, 0.5)
        prefix += "x"
        return await _paced(create, seconds)

    async def create_other(number: int) -> None:
        await stub.CreateExecution(_launch(f"{prefix}{number}", OTHER), timeout=30)

    if what == "light":
        await _paced(create_other, 0.5)
        prefix += "x"
        return await _paced(create_other, seconds)
    newest = ResourceListRequest(
        id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN), limit=1000,
        sort_by=Sort(key="created_at", direction=Sort.DESCENDING),
    )  # fmt: skip
    names = [each.id.name for each in (await stub.ListExecutions(newest)).executions]

    async def get(number: int) -> None:
        key = WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=names[number % len(names)])
        await stub.GetExecution(WorkflowExecutionGetRequest(id=key), timeout=30)

    if what == "get":
        await _rate(get, 1.0)
        return await _rate(get, seconds)

    async def mixed(number: int) -> None:
        if number % 10 == 0:
            await create(number)
        elif number % 10 == 1:
            request = ResourceListRequest()
            request.CopyFrom(newest)
            request.limit = 25
            await stub.ListExecutions(request, timeout=30)
        else:
            await get(number)

    return await _rate(mixed, seconds)


def main() -> None:
    """Measure and print, or be the client's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Load.seconds, help="for each of the rates")
    parser.add_argument("--minutes", type=float, default=Load.minutes, help="of load over which memory is watched")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--what", default="create", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        asyncio.run(_be_client(arguments.client, arguments.what, arguments.seconds))
    else:
        from aerodrome.stdlib import logger
        from aerodrome.stdlib.config import LoggerConfig

        logger.configure(LoggerConfig(level=3))
        figures = uvloop.run(measure(Load(arguments.seconds, arguments.minutes)))
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
