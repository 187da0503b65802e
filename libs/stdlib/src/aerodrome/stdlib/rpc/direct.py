"""A channel to servicers in the same process: the calls of generated stubs, without the network.

The same handlers behind the same doors; messages are serialized and parsed, so that neither side sees the other's
objects change; deadline, metadata, status, details and cancellation mean what they mean over gRPC.  The contract
suite in the tests runs over both.  Source: design.md, section 4.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from aerodrome.stdlib.errors import AerodromeError, InvalidArgument, ResourceExhausted, Unimplemented
from aerodrome.stdlib.rpc import context as current
from aerodrome.stdlib.rpc.registry import Call, HandlerContext, Metadata, Method, Registry
from aerodrome.stdlib.rpc.status import DETAILS_KEY, outcome

_BUFFERED_MESSAGES = 16
"""How far one side of a stream may run ahead of the other."""


class HasRegistry(Protocol):
    """A server that can also be called directly."""

    registry: Registry


class DirectChannel(grpc.aio.Channel):
    """What generated stubs take as a channel; answers from the registries given, the first that knows the method.

    Methods that are added to a registry later are found too.  Requests larger than `max_message_bytes` are refused
    as the network's server does it.
    """

    def __init__(self, servers: Iterable[Registry | HasRegistry], *, max_message_bytes: int = 64 * 1024 * 1024) -> None:
        self._registries = tuple(each if isinstance(each, Registry) else each.registry for each in servers)
        self._max_message_bytes = max_message_bytes
        self._running: set[_DirectCall] = set()
        self._closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _Callable(self, method, request_serializer, response_deserializer, _UnaryCall)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _Callable(self, method, request_serializer, response_deserializer, _UnaryStreamCall)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _Callable(self, method, request_serializer, response_deserializer, _StreamUnaryCall)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _Callable(self, method, request_serializer, response_deserializer, _StreamStreamCall)

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, let running ones finish for up to `grace` seconds, then cancel them."""
        self._closed = True
        tasks = [call.task for call in self._running if call.task is not None]
        if tasks and grace:
            await asyncio.wait(tasks, timeout=grace)
        for call in list(self._running):
            call.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state is another one; a direct channel has no other until it is closed."""
        if self.get_state() is last_observed_state:
            await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """Return at once: there is nothing to connect to."""

    async def __aenter__(self) -> DirectChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # for the calls

    def find(self, path: str) -> tuple[Registry, Method] | None:
        for registry in self._registries:
            method = registry.find(path)
            if method is not None:
                return registry, method
        return None

    def check_size(self, data: bytes) -> None:
        if len(data) > self._max_message_bytes:
            raise ResourceExhausted(
                f"SERVER: Received message larger than max ({len(data)} vs. {self._max_message_bytes})"
            )

    def began(self, call: _DirectCall) -> None:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        self._running.add(call)

    def ended(self, call: _DirectCall) -> None:
        self._running.discard(call)


class _Callable:
    """One method of a stub; calling it begins a call."""

    __slots__ = ("channel", "deserialize", "kind", "path", "serialize")

    def __init__(
        self,
        channel: DirectChannel,
        path: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        kind: Callable[..., _DirectCall],
    ) -> None:
        self.channel = channel
        self.path = path
        self.serialize = serialize or bytes
        self.deserialize = deserialize or bytes
        self.kind = kind

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        request_iterator: Any = None,
    ) -> _DirectCall:
        return self.kind(self, request if request_iterator is None else request_iterator, timeout, metadata)


class _DirectCall:
    """A call in progress, with the surface of grpc.aio's; subclasses add how messages go in and out."""

    def __init__(self, stub: _Callable, timeout: float | None, metadata: Any) -> None:
        self._stub = stub
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._context = HandlerContext(_metadata(metadata), self._deadline, "direct")
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._cancelled = False
        self.task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        stub.channel.began(self)
        if timeout is not None and timeout <= 0:
            self._finish(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return
        self.task = self._loop.create_task(self._run())
        if timeout is not None:
            self._timer = self._loop.call_later(timeout, self._expire)

    async def _answer(self, registry: Registry, method: Method, call: Call) -> None:
        """Hand the call to the registry and its answers to the caller."""
        raise NotImplementedError

    async def _run(self) -> None:
        try:
            found = self._stub.channel.find(self._stub.path)
            if found is None:
                raise Unimplemented("Method not found!")
            context = self._context
            call = Call(self._stub.path, context.invocation_metadata(), self._deadline, "direct")
            await self._answer(found[0], found[1], call)
        except AerodromeError as error:
            code, message, details = outcome(error)
            extra: Metadata = () if details is None else ((DETAILS_KEY, details),)
            self._finish(code, message, (*self._context.trailing, *extra))
        except asyncio.CancelledError:
            self._finish(grpc.StatusCode.CANCELLED, "RPC cancelled")
            raise
        except Exception as error:  # noqa: BLE001 - the registry lets out nothing else, so it was the caller's deserializer
            self._finish(grpc.StatusCode.INTERNAL, f"Exception deserializing response! {error!r}")
        else:
            self._finish(grpc.StatusCode.OK, "", self._context.trailing)
        finally:
            self._stub.channel.ended(self)

    def _finish(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        if self._code is not None:
            return
        self._code, self._details, self._trailing = code, details, trailing
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)
        if self.task is None:
            self._stub.channel.ended(self)
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)
        self._closed()

    def _closed(self) -> None:
        """The call has ended; wake whoever waits for messages."""

    def _expire(self) -> None:
        self._finish(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if self.task is not None:
            self.task.cancel()

    def _raise_for_status(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._code is not None and self._code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                self._code,
                grpc.aio.Metadata(*self._context.initial),
                grpc.aio.Metadata(*self._trailing),
                details=self._details,
                debug_error_string="",
            )

    async def _wait(self) -> None:
        """Until the call has ended; cancelling the waiter cancels the call."""
        if self._code is None:
            try:
                await asyncio.shield(self._ended)
            except asyncio.CancelledError:
                self.cancel()
                raise

    # the surface of grpc.aio.Call

    def cancel(self) -> bool:
        if self._code is not None:
            return False
        self._cancelled = True
        self._finish(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        if self.task is not None:
            self.task.cancel()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._code is not None

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._code is not None:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> Any:
        await self._wait()
        return grpc.aio.Metadata(*self._context.initial)

    async def trailing_metadata(self) -> Any:
        await self._wait()
        return grpc.aio.Metadata(*self._trailing)

    async def code(self) -> grpc.StatusCode:
        await self._wait()
        assert self._code is not None
        return self._code

    async def details(self) -> str:
        await self._wait()
        return self._details

    async def debug_error_string(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        """Return at once: there is nothing to connect to."""


class _UnaryCall(_DirectCall):
    def __init__(self, stub: _Callable, request: Any, timeout: float | None, metadata: Any) -> None:
        self._data = stub.serialize(request)
        self._response: Any = None
        super().__init__(stub, timeout, metadata)

    async def _answer(self, registry: Registry, method: Method, call: Call) -> None:
        _require(method, request_streaming=False, response_streaming=False)
        self._stub.channel.check_size(self._data)
        answered = await registry.run_unary(method, self._data, call, self._context)
        self._response = self._stub.deserialize(answered)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._code is None:
            try:
                yield from self._ended.__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        self._raise_for_status()
        return self._response


class _Pipe:
    """Messages from one task to another, a few ahead, until it is closed."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._closed = False
        self._changed: asyncio.Future[None] | None = None

    async def put(self, item: bytes) -> None:
        """Add a message, waiting for room; does nothing once the pipe is closed, as nobody reads it."""
        while len(self._items) >= _BUFFERED_MESSAGES and not self._closed:
            await self._change()
        if not self._closed:
            self._items.append(item)
            self._wake()

    async def get(self) -> bytes | None:
        """The next message, None after the last."""
        while not self._items:
            if self._closed:
                return None
            await self._change()
        item = self._items.popleft()
        self._wake()
        return item

    def close(self, *, discard: bool = False) -> None:
        self._closed = True
        if discard:
            self._items.clear()
        self._wake()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)


class _StreamingCall(_DirectCall):
    """A call with a stream in at least one direction; each subclass exposes what its kind has."""

    request_streaming = False
    response_streaming = False

    def __init__(self, stub: _Callable, request: Any, timeout: float | None, metadata: Any) -> None:
        self._sent = _Pipe()
        self._received = _Pipe()
        self._data = b"" if self.request_streaming else stub.serialize(request)
        self._pump: asyncio.Task[None] | None = None
        super().__init__(stub, timeout, metadata)
        if self.request_streaming and request is not None and self.task is not None:
            self._pump = self._loop.create_task(self._feed(request))

    async def _answer(self, registry: Registry, method: Method, call: Call) -> None:
        _require(method, request_streaming=self.request_streaming, response_streaming=self.response_streaming)
        if not self.request_streaming:
            self._stub.channel.check_size(self._data)
        data: bytes | AsyncIterator[bytes] = self._requests() if self.request_streaming else self._data
        await registry.run_stream(method, data, call, self._context, self._received.put)

    async def _requests(self) -> AsyncIterator[bytes]:
        while (data := await self._sent.get()) is not None:
            self._stub.channel.check_size(data)
            yield data

    async def _feed(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
        except asyncio.CancelledError:
            raise
        except Exception:  # the caller's own iterator failed: the call cannot go on, as over the network
            self.cancel()
            raise
        finally:
            self._sent.close()

    async def _write(self, request: Any) -> None:
        if self._code is not None:
            self._raise_for_status()
            raise asyncio.InvalidStateError("RPC already finished.")
        await self._sent.put(self._stub.serialize(request))

    def _closed(self) -> None:
        self._sent.close(discard=True)
        self._received.close(discard=self._code is not grpc.StatusCode.OK and self._cancelled)
        if self._pump is not None:
            self._pump.cancel()

    async def _read(self) -> Any:
        try:
            data = await self._received.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is not None:
            return self._stub.deserialize(data)
        await self._wait()
        self._raise_for_status()
        return grpc.aio.EOF

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self._read()) is not grpc.aio.EOF:
            yield message


class _UnaryStreamCall(_StreamingCall):
    response_streaming = True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def read(self) -> Any:
        return await self._read()


class _StreamUnaryCall(_StreamingCall):
    request_streaming = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only().__await__()

    async def write(self, request: Any) -> None:
        await self._write(request)

    async def done_writing(self) -> None:
        self._sent.close()

    async def _only(self) -> Any:
        message = await self._read()
        await self._wait()
        self._raise_for_status()
        return message


class _StreamStreamCall(_StreamingCall):
    request_streaming = True
    response_streaming = True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def read(self) -> Any:
        return await self._read()

    async def write(self, request: Any) -> None:
        await self._write(request)

    async def done_writing(self) -> None:
        self._sent.close()


def _require(method: Method, *, request_streaming: bool, response_streaming: bool) -> None:
    if (method.request_streaming, method.response_streaming) != (request_streaming, response_streaming):
        raise Unimplemented(f"{method.path} streams otherwise than it was called")


def _metadata(given: Any) -> Metadata:
    """The caller's metadata, and the id of the call that it serves."""
    pairs: Sequence[tuple[str, Any]] = ()
    if given:
        pairs = tuple(given.items()) if isinstance(given, Mapping) else tuple(given)
    for key, value in pairs:
        if key != key.lower() or not isinstance(value, bytes if key.endswith("-bin") else (str, bytes)):
            raise InvalidArgument(f"metadata {key!r} is not valid: keys are lower case, values of -bin keys are bytes")
    own = current.request_id()
    if own and all(key != current.REQUEST_ID_HEADER for key, _ in pairs):
        return (*pairs, (current.REQUEST_ID_HEADER, own))
    return tuple(pairs)
