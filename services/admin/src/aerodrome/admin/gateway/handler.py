"""Answers HTTP requests with the rpcs of a registry.

The calls take the same doors as those that come over gRPC, in this process and as bytes, so that a binary body goes
through unread.  Whatever a client sends, it is answered with a google.rpc.Status that says what is wrong with it; 5xx
is for our own faults.  Source: spec/control-plane.md, sections 11.2 and 11.3.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from aiohttp import web
from flyteidl.service.identity_pb2 import UserInfoResponse
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from multidict import CIMultiDict

from aerodrome.admin.gateway import jsonform, metadata, parameters
from aerodrome.admin.gateway.bindings import Match, Router, WrongVerb
from aerodrome.admin.gateway.negotiation import Encoding, negotiated
from aerodrome.stdlib import http
from aerodrome.stdlib.errors import (
    AerodromeError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Kind,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.registry import Call, HandlerContext, Registry
from aerodrome.stdlib.rpc.status import outcome
from aerodrome.stdlib.workers import Workers

log = get_logger(__name__)

INLINE_BYTES = 32 * 1024
"""Messages up to this size become JSON on the event loop (a few milliseconds); larger ones elsewhere."""


class Gateway:
    """The handler of all bindings of `router`.

    A call may take `timeout`, or less if its client says so.  Messages of more than `inline_bytes` are converted in
    other processes.
    """

    def __init__(
        self,
        registry: Registry,
        router: Router,
        *,
        timeout: timedelta,
        inline_bytes: int = INLINE_BYTES,
        offload: Workers | None = None,
    ) -> None:
        self._registry = registry
        self._router = router
        self._timeout_seconds = timeout.total_seconds()
        self._inline_bytes = inline_bytes
        self._offload = offload or Workers(1, ended=_process_ended)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        inbound, outbound = negotiated(request)
        try:
            return await self._answer(request, inbound, outbound)
        except AerodromeError as error:
            return self._refused(request, error, http.STATUS_OF_KIND[error.kind], outbound)
        except web.HTTPException as error:  # from reading the body
            refused: type[AerodromeError] = ResourceExhausted if error.status == 413 else InvalidArgument
            return self._refused(request, refused(error.text or error.reason), error.status, outbound)
        except Exception as error:
            log.exception("gateway failed", path=request.rel_url.raw_path, error=repr(error))
            text = f"internal error; the server's log explains it under request id {http.request_id(request)}"
            return self._refused(request, Internal(text), 500, outbound)

    async def _answer(self, request: web.Request, inbound: Encoding, outbound: Encoding) -> web.Response:
        match = self._match(request)
        binding = match.binding
        method = self._registry.find(binding.path)
        if method is None:
            raise Unimplemented(f"{binding.path} is not served here")
        given = metadata.inbound(request)
        stated = metadata.timeout_seconds(request)
        seconds = self._timeout_seconds if stated is None else min(stated, self._timeout_seconds)
        data = await self._request(request, match, inbound)
        deadline = time.monotonic() + seconds
        context = HandlerContext(given, deadline, "http")
        try:
            async with asyncio.timeout(seconds):
                answer = await self._registry.run_unary(
                    method, data, Call(binding.path, given, deadline, "http"), context
                )
        except TimeoutError as error:
            raise DeadlineExceeded(f"the call took longer than {seconds:g} seconds") from error
        headers = metadata.outbound((*context.initial, *context.trailing))
        if binding.response.full_name == "flyteidl.service.UserInfoResponse":
            headers.extend(_user_headers(answer))
        return web.Response(
            body=await self._encoded(binding.response, answer, outbound),
            content_type=outbound.content_type,
            headers=headers,
        )

    def _match(self, request: web.Request) -> Match:
        found = self._router.find(request.method, request.rel_url.raw_path)
        if found is None:
            raise NotFound("Not Found")
        if isinstance(found, WrongVerb):
            raise Unimplemented("Method Not Allowed")
        return found

    async def _request(self, request: web.Request, match: Match, inbound: Encoding) -> bytes:
        """The request of the rpc, serialized."""
        binding = match.binding
        if binding.body == "*" and not match.values and inbound is Encoding.PROTOBUF:
            return await http.read_body(request)
        message: Any = _new(binding.request)
        if binding.body:
            inside = message if binding.body == "*" else getattr(message, binding.body)
            await self._read(await http.read_body(request), inside, inbound)
            if binding.body != "*":
                inside.SetInParent()
        for path, value in zip(binding.variables, match.values, strict=True):
            parameters.set_variable(message, path, value)
        if binding.body != "*" and request.rel_url.raw_query_string:
            taken = [".".join(step.name for step in path) for path in binding.variables]
            if binding.body:
                taken.append(binding.body)
            parameters.set_query(message, request.rel_url.raw_query_string, taken)
        data: bytes = message.SerializeToString()
        return data

    async def _read(self, body: bytes, message: Any, encoding: Encoding) -> None:
        """Read a body into `message`; an empty one leaves it as it is."""
        kind = message.DESCRIPTOR
        if not body:
            return
        if encoding is Encoding.PROTOBUF:
            try:
                message.ParseFromString(body)
            except (DecodeError, UnicodeDecodeError) as error:
                raise InvalidArgument(f"the body is not a {kind.full_name} in protobuf: {error}") from error
            return
        ignore_unknown = encoding is Encoding.CAMEL_JSON
        if len(body) <= self._inline_bytes:
            jsonform.from_json(body, message, ignore_unknown=ignore_unknown)
            return
        away = self._offload.run
        message.ParseFromString(
            await away(jsonform.from_json_to_bytes, jsonform.module_of(kind), kind.full_name, body, ignore_unknown)
        )

    async def _encoded(self, kind: Descriptor, data: bytes, encoding: Encoding) -> bytes:
        if encoding is Encoding.PROTOBUF:
            return data
        camel_case = encoding is Encoding.CAMEL_JSON
        if len(data) <= self._inline_bytes:
            message = _new(kind)
            message.ParseFromString(data)
            return jsonform.to_json(message, camel_case=camel_case)
        away = self._offload.run
        return await away(jsonform.to_json_from_bytes, jsonform.module_of(kind), kind.full_name, data, camel_case)

    def _refused(
        self, request: web.Request, error: AerodromeError, http_status: int, encoding: Encoding
    ) -> web.Response:
        code, message, details = outcome(error)
        status = status_pb2.Status(code=code.value[0], message=message)
        if details is not None:
            status.ParseFromString(details)
        headers: CIMultiDict[str] = CIMultiDict()
        if error.kind is Kind.UNAUTHENTICATED:
            headers["WWW-Authenticate"] = metadata.printable(message)
        if encoding is Encoding.PROTOBUF:
            body = binary_status(status)
        else:
            body = jsonform.to_json(status, camel_case=encoding is Encoding.CAMEL_JSON)
        response = web.Response(status=http_status, body=body, content_type=encoding.content_type, headers=headers)
        if not request.content.at_eof():
            response.force_close()  # the rest of the body is of no use to anybody
        return response


def _new(kind: Descriptor) -> Any:
    return message_factory.GetMessageClass(kind)()


def binary_status(status: status_pb2.Status) -> bytes:
    """`status` in protobuf, written so that the stock console finds its message too.

    That console reads error bodies as a message whose field 1 is a string, without looking at wire types; in a Status
    field 1 is the number of the code, which it takes for a length.  So as many bytes of unknown fields follow as the
    code says, and the message again under field 1 at the end.  Other readers skip both: a field of the wrong wire type
    is an unknown field.  Source: spec/console.md, section 1.
    """
    code, text = status.code, status.message.encode()
    if not 2 <= code <= 16 or not text:
        whole: bytes = status.SerializeToString()
        return whole
    rest: bytes = status_pb2.Status(message=status.message, details=status.details).SerializeToString()
    skipped = b"\x7a" + bytes((code - 2,)) + b"\x00" * (code - 2)  # field 15, that many bytes in all
    return b"\x08" + bytes((code,)) + skipped + rest + b"\x0a" + _varint(len(text)) + text


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _user_headers(answer: bytes) -> CIMultiDict[str]:
    """Who the user is, for proxies.  Source: spec/control-plane.md, section 10.4."""
    info = UserInfoResponse.FromString(answer)
    headers: CIMultiDict[str] = CIMultiDict()
    if info.subject:
        headers["X-User-Subject"] = metadata.printable(info.subject)
    for claim, value in info.additional_claims.fields.items():
        name = metadata.printable(claim).replace("_", "-").replace(" ", "-")
        headers[f"X-User-Claim-{name}"] = metadata.printable(jsonform.to_json(value, camel_case=False).decode())
    return headers


def _process_ended() -> Internal:
    return Internal(
        "the process that converted the message ended before it was done, perhaps for lack of memory; ask for less, or "
        "for application/octet-stream, which needs no conversion"
    )
