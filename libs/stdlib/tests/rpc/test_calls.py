"""What a call means, whichever way it goes: one contract for the direct channel, TCP and Unix sockets."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin import event_pb2
from flyteidl.admin.signal_pb2 import SignalSetRequest
from flyteidl.service import signal_pb2_grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.rpc import context as current
from aerodrome.stdlib.rpc.client import aerodrome_error, network_channel
from aerodrome.stdlib.rpc.direct import DirectChannel
from aerodrome.stdlib.rpc.metering import Meter
from aerodrome.stdlib.rpc.registry import Call
from aerodrome.stdlib.rpc.server import RpcServer
from aerodrome.stdlib.telemetry import Metrics

_spec = importlib.util.spec_from_file_location("aerodrome_test_echo", Path(__file__).with_name("echo.py"))
assert _spec is not None
assert _spec.loader is not None
echo: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(echo)


@asynccontextmanager
async def door(call: Call) -> AsyncIterator[None]:
    """Stands for authentication."""
    if call.header("authorization") == "bad":
        raise PermissionDenied("not you")
    current.set_identity(current.Identity(user_id=call.header("x-user")))
    yield


class Place:
    """A served echo and a stub that calls it."""

    def __init__(self, server: RpcServer, servicer: Any, channel: Any) -> None:
        self.server = server
        self.servicer = servicer
        self.channel = channel
        self.stub = echo.EchoStub(channel)


@pytest.fixture(params=["direct", "tcp", "unix"])
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    address = "127.0.0.1:0"
    if request.param == "unix":
        address = f"unix:{tmp_path_factory.mktemp('s')}/grpc.sock"
    server = RpcServer(door, address=address)
    servicer = echo.EchoServicer()
    server.add(echo.add_EchoServicer_to_server, servicer)
    if request.param == "direct":
        async with DirectChannel([server]) as channel:
            yield Place(server, servicer, channel)
        return
    async with server, network_channel(server.address) as channel:
        yield Place(server, servicer, channel)


async def refused(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def test_a_request_is_answered(place: Place) -> None:
    call = place.stub.Say(StringValue(value="hello"))
    assert (await call).value == "hello"
    assert await call.code() is grpc.StatusCode.OK
    assert call.done()
    assert not call.cancelled()


async def test_an_error_keeps_its_code_and_message(place: Place) -> None:
    error = await refused(place.stub.Say(StringValue(value="missing")))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "entry not found")
    ours = aerodrome_error(error)
    assert isinstance(ours, NotFound)
    assert ours.message == "entry not found"


async def test_details_survive_the_cut_of_a_long_message(place: Place) -> None:
    error = await refused(place.stub.Say(StringValue(value="terminal")))
    ours = aerodrome_error(error)
    assert isinstance(ours, FailedPrecondition)
    assert isinstance(ours.details[0], event_pb2.EventFailureReason)
    assert ours.details[0].already_in_terminal_state.current_phase == "SUCCEEDED"
    assert ours.message.startswith("it is over: éé")
    assert set(ours.message[12:]) == {"é"}


async def test_a_long_message_is_cut_to_what_clients_accept(place: Place) -> None:
    error = await refused(place.stub.Say(StringValue(value="long")))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error.details() == "x" * 32_000


async def test_a_defect_is_internal_and_tells_the_client_nothing(place: Place) -> None:
    for value in ("defect", "none"):
        with capture() as lines:
            error = await refused(place.stub.Say(StringValue(value=value), metadata=(("x-request-id", "r-17"),)))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "r-17" in (error.details() or "")
        assert "secret" not in (error.details() or "")
        assert [line["msg"] for line in lines if line["level"] == "error"] == ["handler failed"]


async def test_a_status_set_by_abort_arrives(place: Place) -> None:
    error = await refused(place.stub.Say(StringValue(value="abort")))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


async def test_bytes_that_are_no_message_are_an_invalid_argument(place: Place) -> None:
    raw = place.channel.unary_unary(f"/{echo.SERVICE}/Say")
    error = await refused(raw(b"\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"/{echo.SERVICE}/Say is not a valid" in (error.details() or "")
    assert isinstance(aerodrome_error(error), InvalidArgument)


async def test_an_unknown_method_is_unimplemented(place: Place) -> None:
    error = await refused(place.stub.Nothing(StringValue()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_that_the_servicer_leaves_to_its_generated_base_is_unimplemented(place: Place) -> None:
    place.server.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, signal_pb2_grpc.SignalServiceServicer())
    with capture() as lines:
        error = await refused(signal_pb2_grpc.SignalServiceStub(place.channel).SetSignal(SignalSetRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/flyteidl.service.SignalService/SetSignal is not offered" in (error.details() or "")
    assert lines == []


async def test_metadata_travels_both_ways(place: Place) -> None:
    call = place.stub.About(StringValue(), metadata=(("x-sent", "there"), ("x-sent-bin", b"\x00\xff")), timeout=30)
    answer = await call
    assert answer["header"] == "there"
    assert answer["binary"] == str(b"\x00\xff")
    assert dict(await call.initial_metadata())["x-first"] == "1"
    assert dict(await call.trailing_metadata())["x-last"] == "2"
    assert 25 < answer["remaining"] <= 31  # gRPC rounds it up on the wire


async def test_a_call_has_the_request_id_that_was_sent_or_a_new_one(place: Place) -> None:
    assert (await place.stub.About(StringValue(), metadata=(("x-request-id", "mine"),)))["request_id"] == "mine"
    made = (await place.stub.About(StringValue()))["request_id"]
    assert made.startswith("a-")
    assert len(made) == 22


async def test_the_door_sets_the_identity_and_refuses(place: Place) -> None:
    assert (await place.stub.About(StringValue(), metadata=(("x-user", "ann"),)))["user"] == "ann"
    assert (await place.stub.About(StringValue()))["user"] == ""
    error = await refused(place.stub.Say(StringValue(), metadata=(("authorization", "bad"),)))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert place.servicer.calls == 0


async def test_a_deadline_ends_the_call_and_the_handler(place: Place) -> None:
    error = await refused(place.stub.Hang(StringValue(), timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await place.servicer.cancelled.wait()


async def test_a_deadline_in_the_past_never_reaches_the_handler(place: Place) -> None:
    error = await refused(place.stub.Say(StringValue(), timeout=-1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert place.servicer.calls == 0


async def test_cancelling_a_call_cancels_the_handler(place: Place) -> None:
    call = place.stub.Hang(StringValue())
    await place.servicer.started.wait()
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    async with asyncio.timeout(5):
        await place.servicer.cancelled.wait()


async def test_cancelling_who_waits_for_a_call_cancels_the_handler(place: Place) -> None:
    async def wait() -> None:
        await place.stub.Hang(StringValue())

    task = asyncio.create_task(wait())
    await place.servicer.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await place.servicer.cancelled.wait()


async def test_large_messages_pass_and_too_large_ones_are_refused(place: Place) -> None:
    payload = bytes(32 * 1024 * 1024)
    assert (await place.stub.Size(BytesValue(value=payload))).value == payload
    error = await refused(place.stub.Size(BytesValue(value=bytes(64 * 1024 * 1024))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "message larger than max" in (error.details() or "")


async def test_neither_side_sees_the_other_change_a_message(place: Place) -> None:
    request = Struct()
    request.update({"a": 1})
    response = await place.stub.Keep(request)
    request["a"] = 2
    response["a"] = 3
    assert place.servicer.kept[0]["a"] == 1


async def test_many_calls_run_at_once_each_in_its_own_context(place: Place) -> None:
    calls = [place.stub.About(StringValue(), metadata=(("x-user", f"user {n}"),)) for n in range(100)]
    answers = await asyncio.gather(*calls)
    assert [answer["user"] for answer in answers] == [f"user {n}" for n in range(100)]
    assert current.request_id() == ""
    assert current.identity() == current.NOBODY


async def test_a_streamed_response_arrives_in_order(place: Place) -> None:
    assert [each.value async for each in place.stub.Count(StringValue(value="200"))] == [str(n) for n in range(200)]
    call = place.stub.Count(StringValue(value="1"))
    assert (await call.read()).value == "0"
    assert await call.read() is grpc.aio.EOF


async def test_an_error_after_some_of_a_stream_arrives_after_them(place: Place) -> None:
    seen = []

    async def read() -> None:
        async for each in place.stub.Count(StringValue(value="3")):
            seen.append(each.value)  # noqa: PERF401 - what came before the error matters

    error = await refused(read())
    assert seen == ["0", "1", "2"]
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_slow_reader_holds_the_handler_back_and_leaving_ends_it(place: Place) -> None:
    call = place.stub.Count(StringValue(value="100000000"))
    assert (await call.read()).value == "0"
    call.cancel()
    async with asyncio.timeout(5):
        await place.servicer.cancelled.wait()
    assert place.servicer.calls < 100_000


async def test_a_streamed_request_is_joined(place: Place) -> None:
    async def words() -> AsyncIterator[StringValue]:
        for word in ("a", "b", "c"):
            yield StringValue(value=word)

    assert (await place.stub.Join(words())).value == "a,b,c"
    call = place.stub.Join()
    await call.write(StringValue(value="x"))
    await call.done_writing()
    assert (await call).value == "x"


async def test_both_directions_stream_at_once(place: Place) -> None:
    call = place.stub.Chat()
    for word in ("hello", "again"):
        await call.write(StringValue(value=word))
        assert (await call.read()).value == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    words = [StringValue(value=str(n)) for n in range(100)]
    assert [each.value async for each in place.stub.Chat(iter(words))] == [each.value for each in words]


async def test_a_callback_hears_of_the_end(place: Place) -> None:
    heard = asyncio.Event()
    call = place.stub.Say(StringValue(value="x"))
    call.add_done_callback(lambda _: heard.set())
    await call
    async with asyncio.timeout(5):
        await heard.wait()


async def test_every_call_is_counted_by_its_code_and_timed(place: Place) -> None:
    metrics = Metrics()
    place.server.registry.use_meter(Meter(metrics))
    await place.stub.Say(StringValue(value="x"))
    for value in ("missing", "missing", "defect", "abort"):
        await refused(place.stub.Say(StringValue(value=value)))
    assert len([each async for each in place.stub.Count(StringValue(value="2"))]) == 2
    call = place.stub.Count(StringValue(value="100000000"))
    assert (await call.read()).value == "0"
    call.cancel()
    async with asyncio.timeout(5):
        await place.servicer.cancelled.wait()
        while 'grpc_code="Canceled"' not in metrics.render().decode():  # noqa: ASYNC110 - the other side counts it
            await asyncio.sleep(0.01)
    shown = dict(line.rpartition(" ")[::2] for line in metrics.render().decode().splitlines())
    say = f'grpc_type="unary",grpc_service="{echo.SERVICE}",grpc_method="Say"'
    count = f'grpc_type="server_stream",grpc_service="{echo.SERVICE}",grpc_method="Count"'
    assert shown[f"grpc_server_started_total{{{say}}}"] == "5"
    codes = {code: shown[f'grpc_server_handled_total{{{say},grpc_code="{code}"}}'] for code in ("OK", "NotFound")}
    assert codes == {"OK": "1", "NotFound": "2"}
    assert shown[f'grpc_server_handled_total{{{say},grpc_code="Internal"}}'] == "1"
    assert shown[f"grpc_server_handling_seconds_count{{{say}}}"] == "5"
    assert shown[f"grpc_server_started_total{{{count}}}"] == "2"
    assert shown[f'grpc_server_handled_total{{{count},grpc_code="OK"}}'] == "1"
    assert shown[f'grpc_server_handled_total{{{count},grpc_code="Canceled"}}'] == "1"
