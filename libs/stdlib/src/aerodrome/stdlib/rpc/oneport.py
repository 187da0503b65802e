"""One public port for gRPC and HTTP: the connection's first bytes say which it is.

HTTP/2 begins with a fixed preface; what begins so is spliced, byte for byte, to the gRPC server on a Unix socket.
Anything else is handed, with the bytes already read, to an HTTP protocol in this process.  Both loops (asyncio,
uvloop) carry it: protocols and transports, no streams.  Source: design.md, section 4, "One port".
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from aerodrome.stdlib.errors import FailedPrecondition, Unavailable
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How every HTTP/2 connection with prior knowledge begins (RFC 9113, section 3.4)."""

_ENOUGH = 14
"""Bytes of the preface that no HTTP/1 request can begin with."""

_WRITE_HIGH_BYTES = 256 * 1024
"""How much may wait to be written to one side before reading from the other stops."""

_BACKLOG = 512


class AddressInUse(Unavailable):
    """The port is taken; the message names it and says what to do."""


class OnePort:
    """The listener of one address.

    `http_protocol_factory` makes one protocol per connection, such as aiohttp's `web.Server`; from then on the
    connection is the protocol's business.  A connection that does not say what it wants within `silence` is closed.
    Port 0 takes a free one, found in `port` after `start`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        grpc_uds_path: Path | str,
        http_protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        silence: timedelta = timedelta(seconds=90),
    ) -> None:
        self.host = host
        self.port = port
        self._grpc_path = str(grpc_uds_path)
        self._make_http = http_protocol_factory
        self._silence_seconds = silence.total_seconds()
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Opening | _Splice] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def splices(self) -> int:
        """How many gRPC connections are open."""
        return sum(isinstance(each, _Splice) for each in self._connections)

    async def start(self) -> None:
        """Listen.

        Raises AddressInUse if somebody else listens there, and FailedPrecondition if the address is not of this
        machine or may not be used.
        """
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise FailedPrecondition(f"{self.host!r} is not an address to listen on: {error.strerror}") from error
        sockets = self._bind([(family, address) for family, _, _, _, address in infos])
        self.port = sockets[0].getsockname()[1]
        for each in sockets:
            self._servers.append(await loop.create_server(lambda: _Opening(self), sock=each, backlog=_BACKLOG))
        log.info("listening", address=f"{self.host}:{self.port}")

    def _bind(self, addresses: Sequence[tuple[int, Any]]) -> list[socket.socket]:
        """One listening socket per address; an address family that the machine lacks is left out if another is
        there."""
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for family, address in dict.fromkeys(addresses):
            port = sockets[0].getsockname()[1] if sockets else self.port
            try:
                sockets.append(_listen(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    missing = error
                    continue
                for each in sockets:
                    each.close()
                raise self._refused(error) from error
        if not sockets:
            raise self._refused(missing or OSError(errno.EADDRNOTAVAIL, "no address")) from missing
        return sockets

    def _refused(self, error: OSError) -> FailedPrecondition | AddressInUse:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(
                f"port {self.port} is already in use on {self.host}: stop the program that listens there (perhaps "
                "another "
                f"Aerodrome; `ss -ltnp sport = :{self.port}` shows it), or choose another port"
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return FailedPrecondition(f"port {self.port} needs more rights than this user has: choose one above 1023")
        return FailedPrecondition(f"{self.host}:{self.port} cannot be listened on: {error.strerror or error}")

    async def stop(self, grace: timedelta = timedelta(0)) -> None:
        """Accept no more, wait up to `grace` for the gRPC connections to end, then cut them off."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._quiet.wait()
        except TimeoutError:
            pass
        for each in list(self._connections):
            each.abort()

    async def __aenter__(self) -> OnePort:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # for the connections

    def keep(self, connection: _Opening | _Splice) -> None:
        self._connections.add(connection)
        self._quiet.clear()

    def forget(self, connection: _Opening | _Splice) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._quiet.set()


class _Opening(asyncio.Protocol):
    """A connection that has not said yet what it speaks."""

    def __init__(self, port: OnePort) -> None:
        self._port = port
        self._transport: Any = None
        self._said = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._port.keep(self)
        self._timer = asyncio.get_running_loop().call_later(self._port._silence_seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        self._said = said = self._said + data if self._said else data
        if said[:_ENOUGH] == PREFACE[:_ENOUGH]:
            self._over()
            _Splice(self._port, self._transport, said)
        elif not PREFACE.startswith(said):
            self._over()
            protocol: Any = self._port._make_http()
            self._transport.set_protocol(protocol)
            protocol.connection_made(self._transport)
            protocol.data_received(said)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def abort(self) -> None:
        self._transport.abort()

    def _over(self) -> None:
        self._port.forget(self)
        if self._timer is not None:
            self._timer.cancel()


class _Splice:
    """Two transports joined: what one side sends, ends or pauses, the other sees."""

    def __init__(self, port: OnePort, client: asyncio.Transport, said: bytes) -> None:
        self._port = port
        self._client = _Side(self, client)
        self._server = _Side(self, None)
        self._client.peer, self._server.peer = self._server, self._client
        self._ends = 0
        port.keep(self)
        client.set_protocol(self._client)
        client.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        client.pause_reading()
        self._waiting = said
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self._server, self._port._grpc_path)
        except OSError as error:
            log.warning("grpc server cannot be reached", path=self._port._grpc_path, error=str(error))
            self.abort()

    def connected(self, server: asyncio.Transport) -> None:
        """The gRPC server took the connection: pass on what was read so far, and go on reading."""
        server.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        server.write(self._waiting)
        self._waiting = b""
        client = self._client.transport
        if client is None or client.is_closing():
            server.close()
        else:
            client.resume_reading()

    def ended(self) -> None:
        """One side has nothing more to say; when both have, the connection is over."""
        self._ends += 1
        if self._ends == 2:
            self._client.close()
            self._server.close()

    def lost(self, side: _Side, error: Exception | None) -> None:
        """One side is gone: what it still sent is delivered, unless it went with an error."""
        peer = side.peer
        if error is not None:
            peer.abort()
        else:
            peer.close()
        self._connecting.cancel()
        if self._client.gone and self._server.gone:
            self._port.forget(self)

    def abort(self) -> None:
        self._client.abort()
        self._server.abort()


class _Side(asyncio.Protocol):
    """One end of a splice; `transport` is None until it is connected."""

    peer: _Side

    def __init__(self, splice: _Splice, transport: asyncio.Transport | None) -> None:
        self._splice = splice
        self.transport = transport
        self.gone = transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Transports of other loops than asyncio's are none of its classes; they have the same methods.
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        connected = cast(asyncio.Transport, transport)
        self.transport = connected
        self.gone = False
        self._splice.connected(connected)

    def data_received(self, data: bytes) -> None:
        transport = self.peer.transport
        if transport is not None:
            transport.write(data)

    def eof_received(self) -> bool:
        transport = self.peer.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()
        self._splice.ended()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        self._reading(False)

    def resume_writing(self) -> None:
        self._reading(True)

    def _reading(self, on: bool) -> None:
        transport = self.peer.transport
        if transport is None or transport.is_closing():
            return
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._splice.lost(self, exc)

    def close(self) -> None:
        if self.transport is not None and not self.gone:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None and not self.gone:
            self.transport.abort()


def _listen(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
