"""What stands around every HTTP handler, through a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.stdlib import http
from aerodrome.stdlib.errors import FailedPrecondition, NotFound, Unavailable
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.rpc.oneport import OnePort


def application(**options: Any) -> web.Application:
    app = web.Application(middlewares=http.middlewares(**options), client_max_size=1_000)

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def large(request: web.Request) -> web.Response:
        return web.Response(text="x" * 100_000)

    async def framed(request: web.Request) -> web.Response:
        return web.Response(text="deck", headers={"Content-Security-Policy": "sandbox"})

    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("a secret of the server")

    async def missing(request: web.Request) -> web.Response:
        raise NotFound("no such thing")

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError("a secret of the server")

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await http.read_body(request, idle_seconds=0.1))

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/hello")

    app.add_routes(
        [
            web.get("/hello", hello),
            web.get("/large", large),
            web.get("/framed", framed),
            web.get("/broken", broken),
            web.get("/missing", missing),
            web.get("/half", half),
            web.get("/moved", moved),
            web.post("/echo", echo),
        ]
    )
    return app


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with http.listen(application(), "127.0.0.1", 0) as found:
        yield found


async def send(
    port: int, path: str, headers: dict[str, str] | None = None, *, verb: str = "GET", body: bytes | None = None
) -> tuple[int, str, Any]:
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}{path}"
        async with session.request(verb, url, headers=headers, data=body, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:30080", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:30080", 200),
        ("[::1]", 200),
        ("[::1]:30080", 200),
        ("evil.example", 421),
        ("evil.example:30080", 421),
        ("localhost.evil.example", 421),
        ("evil.example@localhost", 421),
        ("localhost:30080:1", 421),
        ("127.0.0.2", 421),
        ("[::2]:30080", 421),
        ("10.0.0.1:30080", 421),
        ("", 421),
    ],
)
async def test_only_names_of_this_machine_are_answered(port: int, host: str, status: int) -> None:
    found, text, _ = await send(port, "/hello", {"Host": host})
    assert found == status
    assert (text == "hello") == (status == 200)
    assert status == 200 or "localhost" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "surprise"}, 403),
        ({"Origin": "http://localhost:30080"}, 200),
        ({"Origin": "https://localhost:30080"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "http://127.0.0.1:30080"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://localhost:30080", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize("verb", ["GET", "OPTIONS", "POST"])
async def test_pages_of_other_origins_are_refused(port: int, headers: dict[str, str], status: int, verb: str) -> None:
    found, text, answered = await send(port, "/hello", {"Host": "localhost:30080", **headers}, verb=verb)
    if status == 200:
        assert found in (200, 405)
    else:
        assert found == status
        assert "identity" in text
    assert "Access-Control-Allow-Origin" not in answered


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_a_name_is_local_only_as_it_is_written(host: str) -> None:
    name = http._host_name(host)
    if name in http.LOOPBACK_HOSTS:
        rest = host.lower().removeprefix(name)
        assert rest == "" or (rest[0] == ":" and rest[1:].isdigit())


async def test_two_host_headers_are_none(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert b" 200 " not in answer.split(b"\r\n")[0]


async def test_other_names_may_be_allowed() -> None:
    async with http.listen(application(allowed_hosts=["flyte.example"]), "127.0.0.1", 0) as port:
        assert (await send(port, "/hello", {"Host": "flyte.example"}))[0] == 200
        assert (await send(port, "/hello", {"Host": "localhost"}))[0] == 421


async def test_with_identity_origins_may_be_shared() -> None:
    cors = http.Cors(origins=["https://console.example"])
    async with http.listen(application(allowed_hosts=None, cors=cors), "127.0.0.1", 0) as port:
        origin = {"Origin": "https://console.example", "Host": "flyte.example"}
        status, _, headers = await send(port, "/hello", origin)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://console.example")
        assert headers["Access-Control-Allow-Credentials"] == "true"
        asked = {**origin, "Access-Control-Request-Method": "PUT"}
        status, _, headers = await send(port, "/anything", asked, verb="OPTIONS")
        assert (status, "PUT" in headers["Access-Control-Allow-Methods"]) == (200, True)
        assert "flyte-authorization" in headers["Access-Control-Allow-Headers"]
        _, _, headers = await send(port, "/hello", {"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in headers
    with pytest.raises(FailedPrecondition, match="without identity"):
        http.middlewares(cors=cors)


async def test_every_answer_carries_the_protections_that_it_does_not_set_itself(port: int) -> None:
    for path in ("/hello", "/nowhere", "/broken"):
        headers = (await send(port, path))[2]
        for name, value in http.SECURITY_HEADERS.items():
            assert headers[name] == value
        assert headers["Server"] == "aerodrome"
    assert (await send(port, "/framed"))[2]["Content-Security-Policy"] == "sandbox"


async def test_errors_are_short_texts(port: int) -> None:
    status, text, _ = await send(port, "/missing")
    assert (status, text) == (404, "no such thing\n")
    status, text, _ = await send(port, "/nowhere")
    assert (status, "nowhere" in text) == (404, False)
    with capture() as lines:
        status, text, headers = await send(port, "/broken")
    assert (status, "secret" in text, "Traceback" in text) == (500, False, False)
    assert headers["X-Request-Id"] in text
    assert next(line for line in lines if line["msg"] == "handler failed")["request_id"] == headers["X-Request-Id"]
    status, _, headers = await send(port, "/moved")
    assert (status, headers["Location"]) == (302, "/hello")


async def test_an_answer_that_breaks_off_is_not_continued_with_another(port: int) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await send(port, "/half")


async def test_each_request_has_one_line_without_its_query(port: int) -> None:
    with capture() as lines:
        await send(port, "/hello?token=secret", {"X-Request-Id": "r-1"})
        await send(port, "/hello", {"Host": "evil.example", "Origin": "https://evil.example"})
    found = [line for line in lines if line["msg"] == "http request"]
    assert [(line["level"], line["method"], line["path"], line["status"]) for line in found] == [
        ("debug", "GET", "/hello", 200),
        ("info", "GET", "/hello", 421),
    ]
    assert found[0]["request_id"] == "r-1"
    assert found[1]["host"] == "evil.example"
    assert "secret" not in str(found)


@pytest.mark.parametrize("sent", ["", "has space", "x" * 200, "é"])
async def test_an_id_that_no_log_should_hold_is_replaced(port: int, sent: str) -> None:
    headers = (await send(port, "/hello", {"X-Request-Id": sent}))[2]
    assert headers["X-Request-Id"].startswith("a-")


async def test_large_answers_are_compressed_for_clients_that_take_it(port: int) -> None:
    status, text, headers = await send(port, "/large", {"Accept-Encoding": "gzip, br"})
    assert (status, len(text), headers["Content-Encoding"]) == (200, 100_000, "gzip")
    assert "Content-Encoding" not in (await send(port, "/large", {"Accept-Encoding": "identity"}))[2]
    assert "Content-Encoding" not in (await send(port, "/hello", {"Accept-Encoding": "gzip"}))[2]


async def test_a_body_is_read_up_to_the_limit(port: int) -> None:
    assert (await send(port, "/echo", verb="POST", body=b"x" * 1_000))[:2] == (200, "x" * 1_000)
    assert (await send(port, "/echo", verb="POST", body=b"x" * 1_001))[0] == 413
    assert (await send(port, "/echo", verb="POST"))[:2] == (200, "")


async def exchange(port: int, data: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_chunked_body_is_bounded_too(port: int) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await exchange(port, head + b"1000\r\n" + b"x" * 0x1000 + b"\r\n0\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0]


async def test_a_body_that_pauses_is_given_up(port: int) -> None:
    answer = await exchange(port, b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
    assert b" 408 " in answer.split(b"\r\n")[0]


async def test_a_connection_that_does_not_ask_is_closed() -> None:
    async with serving_on_a_port(header_seconds=0.05) as port:
        assert await exchange(port, b"GET /hello HTTP/1.1\r\nHost: loc") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(20):
                assert b" 200 " in await reader.readuntil(b"hello")
            await asyncio.sleep(0.1)  # longer than silence is tolerated; a connection that asked is left alone
        writer.close()


@asynccontextmanager
async def serving_on_a_port(**options: Any) -> AsyncIterator[int]:
    async with http.serving(application(), **options) as make:
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]


async def test_a_connection_after_the_end_is_told_so() -> None:
    async with http.serving(application()) as make:
        pass
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await exchange(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_requests_in_progress_are_finished_at_the_end() -> None:
    started, go = asyncio.Event(), asyncio.Event()
    app = application()

    async def slow(request: web.Request) -> web.Response:
        started.set()
        await go.wait()
        return web.Response(text="done")

    app.router.add_get("/slow", slow)
    async with http.listen(app, "127.0.0.1", 0) as port:
        asking = asyncio.create_task(send(port, "/slow"))
        await asyncio.wait_for(started.wait(), 20)
        asyncio.get_running_loop().call_soon(go.set)
    assert (await asking)[:2] == (200, "done")


async def test_a_port_that_is_taken_is_named() -> None:
    async with http.listen(application(), "127.0.0.1", 0) as port:
        with pytest.raises(Unavailable, match=str(port)):
            async with http.listen(application(), "127.0.0.1", port):
                pass
    with pytest.raises(FailedPrecondition, match=r"192\.0\.2\.1"):
        async with http.listen(application(), "192.0.2.1", 0):
            pass


async def test_it_shares_a_port(tmp_path: Path) -> None:
    async with (
        http.serving(application()) as make,
        OnePort("127.0.0.1", 0, tmp_path / "grpc.sock", make) as one,
    ):
        assert (await send(one.port, "/hello"))[:2] == (200, "hello")
        assert (await send(one.port, "/hello", {"Host": "evil.example"}))[0] == 421
