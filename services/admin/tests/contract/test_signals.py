"""Signals from the outside.  Source: spec/control-plane.md, section 9.6."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from flyteidl.admin.common_pb2 import Sort
from flyteidl.admin.event_pb2 import EventFailureReason
from flyteidl.admin.signal_pb2 import SignalGetOrCreateRequest, SignalListRequest, SignalSetRequest
from flyteidl.core.identifier_pb2 import SignalIdentifier, WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import Literal
from flyteidl.core.types_pb2 import LiteralType, SimpleType
from google.protobuf.json_format import ParseDict

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.stdlib.postgres.testing import ServerForTests

from .serving import DOMAIN, PROJECT, Served, integer, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

INTEGER = LiteralType(simple=SimpleType.INTEGER)
BOOLEAN = LiteralType(simple=SimpleType.BOOLEAN)
OPTIONAL = ParseDict(
    {"unionType": {"variants": [{"simple": "INTEGER", "structure": {"tag": "int"}}, {"simple": "NONE"}]}}, LiteralType()
)
YES = Literal()
YES.scalar.primitive.boolean = True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        gate = {"id": "gate", "gateNode": {"approve": {"signalId": "yes"}}}
        await made.register("gated", [gate], tasks=[])
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def execution(platform: Served) -> WorkflowExecutionIdentifier:
    return await platform.launch("gated", f"gated-{next(_numbers)}")


def named(execution: WorkflowExecutionIdentifier, signal: str = "yes") -> SignalIdentifier:
    return SignalIdentifier(signal_id=signal, execution_id=execution)


async def make(
    platform: Served, execution: WorkflowExecutionIdentifier, signal: str = "yes", kind: LiteralType = BOOLEAN
) -> Any:
    request = SignalGetOrCreateRequest(id=named(execution, signal), type=kind)
    return await platform.signals.GetOrCreateSignal(request)


async def put(
    platform: Served, execution: WorkflowExecutionIdentifier, value: Literal = YES, signal: str = "yes"
) -> None:
    await platform.signals.SetSignal(SignalSetRequest(id=named(execution, signal), value=value))


async def test_a_signal_is_made_once_and_keeps_its_type(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    first = await make(platform, execution)
    assert first.id == named(execution)
    assert first.type == BOOLEAN
    assert not first.HasField("value")
    assert await make(platform, execution, kind=INTEGER) == first


async def test_many_who_make_the_same_signal_get_one(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    kinds = [BOOLEAN, INTEGER] * 8
    found = await asyncio.gather(*(make(platform, execution, kind=kind) for kind in kinds))
    assert all(each == found[0] for each in found)
    listed = await platform.signals.ListSignals(SignalListRequest(workflow_execution_id=execution, limit=10))
    assert list(listed.signals) == [found[0]]


async def test_a_value_is_seen_by_those_who_ask_for_the_signal(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    await make(platform, execution)
    await put(platform, execution)
    assert (await make(platform, execution)).value == YES
    no = Literal()
    no.scalar.primitive.boolean = False
    await put(platform, execution, no)  # may be repeated: the last one wins
    assert (await make(platform, execution)).value == no


class Holder:
    """A data plane that holds what there is."""

    def __init__(self, platform: Served, session_id: int) -> None:
        self._session_id = session_id
        self._stream = platform.journal.Lease(journal_pb2.LeaseRequest(session_id=session_id, capacity=1000))

    @classmethod
    @asynccontextmanager
    async def open(cls, platform: Served) -> AsyncIterator[Holder]:
        cluster = await platform.database.fetchval("SELECT cluster FROM leases ORDER BY execution_id DESC LIMIT 1")
        request = journal_pb2.OpenSessionRequest(cluster=cluster, holder=f"holder-{next(_numbers)}")
        holder = cls(platform, (await platform.journal.OpenSession(request)).session_id)
        try:
            yield holder
        finally:
            holder._stream.cancel()
            await platform.journal.CloseSession(journal_pb2.CloseSessionRequest(session_id=holder._session_id))

    async def assignment(self, execution: WorkflowExecutionIdentifier) -> journal_pb2.Assignment:
        while (item := await self._next()).assignment.name != execution.name:
            pass
        return item.assignment

    async def control(self, execution_id: int) -> journal_pb2.Control:
        while (item := await self._next()).control.execution_id != execution_id:
            pass
        return item.control

    async def _next(self) -> journal_pb2.LeaseResponse:
        async with asyncio.timeout(20):
            found = await self._stream.read()
        assert isinstance(found, journal_pb2.LeaseResponse)
        return found


SET = journal_pb2.SignalSet(signal_id="yes", value=YES.SerializeToString())


async def test_the_holder_is_told_and_the_next_holder_too(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    async with Holder.open(platform) as one:
        assignment = await one.assignment(execution)
        assert not assignment.signals
        await make(platform, execution)
        await make(platform, execution, "other", INTEGER)
        await put(platform, execution)
        assert (await one.control(assignment.execution_id)).signal == SET
        await put(platform, execution)
    async with Holder.open(platform) as two:
        assert list((await two.assignment(execution)).signals) == [SET]


async def test_a_value_set_before_the_execution_is_leased_is_in_its_assignment(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    await make(platform, execution)
    await put(platform, execution)
    async with Holder.open(platform) as holder:
        assert list((await holder.assignment(execution)).signals) == [SET]


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (INTEGER, integer(3), True),
        (INTEGER, YES, False),
        (BOOLEAN, integer(1), False),
        (OPTIONAL, integer(3), True),
        (OPTIONAL, YES, False),
        (
            OPTIONAL,
            ParseDict(
                {
                    "scalar": {
                        "union": {
                            "value": {"scalar": {"primitive": {"integer": 3}}},
                            "type": {"simple": "INTEGER", "structure": {"tag": "int"}},
                        }
                    }
                },
                Literal(),
            ),
            True,
        ),
    ],
)
async def test_a_value_has_to_fit_the_type_either_way(
    platform: Served, execution: WorkflowExecutionIdentifier, kind: LiteralType, value: Literal, fits: bool
) -> None:
    await make(platform, execution, kind=kind)
    if fits:
        await put(platform, execution, value)
        assert (await make(platform, execution)).value == value
        return
    code, text = await refused(put(platform, execution, value))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("requested signal value [")
    assert "is not castable to existing signal type [" in text
    assert not (await make(platform, execution)).HasField("value")


async def test_a_value_without_a_type_is_refused(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    await make(platform, execution)
    code, text = await refused(put(platform, execution, Literal(hash="x")))
    assert code == "INVALID_ARGUMENT"
    assert "has no type" in text


async def test_a_signal_that_nobody_made_cannot_be_set(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    for where in (execution, WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name="nowhere")):
        code, text = await refused(put(platform, where))
        assert code == "INVALID_ARGUMENT"
        assert text.startswith("failed to validate that signal [")
        assert "exists, err: [" in text


async def test_what_an_identifier_lacks_is_named_in_order(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    signals = platform.signals
    half = SignalIdentifier(signal_id="x", execution_id=WorkflowExecutionIdentifier(project="p", domain="d"))
    for identifier, lacks in (
        (None, "id"),
        (SignalIdentifier(signal_id="x"), "execution_id"),
        (SignalIdentifier(execution_id=execution), "signal_id"),
        (half, "name"),
    ):
        made = signals.GetOrCreateSignal(SignalGetOrCreateRequest(id=identifier, type=BOOLEAN))
        assert await refused(made) == ("INVALID_ARGUMENT", f"missing {lacks}")
        put_ = signals.SetSignal(SignalSetRequest(id=identifier, value=YES))
        assert await refused(put_) == ("INVALID_ARGUMENT", f"missing {lacks}")
    made = signals.GetOrCreateSignal(SignalGetOrCreateRequest(id=named(execution)))
    assert await refused(made) == ("INVALID_ARGUMENT", "missing type")
    assert await refused(signals.SetSignal(SignalSetRequest(id=named(execution)))) == (
        "INVALID_ARGUMENT",
        "missing value",
    )


async def test_a_signal_of_an_unknown_execution_is_not_made(platform: Served) -> None:
    nowhere = WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name="nowhere")
    code, text = await refused(make(platform, nowhere))
    assert code == "NOT_FOUND"
    assert text.startswith("missing entity of type execution with identifier")


async def test_types_and_values_are_bounded(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    large = LiteralType(simple=SimpleType.INTEGER)
    large.metadata["x"] = "y" * 100_000
    code, text = await refused(make(platform, execution, kind=large))
    assert (code, "at most 65536" in text) == ("INVALID_ARGUMENT", True)
    await make(platform, execution, kind=LiteralType(simple=SimpleType.STRING))
    long = Literal()
    long.scalar.primitive.string_value = "y" * 100_000
    code, text = await refused(put(platform, execution, long))
    assert (code, "at most 65536" in text) == ("INVALID_ARGUMENT", True)


async def test_an_execution_that_is_over_takes_no_signals(
    platform: Served, execution: WorkflowExecutionIdentifier
) -> None:
    made = await make(platform, execution)
    await platform.workflow_event(execution, "RUNNING", "00:01")
    await platform.workflow_event(execution, "FAILED", "00:02", error={"code": "x", "message": "y"})
    for call in (put(platform, execution), make(platform, execution, "new")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "the execution is over (FAILED)" in (caught.value.details() or "")
        trailer = bytes(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
        assert EventFailureReason.DESCRIPTOR.full_name.encode() in trailer
    assert await make(platform, execution) == made  # what is there can be read


async def test_lists_are_paged_filtered_and_sorted(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        await make(platform, execution, name)
    await put(platform, execution, signal="s3")

    async def listed(**more: Any) -> Any:
        request = SignalListRequest(**{"workflow_execution_id": execution, "limit": 100, **more})
        return await platform.signals.ListSignals(request)

    everything = await listed()
    assert [each.id.signal_id for each in everything.signals] == names
    assert [each.id.signal_id for each in everything.signals if each.HasField("value")] == ["s3"]
    assert everything.token == ""
    first = await listed(limit=3)
    rest = await listed(limit=3, token=first.token)
    assert [each.id.signal_id for page in (first, rest) for each in page.signals] == names
    downwards = await listed(sort_by=Sort(key="signal_id", direction=Sort.DESCENDING))
    assert [each.id.signal_id for each in downwards.signals] == names[::-1]
    some = await listed(filters="value_in(signal_id,s1;s4)")
    assert [each.id.signal_id for each in some.signals] == ["s1", "s4"]
    by_key = await listed(filters=f"eq(execution_name,{execution.name})+ne(signal_id,s0)", limit=2)
    assert [each.id.signal_id for each in by_key.signals] == ["s1", "s2"]
    nowhere = WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name="nowhere")
    assert not (await listed(workflow_execution_id=nowhere)).signals


async def test_lists_say_what_is_wrong_with_them(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    signals = platform.signals
    half = WorkflowExecutionIdentifier(project=PROJECT)
    for key in (None, half):
        call = signals.ListSignals(SignalListRequest(workflow_execution_id=key, limit=1))
        assert await refused(call) == ("INVALID_ARGUMENT", "missing execution_id")
    for more in ({"limit": 0}, {"limit": 1, "filters": "eq(value,1)"}, {"limit": 1, "token": "?"}):
        code, _ = await refused(signals.ListSignals(SignalListRequest(workflow_execution_id=execution, **more)))
        assert code == "INVALID_ARGUMENT"


async def test_signals_over_http(platform: Served, execution: WorkflowExecutionIdentifier) -> None:
    await make(platform, execution)
    path = f"/api/v1/signals/{PROJECT}/{DOMAIN}/{execution.name}?limit=10"
    status, found = await platform.ask("GET", path)
    assert (status, len(found["signals"]), found["signals"][0].get("value")) == (200, 1, None)
    key = {"project": PROJECT, "domain": DOMAIN, "name": execution.name}
    body = {
        "id": {"signalId": "yes", "executionId": key},
        "value": {"scalar": {"primitive": {"boolean": True}}},
    }
    assert await platform.ask("POST", "/api/v1/signals", body) == (200, {})
    status, found = await platform.ask("GET", path)
    assert found["signals"][0]["value"]["scalar"]["primitive"]["boolean"] is True
    body["value"] = {"scalar": {"primitive": {"integer": 1}}}
    status, found = await platform.ask("POST", "/api/v1/signals", body)
    assert (status, found["code"]) == (400, 3)
