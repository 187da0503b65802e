import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from flyteidl.admin import signal_pb2
from flyteidl.service import signal_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from aerodrome.stdlib.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, Unimplemented
from aerodrome.stdlib.rpc import context as current
from aerodrome.stdlib.rpc.client import network_channel
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.registry import Call, Registry
from aerodrome.stdlib.rpc.server import RpcServer

SignalServiceStub: Any = signal_pb2_grpc.SignalServiceStub
ServerReflectionStub: Any = reflection_pb2_grpc.ServerReflectionStub
LIST = "/flyteidl.service.SignalService/ListSignals"


class Signals:
    """Generated code of Flyte's own contract, with behaviours by token."""

    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def ListSignals(self, request: signal_pb2.SignalListRequest, context: Any) -> signal_pb2.SignalList:
        match request.token:
            case "missing":
                raise NotFound("entry not found")
            case "long":
                raise FailedPrecondition("x" * 100_000, [signal_pb2.SignalSetRequest()])
            case "defect":
                raise ZeroDivisionError
            case "hang":
                self.started.set()
                await asyncio.sleep(30)
        return signal_pb2.SignalList(token=f"{current.request_id()}|{context.peer()}")

    async def GetOrCreateSignal(self, request: signal_pb2.SignalGetOrCreateRequest, context: Any) -> Any:
        return "no message"

    async def SetSignal(self, request: signal_pb2.SignalSetRequest, context: Any) -> signal_pb2.SignalSetResponse:
        return signal_pb2.SignalSetResponse()


@pytest.fixture
async def signals() -> Signals:
    return Signals()


@pytest.fixture
async def server(signals: Signals) -> AsyncIterator[RpcServer]:
    server = RpcServer()
    server.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    async with server:
        yield server


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with network_channel(server.address) as channel:
        yield channel


async def status_of(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_health_answers_for_flyteadmin_and_for_all(server: RpcServer, channel: grpc.aio.Channel) -> None:
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert await status_of(channel, "") == serving
    assert await status_of(channel, "flyteadmin") == serving
    await server.set_serving(False)
    assert await status_of(channel, "flyteadmin") == not_serving


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    stub = ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [each async for each in stub.ServerReflectionInfo(iter(asked))]
    names = {each.name for each in answers[0].list_services_response.service}
    assert names >= {"flyteidl.service.SignalService", "grpc.health.v1.Health"}


async def test_flytekits_channel_reads_the_longest_error_with_its_details(server: RpcServer) -> None:
    """Its options, of which the limit for metadata is the one that a longer trailer would break."""
    options = (("grpc.max_metadata_size", 32 * 1024),)
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        stub = SignalServiceStub(channel)
        for _ in range(50):  # above the soft limit, calls are refused at random
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListSignals(signal_pb2.SignalListRequest(token="long"))
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert len(caught.value.details() or "") > 15_000
    status: Any = rpc_status
    rich = await status.aio.from_call(_Ended(caught.value))
    assert len(rich.details) == 1


class _Ended:
    """An ended call as grpc-status wants to see it."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    async def code(self) -> grpc.StatusCode:
        return self._error.code()

    async def details(self) -> str | None:
        return self._error.details()

    async def trailing_metadata(self) -> Any:
        return self._error.trailing_metadata()


async def test_stopping_lets_running_calls_finish_within_the_grace_and_then_cancels_them(
    server: RpcServer, channel: grpc.aio.Channel, signals: Signals
) -> None:
    stub = SignalServiceStub(channel)
    hanging = asyncio.ensure_future(stub.ListSignals(signal_pb2.SignalListRequest(token="hang")))
    await signals.started.wait()
    async with asyncio.timeout(10):
        await server.stop(timedelta(milliseconds=50))
        with pytest.raises(grpc.aio.AioRpcError):
            await hanging


async def test_a_call_waits_for_a_server_that_starts_later() -> None:
    async with RpcServer() as first:
        address = first.address
    async with network_channel(address) as channel:
        server = RpcServer(address=address)
        server.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, Signals())
        stub = SignalServiceStub(channel)
        waiting = asyncio.ensure_future(
            stub.ListSignals(signal_pb2.SignalListRequest(), wait_for_ready=True, timeout=20)
        )
        async with server:
            await waiting


@pytest.fixture
def registry(signals: Signals) -> Registry:
    registry = Registry()
    registry.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    return registry


async def test_a_decoded_call_is_answered_or_raises_our_errors(registry: Registry) -> None:
    answer = await registry.call(LIST, signal_pb2.SignalListRequest(), (("x-request-id", "r1"),))
    assert answer == signal_pb2.SignalList(token="r1|http")
    assert current.request_id() == ""
    with pytest.raises(NotFound, match="entry not found"):
        await registry.call(LIST, signal_pb2.SignalListRequest(token="missing"))
    with pytest.raises(Unimplemented):
        await registry.call("/no.Such/Method", signal_pb2.SignalListRequest())


async def test_a_defect_is_counted_and_told_without_its_inside(signals: Signals) -> None:
    counted: list[str] = []
    registry = Registry(on_defect=counted.append)
    registry.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    with pytest.raises(Internal, match="request id r7") as caught:
        await registry.call(LIST, signal_pb2.SignalListRequest(token="defect"), (("x-request-id", "r7"),))
    assert "ZeroDivision" not in caught.value.message
    with pytest.raises(Internal):
        await registry.call("/flyteidl.service.SignalService/GetOrCreateSignal", signal_pb2.SignalGetOrCreateRequest())
    assert len(counted) == 2


async def test_methods_tell_their_message_types(registry: Registry) -> None:
    method = registry.methods()[LIST]
    assert (method.request_name, method.response_name) == (
        "flyteidl.admin.SignalListRequest",
        "flyteidl.admin.SignalList",
    )
    assert not method.request_streaming
    assert registry.services == ("flyteidl.service.SignalService",)


async def test_doors_see_calls_in_order_and_how_they_end(signals: Signals) -> None:
    seen: list[str] = []

    def door(name: str) -> Any:
        @asynccontextmanager
        async def pass_through(call: Call) -> AsyncIterator[None]:
            seen.append(f"{name} in {call.path.rpartition('/')[2]}")
            try:
                yield
            except NotFound:
                seen.append(f"{name} out, not found")
                raise

        return pass_through

    registry = Registry((door("outer"), door("inner")))
    registry.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signals)
    with pytest.raises(NotFound):
        await registry.call(LIST, signal_pb2.SignalListRequest(token="missing"))
    assert seen == ["outer in ListSignals", "inner in ListSignals", "inner out, not found", "outer out, not found"]


async def test_a_direct_call_inside_a_call_carries_its_request_id(registry: Registry) -> None:
    entered = current.enter("r9", None)
    try:
        async with DirectChannel([registry]) as channel:
            stub = SignalServiceStub(channel)
            assert (await stub.ListSignals(signal_pb2.SignalListRequest())).token == "r9|direct"
    finally:
        current.leave(entered)


async def test_a_closed_direct_channel_ends_its_calls_and_takes_no_more(registry: Registry, signals: Signals) -> None:
    channel = DirectChannel([registry])
    stub = SignalServiceStub(channel)
    call = stub.ListSignals(signal_pb2.SignalListRequest(token="hang"))
    await signals.started.wait()
    await channel.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(grpc.aio.UsageError):
        stub.ListSignals(signal_pb2.SignalListRequest())
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_metadata_that_grpc_would_refuse_is_refused_directly_too(registry: Registry) -> None:
    async with DirectChannel([registry]) as channel:
        stub = SignalServiceStub(channel)
        for bad in ((("Upper", "x"),), (("x-bin", "text"),)):
            with pytest.raises(InvalidArgument):
                stub.ListSignals(signal_pb2.SignalListRequest(), metadata=bad)
