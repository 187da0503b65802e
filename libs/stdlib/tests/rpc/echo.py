"""A service for tests, as the code generator would have made it, over well-known message types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from flyteidl.admin import event_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from aerodrome.stdlib.errors import AlreadyExists, FailedPrecondition, NotFound
from aerodrome.stdlib.rpc import context as current

SERVICE = "aerodrome.test.Echo"


class EchoServicer:
    """Each method shows one behaviour."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.kept: list[Any] = []
        self.calls = 0

    async def Say(self, request: StringValue, context: Any) -> StringValue:
        self.calls += 1
        match request.value:
            case "missing":
                raise NotFound("entry not found")
            case "terminal":
                reason = event_pb2.EventFailureReason(
                    already_in_terminal_state=event_pb2.EventErrorAlreadyInTerminalState(current_phase="SUCCEEDED")
                )
                raise FailedPrecondition("it is over: " + "é" * 40_000, [reason])
            case "long":
                raise AlreadyExists("x" * 100_000)
            case "defect":
                raise RuntimeError("a secret of the server")
            case "none":
                return None  # type: ignore[return-value]
            case "abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        return StringValue(value=request.value)

    async def Size(self, request: BytesValue, context: Any) -> BytesValue:
        return BytesValue(value=request.value)

    async def About(self, request: StringValue, context: Any) -> Struct:
        answer = Struct()
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        answer.update(
            {
                "header": metadata.get("x-sent", ""),
                "binary": metadata.get("x-sent-bin", ""),
                "request_id": current.request_id(),
                "user": current.identity().user_id,
                "remaining": -1 if current.time_remaining() is None else current.time_remaining(),
            }
        )
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"),))
        return answer

    async def Hang(self, request: StringValue, context: Any) -> StringValue:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def Keep(self, request: Struct, context: Any) -> Struct:
        self.kept.append(request)
        return request

    async def Count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            for number in range(int(request.value)):
                self.calls += 1
                yield StringValue(value=str(number))
        finally:
            self.cancelled.set()
        if request.value == "3":
            raise NotFound("no more")

    async def Join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value=",".join([each.value async for each in requests]))

    async def Chat(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for each in requests:
            yield StringValue(value=each.value.upper())


def add_EchoServicer_to_server(servicer: Any, server: Any) -> None:
    def of(make: Any, behaviour: Any, request: Any, response: Any) -> Any:
        return make(behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString)

    unary = grpc.unary_unary_rpc_method_handler
    handlers = {
        "Say": of(unary, servicer.Say, StringValue, StringValue),
        "Size": of(unary, servicer.Size, BytesValue, BytesValue),
        "About": of(unary, servicer.About, StringValue, Struct),
        "Hang": of(unary, servicer.Hang, StringValue, StringValue),
        "Keep": of(unary, servicer.Keep, Struct, Struct),
        "Count": of(grpc.unary_stream_rpc_method_handler, servicer.Count, StringValue, StringValue),
        "Join": of(grpc.stream_unary_rpc_method_handler, servicer.Join, StringValue, StringValue),
        "Chat": of(grpc.stream_stream_rpc_method_handler, servicer.Chat, StringValue, StringValue),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    def __init__(self, channel: Any) -> None:
        def of(make: Any, name: str, request: Any, response: Any) -> Any:
            return make(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
                _registered_method=True,
            )

        self.Say = of(channel.unary_unary, "Say", StringValue, StringValue)
        self.Size = of(channel.unary_unary, "Size", BytesValue, BytesValue)
        self.About = of(channel.unary_unary, "About", StringValue, Struct)
        self.Hang = of(channel.unary_unary, "Hang", StringValue, StringValue)
        self.Keep = of(channel.unary_unary, "Keep", Struct, Struct)
        self.Nothing = of(channel.unary_unary, "Nothing", StringValue, StringValue)
        self.Count = of(channel.unary_stream, "Count", StringValue, StringValue)
        self.Join = of(channel.stream_unary, "Join", StringValue, StringValue)
        self.Chat = of(channel.stream_stream, "Chat", StringValue, StringValue)
