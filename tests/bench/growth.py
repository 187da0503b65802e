"""How the lists behave on a database that has grown: fills one, and prints time and plan of what stock clients ask.

    python tests/bench/growth.py --executions 1000000 --nodes 10 --data-dir DIR --plans

The rows are made by the server itself (`generate_series`) with closures of a realistic size: 70% of the executions in
one project and domain, workflows of very different popularity, one execution with many nodes, and names with hundreds
of versions.  A filled DIR is used again.  The server has the settings that `aerodrome up` gives it.  The queries are
those of spec/control-plane.md 6.3 (last paragraph) and 11.5, sent through the rpcs: the first page, and page 1,000 by
issued tokens where there are so many rows; each with values that differ from call to call.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from flyteidl.admin.common_pb2 import (
    NamedEntityIdentifier,
    NamedEntityIdentifierListRequest,
    NamedEntityListRequest,
    ResourceListRequest,
    Sort,
)
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec
from flyteidl.admin.launch_plan_pb2 import ActiveLaunchPlanListRequest, LaunchPlanClosure, LaunchPlanSpec
from flyteidl.admin.node_execution_pb2 import (
    NodeExecutionClosure,
    NodeExecutionListRequest,
    NodeExecutionMetaData,
)
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure, TaskExecutionListRequest
from flyteidl.admin.task_pb2 import TaskClosure
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.interface_pb2 import TypedInterface
from flyteidl.core.types_pb2 import INTEGER
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.stdlib import logger
from aerodrome.stdlib.config import LoggerConfig

PROJECT, DOMAIN = "flytesnacks", "development"
PLACES = (
    (PROJECT, DOMAIN, 70), (PROJECT, "production", 20), ("ml", DOMAIN, 6), ("ml", "production", 3),
    ("etl", "staging", 1),
)  # fmt: skip
NAMES, VERSIONS = 200, 100
"""Workflows, launch plans and tasks of each project and domain, and the versions of each."""
USERS = 100
DAYS = 400
PAGE_ROWS = 25
DEEP_PAGE = 1_000
GOAL_MS = 50.0
REPEATS = 40


@dataclass(frozen=True)
class Size:
    """How much there is."""

    executions: int = 20_000
    nodes: int = 10
    """Of an ordinary execution, on average."""

    @property
    def wide(self) -> int:
        """Nodes of the one execution that has many: enough for a thousand pages, if the size permits."""
        return min(DEEP_PAGE * 100 + 100, self.executions)


# --- filling


async def fill(database: Any, size: Size, tell: Callable[[str], None]) -> None:
    """Put the rows in place; a database that was filled to this size is left as it is."""
    await database.execute("CREATE TABLE IF NOT EXISTS bench_growth (executions bigint, nodes bigint)")
    row = await database.fetchrow("SELECT executions, nodes FROM bench_growth")
    if row is not None:
        if (row["executions"], row["nodes"]) != (size.executions, size.nodes):
            raise SystemExit(f"the directory holds {row['executions']:,} executions of {row['nodes']}: use another one")
        await _fill_begun(database, size)
        return
    began = datetime.now(UTC) - timedelta(days=DAYS)
    await database.execute("SELECT ensure_execution_partitions($1, now())", began)
    await _fill_registered(database)
    step = 100_000
    for first in range(0, size.executions, step):
        at = time.perf_counter()
        count = min(step, size.executions - first)
        await _fill_executions(database, began, first, count, size)
        await _fill_nodes(database, began, first, count, size)
        tell(f"{first + count:,} executions ({time.perf_counter() - at:.1f} s)")
    await _fill_wide(database, began, size)
    await _fill_begun(database, size)
    await database.execute("INSERT INTO bench_growth VALUES ($1, $2)", size.executions, size.nodes)
    at = time.perf_counter()
    await database.execute("VACUUM (ANALYZE)")
    tell(f"vacuum and analyze ({time.perf_counter() - at:.1f} s)")


async def _fill_registered(database: Any) -> None:
    interface = TypedInterface()
    interface.inputs.variables["a"].type.simple = INTEGER
    interface.outputs.variables["o0"].type.simple = INTEGER
    task = TaskClosure()
    task.compiled_task.template.type = "python-task"
    task.compiled_task.template.interface.CopyFrom(interface)
    task.compiled_task.template.container.image = "registry.example.com/team/image:v1.2.3"
    task.compiled_task.template.container.args.extend(["pyflyte-execute", "--inputs", "{{.input}}"] * 5)
    plan = LaunchPlanSpec(workflow_id=Identifier(project=PROJECT, domain=DOMAIN, name="w", version="v"))
    closure = LaunchPlanClosure()
    closure.expected_inputs.parameters["a"].required = True
    for number, (project, domain, _) in enumerate(PLACES):
        await database.execute(
            "INSERT INTO projects (identifier, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", project
        )
        series = f"FROM generate_series(0, {NAMES - 1}) AS n (name), generate_series(0, {VERSIONS - 1}) AS v (version)"
        series += " ORDER BY n.name, v.version"  # numbers are given in this order
        made = f"now() - make_interval(days => 400) + v.version * interval '{DAYS} days' / {VERSIONS}"
        await database.execute(
            "INSERT INTO tasks (project, domain, name, version, created_at, closure, digest, type) "
            f"SELECT $1, $2, 'package.module.task_' || n.name, 'v' || v.version, {made}, $3, 'digest', 'python-task' "
            f"{series}",
            project, domain, task.SerializeToString(),
        )  # fmt: skip
        await database.execute(
            "INSERT INTO workflows (project, domain, name, version, created_at, typed_interface, "
            "remote_closure_identifier, digest) "
            f"SELECT $1, $2, 'package.module.workflow_' || n.name, 'v' || v.version, {made}, $3, "
            f"'/data/metadata/admin/' || n.name, 'digest' {series}",
            project, domain, interface.SerializeToString(),
        )  # fmt: skip
        # what executions refer to by number: consecutive from here
        base = await database.fetchval(
            "SELECT min(id) FROM workflows WHERE project = $1 AND domain = $2", project, domain
        )
        await database.execute(
            "INSERT INTO launch_plans (project, domain, name, version, created_at, spec, closure, workflow_id, state, "
            f"digest) SELECT $1, $2, 'package.module.workflow_' || n.name, 'v' || v.version, {made}, $3, $4, "
            f"$5 + n.name * {VERSIONS} + v.version, (v.version = {VERSIONS - 1})::integer, 'digest' {series}",
            project, domain, plan.SerializeToString(), closure.SerializeToString(), base,
        )  # fmt: skip
        if base != number * NAMES * VERSIONS + 1:
            raise RuntimeError("the database is not empty")


async def _fill_executions(database: Any, began: datetime, first: int, count: int, size: Size) -> None:
    spec = ExecutionSpec(max_parallelism=25)
    spec.launch_plan.CopyFrom(
        Identifier(
            resource_type=ResourceType.LAUNCH_PLAN,
            project=PROJECT,
            domain=DOMAIN,
            name="package.module.workflow_17",
            version="qTP2bhJq9G4c5bPz3gMd8Q==",
        )
    )
    spec.metadata.principal = "somebody@example.com"
    spec.metadata.system_metadata.execution_cluster = "local"
    spec.metadata.system_metadata.namespace = f"{PROJECT}-{DOMAIN}"
    spec.labels.values["team"] = "forecasting"
    spec.envs.values.add(key="LOG_LEVEL", value="20")
    spec.raw_output_data_config.SetInParent()
    spec.security_context.run_as.k8s_service_account = "default"
    closure = ExecutionClosure(phase="SUCCEEDED")
    closure.workflow_id.CopyFrom(spec.launch_plan)
    closure.outputs.uri = f"/data/metadata/propeller/{PROJECT}-{DOMAIN}-f0123456789abcdef012/end-node/data/0/outputs.pb"
    for stamp in (closure.created_at, closure.started_at, closure.updated_at):
        stamp.GetCurrentTime()
    closure.duration.FromSeconds(100)
    places = [(project, domain) for project, domain, weight in PLACES for _ in range(weight)]
    await database.execute(
        f"""
        INSERT INTO executions (
            execution_id, execution_project, execution_domain, execution_name, created_at, updated_at, phase, spec,
            closure, launch_plan_id, workflow_id, task_id, launch_entity, started_at, execution_created_at,
            execution_updated_at, duration, mode, cluster, inputs_uri, "user", state, parent_execution_id,
            parent_node_id, error_kind, error_code, recovered_execution_id
        )
        SELECT
            (execution_id_at(at) & ~1048575::bigint) | (i & 1048575), place.project, place.domain, 'f' || md5(i::text),
            at, at + interval '100 s', phase, $1, $2,
            CASE WHEN dice >= 5 THEN entity END, entity, CASE WHEN dice < 5 THEN entity END,
            CASE WHEN dice < 5 THEN 'task' ELSE 'launch_plan' END,
            CASE WHEN phase NOT IN ('UNDEFINED', 'QUEUED') THEN at + interval '1 s' END, at, at + interval '100 s',
            CASE WHEN phase IN ('SUCCEEDED', 'FAILED', 'ABORTED')
                THEN ((10 ^ ((hashint4(i) & 4095) / 900.0)) * 1e9)::bigint
            END,
            CASE WHEN dice < 40 THEN 1 WHEN dice < 43 THEN 5 WHEN dice < 60 THEN 4 ELSE 0 END, 'local',
            '/data/metadata/flytesnacks/development/f' || md5(i::text) || '/inputs',
            'user' || (floor({USERS} * ((hashint4(i + 3) & 65535) / 65536.0) ^ 3))::integer || '@example.com',
            (dice >= 980)::integer,
            NULL, NULL, CASE WHEN phase = 'FAILED' THEN 'USER' END, CASE WHEN phase = 'FAILED' THEN 'Unknown' END, NULL
        FROM (
            SELECT i, $3::timestamptz + i * (interval '{DAYS} days' / {size.executions}) AS at,
                (hashint4(i + 11) & 1048575) % 1000 AS dice,
                CASE WHEN i >= {size.executions} - 200 THEN 'RUNNING' WHEN i >= {size.executions} - 300 THEN 'QUEUED'
                    WHEN (hashint4(i + 5) & 1048575) % 100 < 85 THEN 'SUCCEEDED'
                    WHEN (hashint4(i + 5) & 1048575) % 100 < 97 THEN 'FAILED'
                    WHEN (hashint4(i + 5) & 1048575) % 100 < 99 THEN 'ABORTED' ELSE 'RUNNING' END AS phase,
                (hashint4(i + 13) & 1048575) % 100 AS which,
                -- the most popular workflow has a third, the least a handful
                floor({NAMES} * ((hashint4(i + 17) & 65535) / 65536.0) ^ 5)::integer AS popular,
                (hashint4(i + 19) & 65535) % {VERSIONS} AS version
            FROM generate_series($4::integer, $5::integer) AS i
        ) AS made
        JOIN unnest($6::text[], $7::text[], $8::integer[]) AS place (project, domain, which) USING (which)
        CROSS JOIN LATERAL (
            SELECT 1 + ({NAMES * VERSIONS}) * array_position($9::text[], place.project || '/' || place.domain)
                - {NAMES * VERSIONS} + popular * {VERSIONS} + version AS entity
        ) AS entity
        """,
        spec.SerializeToString(), closure.SerializeToString(), began, first, first + count - 1,
        [project for project, _ in places], [domain for _, domain in places], list(range(100)),
        [f"{project}/{domain}" for project, domain, _ in PLACES],
    )  # fmt: skip
    low, high = await _range(database, began, first, count, size)
    await database.execute(
        "INSERT INTO execution_tags (execution_id, key, value) "
        "SELECT execution_id, 'tag' || (execution_id % 997) % 50, '' FROM executions "
        "WHERE execution_id >= $1 AND execution_id < $2 AND execution_id % 10 = 0",
        low, high,
    )  # fmt: skip


async def _range(database: Any, began: datetime, first: int, count: int, size: Size) -> tuple[int, int]:
    step = timedelta(days=DAYS) / size.executions
    row = await database.fetchrow(
        "SELECT execution_id_at($1) & ~1048575::bigint AS low, execution_id_at($2) & ~1048575::bigint AS high",
        began + first * step - step / 2, began + (first + count) * step - step / 2,
    )  # fmt: skip
    return int(row["low"]), int(row["high"])


def _node_parts(node_id: str) -> tuple[bytes, bytes]:
    prefix = f"/data/metadata/propeller/{PROJECT}-{DOMAIN}-f0123456789abcdef0123456789abcdef/{node_id}/data"
    closure = NodeExecutionClosure(phase="SUCCEEDED", output_uri=f"{prefix}/0/outputs.pb")
    for stamp in (closure.created_at, closure.started_at, closure.updated_at):
        stamp.GetCurrentTime()
    closure.duration.FromSeconds(10)
    closure.task_node_metadata.checkpoint_uri = f"{prefix}/0/_flytecheckpoints"
    closure.deck_uri = f"{prefix}/0/deck.html"
    metadata = NodeExecutionMetaData(spec_node_id=node_id)
    return closure.SerializeToString(), metadata.SerializeToString()


_NODES = """
    INSERT INTO node_executions (
        execution_id, node_id, created_at, updated_at, phase, closure, node_execution_metadata, input_uri, started_at,
        node_execution_created_at, node_execution_updated_at, duration, parent_node_id, event_version, engine_state
    )
    SELECT e.execution_id, 'n' || node, e.created_at + node * interval '1 s',
        e.created_at + (node + 9) * interval '1 s',
        CASE WHEN e.phase = 'FAILED' AND node = 0 THEN 'FAILED' ELSE 'SUCCEEDED' END, $1, $2,
        e.inputs_uri || '/n' || node || '/data/inputs.pb', e.created_at + node * interval '1 s',
        e.created_at + node * interval '1 s', e.created_at + (node + 9) * interval '1 s', 9000000000,
        CASE WHEN node % 5 = 4 THEN 'n' || node - 1 END, 1, 'state of an engine'
"""


async def _fill_nodes(database: Any, began: datetime, first: int, count: int, size: Size) -> None:
    closure, metadata = _node_parts("n0")
    low, high = await _range(database, began, first, count, size)
    await database.execute(
        f"{_NODES} FROM executions e, generate_series(0, 2 * (e.execution_id % $5)::integer) AS node "
        "WHERE e.execution_id >= $3 AND e.execution_id < $4",
        closure, metadata, low, high, size.nodes,
    )  # fmt: skip
    task = TaskExecutionClosure(phase="SUCCEEDED", task_type="python-task")
    task.logs.add(uri="http://localhost:30080/console/logs?execution=f0123456789abcdef&node=n0&attempt=0", name="Logs")
    task.metadata.generated_name = "f0123456789abcdef-n0-0"
    await database.execute(
        """
        INSERT INTO task_executions (
            execution_id, node_id, retry_attempt, project, domain, name, version, created_at, updated_at, phase,
            closure, input_uri, started_at, task_execution_created_at, task_execution_updated_at, duration
        )
        SELECT e.execution_id, 'n0', 0, e.execution_project, e.execution_domain, 'package.module.task_1', 'v1',
            e.created_at, e.updated_at, 'SUCCEEDED', $1, e.inputs_uri, e.created_at, e.created_at,
            e.updated_at, 9000000000
        FROM executions e
        WHERE e.execution_id >= $2 AND e.execution_id < $3
        """,
        task.SerializeToString(), low, high,
    )  # fmt: skip


async def _fill_wide(database: Any, began: datetime, size: Size) -> None:
    closure, metadata = _node_parts("n0")
    execution_id = await database.fetchval(
        "UPDATE executions SET execution_name = 'wide' WHERE execution_id = "
        "(SELECT max(execution_id) FROM executions WHERE execution_project = $1 AND execution_domain = $2) "
        "RETURNING execution_id",
        PROJECT, DOMAIN,
    )  # fmt: skip
    await database.execute(
        f"{_NODES.replace('node % 5 = 4', 'false')} FROM executions e, generate_series(1000, 1000 + $4) AS node "
        "WHERE e.execution_id = $3",
        closure, metadata, execution_id, size.wide,
    )  # fmt: skip


async def _fill_begun(database: Any, size: Size) -> None:
    """A wide execution that has just begun: all of its nodes wait.  Nothing if it is there."""
    execution_id = await database.fetchval(
        "UPDATE executions SET execution_name = 'begun' WHERE NOT EXISTS (SELECT FROM executions WHERE "
        "(execution_project, execution_domain, execution_name) = ($1, $2, 'begun')) AND execution_id = "
        "(SELECT max(execution_id) FROM executions WHERE execution_project = $1 AND execution_domain = $2 "
        "AND execution_name <> 'wide') RETURNING execution_id",
        PROJECT, DOMAIN,
    )  # fmt: skip
    if execution_id is None:
        return
    closure = NodeExecutionClosure(phase="QUEUED")
    closure.created_at.GetCurrentTime()
    await database.execute(
        "INSERT INTO node_executions (execution_id, node_id, created_at, updated_at, phase, closure, "
        "node_execution_metadata, input_uri, node_execution_created_at, node_execution_updated_at, event_version, "
        "engine_state) SELECT execution_id, 'm' || node, created_at, created_at, 'QUEUED', $2, $3, "
        "inputs_uri || '/n' || node || '/data/inputs.pb', created_at, created_at, 1, 'state of an engine' "
        "FROM executions, generate_series(1, $4::integer) AS node WHERE execution_id = $1",
        execution_id, closure.SerializeToString(), NodeExecutionMetaData(spec_node_id="m0").SerializeToString(),
        size.wide,
    )  # fmt: skip
    await database.execute("VACUUM (ANALYZE) node_executions")


# --- asking


class Recording:
    """Stands in front of a database and remembers the last list statement, for its plan."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.last: tuple[str, tuple[object, ...]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def fetch(self, statement: str, *values: object) -> Any:
        self.last = (statement, values)
        return await self._database.fetch(statement, *values)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Any]:
        async with self._database.transaction(**options) as conn:
            yield _RecordingConnection(self, conn)


class _RecordingConnection:
    def __init__(self, owner: Recording, conn: Any) -> None:
        self._owner, self._conn = owner, conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def fetch(self, statement: str, *values: object, **options: Any) -> Any:
        self._owner.last = (statement, values)
        return await self._conn.fetch(statement, *values, **options)

    def cursor(self, statement: str, *values: object, **options: Any) -> Any:
        self._owner.last = (statement, values)
        return self._conn.cursor(statement, *values, **options)


@dataclass
class Query:
    """A list query as a stock client sends it: `make(k)` is the k-th of its variants, without a token."""

    name: str
    rpc: str
    make: Callable[[int], Any]
    rows: str
    """The field of the answer that holds the rows."""
    variants: int = REPEATS


@dataclass
class Timing:
    """What asking took, in milliseconds."""

    query: str
    page: int
    rows: int
    taken_ms: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        taken = sorted(self.taken_ms)
        return taken[max(0, math.ceil(len(taken) * share) - 1)]


NOT_SUCCEEDED = (
    "QUEUED",
    "RUNNING",
    "FAILING",
    "FAILED",
    "ABORTED",
    "SKIPPED",
    "TIMED_OUT",
    "DYNAMIC_RUNNING",
    "RECOVERED",
)
CREATED_DESC = Sort(key="created_at", direction=Sort.DESCENDING)


def _executions(
    filters: str | Callable[[int], str] = "", sort: Sort | None = CREATED_DESC, limit: int = PAGE_ROWS
) -> Any:
    def make(k: int) -> Any:
        text = filters if isinstance(filters, str) else filters(k)
        request = ResourceListRequest(
            id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN), limit=limit, filters=text
        )
        if sort is not None:
            request.sort_by.CopyFrom(sort)
        return request

    return make


def _entity(kind: str, which: int) -> str:
    name = "task" if kind == "task" else "workflow"
    return f"eq({kind}.project,{PROJECT})+eq({kind}.domain,{DOMAIN})+eq({kind}.name,package.module.{name}_{which})"


def queries(database_now: datetime, names: list[str], wide: str) -> Iterator[Query]:
    """What stock clients ask for."""

    def ago(days: float) -> str:
        return (database_now - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def executions(name: str, filters: str | Callable[[int], str] = "", **more: Any) -> Query:
        return Query(f"executions: {name}", "ListExecutions", _executions(filters, **more), "executions")

    started_desc = Sort(key="started_at", direction=Sort.DESCENDING)
    yield executions("newest first")
    yield executions("oldest first", sort=Sort(key="created_at", direction=Sort.ASCENDING))
    yield executions("no sort", sort=None)
    yield executions("by start", sort=started_desc)
    yield executions("100 newest", limit=100)
    yield executions("active", "eq(state,0)")
    yield executions("archived", "eq(state,1)")
    yield executions("running or queued", "value_in(phase,RUNNING;QUEUED)")
    yield executions("failed", "eq(phase,FAILED)")
    yield executions("aborted, failed", "value_in(phase,FAILED;ABORTED;TIMED_OUT)")
    yield executions("failed, active", "eq(state,0)+value_in(phase,FAILED)")
    yield executions("of a user", lambda k: f"eq(user,user{k % USERS}@example.com)")
    yield executions("of a rare user", lambda k: f"eq(user,user{USERS - 1 - k % 5}@example.com)")
    yield executions("of nobody", "eq(user,nobody@example.com)")
    yield executions("started in a week", lambda k: f"gte(started_at,{ago(7 * k + 7)})+lt(started_at,{ago(7 * k)})")
    yield executions(
        "started in an old hour",
        lambda k: f"gte(started_at,{ago(300 + k + 1 / 24)})+lt(started_at,{ago(300 + k)})",
    )
    yield executions("started since", lambda k: f"gte(started_at,{ago(k)})", sort=started_desc)
    yield executions("started in an old quarter", f"gte(started_at,{ago(DAYS * 3 / 4)})+lt(started_at,{ago(DAYS / 2)})")
    yield executions("longer than", lambda k: f"gt(duration,{k * 60})")
    yield executions("very long", "gt(duration,33000)")
    yield executions("longer than the longest", "gt(duration,999999)")
    yield executions("shorter than", lambda k: f"lte(duration,{k + 2})")
    yield executions("mode", lambda k: f"eq(mode,{(0, 1, 4)[k % 3]})")
    yield executions("rare mode", "eq(mode,5)")
    yield executions("no such mode", "eq(mode,3)")
    for kind in ("launch_plan", "workflow", "task"):
        yield executions(f"of the most popular {kind}", _entity(kind, 0))
        yield executions(f"of a {kind}", lambda k, kind=kind: _entity(kind, 5 + 3 * k))  # type: ignore[misc]
        yield executions(f"of a rare {kind}", lambda k, kind=kind: _entity(kind, NAMES - 1 - k))  # type: ignore[misc]
        yield executions(f"of a {kind}, failed", lambda k, kind=kind: f"{_entity(kind, k)}+value_in(phase,FAILED)")  # type: ignore[misc]
        yield executions(
            f"of a {kind}, active, by start", lambda k, kind=kind: f"eq(state,0)+{_entity(kind, 2 * k)}",  # type: ignore[misc]
            sort=started_desc,
        )  # fmt: skip
        yield executions(
            f"of a version of a {kind}", lambda k, kind=kind: f"{_entity(kind, k)}+eq({kind}.version,v{2 * k})"  # type: ignore[misc]
        )  # fmt: skip
    yield executions("by name", lambda k: f"eq(execution_name,{names[k]})")
    yield executions("by tag", lambda k: f"value_in(execution_tag.key,tag{k})")
    yield executions("by admin tag", lambda k: f"eq(admin_tag.name,tag{k})")
    yield executions("by no tag that exists", "value_in(execution_tag.key,nothing)")

    def by_id(k: int) -> ResourceListRequest:
        return ResourceListRequest(
            id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN, name=names[k]), limit=PAGE_ROWS
        )

    yield Query("executions: name in the id", "ListExecutions", by_id, "executions")

    def nodes(name: str, of: Callable[[int], str], filters: str = "", **more: Any) -> Query:
        def make(k: int) -> NodeExecutionListRequest:
            request = NodeExecutionListRequest(
                workflow_execution_id=WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=of(k)),
                limit=more.get("limit", PAGE_ROWS),
                filters=filters,
                unique_parent_id=more.get("parent", ""),
            )
            if sort := more.get("sort"):
                request.sort_by.CopyFrom(sort)
            return request

        return Query(f"nodes: {name}", "ListNodeExecutions", make, "node_executions")

    created = Sort(key="created_at", direction=Sort.ASCENDING)
    yield nodes("of an execution", lambda k: names[k])
    yield nodes("of an execution, 10,000 wanted", lambda k: names[k], limit=10_000, sort=created)
    yield nodes("of one, below a parent", lambda k: names[k], parent="n0")
    yield nodes("of many", lambda _: wide)
    yield nodes("of many, by creation", lambda _: wide, sort=created)
    yield nodes("of many, 100 newest", lambda _: wide, sort=CREATED_DESC, limit=100)
    yield nodes("of many, failed", lambda _: wide, "value_in(phase,FAILED)")
    yield nodes("of many, running", lambda _: wide, "value_in(phase,RUNNING;QUEUED)")
    yield nodes(
        "of many, not succeeded", lambda _: wide, f"value_in(phase,{';'.join(NOT_SUCCEEDED)})", sort=CREATED_DESC
    )
    yield nodes("of many begun", lambda _: "begun", sort=created)
    yield nodes("of many begun, running", lambda _: "begun", "value_in(phase,RUNNING;QUEUED)", sort=created)
    yield nodes("of many begun, failed", lambda _: "begun", "value_in(phase,FAILED)")
    yield nodes("of many begun, succeeded", lambda _: "begun", "value_in(phase,SUCCEEDED)")
    yield nodes("of many, some", lambda _: wide, "value_in(node_id,n1000;n1500;n2000)")

    def tasks(k: int) -> TaskExecutionListRequest:
        execution = WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=names[k])
        return TaskExecutionListRequest(
            node_execution_id=NodeExecutionIdentifier(execution_id=execution, node_id="n0"), limit=10_000
        )

    yield Query("attempts of a node", "ListTaskExecutions", tasks, "task_executions")

    def one_attempt(k: int) -> TaskExecutionListRequest:
        request = tasks(k)
        request.filters = "eq(retry_attempt,0)"
        return request

    yield Query("attempts of a node, the first", "ListTaskExecutions", one_attempt, "task_executions")
    for rpc, rows, what in (
        ("ListTasks", "tasks", "task"),
        ("ListWorkflows", "workflows", "workflow"),
        ("ListLaunchPlans", "launch_plans", "workflow"),
    ):

        def entities(
            name: str = "", filters: str = "", sort: Sort | None = CREATED_DESC, limit: int = PAGE_ROWS
        ) -> Callable[[int], Any]:
            def make(k: int) -> ResourceListRequest:
                request = ResourceListRequest(
                    id=NamedEntityIdentifier(project=PROJECT, domain=DOMAIN, name=name.replace("#", str(k))),
                    limit=limit,
                    filters=filters.replace("#", str(k)),
                )
                if sort is not None:
                    request.sort_by.CopyFrom(sort)
                return request

            return make

        full = f"package.module.{what}_#"
        yield Query(f"{rpc}: newest", rpc, entities(), rows)
        yield Query(f"{rpc}: newest of a name", rpc, entities(full, limit=1), rows)
        yield Query(f"{rpc}: versions of a name", rpc, entities(full), rows)
        yield Query(f"{rpc}: one version", rpc, entities(full, "eq(version,v7)"), rows)
        yield Query(f"{rpc}: versions like", rpc, entities(full, "contains(version,7)"), rows)
        yield Query(f"{rpc}: names like", rpc, entities("", "contains(name,module)"), rows)
        yield Query(f"{rpc}: names like, rare", rpc, entities("", "contains(name,_19#)"), rows)
        yield Query(f"{rpc}: latest updated", rpc, entities("", sort=Sort(key="updated_at")), rows)
        yield Query(f"{rpc}: latest updated of a name", rpc, entities(full, sort=Sort(key="updated_at")), rows)
        if rpc == "ListLaunchPlans":
            yield Query(f"{rpc}: scheduled", rpc, entities("", "ne(schedule_type,NONE)"), rows)
            yield Query(f"{rpc}: cron", rpc, entities("", "eq(schedule_type,CRON)"), rows)
            yield Query(f"{rpc}: active", rpc, entities("", "eq(state,1)"), rows)
            yield Query(
                f"{rpc}: of a workflow", rpc,
                entities("", f"eq(workflow.name,{full})+eq(workflow.version,v7)"), rows,
            )  # fmt: skip
    yield Query(
        "active launch plans", "ListActiveLaunchPlans",
        lambda _: ActiveLaunchPlanListRequest(project=PROJECT, domain=DOMAIN, limit=100), "launch_plans",
    )  # fmt: skip
    for rpc in ("ListTaskIds", "ListWorkflowIds", "ListLaunchPlanIds"):
        yield Query(
            f"{rpc}: by name", rpc,
            lambda _: NamedEntityIdentifierListRequest(
                project=PROJECT, domain=DOMAIN, limit=100, sort_by=Sort(key="name", direction=Sort.ASCENDING)
            ),
            "entities",
        )  # fmt: skip
    for resource_type, filters in itertools.product(
        (ResourceType.TASK, ResourceType.WORKFLOW, ResourceType.LAUNCH_PLAN),
        ("", "eq(state,0)", "eq(state,1)", "contains(name,7)"),
    ):
        yield Query(
            f"named entities of kind {resource_type}: {filters or 'all'}", "ListNamedEntities",
            lambda _, resource_type=resource_type, filters=filters: NamedEntityListRequest(  # type: ignore[misc]
                resource_type=resource_type, project=PROJECT, domain=DOMAIN, limit=100, filters=filters,
                sort_by=Sort(key="name", direction=Sort.ASCENDING),
            ),
            "entities",
        )  # fmt: skip


OTHERS = (
    ("contains(error_code,x)", None), ("ne(phase,SUCCEEDED)", "duration"), ("eq(abort_cause,x)", "user"),
    ("contains(user,9)+eq(state,1)", "execution_updated_at"), ("eq(cluster,nowhere)", "cluster"),
    ("not_like(execution_name,f%)", "execution_name"), ("eq(workflow.name,x)+ne(task.name,y)", "error_kind"),
    ("eq(parent_node_execution_id,7)", "parent_node_execution_id"), ("contains(inputs_uri,zzz)", "inputs_uri"),
)  # fmt: skip
"""Questions to executions that no stock client asks and no index helps with."""


async def measure(
    stub: Any, recording: Recording, wanted: str = "", plans: Callable[[str], None] | None = None
) -> AsyncIterator[Timing]:
    """Ask every query, first page and page 1,000."""
    newest = await recording.fetchval("SELECT max(created_at) FROM executions")
    dice = random.Random(1)
    sample = await recording.fetch(
        "SELECT execution_name FROM executions WHERE execution_project = $1 AND execution_domain = $2 "
        "AND execution_name <> ALL(ARRAY['wide', 'begun']) ORDER BY execution_id DESC LIMIT 5000",
        PROJECT, DOMAIN,
    )  # fmt: skip
    names = dice.sample([row["execution_name"] for row in sample], REPEATS)
    for query in queries(newest, names, "wide"):
        if wanted not in query.name:
            continue
        call = getattr(stub, query.rpc)
        timing = Timing(query.name, 1, 0)
        for k in range(query.variants):
            await _timed(call, query, query.make(k), timing)
        yield timing
        await _plan(recording, query.name, plans)
        request = query.make(0)
        token, page = await _walk(call, query, request)
        if page > 1:
            request.token = token
            timing = Timing(query.name, page, 0)
            for _ in range(query.variants):
                await _timed(call, query, request, timing)
            yield timing
            await _plan(recording, f"{query.name}, page {page}", plans)


async def others(stub: Any) -> AsyncIterator[tuple[str, str, float]]:
    """Ask what nobody asks: the filter, how it ended, and after how many milliseconds."""
    for filters, sort in OTHERS:
        request = _executions(filters, Sort(key=sort or "created_at"))(0)
        began = time.perf_counter()
        try:
            ended = f"{len((await stub.ListExecutions(request, timeout=60)).executions)} rows"
        except grpc.aio.AioRpcError as error:
            ended = f"{error.code().name}: {error.details()}"
        yield f"{filters} by {sort}", ended, (time.perf_counter() - began) * 1000


async def _timed(call: Any, query: Query, request: Any, timing: Timing) -> None:
    began = time.perf_counter()
    answer = await call(request, timeout=60)
    timing.taken_ms.append((time.perf_counter() - began) * 1000)
    timing.rows = max(timing.rows, len(getattr(answer, query.rows)))


async def _walk(call: Any, query: Query, request: Any) -> tuple[str, int]:
    """The token of page 1,000 of `request.limit` rows, or of the last full one, and which page it leads to."""
    walking = type(request)()
    walking.CopyFrom(request)
    passed, token, target = 0, "", (DEEP_PAGE - 1) * request.limit
    while passed < target:
        walking.limit = min(5_000, target - passed)
        walking.token = token
        answer = await call(walking, timeout=60)
        count = len(getattr(answer, query.rows))
        if not answer.token or not count:
            break
        passed, token = passed + count, answer.token
    return token, passed // request.limit + 1


async def _plan(recording: Recording, name: str, plans: Callable[[str], None] | None) -> None:
    if plans is None or recording.last is None:
        return
    statement, values = recording.last
    async with recording._database.connection() as conn:
        rows = await conn.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}", *values)
    lines = "\n".join(f"    {row[0]}" for row in rows)
    plans(f"\n{name}\n{statement}\n    -- {values!r:.300}\n{lines}\n")


async def index_bytes(database: Any) -> Mapping[str, float]:
    """Bytes of indexes and of the table itself per row of `node_executions`."""
    row = await database.fetchrow(
        """
        SELECT sum(pg_indexes_size(relid)) AS indexes, sum(pg_relation_size(relid)) AS heap,
            (SELECT count(*) FROM node_executions) AS rows
        FROM pg_partition_tree('node_executions') WHERE isleaf
        """
    )
    return {
        "rows": float(row["rows"]),
        "index_bytes": float(row["indexes"]) / row["rows"],
        "heap_bytes": float(row["heap"]) / row["rows"],
    }


# --- a database to ask


@asynccontextmanager
async def grown(directory: Path, size: Size, tell: Callable[[str], None]) -> AsyncIterator[Any]:
    """A filled database, served with the settings of the platform; it stays in `directory`."""
    from aerodrome.stdlib.postgres.database import Database
    from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres
    from aerodrome.stdlib.postgres.migrations import migrate

    loading = {
        "fsync": "off", "synchronous_commit": "off", "max_wal_size": "8GB", "shared_buffers": "1GB",
        "maintenance_work_mem": "512MB", "autovacuum": "off", "full_page_writes": "off",
    }  # fmt: skip
    ready = directory / "filled"
    settings = {} if ready.exists() else loading
    while True:
        postgres = EmbeddedPostgres(directory / "pg", settings=settings)
        dsn = await postgres.start()
        try:
            async with Database(dsn, min_size=4, max_size=10, statement_timeout=timedelta(0)) as database:
                await migrate(database, "aerodrome.admin.migrations", service="admin")
                await fill(database, size, tell)
            ready.touch()
            if not settings:
                async with Database(dsn, min_size=4, max_size=20) as database:
                    yield database
                return
        finally:
            await postgres.stop()
        settings = {}


@asynccontextmanager
async def serving(database: Any) -> AsyncIterator[tuple[Any, Recording]]:
    """The reading rpcs on `database`."""
    from aerodrome.admin.config import AdminConfig
    from aerodrome.admin.main import Admin
    from aerodrome.stdlib.clock import SystemClock
    from aerodrome.stdlib.rpc.direct import DirectChannel
    from aerodrome.stdlib.rpc.registry import Registry
    from aerodrome.stdlib.storage.memory import MemStorage

    clock, recording, registry = SystemClock(), Recording(database), Registry()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(MemStorage("bench", clock=clock))
        admin = Admin(
            AdminConfig(), database=recording, storage=storage, clock=clock,  # type: ignore[arg-type]
            public_url=lambda: "http://here",
        )  # fmt: skip
        for add_to_server, servicer in admin.services():
            registry.add(add_to_server, servicer)
        channel = await stack.enter_async_context(DirectChannel([registry]))
        yield AdminServiceStub(channel), recording


async def summary(size: Size, data_dir: Path | None) -> dict[str, Any]:
    """What `make bench` shows of all queries: how many, how many too slow, the slowest, and the space of indexes."""
    with tempfile.TemporaryDirectory(prefix="aerodrome-growth-") as temporary:
        directory = data_dir or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        async with grown(directory, size, lambda _: None) as database, serving(database) as (stub, recording):
            space = await index_bytes(database)
            timings = [timing async for timing in measure(stub, recording)]
    slowest = max(timings, key=lambda timing: timing.at(0.95))
    return {
        "queries": len(timings),
        "late": sum(timing.at(0.95) > GOAL_MS for timing in timings),
        "deep": sum(timing.page >= DEEP_PAGE for timing in timings),
        "slowest": f"{slowest.query}, page {slowest.page}",
        "slowest_p95_ms": slowest.at(0.95),
        "index_bytes": space["index_bytes"],
    }


async def run(arguments: argparse.Namespace, tell: Callable[[str], None]) -> None:
    """Fill, ask, print."""
    size = Size(arguments.executions, arguments.nodes)
    with tempfile.TemporaryDirectory(prefix="aerodrome-growth-") as temporary:
        directory = Path(arguments.data_dir or temporary)
        directory.mkdir(parents=True, exist_ok=True)
        async with grown(directory, size, tell) as database, serving(database) as (stub, recording):
            space = await index_bytes(database)
            tell(
                f"{space['rows']:,.0f} node executions: {space['index_bytes']:.0f} bytes of indexes and "
                f"{space['heap_bytes']:.0f} of table for each"
            )
            tell(f"{'query':<52}{'page':>6}{'rows':>6}{'p50 ms':>9}{'p95 ms':>9}{'first ms':>10}")
            missed = 0
            async for timing in measure(stub, recording, arguments.only, tell if arguments.plans else None):
                late = timing.at(0.95) > GOAL_MS
                missed += late
                tell(
                    f"{timing.query:<52}{timing.page:>6}{timing.rows:>6}{timing.at(0.5):>9.1f}{timing.at(0.95):>9.1f}"
                    f"{timing.taken_ms[0]:>10.1f}{'  MISSED' if late else ''}"
                )
            tell(f"{missed} queries are over {GOAL_MS:g} ms")
            if not arguments.only:
                async for filters, ended, taken in others(stub):
                    tell(f"{filters:<60}{taken:>10.0f} ms  {ended}")


def main() -> None:
    """Fill a database, ask it what stock clients ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=Size.executions)
    parser.add_argument("--nodes", type=int, default=Size.nodes, help="of an execution, on average")
    parser.add_argument("--data-dir", help="where the database stays; a temporary one otherwise")
    parser.add_argument("--only", default="", help="queries whose name contains this")
    parser.add_argument("--plans", action="store_true", help="print EXPLAIN ANALYZE of each")
    logger.configure(LoggerConfig(level=3))

    def tell(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    asyncio.run(run(parser.parse_args(), tell))


if __name__ == "__main__":
    main()
