"""Our errors as gRPC statuses, and back.

Details travel as a serialized google.rpc.Status in the trailing metadata `grpc-status-details-bin`.  The whole
trailer is held below `MAX_TRAILER_BYTES`: flytekit's channel refuses more than 32 KiB of metadata and then sees
RESOURCE_EXHAUSTED in place of the error.  Text outside of ASCII counts threefold on the wire, and the message
travels twice when there are details (programs in Go read only the second), so it is the message that gives way and
never the details. Source: spec/control-plane.md, sections 0.2 and 0.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from aerodrome.stdlib.errors import OF_KIND, AerodromeError, Internal, Kind
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

DETAILS_KEY = "grpc-status-details-bin"

MAX_TRAILER_BYTES = 32_000
"""Message and details together, as they are encoded on the wire."""

MAX_DETAILS_BYTES = 24_000
"""More than this is dropped, so that some of the message is left."""

CODES: dict[Kind, grpc.StatusCode] = {
    Kind(code.value[0]): code for code in grpc.StatusCode if code is not grpc.StatusCode.OK
}
"""The code of each kind; UNKNOWN is sent as INTERNAL, because clients refresh their credentials on UNKNOWN."""
CODES[Kind.UNKNOWN] = grpc.StatusCode.INTERNAL

_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


def outcome(error: AerodromeError) -> tuple[grpc.StatusCode, str, bytes | None]:
    """The code, the message (cut where it must be), and the serialized google.rpc.Status if there are details."""
    code = CODES[error.kind]
    details = [_pack(each) for each in error.details]
    details_bytes = sum(each.ByteSize() + 8 for each in details)
    if details_bytes > MAX_DETAILS_BYTES:
        log.warning("error details dropped", kind=error.kind.name, size_bytes=details_bytes)
        details, details_bytes = [], 0
    if not details:
        return code, cut(error.message, MAX_TRAILER_BYTES), None
    message = cut(error.message, MAX_TRAILER_BYTES - details_bytes - 32, copies=1)
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    return code, message, status.SerializeToString()


def cut(message: str, limit_bytes: int, *, copies: int = 0) -> str:
    """The longest beginning of `message` whose percent-encoded form, with `copies` in UTF-8, fits `limit_bytes`.

    Cuts between characters; lone surrogates, which no client could decode, become question marks.
    """
    data = message.encode("utf-8", errors="replace")
    if len(data) * (3 + copies) <= limit_bytes:
        return data.decode()
    size = 0
    for index, byte in enumerate(data):
        size += (1 if byte in _PLAIN else 3) + copies
        if size > limit_bytes:
            return data[:index].decode("utf-8", errors="ignore")
    return data.decode()


def aerodrome_error(error: grpc.RpcError) -> AerodromeError:
    """The error that was raised at the other side, with its details decoded as far as their types are known here."""
    call: Any = error
    code: grpc.StatusCode = call.code()
    message = str(call.details() or "")
    kind = Kind(code.value[0]) if code.value[0] else Kind.INTERNAL
    return OF_KIND.get(kind, Internal)(message, _details(call.trailing_metadata() or ()))


def _details(trailing: Iterable[tuple[str, str | bytes]]) -> list[Message]:
    for key, value in trailing:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                log.warning("error details cannot be decoded", size_bytes=len(value))
                return []
            return [unpack(each) for each in status.details]
    return []


def unpack(packed: any_pb2.Any) -> Message:
    """The message inside, or `packed` itself if its type is not known to this process."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.type_url.rpartition("/")[2])
        message: Message = message_factory.GetMessageClass(descriptor)()
        message.ParseFromString(packed.value)
    except (KeyError, DecodeError):
        return packed
    return message


def _pack(message: Message) -> any_pb2.Any:
    if isinstance(message, any_pb2.Any):
        return message
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
