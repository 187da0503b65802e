"""The same over HTTP: whatever is in a path, a query or a body, the client is told what is wrong, and it was not us."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import status_pb2
from hypothesis import given

from aerodrome.admin.gateway.bindings import Binding, bindings

from .checking import MAX_TEXT_BYTES, check_works
from .mutations import TEXTS, noise, spoil
from .test_grpc import UNIMPLEMENTED, seeds, some
from .world import SERVICES, World

KNOWN = bindings(SERVICES)
BINARY, JSON, CAMEL = "application/octet-stream", "application/json", "*/*"
NUMBERS = (0, -1, 1.5, 1e400, 2**31, 2**63, 2**64, 10**40, float("nan"))
ODD_JSON: tuple[Any, ...] = (
    None, True, {}, [], [[]], [None], {"a": 1}, {"seconds": 1}, "\ud800", "RUNNING", "2026-01-01T00:00:00Z", "3.5s",
    "AAA=", "!!", [1] * 1_000, "9" * 5_000, {"x": {"y": {"z": []}}}, *NUMBERS, *TEXTS,
)  # fmt: skip
"""Values that stand where others belong."""
CORRUPTIONS: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda text, at: text[:at],
    lambda text, at: text[:at] + b"\xff\xfe" + text[at:],
    lambda text, at: text[:at] + b"\x00" + text[at:],
    lambda text, at: text[:at] + b"," + text[at:],
    lambda text, at: text[:at] + b'"' + text[at:],
    lambda text, at: text + text,
    lambda text, at: b"\xef\xbb\xbf" + text,
    lambda text, at: text.decode().encode("utf-16"),
    lambda text, at: b"[" * 20_000,
    lambda text, at: b'{"id":' * 20_000,
    lambda text, at: b"[" + text + b"]",
    lambda text, at: b"1" * 20_000,
    lambda text, at: b"-",
    lambda text, at: b"// no\n" + text,
    lambda text, at: text[:-1] + b', "id": 1, "id": 2}',
)
"""Texts that are no JSON, or none that was asked for."""
PIECES = (
    "", "=", "&", "limit=", "limit=-1", "limit=1e3", "limit=99999999999", "token=x", "id=1", "id.project=", "..=1", ";",
    "sort_by.key=%00", "sort_by=x", "sort_by.direction=77", "filters=%ff", "filters=eq(", "%=%", "a" * 5_000 + "=1",
    "+", "resource_type=TASK", "resource_type=-1", "unique_parent_id=%F0", "id.name=a&id.name=b", "[]=1",
)  # fmt: skip
"""What a query may consist of."""


@pytest.mark.parametrize("accept", [BINARY, JSON, CAMEL])
def test_good_requests_are_accepted(platform: World, accept: str) -> None:
    for binding in KNOWN:
        request = platform.requests(binding.method.name)[0]
        body = as_json(request) if accept != BINARY else request.SerializeToString()
        status, answer, _ = platform.send(
            binding.verb, target(binding, request), inner(binding, request, body), headers(accept, accept)
        )
        if binding.method.name in UNIMPLEMENTED:
            assert status == 501, (binding.template, answer)
        else:
            assert status in (200, 400, 404, 409), (binding.template, answer)  # not every path can carry all of it
            assert status != 400 or binding.body != "*" or binding.variables, (binding.template, answer)


@some
@given(seeds)
def test_protobuf_bodies(platform: World, seed: int) -> None:
    chance = Random(seed)
    for _ in range(10):
        binding = chance.choice([each for each in KNOWN if each.body])
        request = chance.choice(platform.requests(binding.method.name))
        data = (spoil if chance.random() < 0.7 else noise)(chance, request)
        check(platform, binding, target(binding, request), data, headers(BINARY, any_of(chance)))


@some
@given(seeds)
def test_json_bodies(platform: World, seed: int) -> None:
    chance = Random(seed)
    for _ in range(10):
        binding = chance.choice([each for each in KNOWN if each.body])
        request = chance.choice(platform.requests(binding.method.name))
        value = MessageToDict(request, preserving_proto_field_name=chance.random() < 0.5)
        if chance.random() < 0.8:
            for _ in range(chance.choice((1, 1, 2))):
                place(chance, value)
        body = json.dumps(value).encode()
        if chance.random() < 0.3:
            body = chance.choice(CORRUPTIONS)(body, chance.randrange(len(body) + 1))
        kind = chance.choice((JSON, JSON, CAMEL, "text/plain", "application/x-www-form-urlencoded", ""))
        check(platform, binding, target(binding, request), body, headers(kind, any_of(chance)))


@some
@given(seeds)
def test_paths_and_queries(platform: World, seed: int) -> None:
    chance = Random(seed)
    for _ in range(10):
        binding = chance.choice(KNOWN)
        request = chance.choice(platform.requests(binding.method.name))
        where = target(binding, request, chance)
        if chance.random() < 0.7:
            where += "?" + "&".join(chance.choice(PIECES) for _ in range(chance.choice((1, 2, 5))))
        check(platform, binding, where, b"{}" if binding.body else b"", headers(JSON, any_of(chance)))


def test_a_body_of_ten_million_characters(platform: World) -> None:
    for binding in (each for each in KNOWN if each.body):
        if binding.method.name not in ("CreateTask", "CreateExecution", "RegisterProject", "UpdateNamedEntity"):
            continue
        request = platform.requests(binding.method.name)[0]
        value = json.loads(as_json(request))
        next(iter(texts(value)))[0] = "x" * 10_000_000
        check(platform, binding, target(binding, request), json.dumps(value).encode(), headers(JSON, JSON))


@pytest.fixture(scope="module", autouse=True)
def goes_on(platform: World) -> Iterator[None]:
    yield
    check_works(platform)


def check(platform: World, binding: Binding, where: str, body: bytes, given_headers: dict[str, str]) -> None:
    """The client is to blame, or nobody; what is refused, and what only reads, leaves nothing behind."""
    before = platform.stored()
    status, answer, sent = platform.send(binding.verb, where, body, given_headers)
    told = f"{binding.verb} {where[:500]} {given_headers}\n{body[:2_000]!r}\n{status} {answer[:2_000]!r}"
    assert status < 500 or status == 501, told
    assert b"Traceback" not in answer, told
    assert b'File "' not in answer, told
    if status == 200:
        assert binding.method.name not in UNIMPLEMENTED, told
    else:
        assert refusal(answer, sent.get("Content-Type", "")), told
        assert len(answer) <= 6 * MAX_TEXT_BYTES, told
    if status != 200 or binding.verb == "GET":
        after = platform.stored()
        for _ in range(
            3
        ):  # something in the background may have had its turn; what the request leaves, it leaves again
            if after == before:
                break
            before = platform.stored()
            platform.send(binding.verb, where, body, given_headers)
            after = platform.stored()
        assert after == before, told


def refusal(answer: bytes, content_type: str) -> str:
    """The text of a refusal, in whatever encoding it came."""
    if content_type.startswith(BINARY):
        return str(status_pb2.Status.FromString(answer).message)
    if content_type.startswith("text/"):
        return answer.decode()
    return str(json.loads(answer)["message"])


def target(binding: Binding, request: Message, chance: Random | None = None) -> str:
    """The path, with what `request` holds in the place of variables, or, now and then, with anything."""
    values: Iterator[str] = iter([value_at(request, path) for path in binding.variables])
    found = ""
    for segment in binding.segments:
        text = next(values) if segment is None else segment
        if segment is None and chance is not None and chance.random() < 0.5:
            text = chance.choice(TEXTS)[:3_000]
            found += "/" + (text.replace(" ", "+") if text.isascii() and text.isalnum() else quote(text, safe=""))
            if chance.random() < 0.1:
                found += chance.choice(("%", "%ff", "%2", "/", "//", "/.."))
            continue
        found += "/" + quote(text, safe="")
    return found


def value_at(request: Message, path: Any) -> str:
    value: Any = request
    for step in path:
        value = getattr(value, step.name)
    last = path[-1]
    if last.enum_type is not None:
        return str(last.enum_type.values_by_number[value].name)
    return str(value) or "x"


def inner(binding: Binding, request: Message, body: bytes) -> bytes:
    """The part of a request that belongs into the body."""
    if not binding.body or binding.body == "*":
        return body if binding.body else b""
    part = getattr(request, binding.body)
    return as_json(part) if body.startswith(b"{") else part.SerializeToString()


def headers(content_type: str, accept: str) -> dict[str, str]:
    return {"Accept": accept} | ({"Content-Type": content_type} if content_type else {})


def any_of(chance: Random) -> str:
    return chance.choice((BINARY, JSON, CAMEL, "image/png"))


def as_json(request: Message) -> bytes:
    return json.dumps(MessageToDict(request)).encode()


def place(chance: Random, value: Any) -> None:
    """Replace, remove or add one thing in a JSON value."""
    containers = [each for each in walk(value) if each]
    if not containers:
        return
    chosen: Any = chance.choice(containers)
    key = chance.choice(list(chosen) if isinstance(chosen, dict) else list(range(len(chosen))))
    match chance.randrange(5):
        case 0:
            del chosen[key]
        case 1 if isinstance(chosen, dict):
            chosen[chance.choice(("unknown", "@type", "", "id", "__class__"))] = chance.choice(ODD_JSON)
        case 2:
            chosen[key] = [chosen[key]]
        case _:
            chosen[key] = chance.choice(ODD_JSON)


def walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from walk(each)
    elif isinstance(value, list):
        yield value
        for each in value:
            yield from walk(each)


def texts(value: Any) -> Iterator[Any]:
    """Every text of a JSON value, as something whose item 0 can be set."""
    for container in walk(value):
        for key in container if isinstance(container, dict) else range(len(container)):
            if isinstance(container[key], str):
                yield _Place(container, key)


class _Place:
    def __init__(self, container: Any, key: Any) -> None:
        self._container = container
        self._key = key

    def __setitem__(self, _: int, value: str) -> None:
        self._container[self._key] = value
