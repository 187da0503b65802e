"""How fast the control plane answers reads: `python tests/bench/reading.py`.

A PostgreSQL server of its own in a temporary directory, filled with executions and one wide execution; the servicer
behind gRPC on a Unix socket; for the rate of GetExecution the client is another process, as clients are.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from flyteidl.admin.common_pb2 import NamedEntityIdentifier, NamedEntityListRequest, ResourceListRequest, Sort
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec, WorkflowExecutionGetRequest
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure, NodeExecutionListRequest, NodeExecutionMetaData
from flyteidl.core.identifier_pb2 import ResourceType, WorkflowExecutionIdentifier
from flyteidl.service.admin_pb2_grpc import (
    AdminServiceServicer,
    AdminServiceStub,
    add_AdminServiceServicer_to_server,
)

from aerodrome.admin.managers.reading import ReadingManager
from aerodrome.admin.rpc.reading import ReadingRpcs
from aerodrome.stdlib.postgres.database import Database, create_if_missing
from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
from aerodrome.stdlib.postgres.migrations import migrate
from aerodrome.stdlib.rpc.server import RpcServer


class _Admin(ReadingRpcs, AdminServiceServicer):
    def __init__(self, reading: ReadingManager) -> None:
        self._reading = reading


async def measure(*, executions: int = 100_000, nodes: int = 20_000, seconds: float = 5.0) -> dict[str, float]:
    """Figures by name; rates are per second, latencies in milliseconds (medians)."""
    with tempfile.TemporaryDirectory(prefix="aerodrome-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "pg")
        dsn = await create_if_missing(await postgres.start(), "bench")
        try:
            async with Database(dsn, min_size=4, max_size=8) as database:
                await migrate(database, "aerodrome.admin.migrations", service="admin")
                await _fill(database, executions, nodes)
                server = RpcServer(address=f"unix:{directory}/s")
                server.add(add_AdminServiceServicer_to_server, _Admin(ReadingManager(database)))
                async with server:
                    return await _lists(server.address) | await _gets(server.address, seconds)
        finally:
            await postgres.stop()


async def _fill(database: Database, executions: int, nodes: int) -> None:
    spec = ExecutionSpec(max_parallelism=25)
    spec.launch_plan.name = "my_workflows.training.pipeline"
    spec.labels.values["team"] = "research"
    spec.raw_output_data_config.output_location_prefix = "s3://bucket/prefix/" + "x" * 100
    closure = ExecutionClosure(phase="SUCCEEDED")
    closure.outputs.uri = "s3://bucket/metadata/" + "x" * 100
    for stamp in (closure.created_at, closure.updated_at, closure.started_at):
        stamp.GetCurrentTime()
    await database.execute(
        """
        INSERT INTO executions (execution_project, execution_domain, execution_name, created_at, phase, spec, closure,
            workflow_id, launch_plan_id, launch_entity, execution_created_at, execution_updated_at, started_at,
            duration)
        SELECT 'p', 'd', 'e' || n, now() - n * interval '1 second',
            (ARRAY['SUCCEEDED', 'FAILED', 'RUNNING'])[1 + n % 3], $2, $3, n % 50, n % 50, 'launch_plan', now(), now(),
            CASE WHEN n % 7 > 0 THEN now() - n * interval '1 second' END, n
        FROM generate_series(1, $1::integer) n
        """,
        executions, spec.SerializeToString(), closure.SerializeToString(),
    )  # fmt: skip
    node = NodeExecutionClosure(phase="SUCCEEDED", output_uri="s3://bucket/metadata/" + "x" * 100)
    await database.execute(
        """
        INSERT INTO node_executions (execution_id, node_id, phase, closure, node_execution_metadata, event_version)
        SELECT (SELECT execution_id FROM executions WHERE execution_name = 'e1'), 'n' || n, 'SUCCEEDED', $2, $3, 2
        FROM generate_series(1, $1::integer) n
        """,
        nodes, node.SerializeToString(), NodeExecutionMetaData(spec_node_id="n").SerializeToString(),
    )  # fmt: skip
    await database.execute(
        """
        INSERT INTO workflows (project, domain, name, version, typed_interface, remote_closure_identifier, digest)
        SELECT 'p', 'd', 'w' || n % 500, 'v' || n / 500, '', '', '' FROM generate_series(1, 20000) n
        """
    )
    await database.execute("ANALYZE")


async def _lists(address: str) -> dict[str, float]:
    place = NamedEntityIdentifier(project="p", domain="d")
    key = WorkflowExecutionIdentifier(project="p", domain="d", name="e1")
    figures: dict[str, float] = {}
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub: Any = AdminServiceStub(channel)

        async def pages(name: str, call: Any, request: Any, deep: int) -> None:
            first: Callable[[], Awaitable[Any]] = lambda: call(request)  # noqa: E731
            figures[f"{name}, first page"] = await _median(first)
            for _ in range(deep):
                request.token = (await call(request)).token
            figures[f"{name}, page {deep + 1}"] = await _median(first)

        for title, fields in (
            ("executions by created_at", {"sort_by": Sort(key="created_at")}),
            ("executions by started_at", {"sort_by": Sort(key="started_at")}),
            ("failed executions", {"sort_by": Sort(key="created_at"), "filters": "eq(phase,FAILED)"}),
        ):
            request = ResourceListRequest(id=place, limit=100, **fields)
            await pages(f"{title}, 100 rows", stub.ListExecutions, request, 300)
        nodes = NodeExecutionListRequest(
            workflow_execution_id=key, limit=100, sort_by=Sort(key="created_at", direction=Sort.ASCENDING)
        )
        await pages("nodes of a wide execution, 100 rows", stub.ListNodeExecutions, nodes, 150)
        names = NamedEntityListRequest(resource_type=ResourceType.WORKFLOW, project="p", domain="d", limit=20)
        await pages("workflow names, 20 rows", stub.ListNamedEntities, names, 20)
        large = NodeExecutionListRequest(workflow_execution_id=key, limit=10_000)
        figures["nodes of a wide execution, 10,000 rows"] = await _median(lambda: stub.ListNodeExecutions(large), 5)
    return figures


async def _median(call: Callable[[], Awaitable[Any]], times: int = 30) -> float:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - begin) * 1000)
    return round(statistics.median(taken), 2)


async def _gets(address: str, seconds: float) -> dict[str, float]:
    client = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "client", address, str(seconds), stdout=subprocess.PIPE
    )
    out, _ = await client.communicate()
    figures: dict[str, float] = json.loads(out)
    return figures


async def _client(address: str, seconds: float) -> dict[str, float]:
    """Sixteen callers that ask for one execution after another."""
    end = time.perf_counter() + seconds
    taken: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdminServiceStub(channel)

        async def caller(number: int) -> None:
            while (begin := time.perf_counter()) < end:
                name = f"e{1 + (number + len(taken) * 37) % 1000}"
                key = WorkflowExecutionIdentifier(project="p", domain="d", name=name)
                await stub.GetExecution(WorkflowExecutionGetRequest(id=key))
                taken.append((time.perf_counter() - begin) * 1000)

        await asyncio.gather(*(caller(number) for number in range(16)))
    taken.sort()
    return {
        "GetExecution per second": round(len(taken) / seconds),
        "GetExecution, p50": round(taken[len(taken) // 2], 2),
        "GetExecution, p99": round(taken[len(taken) * 99 // 100], 2),
    }


def main(arguments: list[str]) -> None:
    """Measure and write the figures to the standard output as JSON."""
    if arguments[:1] == ["client"]:
        figures = asyncio.run(_client(arguments[1], float(arguments[2])))
    else:
        figures = asyncio.run(measure())
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
