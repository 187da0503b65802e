"""Which encodings a request is in and its answer shall be in.  Source: spec/control-plane.md, section 11.3."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from aiohttp import hdrs, web


class Encoding(Enum):
    """How messages stand in bodies."""

    PROTOBUF = "application/octet-stream"
    """As binary protobuf."""
    SNAKE_JSON = "application/json"
    """As JSON with the names of the contract; unknown fields are refused."""
    CAMEL_JSON = "*"
    """As JSON in lowerCamelCase; unknown fields are ignored.  For everybody who names no other."""

    @property
    def content_type(self) -> str:
        return "application/octet-stream" if self is Encoding.PROTOBUF else "application/json"


_BY_NAME: Mapping[str, Encoding] = {each.value: each for each in (Encoding.PROTOBUF, Encoding.SNAKE_JSON)}


def negotiated(request: web.Request) -> tuple[Encoding, Encoding]:
    """The encodings of the request's body and of the answer's.

    Header values count only where they are exactly the name of an encoding; of several Accept headers the first such
    one does.  Without one the answer is encoded as the request is.
    """
    inbound = _BY_NAME.get(request.headers.get(hdrs.CONTENT_TYPE, ""), Encoding.CAMEL_JSON)
    for accepted in request.headers.getall(hdrs.ACCEPT, ()):
        encoding = _BY_NAME.get(accepted)
        if encoding is not None:
            return inbound, encoding
    return inbound, inbound
