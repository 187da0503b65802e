"""HTTP headers as gRPC metadata, and back.  Source: spec/control-plane.md, section 11.3."""

from __future__ import annotations

import base64
import binascii
import re

from aiohttp import web
from multidict import CIMultiDict

from aerodrome.stdlib import http
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.rpc.registry import Metadata

PREFIX = "grpc-metadata-"

_PERMANENT = frozenset(
    (
        "accept", "accept-charset", "accept-language", "accept-ranges", "authorization", "cache-control",
        "content-type", "cookie", "date", "expect", "from", "host", "if-match", "if-modified-since", "if-none-match",
        "if-schedule-tag-match", "if-unmodified-since", "max-forwards", "origin", "pragma", "referer", "user-agent",
        "via", "warning",
    )
)  # fmt: skip
"""Headers that IANA keeps as permanent; they are passed on under a prefix."""

_OURS = frozenset(("x-request-id", "x-forwarded-host", "x-forwarded-for"))
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_CONTROL = re.compile(r"[^\t\x20-\x7e]")


def inbound(request: web.Request) -> Metadata:
    """What a call sees of the headers.  Raises InvalidArgument if a binary value is not base64."""
    found: list[tuple[str, str | bytes]] = [("x-request-id", http.request_id(request))]
    headers = request.headers
    for name, value in headers.items():
        key = name.lower()
        if key.startswith(PREFIX):
            key = key[len(PREFIX) :]
            if key and key not in _OURS:
                found.append((key, _binary(name, value) if key.endswith("-bin") else value))
            continue
        if key == "authorization":
            found.append((key, value))
        if key in _PERMANENT:
            found.append((f"grpcgateway-{key}", value))
    host: str = headers.get("X-Forwarded-Host") or headers.get("Host") or ""
    found.append(("x-forwarded-host", host))
    passed_by = [each for each in (headers.get("X-Forwarded-For"), request.remote) if each]
    if passed_by:
        found.append(("x-forwarded-for", ", ".join(passed_by)))
    return tuple(found)


def timeout_seconds(request: web.Request) -> float | None:
    """How long the caller waits, by the header `Grpc-Timeout` (`10S`, `500m`).  Raises InvalidArgument for others."""
    text = request.headers.get("Grpc-Timeout")
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"Grpc-Timeout: {text!r} is not up to eight digits and one of H, M, S, m, u, n")
    return int(match[1]) * _UNITS[match[2]]


def outbound(metadata: Metadata) -> CIMultiDict[str]:
    """The headers that carry a call's answered metadata."""
    headers: CIMultiDict[str] = CIMultiDict()
    for key, value in metadata:
        if key.startswith("grpc-"):
            continue
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else printable(value)
        headers.add(f"Grpc-Metadata-{key}", text)
    return headers


def printable(text: str) -> str:
    """`text` as a header may hold it: one line of ASCII."""
    return _CONTROL.sub("?", text)


def _binary(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{name} is not base64") from error
