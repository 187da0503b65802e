"""How many transitions a second the control plane takes through `Append`, folded and durable.

A real PostgreSQL (fsync and synchronous_commit on), the journal's service behind real gRPC in this process, and a data
plane in another process that leases the executions and drives their nodes: each goes QUEUED, RUNNING, SUCCEEDED and so
does its task, two transitions of a node to an append, as write-ahead needs them.

    python tests/bench/journal.py --executions 200 --nodes 30 --width 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import uvloop
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec
from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    WorkflowExecutionIdentifier,
)
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent

from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    AppendStatus,
    Assignment,
    ExecutionAppend,
    HeartbeatRequest,
    LeaseRequest,
    NodeChange,
    OpenSessionRequest,
    TaskChange,
    Transition,
    TransitionStatus,
    WorkflowChange,
)
from aerodrome.idl.journal.v1.journal_pb2_grpc import JournalServiceStub, add_JournalServiceServicer_to_server

CLUSTER = "bench"


@dataclass(frozen=True)
class Load:
    """What the data plane drives."""

    executions: int = 200
    nodes: int = 30
    """Nodes of each execution."""
    width: int = 1
    """Nodes of an execution that are in progress at the same time."""
    in_flight: int = 4
    """Appends that the data plane has under way at the same time."""

    @property
    def transitions(self) -> int:
        return self.executions * (6 * self.nodes + 3)


async def measure(load: Load | None = None) -> dict[str, Any]:
    """Drive the load; returns figures, in seconds and per second."""
    load = load or Load()
    with tempfile.TemporaryDirectory(prefix="aerodrome-bench-") as directory:
        async with _service(Path(directory)) as (address, database, postmaster):
            await _create_executions(database, load.executions)
            before, database_before = _cpu_seconds(), _family_cpu_seconds(postmaster)
            client = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--client", address, *_arguments(load), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await client.communicate()
            if client.returncode != 0:
                raise RuntimeError(f"the data plane's process ended with {client.returncode}")
            figures: dict[str, Any] = json.loads(output)
            figures["service_cpu_seconds"] = round(_cpu_seconds() - before, 3)
            figures["database_cpu_seconds"] = round(_family_cpu_seconds(postmaster) - database_before, 3)
            await _check(database, load)
            return figures


def _arguments(load: Load) -> list[str]:
    return [
        "--executions", str(load.executions), "--nodes", str(load.nodes), "--width", str(load.width),
        "--in-flight", str(load.in_flight),
    ]  # fmt: skip


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _family_cpu_seconds(parent: int | None) -> float:
    """CPU time of a process and its children that live."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if parent in (int(stat.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[tuple[str, Any, int | None]]:
    """The journal's service over gRPC, on a database of its own."""
    from aerodrome.admin.config import AdminConfig
    from aerodrome.admin.managers.children import ChildManager
    from aerodrome.admin.managers.journal import JournalWriter
    from aerodrome.admin.managers.leases import LeaseManager, WorkAnnouncer
    from aerodrome.admin.managers.sessions import SessionManager
    from aerodrome.admin.rpc.journal import JournalRpcs
    from aerodrome.stdlib.clock import SystemClock
    from aerodrome.stdlib.config import StorageConfig
    from aerodrome.stdlib.postgres.database import Database
    from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
    from aerodrome.stdlib.postgres.migrations import migrate
    from aerodrome.stdlib.rpc.server import RpcServer
    from aerodrome.stdlib.storage import open_storage

    clock, config = SystemClock(), AdminConfig()
    postgres = EmbeddedPostgres(directory / "pg")
    dsn = await postgres.start()
    try:
        async with (
            Database(dsn, min_size=4, max_size=10) as database,
            open_storage(StorageConfig(type="mem", container="bench"), clock=clock, signer=None) as storage,
        ):
            await migrate(database, "aerodrome.admin.migrations", service="admin")
            journal = JournalWriter(database, storage, clock, config)
            sessions = SessionManager(database, clock, config)
            leases = LeaseManager(database, sessions, WorkAnnouncer(), config)
            journal.subscribe(leases.told)
            children = ChildManager(database, journal, clock, push=leases.push)
            running = [asyncio.create_task(part.run()) for part in (journal, sessions, leases)]
            async with RpcServer(address="127.0.0.1:0") as server:
                server.add(add_JournalServiceServicer_to_server, JournalRpcs(journal, sessions, leases, children))
                yield server.address, database, postgres.pid
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    finally:
        await postgres.stop()


async def _create_executions(database: Any, count: int) -> None:
    now = datetime.now(UTC)
    spec, closure = ExecutionSpec().SerializeToString(), ExecutionClosure().SerializeToString()
    async with database.transaction() as connection:
        ids = [
            row["execution_id"]
            for row in await connection.fetch(
                """
                INSERT INTO executions (
                    execution_project, execution_domain, execution_name, phase, spec, closure, workflow_id,
                    launch_entity, execution_created_at, execution_updated_at
                )
                SELECT 'flytesnacks', 'development', 'bench' || number, 'UNDEFINED', $2, $3, 0, 'launch_plan', $4, $4
                FROM generate_series(1, $1) AS number
                RETURNING execution_id
                """,
                count,
                spec,
                closure,
                now,
            )
        ]
        await connection.execute(
            "INSERT INTO leases (execution_id, cluster) SELECT id, $2 FROM unnest($1::bigint[]) AS id", ids, CLUSTER
        )


async def _check(database: Any, load: Load) -> None:
    """Everything is folded: the journal has every transition, and every row shows the end."""
    expected = load.executions * load.nodes
    found = {
        "entries": await database.fetchval("SELECT count(*) FROM journal"),
        "nodes": await database.fetchval("SELECT count(*) FROM node_executions WHERE phase = 'SUCCEEDED'"),
        "tasks": await database.fetchval("SELECT count(*) FROM task_executions WHERE phase = 'SUCCEEDED'"),
        "executions": await database.fetchval("SELECT count(*) FROM executions WHERE phase = 'SUCCEEDED'"),
        "fsync": await database.fetchval("SELECT current_setting('fsync') || current_setting('synchronous_commit')"),
    }
    if found != {
        "entries": load.transitions, "nodes": expected, "tasks": expected, "executions": load.executions,
        "fsync": "onon",
    }:  # fmt: skip
        raise RuntimeError(f"the rows are not the fold of what was reported: {found}")


# --- the data plane


class _Execution:
    """Drives one execution, an append at a time."""

    def __init__(self, assignment: Assignment, nodes: int, width: int) -> None:
        self.execution_id = assignment.execution_id
        self.epoch = assignment.epoch
        self.last_sequence = assignment.last_sequence
        self.identifier = WorkflowExecutionIdentifier(
            project=assignment.project, domain=assignment.domain, name=assignment.name
        )
        self._steps = self._make(nodes, width)

    def prepare(self) -> None:
        """Make everything that will be sent: what is to be measured is the control plane, which shares the machine."""
        self._steps = iter(list(self._steps))

    def next(self) -> ExecutionAppend | None:
        transitions = next(self._steps, None)
        if transitions is None:
            return None
        return ExecutionAppend(
            execution_id=self.execution_id,
            epoch=self.epoch,
            first_sequence=self.last_sequence + 1,
            transitions=transitions,
        )

    def _make(self, nodes: int, width: int) -> Iterator[list[Transition]]:
        phases = WorkflowExecution
        yield [self._workflow(phases.RUNNING)]
        for first in range(0, nodes, width):
            batch = [f"n{number}" for number in range(first, min(first + width, nodes))]
            for node_phase, task_phase in (
                (NodeExecution.QUEUED, TaskExecution.QUEUED),
                (NodeExecution.RUNNING, TaskExecution.RUNNING),
                (NodeExecution.SUCCEEDED, TaskExecution.SUCCEEDED),
            ):
                transitions: list[Transition] = []
                for node_id in batch:
                    pair = [self._node(node_id, node_phase), self._task(node_id, task_phase)]
                    transitions += reversed(pair) if node_phase == NodeExecution.SUCCEEDED else pair
                yield transitions
        yield [self._workflow(phases.SUCCEEDING), self._workflow(phases.SUCCEEDED)]

    def _workflow(self, phase: Any) -> Transition:
        event = WorkflowExecutionEvent(execution_id=self.identifier, producer_id="propeller", phase=phase)
        event.occurred_at.GetCurrentTime()
        return Transition(workflow=WorkflowChange(event=event.SerializeToString(), state=b"w"))

    def _node(self, node_id: str, phase: Any) -> Transition:
        prefix = f"/data/metadata/propeller/flytesnacks-development-{self.identifier.name}/{node_id}/data"
        event = NodeExecutionEvent(
            id=NodeExecutionIdentifier(node_id=node_id, execution_id=self.identifier),
            producer_id="propeller",
            phase=phase,
            input_uri=f"{prefix}/inputs.pb",
            spec_node_id=node_id,
            node_name=f"step_{node_id}",
            event_version=1,
        )
        event.occurred_at.GetCurrentTime()
        event.reported_at.CopyFrom(event.occurred_at)
        if phase == NodeExecution.SUCCEEDED:
            event.output_uri = f"{prefix}/0/outputs.pb"
        return Transition(node=NodeChange(node_id=node_id, event=event.SerializeToString(), state=b"state of a node"))

    def _task(self, node_id: str, phase: Any) -> Transition:
        prefix = f"/data/metadata/propeller/flytesnacks-development-{self.identifier.name}/{node_id}/data"
        event = TaskExecutionEvent(
            task_id=Identifier(
                resource_type=ResourceType.TASK, project="flytesnacks", domain="development", name="workflows.step",
                version="qTP2bhJq9G4c5bPz3gMd8Q==",
            ),
            parent_node_execution_id=NodeExecutionIdentifier(node_id=node_id, execution_id=self.identifier),
            phase=phase,
            producer_id="propeller",
            input_uri=f"{prefix}/inputs.pb",
            task_type="python-task",
            reason="task submitted" if phase == TaskExecution.QUEUED else "",
            event_version=1,
        )  # fmt: skip
        event.occurred_at.GetCurrentTime()
        event.reported_at.CopyFrom(event.occurred_at)
        event.metadata.generated_name = f"{self.identifier.name}-{node_id}-0"
        event.metadata.plugin_identifier = "container"
        if phase == TaskExecution.RUNNING:
            event.logs.add(uri=f"http://localhost:30080/logs/{self.identifier.name}/{node_id}/0", name="Logs")
        if phase == TaskExecution.SUCCEEDED:
            event.output_uri = f"{prefix}/0/outputs.pb"
        change = TaskChange(node_id=node_id, attempt=0, event=event.SerializeToString(), state=b"state of an attempt")
        return Transition(task=change)


async def drive(address: str, load: Load) -> dict[str, Any]:
    """Be a data plane: lease everything, drive it to its end, and tell how long that took."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = JournalServiceStub(channel)
        session = await stub.OpenSession(OpenSessionRequest(cluster=CLUSTER, holder=f"bench {os.getpid()}"))
        began = time.perf_counter()
        executions: list[_Execution] = []
        stream = stub.Lease(LeaseRequest(session_id=session.session_id, capacity=load.executions))
        async for response in stream:
            executions.append(_Execution(response.assignment, load.nodes, load.width))
            if len(executions) == load.executions:
                break
        leased = time.perf_counter()
        latencies: list[float] = []
        heart = asyncio.create_task(_beat(stub, session.session_id, session.term.ToTimedelta().total_seconds() / 3))
        for execution in executions:
            execution.prepare()
            await asyncio.sleep(0)
        ready = time.perf_counter()
        await asyncio.gather(
            *(
                _drive_some(stub, session.session_id, executions[number :: load.in_flight], latencies)
                for number in range(load.in_flight)
            )
        )
        seconds = time.perf_counter() - ready
        heart.cancel()
        stream.cancel()
    latencies.sort()
    return {
        "executions": load.executions,
        "transitions": load.transitions,
        "seconds": round(seconds, 3),
        "transitions_per_second": round(load.transitions / seconds),
        "leased_per_second": round(load.executions / (leased - began)),
        "append_p50_ms": round(1000 * latencies[len(latencies) // 2], 2),
        "append_p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 2),
        "client_cpu_seconds": round(_cpu_seconds(), 3),
    }


async def _beat(stub: Any, session_id: int, every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        await stub.Heartbeat(HeartbeatRequest(session_id=session_id))


async def _drive_some(stub: Any, session_id: int, executions: list[_Execution], latencies: list[float]) -> None:
    while executions:
        appends = [(execution, append) for execution in executions if (append := execution.next()) is not None]
        executions = [execution for execution, _ in appends]
        if not appends:
            return
        sent = time.perf_counter()
        response = await stub.Append(AppendRequest(session_id=session_id, executions=[append for _, append in appends]))
        latencies.append(time.perf_counter() - sent)
        for (execution, _), result in zip(appends, response.executions, strict=True):
            if result.status != AppendStatus.APPEND_STATUS_APPLIED or any(
                transition.status != TransitionStatus.TRANSITION_STATUS_ACCEPTED for transition in result.results
            ):
                raise RuntimeError(f"an append was refused: {result}")
            execution.last_sequence = result.last_sequence


def main() -> None:
    """Measure, or be the data plane of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--executions", type=int, default=Load.executions)
    parser.add_argument("--nodes", type=int, default=Load.nodes)
    parser.add_argument("--width", type=int, default=Load.width)
    parser.add_argument("--in-flight", type=int, default=Load.in_flight)
    given = parser.parse_args()
    load = Load(given.executions, given.nodes, given.width, given.in_flight)
    figures = uvloop.run(drive(given.client, load) if given.client else measure(load))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
