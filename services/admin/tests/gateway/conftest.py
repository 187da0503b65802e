"""A gateway over servicers that note what they are asked and answer what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from flyteidl.service import (
    admin_pb2_grpc,
    dataproxy_pb2_grpc,
    identity_pb2_grpc,
    signal_pb2_grpc,
)
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from aerodrome.admin import gateway
from aerodrome.stdlib import http
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.rpc.registry import Registry

BINARY = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}
SNAKE = {"Accept": "application/json"}

MAX_BODY_BYTES = 4 * 1024 * 1024


class Fake:
    """Every method of a service: notes the request and the metadata, gives the answer or the error that was set."""

    def __init__(self, service: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, Message | AerodromeError | Callable[[Any], Any]] = {}
        self.initial: tuple[tuple[str, str], ...] = ()
        self._service = descriptor_pool.Default().FindServiceByName(f"flyteidl.service.{service}")

    @property
    def request(self) -> Any:
        """Of the last call."""
        return self.calls[-1][1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        kind = self._service.methods_by_name[name].output_type

        async def method(request: Any, context: Any) -> Any:
            self.calls.append((name, request))
            self.metadata = dict(context.invocation_metadata())
            await context.send_initial_metadata(self.initial)
            answer = self.answers.get(name)
            if isinstance(answer, AerodromeError):
                raise answer
            if callable(answer):
                answer = await answer(request)
            return answer if answer is not None else message_factory.GetMessageClass(kind)()

        return method


class Platform:
    """What tests speak to."""

    def __init__(self, url: str, admin: Fake, dataproxy: Fake, signals: Fake, identity: Fake) -> None:
        self.url = url
        self.admin = admin
        self.dataproxy = dataproxy
        self.signals = signals
        self.identity = identity
        self.session: aiohttp.ClientSession

    async def send(
        self,
        verb: str,
        path: str,
        *,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, Any]:
        """Status, body and headers of an answer; the path goes out as it is written."""
        import yarl

        url = yarl.URL(self.url + path, encoded=True)
        skip = () if headers and "Content-Type" in headers else ("Content-Type",)
        async with self.session.request(
            verb, url, data=body, headers=headers, skip_auto_headers=("Accept", *skip), allow_redirects=False
        ) as response:
            return response.status, await response.read(), response.headers


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    fakes = [Fake(name) for name in ("AdminService", "DataProxyService", "SignalService", "IdentityService")]
    registry = Registry()
    for add, fake in zip(
        (
            admin_pb2_grpc.add_AdminServiceServicer_to_server,
            dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server,
            signal_pb2_grpc.add_SignalServiceServicer_to_server,
            identity_pb2_grpc.add_IdentityServiceServicer_to_server,
        ),
        fakes,
        strict=True,
    ):
        registry.add(add, fake)
    app = web.Application(middlewares=http.middlewares(), client_max_size=MAX_BODY_BYTES)
    app.add_routes(gateway.routes(registry))
    async with asyncio.timeout(60), http.listen(app, "127.0.0.1", 0) as port:
        made = Platform(f"http://127.0.0.1:{port}", *fakes)
        async with aiohttp.ClientSession() as session:
            made.session = session
            yield made
