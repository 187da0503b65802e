"""Whatever is sent, the answer is a status in the encoding that was asked for, and never our fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from flyteidl.service import admin_pb2, admin_pb2_grpc, signal_pb2, signal_pb2_grpc
from google.protobuf import message_factory
from google.rpc import status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.admin import gateway
from aerodrome.admin.gateway.bindings import bindings
from aerodrome.stdlib import http
from aerodrome.stdlib.rpc.registry import Registry

SERVICES = [
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    signal_pb2.DESCRIPTOR.services_by_name["SignalService"],
]
KNOWN = bindings(SERVICES)

ENCODINGS = st.sampled_from(["application/octet-stream", "application/json", "*/*"])
RAW = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=20)
NAMES = st.sampled_from(
    ["limit", "token", "filters", "sort_by", "sort_by.key", "sortBy.direction", "id", "id.project", "resource_type"]
) | RAW.map(lambda text: quote(text, safe=""))


class Anything:
    """Answers every method with an empty response."""

    def __init__(self, service: Any) -> None:
        for method in service.methods:
            setattr(self, method.name, self._method(message_factory.GetMessageClass(method.output_type)))

    def _method(self, kind: Any) -> Any:
        async def method(request: Any, context: Any) -> Any:
            return kind()

        return method


class Wire:
    """A server and raw connections to it, on a loop of their own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        registry = Registry()
        registry.add(admin_pb2_grpc.add_AdminServiceServicer_to_server, Anything(SERVICES[0]))
        registry.add(signal_pb2_grpc.add_SignalServiceServicer_to_server, Anything(SERVICES[1]))
        app = web.Application(middlewares=http.middlewares())
        app.add_routes(gateway.routes(registry))
        self._serving = http.listen(app, "127.0.0.1", 0)
        self.port = self.runner.run(self._serving.__aenter__())

    def close(self) -> None:
        self.runner.run(self._serving.__aexit__(None, None, None))
        self.runner.close()

    def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to `data`, which asks for the connection to be closed."""
        return self.runner.run(self._send(data))

    async def _send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(data)
            answer = await reader.read()
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        return int(lines[0].split(" ")[1]), headers, body


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def check(answer: tuple[int, dict[str, str], bytes]) -> None:
    status, headers, body = answer
    assert status < 500 or status == 501
    if status == 200 or headers.get("Content-Type", "").startswith("text/"):
        return
    if headers["Content-Type"] == "application/octet-stream":
        assert status_pb2.Status.FromString(body).code
    else:
        assert json.loads(body)["code"]


def request(verb: str, target: str, accept: str, content_type: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"{verb} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode("latin-1") + body


@settings(max_examples=150, deadline=None)
@given(
    verb=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.lists(
        RAW.map(lambda text: text.replace("?", "")) | st.sampled_from(["executions", "p", "%2F"]), max_size=9
    ),
    query=st.lists(st.tuples(NAMES, RAW), max_size=4),
    accept=ENCODINGS,
)
def test_any_path_and_query(wire: Wire, verb: str, path: list[str], query: list[tuple[str, str]], accept: str) -> None:
    target = "/api/v1/" + "/".join(path) + "?" + "&".join(f"{name}={value}" for name, value in query)
    check(wire.send(request(verb, target, accept, "application/json", b"")))


@settings(max_examples=250, deadline=None)
@given(
    binding=st.sampled_from(KNOWN),
    data=st.data(),
    accept=ENCODINGS,
    content_type=ENCODINGS,
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "spec", "project", "state", "value", "event", "x"]), each, max_size=3
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_body_and_parameter_of_any_call(
    wire: Wire, binding: Any, data: st.DataObject, accept: str, content_type: str, body: bytes
) -> None:
    segment = st.text(min_size=1, max_size=5).filter(lambda text: text.isprintable()) | st.sampled_from(["1", "2"])
    target = "".join(f"/{quote(data.draw(segment), safe='') if each is None else each}" for each in binding.segments)
    fields = [field.name for field in binding.request.fields]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(fields) | NAMES if fields else NAMES, RAW), max_size=3))
    target += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
    check(wire.send(request(binding.verb, target, accept, content_type, body)))


@pytest.mark.parametrize(
    "more",
    ["Grpc-Timeout: x\r\n", "Grpc-Metadata-A-Bin: ~\r\n", "Grpc-Metadata-: x\r\n", "Content-Encoding: gzip\r\n"],
)
def test_headers_that_make_no_sense(wire: Wire, more: str) -> None:
    check(wire.send(request("POST", "/api/v1/projects", "*/*", "application/json", b"{}", more)))


def test_a_body_that_ends_early_breaks_nothing(wire: Wire) -> None:
    async def leave(data: bytes) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(data)
        await writer.drain()
        writer.close()

    data = request("POST", "/api/v1/projects", "*/*", "application/json", b"{}").replace(b"Length: 2", b"Length: 200")
    wire.runner.run(leave(data))
    check(wire.send(request("GET", "/api/v1/projects", "*/*", "", b"")))
