import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from aiohttp import ClientSession, web
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aerodrome.stdlib.errors import FailedPrecondition, Unavailable
from aerodrome.stdlib.rpc.client import network_channel
from aerodrome.stdlib.rpc.oneport import PREFACE, AddressInUse, OnePort
from aerodrome.stdlib.rpc.server import RpcServer


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test's coroutine on each of the loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


class Mirror(asyncio.Protocol):
    """A server on a Unix socket that sends back what it gets, and ends when the other does."""

    def __init__(self) -> None:
        self.got = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.transport.write(data)

    def eof_received(self) -> bool:
        self.transport.write(b"[end]")
        self.transport.write_eof()
        return False


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "grpc.sock"


def no_http() -> asyncio.Protocol:
    raise AssertionError("nothing speaks HTTP here")


async def web_server() -> web.Server:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=f"{request.method} {request.path} {len(await request.read())}")

    return web.Server(answer)


def test_grpc_and_http_share_the_port(run: Callable[[Coroutine[Any, Any, None]], None], sock: Path) -> None:
    async def scene() -> None:
        http = await web_server()
        async with RpcServer(address=f"unix:{sock}"), OnePort("127.0.0.1", 0, sock, http) as port:
            target = f"127.0.0.1:{port.port}"
            async with network_channel(target) as channel, ClientSession() as session:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                for _ in range(3):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service="flyteadmin"))
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                    async with session.post(f"http://{target}/x", data=b"y" * 100_000) as response:
                        assert await response.text() == "POST /x 100000"
                assert port.splices == 1
        await http.shutdown()

    run(scene())


def test_bytes_that_trickle_in_find_their_way(run: Callable[[Coroutine[Any, Any, None]], None], sock: Path) -> None:
    async def scene() -> None:
        http = await web_server()
        mirror = await asyncio.get_running_loop().create_unix_server(Mirror, str(sock))
        async with mirror, OnePort("127.0.0.1", 0, sock, http) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            for byte in PREFACE:
                writer.write(bytes([byte]))
                await writer.drain()
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            for byte in b"PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await http.shutdown()

    run(scene())


def test_an_end_in_one_direction_leaves_the_other_open(
    run: Callable[[Coroutine[Any, Any, None]], None], sock: Path
) -> None:
    async def scene() -> None:
        mirror = await asyncio.get_running_loop().create_unix_server(Mirror, str(sock))
        async with mirror, OnePort("127.0.0.1", 0, sock, no_http) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(PREFACE)
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(5):
                assert await reader.read() == PREFACE + b"[end]"
                while port.splices:  # noqa: ASYNC110 - the splice ends in the loop's next rounds
                    await asyncio.sleep(0)
            writer.close()

    run(scene())


def test_much_data_passes_whole_while_little_of_it_is_held(
    run: Callable[[Coroutine[Any, Any, None]], None], sock: Path
) -> None:
    size = 64 * 1024 * 1024

    async def scene() -> None:
        gate = asyncio.Event()
        read = 0

        async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal read
            await gate.wait()
            while data := await reader.read(1 << 20):
                read += len(data)
            writer.write(b"done")
            writer.close()

        server = await asyncio.start_unix_server(sink, str(sock))
        async with server, OnePort("127.0.0.1", 0, sock, no_http) as port:
            client = socket.create_connection(("127.0.0.1", port.port))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(client, PREFACE + bytes(size)))
            done, _ = await asyncio.wait([sending], timeout=0.3)
            assert not done  # nobody reads at the far end, so the near end waits
            gate.set()
            await sending
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(20):
                assert await loop.sock_recv(client, 10) == b"done"
            assert read == size + len(PREFACE)
            client.close()

    run(scene())


def test_a_connection_that_says_nothing_is_closed(run: Callable[[Coroutine[Any, Any, None]], None], sock: Path) -> None:
    async def scene() -> None:
        async with OnePort("127.0.0.1", 0, sock, no_http, silence=timedelta(milliseconds=50)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            async with asyncio.timeout(5):
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
            writer.close()

    run(scene())


def test_a_client_is_cut_off_when_the_grpc_server_is_not_there(
    run: Callable[[Coroutine[Any, Any, None]], None], sock: Path
) -> None:
    async def scene() -> None:
        async with OnePort("127.0.0.1", 0, sock, no_http) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(PREFACE)
            async with asyncio.timeout(5):
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
            writer.close()

    run(scene())


def test_the_end_of_the_grpc_server_ends_its_clients(
    run: Callable[[Coroutine[Any, Any, None]], None], sock: Path
) -> None:
    async def scene() -> None:
        ends: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ends.append(writer)
            writer.write(await reader.readexactly(len(PREFACE)))

        server = await asyncio.start_unix_server(serve, str(sock))
        async with server, OnePort("127.0.0.1", 0, sock, no_http) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(PREFACE)
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            ends[0].transport.abort()
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()

    run(scene())


def test_stopping_waits_for_its_grace_and_then_cuts_off(
    run: Callable[[Coroutine[Any, Any, None]], None], sock: Path
) -> None:
    async def scene() -> None:
        mirror = await asyncio.get_running_loop().create_unix_server(Mirror, str(sock))
        port = OnePort("127.0.0.1", 0, sock, no_http)
        await port.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(PREFACE)
        await reader.readexactly(len(PREFACE))
        await port.stop(timedelta(milliseconds=20))
        async with asyncio.timeout(5):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.close()
        mirror.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port.port)

    run(scene())


async def test_a_taken_port_is_named_with_what_to_do(sock: Path) -> None:
    async with OnePort("127.0.0.1", 0, sock, no_http) as first:
        second = OnePort("127.0.0.1", first.port, sock, no_http)
        with pytest.raises(
            AddressInUse, match=rf"port {first.port} is already in use on 127\.0\.0\.1: stop .* or choose"
        ):
            await second.start()


async def test_an_address_of_another_machine_is_refused(sock: Path) -> None:
    for host in ("203.0.113.7", "no.such.host.invalid"):
        with pytest.raises(FailedPrecondition):
            await OnePort(host, 0, sock, no_http).start()


async def test_localhost_listens_on_every_loopback_there_is(sock: Path) -> None:
    http = await web_server()
    async with OnePort("localhost", 0, sock, http) as port, ClientSession() as session:
        response = await session.get(f"http://127.0.0.1:{port.port}/")
        assert response.status == 200
    await http.shutdown()


@pytest.fixture
async def server(sock: Path) -> AsyncIterator[RpcServer]:
    async with RpcServer(address=f"unix:{sock}") as server:
        yield server


async def test_a_client_that_pings_without_calls_is_not_sent_away(server: RpcServer, sock: Path) -> None:
    options = {
        "grpc.keepalive_time_ms": 100,
        "grpc.keepalive_timeout_ms": 5_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.http2.min_time_between_pings_ms": 100,
    }
    port = OnePort("127.0.0.1", 0, sock, no_http)
    await port.start()
    async with network_channel(f"127.0.0.1:{port.port}", options=options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        done, _ = await asyncio.wait([changed], timeout=1.2)  # a dozen pings; a default server leaves after the third
        assert not done
        changed.cancel()
        await stub.Check(health_pb2.HealthCheckRequest())
        assert port.splices == 1
    await port.stop()


async def test_a_taken_address_of_the_grpc_server_is_unavailable() -> None:
    async with RpcServer() as first:
        with pytest.raises(Unavailable, match="cannot be listened on"):
            await RpcServer(address=first.address).start()
