"""Random launch requests either launch or are refused with the name of a field that is wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, WorkflowExecutionGetRequest
from flyteidl.core.identifier_pb2 import ResourceType
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.main import Admin
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.postgres.testing import ServerForTests, fresh_database
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry
from aerodrome.stdlib.storage.memory import MemStorage

pytestmark = pytest.mark.asyncio(loop_scope="module")

_names = itertools.count(1)

Request = ExecutionCreateRequest
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Fault:
    """Something wrong that can be done to a request, and what the answer has to name then."""

    do: Callable[[Request, Draw], object]
    names: str
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT


def _put(**fields: Any) -> Callable[[Request, Draw], object]:
    def do(request: Request, draw: Draw) -> None:
        for field, value in fields.items():
            setattr(request, field, draw(value) if isinstance(value, st.SearchStrategy) else value)

    return do


def _plan(**fields: Any) -> Callable[[Request, Draw], object]:
    def do(request: Request, draw: Draw) -> None:
        for field, value in fields.items():
            setattr(request.spec.launch_plan, field, draw(value) if isinstance(value, st.SearchStrategy) else value)

    return do


def _label(key: Any, value: Any) -> Callable[[Request, Draw], object]:
    def do(request: Request, draw: Draw) -> None:
        request.spec.labels.values[draw(key)] = draw(value)

    return do


def _notify(kind: str | None, recipients: list[str], phase: int) -> Callable[[Request, Draw], object]:
    def do(request: Request, draw: Draw) -> None:
        notification = request.spec.notifications.notifications.add(phases=[phase])
        if kind is not None:
            getattr(notification, kind).SetInParent()
            getattr(notification, kind).recipients_email.extend(recipients)

    return do


def _input(name: str, value: str | None) -> Callable[[Request, Draw], object]:
    def do(request: Request, draw: Draw) -> None:
        if value is None:
            del request.inputs.literals[name]
        else:
            request.inputs.literals[name].scalar.primitive.string_value = value

    return do


text = st.text(max_size=40)
ways = st.sampled_from(["email", "slack", "pager_duty"])

FAULTS: dict[str, Fault] = {
    "no project": Fault(_put(project=""), "project"),
    "another project": Fault(_put(project=st.text("abc", min_size=1, max_size=9)), "project"),
    "no domain": Fault(_put(domain=""), "domain"),
    "another domain": Fault(_put(domain=st.text("xyz", min_size=1, max_size=9)), "domain"),
    "a long name": Fault(_put(name=st.text("abc", min_size=64, max_size=90)), "name"),
    "an odd name": Fault(_put(name=st.text("AÖ_. /", min_size=1, max_size=9)), "name"),
    "no spec": Fault(lambda request, draw: request.ClearField("spec"), "spec"),
    "no launch plan": Fault(lambda request, draw: request.spec.ClearField("launch_plan"), "id"),
    "no version": Fault(_plan(version=""), "version"),
    "no plan's name": Fault(_plan(name=""), "name"),
    "another plan": Fault(_plan(name=st.text("abc", min_size=1, max_size=9)), "LAUNCH_PLAN", grpc.StatusCode.NOT_FOUND),
    "a NUL in the version": Fault(_plan(version="v\x00"), "version"),
    "another kind": Fault(_plan(resource_type=st.sampled_from([0, 2, 4, 99])), "resource type"),
    "a label's key": Fault(_label(st.text("ä -/", min_size=1, max_size=9), st.just("")), "label"),
    "a label's value": Fault(_label(st.just("key"), st.text("ä -/", min_size=1, max_size=9)), "label"),
    "no notification's type": Fault(_notify(None, [], 6), "notification type"),
    "no recipients": Fault(_notify("email", [], 6), "recipients"),
    "an empty recipient": Fault(_notify("slack", [""], 6), "recipient"),
    "a phase": Fault(_notify("email", ["a@x"], 2), "phase"),
    "an empty tag": Fault(lambda request, draw: request.spec.tags.append(""), "tag"),
    "a mode": Fault(lambda request, draw: setattr(request.spec.metadata, "mode", 99), "mode"),
    "no input": Fault(_input("a", None), " a "),
    "a further input": Fault(_input("zz", "1"), "zz"),
    "an input's type": Fault(_input("a", "1"), " a "),
    "a parent without a node": Fault(
        lambda request, draw: request.spec.metadata.parent_node_execution.execution_id.MergeFrom(
            type(request.spec.metadata.reference_execution)(project="p", domain="d", name="n")
        ),
        "node_id",
    ),
}

LAST = ["no launch plan", "no spec", "no spec"]
"""What removes comes after what changes something there."""


def _vary(request: Request, draw: Draw) -> None:
    """Change what may be anything."""
    spec = request.spec
    if draw(st.booleans()):
        spec.annotations.values.update(draw(st.dictionaries(text, text, max_size=3)))
    if draw(st.booleans()):
        spec.labels.values.update(
            draw(st.dictionaries(st.text("abc", min_size=1, max_size=9), st.text("xyz", max_size=9), max_size=9))
        )
    spec.max_parallelism = draw(st.integers(-(2**31), 2**31 - 1))
    spec.raw_output_data_config.output_location_prefix = draw(text)
    spec.overwrite_cache = draw(st.booleans())
    spec.tags.extend(draw(st.lists(st.text("abc", min_size=1), max_size=2)))
    spec.metadata.principal = draw(text)
    spec.metadata.mode = draw(st.sampled_from([0, 1, 2, 3, 6]))
    for _ in range(draw(st.integers(0, 2))):
        _notify(draw(ways), ["a@x"], draw(st.sampled_from([4, 6, 7, 8])))(request, draw)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(postgres_server: ServerForTests) -> AsyncIterator[tuple[Any, Any]]:
    """A control plane with the launch plan `lp`, and its database."""
    clock = ManualClock()
    config = AdminConfig.model_validate({"flyte": {"admin": {"seed_projects": ["flytesnacks"]}}})
    async with fresh_database(postgres_server, "aerodrome.admin.migrations", service="admin") as database:
        admin = Admin(
            config, database=database, storage=MemStorage("test", clock=clock), clock=clock,
            public_url=lambda: "http://here",
        )  # fmt: skip
        await admin.prepare()
        registry = Registry()
        for add_to_server, servicer in admin.services():
            registry.add(add_to_server, servicer)
        background = asyncio.create_task(admin.run())
        async with DirectChannel([registry]) as channel:
            yield AdminServiceStub(channel), database
        background.cancel()
        await asyncio.wait({background})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registered(stub: tuple[Any, Any], builder: Any) -> tuple[Any, Any]:
    await stub[0].CreateTask(builder.task_request())
    await stub[0].CreateWorkflow(builder.workflow_request())
    await stub[0].CreateLaunchPlan(builder.launch_plan_request())
    return stub


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(faults=st.lists(st.sampled_from(sorted(FAULTS)), max_size=3, unique=True), data=st.data())
async def test_a_request_launches_or_names_what_is_wrong(
    faults: list[str], data: st.DataObject, registered: tuple[Any, Any], builder: Any
) -> None:
    stub, database = registered
    request = builder.execution_request(f"e{next(_names)}", builder.identifier(ResourceType.LAUNCH_PLAN, "lp"))
    _vary(request, data.draw)
    for fault in sorted(faults, key=LAST.count):
        if fault != "no input" or "a" in request.inputs.literals:
            FAULTS[fault].do(request, data.draw)
    before = await database.fetchval("SELECT count(*) FROM executions")
    refusal: grpc.aio.AioRpcError | None = None
    try:
        created = await stub.CreateExecution(request)
    except grpc.aio.AioRpcError as error:
        refusal = error
    if refusal is None:
        assert not faults, request
        found = await stub.GetExecution(WorkflowExecutionGetRequest(id=created.id))
        assert found.spec.launch_plan == request.spec.launch_plan
        return
    assert faults, refusal
    assert refusal.code() in {FAULTS[fault].code for fault in faults}
    details = refusal.details() or ""
    assert any(FAULTS[fault].names in details for fault in faults), (faults, details)
    assert await database.fetchval("SELECT count(*) FROM executions") == before
