"""Items of maps: what is kept of them, what a new holder is told, and what whoever lists them sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from flyteidl.core.execution_pb2 import ExecutionError, TaskExecution

from aerodrome.admin.managers.items import ItemManager
from aerodrome.admin.rpc.items import ItemRpcs
from aerodrome.idl.items.v1.items_pb2 import ListItemsRequest, NodeExecution
from aerodrome.idl.items.v1.items_pb2_grpc import ItemServiceStub, add_ItemServiceServicer_to_server
from aerodrome.idl.journal.v1.journal_pb2 import CloseSessionRequest, ItemRange, ItemsChange, Transition
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Registry

from .conftest import ACCEPTED, DOMAIN, PROJECT, Events, Executions, Hold, Holder, Replica, open_session, open_stream

Range = tuple[int, int, int, str]


def items(*ranges: Range, error: str = "", log_uri: str = "") -> Transition:
    """Ranges as (first, last, attempt, phase)."""
    failure = ExecutionError(code="Oops", message=error, kind=ExecutionError.USER).SerializeToString() if error else b""
    return Transition(
        items=ItemsChange(
            node_id="n0",
            ranges=[
                ItemRange(
                    first=first, last=last, attempt=attempt, phase=TaskExecution.Phase.Value(phase), error=failure,
                    log_uri=log_uri,
                )
                for first, last, attempt, phase in ranges
            ],
        )
    )  # fmt: skip


@pytest.fixture
async def array(hold: Hold) -> Holder:
    """A holder of an execution whose node n0 runs."""
    holder: Holder = await hold()
    events = Events()
    assert (
        await holder.append(events.workflow("RUNNING"), events.node("n0", "QUEUED"), events.node("n0", "RUNNING"))
        == [ACCEPTED] * 3
    )
    return holder


@pytest.fixture
async def service(database: Database) -> AsyncIterator[Any]:
    registry = Registry()
    registry.add(add_ItemServiceServicer_to_server, ItemRpcs(ItemManager(database)))
    async with DirectChannel([registry]) as channel:
        yield ItemServiceStub(channel)


def wanted(**more: Any) -> ListItemsRequest:
    return ListItemsRequest(
        node_execution_id=NodeExecution(project=PROJECT, domain=DOMAIN, name="one", node_id="n0"), **more
    )


async def test_a_new_holder_is_told_ranges_and_the_errors_of_what_failed(array: Holder, plane: Replica) -> None:
    assert (
        await array.append(
            items((0, 999, 0, "QUEUED")),
            items((0, 99, 0, "SUCCEEDED"), (101, 200, 0, "SUCCEEDED")),
            items((100, 100, 0, "RETRYABLE_FAILED"), error="first"),
            items((100, 100, 1, "QUEUED")),
            items((300, 320, 0, "FAILED"), error="bad"),
        )
        == [ACCEPTED] * 5
    )
    await plane.stub.CloseSession(CloseSessionRequest(session_id=array.session_id))
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assignment = await stream.assignment()
    stream.cancel()
    (node,) = assignment.nodes
    told = [(one.first, one.last, one.attempt, TaskExecution.Phase.Name(one.phase)) for one in node.items]
    assert told == [
        (0, 99, 0, "SUCCEEDED"),
        (100, 100, 1, "QUEUED"),
        (101, 200, 0, "SUCCEEDED"),
        (201, 299, 0, "QUEUED"),
        (300, 309, 0, "FAILED"),
        (310, 320, 0, "FAILED"),
        (321, 999, 0, "QUEUED"),
    ]
    assert [ExecutionError.FromString(one.error).message for one in node.items if one.error] == ["bad"]


async def test_a_new_holder_is_told_how_long_ago_items_failed_that_wait_for_another_attempt(
    array: Holder, plane: Replica, database: Database
) -> None:
    await array.append(items((0, 9, 0, "QUEUED")), items((2, 3, 0, "RETRYABLE_FAILED"), error="no"))
    await array.append(items((4, 4, 0, "RETRYABLE_FAILED"), (5, 5, 0, "RUNNING")), items((2, 2, 1, "QUEUED")))
    async with database.transaction() as connection:
        await connection.execute("UPDATE node_items SET updated_at = now() - interval '90 s' WHERE item_index <> 4")
    await plane.stub.CloseSession(CloseSessionRequest(session_id=array.session_id))
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assignment = await stream.assignment()
    stream.cancel()
    (node,) = assignment.nodes
    told = {(one.first, one.last): one.failed_ms_ago for one in node.items}
    assert told.keys() == {(0, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 9)}
    assert [key for key, ago in told.items() if ago >= 90_000] == [(2, 2), (3, 3)]
    assert told[4, 4] < 60_000
    assert [told[key] for key in ((0, 1), (5, 5), (6, 9))] == [0, 0, 0]
    since = {(one.first, one.last): one.changed_ms_ago for one in node.items}
    assert all(since[key] == 0 for key in ((3, 3), (4, 4)))  # these have no attempt under way
    assert all(88_000 < since[key] < 150_000 for key in ((0, 1), (2, 2), (5, 5), (6, 9)))


async def test_a_node_that_is_over_brings_no_items(array: Holder, plane: Replica) -> None:
    done = Events()
    await array.append(items((0, 9, 0, "SUCCEEDED")), done.node("n0", "SUCCEEDED"))
    await plane.stub.CloseSession(CloseSessionRequest(session_id=array.session_id))
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assignment = await stream.assignment()
    stream.cancel()
    assert [len(node.items) for node in assignment.nodes] == [0]


async def test_a_node_that_is_out_of_time_brings_its_items_since_they_may_still_run(
    array: Holder, plane: Replica
) -> None:
    late = Events()
    await array.append(items((0, 9, 1, "RUNNING")), late.node("n0", "TIMED_OUT"))
    await plane.stub.CloseSession(CloseSessionRequest(session_id=array.session_id))
    stream = open_stream(plane.stub, await open_session(plane.stub))
    assignment = await stream.assignment()
    stream.cancel()
    assert [(one.first, one.last, one.attempt) for node in assignment.nodes for one in node.items] == [(0, 9, 1)]


async def test_items_are_listed_by_page_with_counts_on_the_first(
    array: Holder, service: Any, executions: Executions
) -> None:
    await array.append(
        items((0, 24, 0, "QUEUED")),
        items((3, 4, 0, "RUNNING"), log_uri="http://log"),
    )
    await array.append(items((0, 2, 0, "SUCCEEDED"), (3, 3, 0, "RUNNING")))
    first = await service.ListItems(wanted(limit=10))
    assert [item.index for item in first.items] == list(range(10))
    assert dict(first.total_by_phase) == {"SUCCEEDED": 3, "RUNNING": 2, "QUEUED": 20}
    assert [item.log_uri for item in first.items[2:5]] == ["", "http://log", "http://log"]
    second = await service.ListItems(wanted(limit=20, token=first.token))
    assert [item.index for item in second.items] == list(range(10, 25))
    assert not second.token
    assert not second.total_by_phase
    running = await service.ListItems(wanted(phases=["RUNNING", "FAILED"], limit=1))
    assert [item.index for item in running.items] == [3]
    rest = await service.ListItems(wanted(phases=["RUNNING", "FAILED"], limit=1, token=running.token))
    assert [item.index for item in rest.items] == [4]
    assert not rest.token
    await executions.check(array.execution_id)


async def test_an_item_shows_its_last_error_until_it_succeeds(array: Holder, service: Any) -> None:
    async def shown() -> list[tuple[int, str, str, str]]:
        response = await service.ListItems(wanted())
        return [(item.attempt, item.phase, item.error.message, item.error.kind) for item in response.items]

    await array.append(
        items((0, 0, 0, "QUEUED")), items((0, 0, 0, "RETRYABLE_FAILED"), error="why"), items((0, 0, 1, "QUEUED"))
    )
    assert await shown() == [(1, "QUEUED", "why", "USER")]
    await array.append(items((0, 0, 1, "RUNNING")))
    assert await shown() == [(1, "RUNNING", "why", "USER")]
    await array.append(items((0, 0, 1, "SUCCEEDED")))
    assert await shown() == [(1, "SUCCEEDED", "", "")]


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (wanted(limit=10_001), "INVALID_ARGUMENT", "at most 10000 items"),
        (wanted(token="x"), "INVALID_ARGUMENT", "invalid token [x]"),
        (wanted(token="99999999999"), "INVALID_ARGUMENT", "invalid token"),
        (wanted(phases=["LAZY"]), "INVALID_ARGUMENT", "there is no phase [LAZY]"),
        (ListItemsRequest(), "INVALID_ARGUMENT", "missing"),
        (
            ListItemsRequest(node_execution_id=NodeExecution(project=PROJECT, domain=DOMAIN, name="one", node_id="n1")),
            "NOT_FOUND",
            "n1",
        ),
    ],
)
async def test_what_cannot_be_listed_is_refused(
    array: Holder, service: Any, request_: ListItemsRequest, code: str, says: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.ListItems(request_)
    assert refused.value.code().name == code
    assert says in str(refused.value.details())
