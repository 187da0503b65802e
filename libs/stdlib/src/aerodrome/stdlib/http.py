"""HTTP: what stands around every handler, and how an application is served.

An application is made of routes by others and gets its doors here: `web.Application(middlewares=http.middlewares())`.
They give each request an id and one log line, turn errors into short texts, keep foreign web pages out, and compress.
`serving` makes protocols of it for a listener that is shared (`rpc.oneport`), `listen` listens itself.

Without identity anybody who reaches the port may do everything, and every web page that the user has open reaches
loopback.  `guard` therefore answers only to names that mean this machine (a page whose own name was pointed here would
send that name), and refuses requests that a browser says come from elsewhere.  It exempts nothing: not health, not
preflights, not plain links from other sites.  Source: design.md, section 4, "Without identity".
"""

from __future__ import annotations

import asyncio
import re
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web

from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, Kind, Unavailable
from aerodrome.stdlib.logger import bind, get_logger
from aerodrome.stdlib.rpc import context

log = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""The names under which a browser on this machine reaches this machine, and no page elsewhere can pose as."""

COMPRESS_ABOVE_BYTES = 8 * 1024
"""Smaller bodies are sent as they are: compressing would take longer than sending."""

MAX_LINE_BYTES = 64 * 1024
"""Longest request line and header; filters with many values make long URLs."""

IDLE_SECONDS = 60.0
"""How long a request's body may pause."""

KEEPALIVE_SECONDS = 75.0
"""How long a connection may wait for its next request."""

STATUS_OF_KIND: dict[Kind, int] = {
    Kind.CANCELLED: 499,
    Kind.UNKNOWN: 500,
    Kind.INVALID_ARGUMENT: 400,
    Kind.DEADLINE_EXCEEDED: 504,
    Kind.NOT_FOUND: 404,
    Kind.ALREADY_EXISTS: 409,
    Kind.PERMISSION_DENIED: 403,
    Kind.RESOURCE_EXHAUSTED: 429,
    Kind.FAILED_PRECONDITION: 400,
    Kind.ABORTED: 409,
    Kind.OUT_OF_RANGE: 400,
    Kind.UNIMPLEMENTED: 501,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.DATA_LOSS: 500,
    Kind.UNAUTHENTICATED: 401,
}
"""Source: spec/control-plane.md, section 11.3."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'",
}
"""On every response that does not say otherwise itself."""

HEADER_SECONDS = 32.0
"""How long a connection may take until its first request has come with all headers."""

_REFUSED = frozenset((HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST))
_SILENT = web.AppKey("aerodrome_silent", set[asyncio.Protocol])
"""The connections on which no request has come yet."""

_REQUEST_ID = web.RequestKey("aerodrome_request_id", str)
_ACCEPTABLE_ID = re.compile(r"[!-~]{1,128}")
_COMPRESSIBLE = re.compile(r"text/|application/(json|octet-stream|javascript|xml)|image/svg")


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may read answers, for applications that identity protects."""

    origins: Sequence[str] = ("*",)
    """`https://host[:port]`, or `*` for all."""
    headers: Sequence[str] = ("Content-Type", "flyte-authorization")
    """Those that their requests may carry."""


def middlewares(
    *,
    allowed_hosts: Sequence[str] | None = LOOPBACK_HOSTS,
    cors: Cors | None = None,
    compress_above_bytes: int = COMPRESS_ABOVE_BYTES,
) -> list[Any]:
    """The doors of an application, outermost first.

    `allowed_hosts` is what `guard` lets through; None where identity protects the application in its place, which is
    also what `cors` needs.  Raises FailedPrecondition if both are asked for.
    """
    if allowed_hosts is not None and cors is not None:
        raise FailedPrecondition(
            "pages of other origins are never answered without identity: turn CORS off, or authentication on"
        )
    doors: list[Any] = [_door]
    if allowed_hosts is not None:
        doors.append(guard(*allowed_hosts))
    if cors is not None:
        doors.append(allow_origins(cors))
    return [*doors, compress(compress_above_bytes)]


def guard(*allowed_hosts: str) -> Middleware:
    """Refuse requests for other names than `allowed_hosts` (on any port; an IPv6 address in brackets), or from pages
    of other origins.

    A wrong `Host` is answered with 421; a foreign `Origin`, or a `Sec-Fetch-Site` other than `same-origin` and `none`,
    with 403.
    """
    allowed = frozenset(host.lower() for host in allowed_hosts)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refusal(request, allowed)
        if refusal is not None:
            return _text(*refusal, close=True)
        return await handler(request)

    return guarded


def allow_origins(cors: Cors) -> Middleware:
    """Let pages of the origins in `cors` read answers, cookies included; preflights are answered here.

    Source: spec/control-plane.md, section 11.4.
    """
    everybody = "*" in cors.origins
    known = frozenset(origin.lower().rstrip("/") for origin in cors.origins)
    methods = "GET, POST, DELETE, HEAD, PUT, PATCH"
    names = ", ".join(dict.fromkeys(("Content-Type", *cors.headers)))

    @web.middleware
    async def shared(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not (everybody or origin.lower() in known):
            return await handler(request)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
            hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
            response: web.StreamResponse = web.Response(headers=headers)
        else:
            response = await handler(request)
            if response.prepared:
                return response
            response.headers.update(headers)
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        return response

    return shared


def compress(above_bytes: int = COMPRESS_ABOVE_BYTES) -> Middleware:
    """Compress whole bodies of at least `above_bytes` with gzip for clients that take it."""

    @web.middleware
    async def compressed(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if (
            isinstance(response, web.Response)
            and not response.prepared
            and isinstance(response.body, bytes)
            and len(response.body) >= above_bytes
            and hdrs.CONTENT_ENCODING not in response.headers
            and _COMPRESSIBLE.match(response.content_type)
        ):
            response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
            if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower():
                response.enable_compression(web.ContentCoding.gzip)
        return response

    return compressed


def request_id(request: web.Request) -> str:
    """The id under which the log has this request: the client's `X-Request-Id`, or one that was made."""
    known = request.get(_REQUEST_ID)
    if known is None:
        sent = request.headers.get("X-Request-Id", "")
        known = request[_REQUEST_ID] = sent if _ACCEPTABLE_ID.fullmatch(sent) else context.new_request_id()
    return known


async def read_body(request: web.Request, *, idle_seconds: float = IDLE_SECONDS) -> bytes:
    """The whole body, up to the application's `client_max_size`.

    Raises HTTPRequestEntityTooLarge when there is more, HTTPRequestTimeout when it pauses for `idle_seconds`, and
    HTTPBadRequest when it is not encoded as its headers say.
    """
    if not request.can_read_body:
        return b""
    limit: int = request.client_max_size or 0
    stated = request.content_length or 0
    if limit and stated > limit:
        raise web.HTTPRequestEntityTooLarge(limit, stated)
    body = bytearray()
    try:
        while True:
            async with asyncio.timeout(idle_seconds):
                chunk = await request.content.readany()
            if not chunk:
                return bytes(body)
            body += chunk
            if limit and len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit, len(body))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"nothing came for {idle_seconds:.0f} seconds") from error
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text="the body is not encoded as its headers say") from error


@asynccontextmanager
async def serving(
    app: web.Application, *, grace: timedelta = timedelta(seconds=10), header_seconds: float = HEADER_SECONDS
) -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """Run `app`, and give what makes a protocol for each connection.

    A connection whose first request has not come whole after `header_seconds` is closed, if the application has our
    middlewares.  At the end requests in progress get `grace`; connections that come after that are answered with 503.
    """
    silent = app[_SILENT] = set()
    app.on_response_prepare.append(_add_headers)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=grace.total_seconds(),
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    over = False

    def give_up(protocol: web.RequestHandler) -> None:
        if protocol in silent:
            silent.discard(protocol)
            protocol.force_close()

    def make() -> asyncio.Protocol:
        if over:
            return _Over()
        protocol = server()
        silent.add(protocol)
        asyncio.get_running_loop().call_later(header_seconds, give_up, protocol)
        return protocol

    try:
        yield make
    finally:
        over = True
        await runner.cleanup()


@asynccontextmanager
async def listen(
    app: web.Application,
    host: str,
    port: int,
    *,
    grace: timedelta = timedelta(seconds=10),
    header_seconds: float = HEADER_SECONDS,
    tls: tuple[bytes, bytes] | None = None,
) -> AsyncIterator[int]:
    """Serve `app` alone on an address, and give the port (a free one for 0).  `tls` is (private key, chain) in PEM.

    Raises Unavailable if somebody else listens there, FailedPrecondition if it cannot be listened on at all.
    """
    context = None if tls is None else _tls_context(tls)
    async with serving(app, grace=grace, header_seconds=header_seconds) as make:
        try:
            server = await asyncio.get_running_loop().create_server(make, host, port, ssl=context)
        except OSError as error:
            if isinstance(error, OSError) and "in use" in str(error).lower():
                raise Unavailable(f"port {port} is already in use on {host}: choose another port") from error
            raise FailedPrecondition(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
        try:
            bound: int = server.sockets[0].getsockname()[1]
            log.info("http serving", address=f"{host}:{bound}")
            yield bound
        finally:
            server.close()


def _tls_context(tls: tuple[bytes, bytes]) -> ssl.SSLContext:
    """What Python reads only from files."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile() as file:  # its owner alone may read it
        file.write(b"\n".join(tls))
        file.flush()
        try:
            made.load_cert_chain(file.name)
        except (ssl.SSLError, OSError) as error:
            raise FailedPrecondition(f"the TLS certificate and its key cannot be used: {error}") from error
    return made


@web.middleware
async def _door(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The id, the log line, and the text of errors."""
    started = time.perf_counter()
    name = request_id(request)
    silent = request.config_dict.get(_SILENT)
    if silent is not None:
        silent.discard(request.protocol)
    with bind(request_id=name):
        response = await _answer(request, handler)
        if not response.prepared:
            response.headers.setdefault("X-Request-Id", name)
        status = response.status
        write = log.debug if status < 400 else log.info if status < 500 or status == 501 else log.warning
        fields: dict[str, object] = {}
        if status in _REFUSED:
            fields = {"host": request.host, "origin": request.headers.get(hdrs.ORIGIN, "")}
        write(
            "http request",
            method=request.method,
            path=request.rel_url.raw_path,  # without the query: it may carry a token
            status=status,
            duration_ms=round((time.perf_counter() - started) * 1000, 2),
            **fields,
        )
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            return web.Response(status=error.status, headers={hdrs.LOCATION: error.headers.get(hdrs.LOCATION, "")})
        return _text(error.status, error.text or error.reason, close=not request.content.at_eof())
    except AerodromeError as error:
        status = STATUS_OF_KIND[error.kind]
        if status >= 500:
            log.error("http request failed", error=error.message, exc_info=error)
        return _text(status, error.message)
    except ConnectionResetError:
        log.debug("the client went away")
        raise
    except Exception as error:
        log.exception("handler failed", path=request.rel_url.raw_path, error=repr(error))
        if request.writer.output_size > 0:  # an answer is on its way: all that can be said is that it is not whole
            raise ConnectionResetError("the answer could not be completed") from error
        return _text(500, f"internal error; the server's log explains it under request id {request_id(request)}")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    for key, value in SECURITY_HEADERS.items():
        headers.setdefault(key, value)
    headers[hdrs.SERVER] = "aerodrome"


def _refusal(request: web.Request, allowed: frozenset[str]) -> tuple[int, str] | None:
    """Why `request` is not answered, with the status; None if it is."""
    hosts = request.headers.getall(hdrs.HOST, [])
    if len(hosts) != 1 or _host_name(hosts[0]) not in allowed:
        named = ", ".join(sorted(allowed))
        return HTTPStatus.MISDIRECTED_REQUEST, (
            f"this server does not answer to the name {', '.join(hosts)!r}, only to {named}: without identity it "
            "serves its own machine alone"
        )
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in ("same-origin", "none"):
        return HTTPStatus.FORBIDDEN, (
            f"a page of another origin made this request (Sec-Fetch-Site: {site}), and without identity only this "
            "server's own pages may; type the address into the browser in place of following the link"
        )
    for origin in request.headers.getall(hdrs.ORIGIN, []):
        if origin.lower().partition("://")[2] != hosts[0].lower():
            return HTTPStatus.FORBIDDEN, (
                f"the origin {origin} is foreign to {hosts[0]}, and without identity only this server's own pages may "
                "make requests"
            )
    return None


def _host_name(host: str) -> str:
    """The name in a Host header, lower case, without the port; empty if it has no such form."""
    match = _HOST.fullmatch(host.strip().lower())
    return match.group(1) if match else ""


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")


def _text(status: int, text: str, *, close: bool = False) -> web.Response:
    response = web.Response(status=status, text=text.rstrip("\n") + "\n")
    if close:
        response.force_close()
    return response


class _Over(asyncio.Protocol):
    """What a connection gets when the application is not served any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer: Any = transport  # uvloop's transports have their own ancestors
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
