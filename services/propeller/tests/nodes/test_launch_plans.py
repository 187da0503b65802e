"""Launch-plan nodes: launched once under a name of their own, followed without being asked for, ended when they must.

Source: spec/data-plane.md, 1.15, 3.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as core_execution_pb2
from flyteidl.core import identifier_pb2, literals_pb2

from aerodrome.plugins.api import ErrorKind
from aerodrome.propeller.engine.phases import NodePhase
from aerodrome.propeller.nodes import admin_client
from aerodrome.propeller.nodes.children import ChildWatch
from aerodrome.propeller.nodes.launch_plans import LaunchPlanHandler
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import (
    AerodromeError,
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)

from .launching import ControlPlane, Drive, driving

CHILD = "e0-lp-0"


@asynccontextmanager
async def launching(store: Path, plane: ControlPlane) -> AsyncIterator[tuple[Drive, LaunchPlanHandler, ChildWatch]]:
    async with driving(store, plane) as (drive, admin):
        watch = ChildWatch(admin, ManualClock())
        following = asyncio.create_task(watch.run())
        yield drive, LaunchPlanHandler(admin, watch), watch
        following.cancel()


def of_node(node_id: str) -> execution_pb2.ExecutionMetadata:
    """What says that this node of e0 has launched it."""
    metadata = execution_pb2.ExecutionMetadata()
    metadata.parent_node_execution.node_id = node_id
    metadata.parent_node_execution.execution_id.name = "e0"
    return metadata


def child() -> identifier_pb2.WorkflowExecutionIdentifier:
    return identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name=CHILD)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(admin_client, "_LONGEST_DELAY", 0.0)


async def test_a_child_is_launched_with_what_its_parent_has_and_gives_its_outputs(tmp_path: Path) -> None:
    plane = ControlPlane()
    async with launching(tmp_path, plane) as (drive, handler, watch):
        node = drive.ready("lp")
        await handler.start(drive.run, node, 0)
        await drive.observe()
        (told,) = drive.engine.take().transitions
        assert (repr(told), node.phase) == ("N lp RUNNING", NodePhase.RUNNING)
        (request,) = plane.created
        assert (request.project, request.domain, request.name) == ("p", "d", CHILD)
        assert request.spec.max_parallelism == 7
        assert request.spec.metadata.mode == execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        assert request.spec.metadata.parent_node_execution.node_id == "lp"
        assert request.inputs.literals["x"].scalar.primitive.integer == 7
        given = literals_pb2.LiteralMap(literals=request.inputs.literals)
        plane.end(CHILD, "SUCCEEDED", outputs=execution_pb2.LiteralMapBlob(values=given))
        watch.hint(child())
        await drive.observe()
        assert node.phase is NodePhase.SUCCEEDED
        assert await drive.run.literals.read(drive.run.layout.outputs(node)) == given
        assert len(watch) == 0


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (InvalidArgument("the launch plan has no input x"), ErrorKind.USER, 1),
        (NotFound("there is no such launch plan"), ErrorKind.USER, 1),
        (PermissionDenied("not you"), ErrorKind.USER, 1),
        (AlreadyExists("concurrency limit (1) reached"), ErrorKind.USER, 1),
        (Internal("it is broken"), ErrorKind.SYSTEM, 8),
    ],
)
async def test_a_launch_that_is_refused_fails_the_node_with_the_reason(
    tmp_path: Path, error: AerodromeError, kind: ErrorKind, tries: int
) -> None:
    plane = ControlPlane()
    plane.refusals = [error] * tries
    async with launching(tmp_path, plane) as (drive, handler, watch):
        node = drive.ready("lp")
        await handler.start(drive.run, node, 0)
        await drive.observe()
        assert node.phase is NodePhase.FAILED
        assert node.failure is not None
        assert (node.failure.code, node.failure.kind) == ("RuntimeExecutionError", kind)
        assert error.message in node.failure.message
        assert plane.refusals == []
        assert len(watch) == 0


async def test_a_control_plane_that_is_away_is_asked_until_it_is_back(tmp_path: Path) -> None:
    plane = ControlPlane()
    plane.refusals = [Unavailable("away")] * 20
    async with launching(tmp_path, plane) as (drive, handler, _):
        await handler.start(drive.run, drive.ready("lp"), 0)
        assert [request.name for request in plane.created] == [CHILD]


async def test_a_child_of_before_the_crash_is_found_and_not_launched_again(tmp_path: Path) -> None:
    plane = ControlPlane()
    plane.add(CHILD, of_node("lp"))
    error = core_execution_pb2.ExecutionError(code="C", message="m", kind=core_execution_pb2.ExecutionError.SYSTEM)
    plane.end(CHILD, "FAILED", error=error)
    async with launching(tmp_path, plane) as (drive, handler, _):
        node = drive.ready("lp")
        await handler.start(drive.run, node, 0)
        await drive.observe()
        await drive.observe()
        assert plane.created == []
        assert node.phase is NodePhase.FAILED
        assert node.failure is not None
        assert node.failure.error() == error


async def test_an_execution_that_somebody_else_launched_is_not_taken_for_ours(tmp_path: Path) -> None:
    plane = ControlPlane()
    plane.add(CHILD, of_node("another"))
    async with launching(tmp_path, plane) as (drive, handler, _):
        node = drive.ready("lp")
        await handler.start(drive.run, node, 0)
        await drive.observe()
        assert node.failure is not None
        assert "that this node has not launched" in node.failure.message


async def test_an_abort_waits_for_the_childs_end_and_not_for_a_child_that_never_was(tmp_path: Path) -> None:
    plane = ControlPlane()
    async with launching(tmp_path, plane) as (drive, handler, watch):
        node = drive.ready("lp")
        drive.engine.abort("enough", 1_002.0)
        nothing = await handler.abort(drive.run, node, 0, "enough")  # the start was never permitted
        assert plane.terminated == []
        await handler.start(drive.run, node, 0)
        aborting = asyncio.create_task(handler.abort(drive.run, node, 0, "enough"))
        while not plane.terminated:  # noqa: ASYNC110 - a few turns of the loop away
            await asyncio.sleep(0)
        assert "e0, node lp: enough" in plane.terminated[0].cause
        assert not aborting.done()
        plane.end(CHILD, "ABORTED")
        watch.hint(child())
        observation = await asyncio.wait_for(aborting, 10)
        for each in (observation, nothing):
            each(drive.engine, 1_003.0)
        assert node.phase is NodePhase.ABORTED
        assert len(watch) == 0


async def test_what_was_not_heard_of_is_found_by_looking_at_many_at_once(tmp_path: Path) -> None:
    plane = ControlPlane()
    names = [f"child-{number}" for number in range(150)]
    async with driving(tmp_path, plane) as (_, admin):
        clock, ended = ManualClock(), asyncio.Queue[str]()
        watch = ChildWatch(admin, clock)
        following = asyncio.create_task(watch.run())
        for name in names:
            plane.add(name, of_node("lp"))
            identifier = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name=name)

            async def over(execution: execution_pb2.Execution | None, name: str = name) -> None:
                ended.put_nowait(f"{name} {'gone' if execution is None else execution.closure.phase}")

            watch.follow(identifier, over)
            watch.launched(identifier)
        plane.end("child-3", "SUCCEEDED")
        del plane.executions["child-140"]
        for _ in range(4):
            await asyncio.sleep(0)
            await clock.advance(1.0)
        async with asyncio.timeout(10):
            assert {await ended.get(), await ended.get()} == {"child-3 4", "child-140 gone"}
        assert plane.lists == 2
        assert plane.gets == 2
        assert len(watch) == 148
        following.cancel()
