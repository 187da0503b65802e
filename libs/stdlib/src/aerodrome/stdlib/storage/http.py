"""The HTTP side of signed URLs, for stores that have no service of their own.

Whoever holds a URL that `LocalSigner` gave may PUT or GET exactly what it was signed for.  What tasks made is shown to
browsers, so it is served in a sandbox: its scripts run (decks need theirs for tabs and plots) in an origin of their
own, which reaches neither our cookies nor our pages.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import quote, unquote

from aiohttp import web

from aerodrome.stdlib.errors import AerodromeError, InvalidArgument, Kind, PermissionDenied, ResourceExhausted
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.storage.port import STREAM_BYTES, Opened, ServedStorage, base64_md5
from aerodrome.stdlib.storage.signing import PATH, Claims, LocalSigner

MAX_UPLOAD_BYTES = 5 * 2**30
"""Largest object that is accepted unless `routes` is told otherwise."""

IDLE_SECONDS = 60.0
"""How long an upload may pause."""

log = get_logger(__name__)

_PROTECTION = {
    "Content-Security-Policy": "sandbox allow-scripts",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
    "Accept-Ranges": "bytes",
}

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}
"""By suffix; everything else is bytes.  SVG stays bytes: it is a page in disguise."""

_STATUS = {
    Kind.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Kind.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    Kind.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    Kind.RESOURCE_EXHAUSTED: HTTPStatus.INSUFFICIENT_STORAGE,
    Kind.DEADLINE_EXCEEDED: HTTPStatus.REQUEST_TIMEOUT,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def routes(
    storage: ServedStorage, signer: LocalSigner, *, max_upload_bytes: int = MAX_UPLOAD_BYTES
) -> list[web.RouteDef]:
    """The handlers for PUT, GET and HEAD below `/data/v1/`."""
    served = _Served(storage, signer, max_upload_bytes)
    path = f"{PATH}{{reference:.+}}"
    return [
        web.put(path, _answering(served.put)),
        web.get(path, _answering(served.get), allow_head=False),
        web.head(path, _answering(served.get)),
    ]


class _TooLarge(ResourceExhausted):
    """An upload is over the limit."""


class _Served:
    def __init__(self, storage: ServedStorage, signer: LocalSigner, max_upload_bytes: int) -> None:
        self._storage = storage
        self._signer = signer
        self._max_upload_bytes = max_upload_bytes

    async def put(self, request: web.Request) -> web.StreamResponse:
        reference, claims = self._checked(request)
        self._check_length(request.content_length or 0)
        stated = request.headers.get("Content-MD5")
        if claims.content_md5 is not None and stated is not None and stated != claims.content_md5:
            raise InvalidArgument("the header Content-MD5 is not the one that was signed; send the headers as given")
        upload = await self._storage.begin_upload(reference)
        try:
            digest = hashlib.md5(usedforsecurity=False)
            size = 0
            while chunk := await self._next_chunk(request):
                size += len(chunk)
                self._check_length(size)
                digest.update(chunk)
                await upload.write(chunk)
            actual = base64_md5(digest.digest())
            expected = claims.content_md5 or stated
            if expected is not None and actual != expected:
                raise InvalidArgument(
                    f"the content's MD5 is {actual}, not {expected}; nothing was stored, send it again"
                )
            if claims.content_length is not None and size != claims.content_length:
                raise InvalidArgument(f"{size} bytes came in place of {claims.content_length}; nothing was stored")
            await upload.commit(expected)
        finally:
            await upload.abort()
        log.debug("object uploaded", reference=reference, size_bytes=size)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def get(self, request: web.Request) -> web.StreamResponse:
        reference, claims = self._checked(request)
        opened = await self._storage.open(reference)
        try:
            return await self._send(request, opened, claims)
        finally:
            await opened.close()

    def _checked(self, request: web.Request) -> tuple[str, Claims]:
        """The reference of a request, and what its token allows.  Raises PermissionDenied, InvalidArgument."""
        raw = request.rel_url.raw_path
        try:
            reference = unquote(raw[raw.index(PATH) + len(PATH) :], errors="strict")
        except UnicodeDecodeError as error:
            raise InvalidArgument("the path of this URL is not valid UTF-8; use the URL as it was given") from error
        token = request.query.get("token")
        if not token:
            raise PermissionDenied("this URL carries no token; ask the platform for a signed one")
        length = request.content_length
        return reference, self._signer.verify(request.method, reference, token, content_length=length)

    def _check_length(self, size: int) -> None:
        if size > self._max_upload_bytes:
            raise _TooLarge(f"the content is larger than the {self._max_upload_bytes} bytes that are accepted")

    async def _next_chunk(self, request: web.Request) -> bytes:
        """Some of the body, gathered so that small network packets do not become small writes; empty at its end."""
        async with asyncio.timeout(IDLE_SECONDS):
            chunk = bytearray(await request.content.readany())
        while len(chunk) < STREAM_BYTES and (waiting := request.content.read_nowait()):
            chunk += waiting
        return bytes(chunk)

    async def _send(self, request: web.Request, opened: Opened, claims: Claims) -> web.StreamResponse:
        metadata = opened.metadata
        etag = f'"{metadata.etag}"'
        headers = {**_PROTECTION, "ETag": etag, "Last-Modified": metadata.modified_at.strftime(_HTTP_DATE)}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        suffix = "." + claims.filename.rpartition(".")[2].lower()
        headers["Content-Type"] = _TYPES.get(suffix, "application/octet-stream")
        if suffix not in _TYPES:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(claims.filename, safe='')}"
        wanted = _wanted(request.headers.get("Range"), metadata.size_bytes)
        if wanted is None:
            headers["Content-Range"] = f"bytes */{metadata.size_bytes}"
            return web.Response(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        partial = "Range" in request.headers and wanted != range(metadata.size_bytes)
        if partial:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{metadata.size_bytes}"
        response = web.StreamResponse(
            status=HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK,
            headers={**headers, "Content-Length": str(len(wanted))},
        )
        await response.prepare(request)
        if request.method != "HEAD":
            at = wanted.start
            while at < wanted.stop:
                chunk = await opened.read_at(at, min(STREAM_BYTES, wanted.stop - at))
                if not chunk:
                    raise ConnectionResetError("the object became shorter while it was sent")
                await response.write(chunk)
                at += len(chunk)
        await response.write_eof()
        return response


def _wanted(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for; all of them for none, or a form that need not be honoured; None if
    there are no such bytes."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1, 2) == ("", ""):
        return range(size)
    first, last = match.group(1, 2)
    if not first:
        return range(max(0, size - int(last)), size) if int(last) and size else None
    if int(first) >= size or (last and int(last) < int(first)):
        return None if int(first) >= size else range(size)
    return range(int(first), min(size, int(last) + 1) if last else size)


def _answering(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """`handler`, with the errors that it raises answered as text."""

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except TimeoutError:
            status, text = HTTPStatus.REQUEST_TIMEOUT, f"nothing came for {IDLE_SECONDS:.0f} seconds"
        except _TooLarge as error:
            status, text = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.message
        except AerodromeError as error:
            status, text = _STATUS.get(error.kind, HTTPStatus.INTERNAL_SERVER_ERROR), error.message
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log.error("a signed URL could not be served", status=int(status), exc_info=error)
        response = web.Response(status=status, text=text + "\n", headers=_PROTECTION)
        if not request.content.at_eof():
            response.force_close()  # the rest of the body is of no use to anybody
        return response

    return answered


_HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"
