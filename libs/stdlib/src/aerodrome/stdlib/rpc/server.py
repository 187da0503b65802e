"""The gRPC server: a registry on grpc.aio, with health and reflection, for the network or a Unix socket.

Requests arrive here as bytes and are decoded behind the doors: left to grpc, one that cannot be decoded would be
answered with INTERNAL.  Keepalive is permissive, because flytekit pings every 30 s without calls and a server with
the library's defaults answers GOAWAY.  Source: spec/control-plane.md, section 0.1.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, Unavailable
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.accepting import new_server
from aerodrome.stdlib.rpc.registry import Call, Door, Metadata, Method, Registry
from aerodrome.stdlib.rpc.status import DETAILS_KEY, outcome

log = get_logger(__name__)

HEALTH_NAMES = ("", "flyteadmin")
"""The services that answer SERVING; probes of Flyte ask for the second."""


class RpcServer:
    """A gRPC server over a registry; open it with `async with`, or `start` and `stop`.

    `address` is `host:port` (port 0: a free one) or `unix:/path`; nothing but loopback unless told.
    `max_message_bytes` bounds requests.  `tls` is (private key, certificate chain) in PEM.
    """

    def __init__(
        self,
        *doors: Door,
        address: str = "127.0.0.1:0",
        max_message_bytes: int = 64 * 1024 * 1024,
        registry: Registry | None = None,
        reflection: bool = True,
        tls: tuple[bytes, bytes] | None = None,
        health_names: Sequence[str] = HEALTH_NAMES,
    ) -> None:
        if registry is not None and doors:
            raise FailedPrecondition("doors belong to the registry when one is given")
        self.registry = registry if registry is not None else Registry(doors)
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._reflection = reflection
        self._tls = tls
        self._health_names = tuple(health_names)
        self._health: Any = None
        self._server: Any = None
        self.port = 0
        """The port that was bound; 0 for a Unix socket."""

    @property
    def address(self) -> str:
        """Where clients connect to, with the port that was bound."""
        if self._address.startswith("unix:"):
            return self._address
        return f"{self._address.rpartition(':')[0]}:{self.port}"

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Serve the methods of `servicer`, by the generated `add_XServicer_to_server`."""
        self.registry.add(add_to_server, servicer)

    async def start(self) -> None:
        """Bind and serve; raises Unavailable, naming the address, if it is taken."""
        server = new_server(
            (
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.max_metadata_size", 64 * 1024),
            )
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((_Handlers(self.registry),))
        if self._reflection:
            names = (*self.registry.services, health.SERVICE_NAME, "grpc.reflection.v1alpha.ServerReflection")
            reflection.enable_server_reflection(names, server)
        self._bind(server)
        await server.start()
        self._server = server
        for name in self._health_names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("grpc serving", address=self.address)

    def _bind(self, server: Any) -> None:
        if self._address.startswith("unix:"):
            path = Path(self._address.removeprefix("unix:"))
            path.unlink(missing_ok=True)  # of a server that was killed; the directory is ours alone
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(self._address)
            else:
                self.port = server.add_secure_port(self._address, grpc.ssl_server_credentials([self._tls]))
        except RuntimeError as error:
            raise Unavailable(
                f"{self._address} cannot be listened on: another process uses it, or it is not an address of this "
                "machine; "
                "end that process or choose another port"
            ) from error
        if self._address.startswith("unix:"):
            self.port = 0
            os.chmod(self._address.removeprefix("unix:"), 0o600)

    async def set_serving(self, serving: bool) -> None:
        """What health answers from now on."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._health_names:
            await self._health.set(name, status)

    async def stop(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """Say NOT_SERVING, refuse new calls, let running ones finish for up to `grace`, then cancel them."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._health.enter_graceful_shutdown()
        await server.stop(grace.total_seconds())
        if self._address.startswith("unix:"):
            Path(self._address.removeprefix("unix:")).unlink(missing_ok=True)

    async def run(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """Serve until cancelled, then drain."""
        await self.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.stop(grace)

    async def __aenter__(self) -> RpcServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _Handlers(grpc.GenericRpcHandler):
    """Finds methods of the registry for grpc; messages pass as bytes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        made = self._made.get(path)
        if made is None:
            method = self._registry.find(path)
            if method is None:
                return None
            made = self._made[path] = self._make(method)
        return made

    def _make(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        registry = self._registry

        async def unary(data: bytes, context: Any) -> Any:
            try:
                return await registry.run_unary(method, data, _call(method, context), context)
            except AerodromeError as error:
                await _abort(context, error)

        async def stream(data: bytes | AsyncIterator[bytes], context: Any) -> None:
            try:
                await registry.run_stream(method, data, _call(method, context), context, context.write)
            except AerodromeError as error:
                await _abort(context, error)

        async def stream_to_unary(data: AsyncIterator[bytes], context: Any) -> Any:
            answers: list[bytes] = []

            async def keep(answer: bytes) -> None:
                answers.append(answer)

            try:
                await registry.run_stream(method, data, _call(method, context), context, keep)
            except AerodromeError as error:
                await _abort(context, error)
            return answers[0]

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.request_streaming, method.response_streaming]
        handler = stream if method.response_streaming else stream_to_unary if method.request_streaming else unary
        made: grpc.RpcMethodHandler[Any, Any] = make(handler)
        return made


def _call(method: Method, context: Any) -> Call:
    remaining: float | None = context.time_remaining()
    metadata: Metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
    return Call(method.path, metadata, None if remaining is None else time.monotonic() + remaining, context.peer())


async def _abort(context: Any, error: AerodromeError) -> None:
    code, message, details = outcome(error)
    kept = tuple(context.trailing_metadata() or ())
    await context.abort(code, message, (*kept, (DETAILS_KEY, details)) if details is not None else kept)
