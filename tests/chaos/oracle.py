"""What must hold once the executions of a round are over, read from the database, the storage, the API, the side files
and the process table.  The numbers are those of the invariants in the design.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from flyteidl.admin import execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, literals_pb2

from aerodrome.admin.managers.replaying import differences
from aerodrome.stdlib.postgres.database import Database
from tests.e2e.instance import is_alive, wait_until

from .chores import TERMINAL, Client, Name, Side
from .faulted import FaultedInstance
from .mix import Launched

SETTLE_SECONDS = 30.0
"""What ends with its parent, and what is given back, is over by then."""
_NODE_TERMINAL = ("SUCCEEDED", "FAILED", "ABORTED", "SKIPPED", "TIMED_OUT", "RECOVERED")
_TASK_TERMINAL = ("SUCCEEDED", "FAILED", "ABORTED")

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """An execution as the database has it."""

    id: int
    name: str
    phase: str
    lease: str


@dataclass(frozen=True)
class Before:
    """What there was before a round."""

    latest: int
    """Number of the latest execution."""
    pods: frozenset[Path]
    """What an earlier round left, and was told."""


def query(instance: FaultedInstance, work: Callable[[Database], Awaitable[T]]) -> T:
    """Ask the platform's own database."""
    lines = (instance.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    dsn = f"postgresql://aerodrome@/aerodrome?host={quote(lines[4], safe='')}&port={lines[3]}"

    async def asked() -> T:
        async with Database(dsn, min_size=1, max_size=1, application_name="oracle") as database:
            return await work(database)

    return asyncio.run(asked())


def look(instance: FaultedInstance) -> Before:
    """What there is before a round."""

    async def work(database: Database) -> int:
        async with database.connection() as connection:
            found = await connection.fetch("SELECT coalesce(max(execution_id), 0) AS latest FROM executions")
            return int(found[0]["latest"])

    return Before(query(instance, work), frozenset(_pods(instance)))


def _pods(instance: FaultedInstance) -> set[Path]:
    return set((instance.data_dir / "runtime" / "pods").glob("*/*"))


def check(instance: FaultedInstance, client: Client, launched: Sequence[Launched], before: Before) -> list[str]:
    """What does not hold of the executions that came since `before`."""
    wrong: list[str] = []
    found = _all_over(instance, before.latest, wrong)
    names = [each.name for each in found]
    wrong += [f"I1, I3: {each.id.name} is not there once" for each in launched if names.count(each.id.name) != 1]
    wrong += query(instance, lambda database: _check_rows(database, found))
    for each in launched:
        wrong += _check_end(client, each)
        wrong += _check_side(each)
    for execution in found:
        wrong += _check_nodes(client, Name(project="flytesnacks", domain="development", name=execution.name))
    wrong += _check_nothing_left(instance, [each.side for each in launched], before)
    return wrong


def _all_over(instance: FaultedInstance, after: int, wrong: list[str]) -> list[Found]:
    async def work(database: Database) -> list[Found]:
        async with database.connection() as connection:
            rows = await connection.fetch(
                "SELECT execution_id, execution_name, e.phase, l.state FROM executions e JOIN leases l"
                " USING (execution_id) WHERE execution_id > $1 ORDER BY execution_id",
                after,
            )
        return [Found(row["execution_id"], row["execution_name"], row["phase"], row["state"]) for row in rows]

    terminal = {phases.WorkflowExecution.Phase.Name(phase) for phase in TERMINAL}
    found: list[Found] = []

    def over() -> bool:
        found[:] = query(instance, work)
        return all(each.phase in terminal and each.lease == "closed" for each in found)

    try:
        wait_until("every execution is over", over, seconds=SETTLE_SECONDS, every=0.2)
    except AssertionError:
        wrong += [f"I1: not over: {each}" for each in found if each.phase not in terminal or each.lease != "closed"]
    return found


async def _check_rows(database: Database, found: Sequence[Found]) -> list[str]:
    """I8, and of I2, I4 and I6 what rows tell."""
    wrong = []
    ids = [each.id for each in found]
    async with database.transaction(isolation="repeatable_read", readonly=True) as connection:
        for each in found:
            wrong += [f"I8: {each.name}: {text}" for text in await differences(connection, each.id)]
        nodes = await connection.fetch(
            "SELECT execution_id, node_id, phase FROM node_executions WHERE execution_id = ANY($1)"
            " AND phase <> ALL($2)",
            ids,
            [*_NODE_TERMINAL, ""],
        )
        wrong += [f"I2: a node is open: {dict(row)}" for row in nodes]
        tasks = await connection.fetch(
            "SELECT execution_id, node_id, retry_attempt, phase FROM task_executions WHERE execution_id = ANY($1)"
            " AND phase <> ALL($2)",
            ids,
            list(_TASK_TERMINAL),
        )
        wrong += [f"I4: an attempt is open: {dict(row)}" for row in tasks]
        items = await connection.fetch(
            "SELECT execution_id, node_id, item_index, attempt, phase FROM node_items WHERE execution_id = ANY($1)"
            " AND phase NOT IN (3, 4, 5)",
            ids,
        )
        wrong += [f"I4: an item is open: {dict(row)}" for row in items]
    return wrong


def _check_end(client: Client, launched: Launched) -> list[str]:
    """It ended as it had to."""
    closure = client.execution(launched.id).closure
    if closure.phase != launched.kind.phase:
        name = phases.WorkflowExecution.Phase.Name(closure.phase)
        return [f"{launched.id.name} is {name}: {closure.error.code} {closure.error.message[:2000]}"]
    if launched.kind.output is None:
        return []
    given = client.call(
        client.stub.GetExecutionData, execution_pb2.WorkflowExecutionGetDataRequest(id=launched.id)
    ).full_outputs
    value = given.literals["o0"].scalar.primitive.integer
    return [] if value == launched.kind.output else [f"I5: {launched.id.name} gave {given}"]


def _check_nodes(client: Client, name: Name) -> list[str]:
    """I4, I5 and I6 as the API tells."""
    wrong = []
    request = node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=name, limit=200)
    for node in client.call(client.stub.ListNodeExecutions, request).node_executions:
        what, closure = f"{name.name}/{node.id.node_id}", node.closure
        succeeded = closure.phase in (phases.NodeExecution.SUCCEEDED, phases.NodeExecution.RECOVERED)
        data = client.call(client.stub.GetNodeExecutionData, node_execution_pb2.NodeExecutionGetDataRequest(id=node.id))
        if not succeeded and (data.full_outputs.literals or closure.output_uri):
            wrong.append(f"I5: {what} shows outputs in phase {closure.phase}")
        if succeeded and closure.output_uri:
            wrong += _check_file(what, closure.output_uri, data.full_outputs)
        attempts = client.attempts(node)
        if any(each.id.task_id.resource_type != identifier_pb2.TASK for each in attempts):
            wrong.append(f"{what}: an attempt of something else than a task")
        if [each.id.retry_attempt for each in attempts] != list(range(len(attempts))):
            wrong.append(f"I4: {what} has the attempts {[each.id.retry_attempt for each in attempts]}")
        good = [each.closure.phase == phases.TaskExecution.SUCCEEDED for each in attempts]
        if any(good[:-1]) or (attempts and succeeded and not good[-1]):
            wrong.append(f"I2: {what} in phase {closure.phase} has attempts that succeeded: {good}")
        wrong += _check_budget(what, attempts)
    return wrong


def _check_file(what: str, uri: str, shown: literals_pb2.LiteralMap) -> list[str]:
    path = Path(uri)
    if not path.is_file():
        return [f"I5: {what} has succeeded, and {uri} is not there"]
    if literals_pb2.LiteralMap.FromString(path.read_bytes()) != shown:
        return [f"I5: {what} shows {shown}, and {uri} has something else"]
    return []


def _user_failures(attempts: Sequence[task_execution_pb2.TaskExecution]) -> int:
    failed, user = phases.TaskExecution.FAILED, phases.ExecutionError.USER
    return sum(each.closure.phase == failed and each.closure.error.kind == user for each in attempts)


def _check_budget(what: str, attempts: Sequence[task_execution_pb2.TaskExecution]) -> list[str]:
    failures = _user_failures(attempts)
    allowed = {"mix.flaky": 1, "mix.broken": 2}.get(attempts[0].id.task_id.name, 0) if attempts else 0
    if failures <= allowed:
        return []
    return [f"I6: {what} has {failures} failures that are called the user's: {[e.closure.error for e in attempts]}"]


def _check_side(launched: Launched) -> list[str]:
    """I4 as the tasks saw it: each attempt ran once, and none went on after a newer one of its node had begun."""
    wrong = []
    starts: dict[str, int] = defaultdict(int)
    newest: dict[tuple[str, str], int] = {}
    for line in launched.side.lines():
        node = (line.place.split("/work/", 1)[1].split("/")[1].rpartition("-")[0], line.name)
        if line.what == "start":
            starts[line.place] += 1
        if line.what in ("start", "end", "fail") and line.attempt < newest.get(node, 0):
            wrong.append(f"I4: {line} came after attempt {newest[node]} had begun")
        newest[node] = max(newest.get(node, 0), line.attempt)
    return wrong + [f"I4: {launched.id.name}: {place} was begun {n} times" for place, n in starts.items() if n > 1]


def _check_nothing_left(instance: FaultedInstance, sides: Sequence[Side], before: Before) -> list[str]:
    """I7: neither processes nor pods nor reservations."""

    async def reservations(database: Database) -> list[str]:
        async with database.connection() as connection:
            rows = await connection.fetch("SELECT tag, owner_id FROM catalog_reservations WHERE expires_at > now()")
            return [f"I7: a reservation is left: {dict(row)}" for row in rows]

    def left() -> list[str]:
        found = [f"I7: the process {pid} is left" for pid in instance.tasks()]
        for line in (line for side in sides for line in side.lines()):
            pid = int(line.what.removeprefix("child")) if line.what.startswith("child") else line.pid
            if is_alive(pid) and pid in instance.processes():
                found.append(f"I7: a process of {line} is left")
        pods = _pods(instance) - before.pods
        return found + [f"I7: {path} is left" for path in sorted(pods)] + query(instance, reservations)

    try:
        wait_until("nothing is left", lambda: not left(), seconds=SETTLE_SECONDS / 2, every=0.2)
    except AssertionError:
        return left()
    return []
