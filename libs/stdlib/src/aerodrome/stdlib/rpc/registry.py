"""The handlers of servicers and the doors in front of them, apart from how calls arrive.

A registry takes what generated code hands to a server (`add_XServicer_to_server(servicer, registry)`).  Calls come in
from the network (`server`), from the same process (`direct`), or from the HTTP gateway (`Registry.call`), and all take
the same way: context variables, doors, decoding, the handler, and errors put into our vocabulary.

A handler is `async def Method(self, request, context)`, or an async generator where the response is a stream; a
streamed request is an async iterator.  It raises AerodromeError; anything else is a defect: logged, counted, and
answered with INTERNAL and a short text.  Source: spec/control-plane.md, section 0.2.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message

from aerodrome.stdlib.errors import AerodromeError, DeadlineExceeded, Internal, InvalidArgument, Kind, Unimplemented
from aerodrome.stdlib.logger import bind, get_logger
from aerodrome.stdlib.rpc import context as current
from aerodrome.stdlib.rpc.metering import CODES, OK, Meter, MethodMeter

log = get_logger(__name__)

_T = TypeVar("_T")

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the doors see it."""

    path: str
    """`/flyteidl.service.AdminService/GetTask`"""
    metadata: Metadata = ()
    """Pairs with keys in lower case; values of `-bin` keys are bytes."""
    deadline: float | None = None
    """When the caller stops waiting, in seconds of `time.monotonic`."""
    peer: str = ""
    """Where the call comes from, as gRPC writes it; `direct` within the process, `http` from the gateway."""

    def header(self, name: str) -> str:
        """The first value under `name` (lower case), empty if there is none."""
        for key, value in self.metadata:
            if key == name and isinstance(value, str):
                return value
        return ""


Door = Callable[[Call], AbstractAsyncContextManager[object]]
"""What stands before every handler, outermost first: it enters before decoding, may raise AerodromeError to refuse,
may set
the identity, and sees in its exit how the call ended."""


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc of a servicer."""

    path: str
    behaviour: Callable[[Any, Any], Any]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    request_streaming: bool
    response_streaming: bool
    request_name: str
    """Full name of the request's message type, empty if its descriptor is not known here."""
    response_name: str


class Registry:
    """Handlers by path, with the doors that every call to them passes.

    `on_defect` is told the path of each call that ended in an exception that is not an AerodromeError, for a counter.
    """

    def __init__(self, doors: Sequence[Door] = (), *, on_defect: Callable[[str], None] | None = None) -> None:
        self._doors = tuple(doors)
        self._on_defect = on_defect
        self._meter: Meter | None = None
        self._meters: dict[str, MethodMeter] = {}
        self._methods: dict[str, Method] = {}
        self._services: list[str] = []

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Take over the methods of `servicer`, by the generated `add_XServicer_to_server`.

        The service's descriptors are loaded with it, for reflection and for the names of its message types.
        """
        module = getattr(add_to_server, "__module__", "")
        if module.endswith("_pb2_grpc"):
            importlib.import_module(module.removesuffix("_grpc"))
        add_to_server(servicer, self)

    def use_meter(self, meter: Meter) -> None:
        """Count and time every call from now on."""
        self._meter = meter
        self._meters.clear()

    def methods(self) -> Mapping[str, Method]:
        """Every method by its path."""
        return dict(self._methods)

    @property
    def services(self) -> Sequence[str]:
        """Full names of the services, in the order in which they were added."""
        return tuple(self._services)

    def find(self, path: str) -> Method | None:
        """The method under `path`."""
        return self._methods.get(path)

    async def call(
        self, path: str, request: Message, metadata: Metadata = (), *, deadline: float | None = None, peer: str = "http"
    ) -> Message:
        """Answer a call whose request is decoded already; raises AerodromeError (and nothing else but cancellation).

        Handler and caller share the messages, so neither may change them afterwards.
        """
        method = self._methods.get(path)
        if method is None or method.request_streaming or method.response_streaming:
            raise Unimplemented(f"there is no method {path}")
        context = HandlerContext(metadata, deadline, peer)
        response = await self._guarded(
            method, Call(path, metadata, deadline, peer), lambda: method.behaviour(request, context)
        )
        if not isinstance(response, Message):
            raise self._defect(path, TypeError(f"the handler returned {type(response).__name__}"))
        return response

    async def run_unary(self, method: Method, data: bytes, call: Call, context: Any) -> bytes:
        """Answer a call with one request and one response, both as bytes; raises AerodromeError."""

        async def answer() -> bytes:
            return _encoded(method, await method.behaviour(_decoded(method, data), context))

        return await self._guarded(method, call, answer)

    async def run_stream(
        self,
        method: Method,
        data: bytes | AsyncIterator[bytes],
        call: Call,
        context: Any,
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Answer a call that streams in either direction; each response goes to `send`, which may make it wait."""

        async def answer() -> None:
            request = _decoded(method, data) if isinstance(data, bytes) else _decoded_stream(method, data)
            answered = method.behaviour(request, context)
            if not method.response_streaming:
                await send(_encoded(method, await answered))
                return
            try:
                async for response in answered:
                    await send(_encoded(method, response))
            finally:
                await answered.aclose()

        await self._guarded(method, call, answer)

    async def _guarded(self, method: Method, call: Call, answer: Callable[[], Awaitable[_T]]) -> _T:
        entered = current.enter(call.header(current.REQUEST_ID_HEADER), call.deadline)
        meter = None if self._meter is None else self._meters.get(method.path) or self._metered(self._meter, method)
        started, code = time.perf_counter(), OK
        if meter is not None:
            meter.began()
        try:
            with bind(request_id=current.request_id()):
                try:
                    if not self._doors:
                        return await answer()
                    async with AsyncExitStack() as inside:
                        for door in self._doors:
                            await inside.enter_async_context(door(call))
                        return await answer()
                except AerodromeError as error:
                    code = CODES[error.kind]
                    raise
                except asyncio.CancelledError:
                    code = CODES[Kind.CANCELLED]
                    raise
                except grpc.aio.AbortError:  # it does not say with what; handlers of ours raise AerodromeError
                    code = CODES[Kind.UNKNOWN]
                    raise
                except Exception as error:
                    defect = self._defect(method.path, error)
                    code = CODES[defect.kind]
                    raise defect from error
        finally:
            if meter is not None:
                meter.ended(code, time.perf_counter() - started)
            current.leave(entered)

    def _metered(self, meter: Meter, method: Method) -> MethodMeter:
        made = self._meters[method.path] = meter.method(
            method.path, request_streaming=method.request_streaming, response_streaming=method.response_streaming
        )
        return made

    def _defect(self, path: str, error: Exception) -> AerodromeError:
        if isinstance(error, TimeoutError) and current.time_remaining() == 0.0:
            return DeadlineExceeded("the call took longer than its deadline")
        log.exception("handler failed", method=path, error=repr(error))
        if self._on_defect is not None:
            self._on_defect(path)
        return Internal(f"internal error; the server's log explains it under request id {current.request_id()}")

    # what generated code calls on a server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Older generated code brings its methods this way alone."""
        for generic in handlers:
            found: Mapping[str, Any] = getattr(generic, "_method_handlers", {})
            for path, handler in found.items():
                self._add(path, handler)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Newer generated code brings the same methods a second time, by name."""
        for name, handler in handlers.items():
            self._add(f"/{service}/{name}", handler)

    def _add(self, path: str, handler: Any) -> None:
        kinds = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, False): "stream_unary",
            (True, True): "stream_stream",
        }
        behaviour = getattr(handler, kinds[handler.request_streaming, handler.response_streaming])
        if str(getattr(behaviour, "__module__", "")).endswith("_pb2_grpc"):  # what the servicer did not override
            behaviour = _not_implemented(path)
        service, _, name = path.strip("/").partition("/")
        if service not in self._services:
            self._services.append(service)
        request_name, response_name = _names(service, name)
        self._methods[path] = Method(
            path,
            behaviour,
            handler.request_deserializer or _same,
            handler.response_serializer or _same,
            handler.request_streaming,
            handler.response_streaming,
            request_name,
            response_name,
        )


class HandlerContext:
    """What a handler gets as `context` when the call did not come over gRPC: the same names as grpc.aio's."""

    __slots__ = ("_deadline", "_metadata", "_peer", "initial", "trailing")

    def __init__(self, metadata: Metadata, deadline: float | None, peer: str) -> None:
        self._metadata = metadata
        self._deadline = deadline
        self._peer = peer
        self.initial: Metadata = ()
        self.trailing: Metadata = ()

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        """Seconds that the caller still waits; None: for ever."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.initial = tuple(metadata)

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.trailing = tuple(metadata)

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {}

    def cancelled(self) -> bool:
        return False

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        """End the call with a status; handlers of ours raise AerodromeError instead."""
        from aerodrome.stdlib.rpc.status import aerodrome_error

        raise aerodrome_error(
            grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing_metadata), details)
        )


def _not_implemented(path: str) -> Callable[[Any, Any], Any]:
    def behaviour(request: Any, context: Any) -> Any:
        raise Unimplemented(f"{path} is not offered by this server: do without it, or ask a newer release")

    return behaviour


def _decoded(method: Method, data: bytes) -> Any:
    try:
        return method.decode(data)
    except (DecodeError, UnicodeDecodeError) as error:
        name = method.request_name or "the request's type"
        raise InvalidArgument(
            f"the request of {method.path} is not a valid {name} ({error}): send it as the client generated from the "
            "service's contract encodes it"
        ) from error


async def _decoded_stream(method: Method, data: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for each in data:
        yield _decoded(method, each)


def _encoded(method: Method, response: Any) -> bytes:
    return method.encode(response)


def _names(service: str, name: str) -> tuple[str, str]:
    try:
        method = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
    except KeyError:
        return "", ""
    return (method.input_type.full_name, method.output_type.full_name) if method is not None else ("", "")


def _same(data: Any) -> Any:
    return data
