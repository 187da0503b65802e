"""The one vocabulary of errors a caller may see; the rpc edge maps each kind to a gRPC code.

Everything that a client can cause or can act on derives from `AerodromeError`.  Anything else that escapes is a defect
and becomes INTERNAL at the edge.  Source: spec/control-plane.md, sections 0.2 to 0.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import ClassVar

from google.protobuf.message import Message


class Kind(Enum):
    """What went wrong, in the words (and numbers) of gRPC's status codes."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AerodromeError(Exception):
    """An error with a kind, a message for people, and protobuf details for programs.

    `details` are messages (such as `flyteidl.admin.EventFailureReason`) that travel in the status' trailing metadata.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL

    def __init__(self, message: str, details: Iterable[Message] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class Cancelled(AerodromeError):
    kind = Kind.CANCELLED


class InvalidArgument(AerodromeError):
    kind = Kind.INVALID_ARGUMENT


class DeadlineExceeded(AerodromeError):
    kind = Kind.DEADLINE_EXCEEDED


class NotFound(AerodromeError):
    kind = Kind.NOT_FOUND


class AlreadyExists(AerodromeError):
    kind = Kind.ALREADY_EXISTS


class PermissionDenied(AerodromeError):
    kind = Kind.PERMISSION_DENIED


class ResourceExhausted(AerodromeError):
    kind = Kind.RESOURCE_EXHAUSTED


class FailedPrecondition(AerodromeError):
    kind = Kind.FAILED_PRECONDITION


class Conflict(AerodromeError):
    """The operation lost a race and may be tried again as it is (gRPC ABORTED)."""

    kind = Kind.ABORTED


class OutOfRange(AerodromeError):
    kind = Kind.OUT_OF_RANGE


class Unimplemented(AerodromeError):
    kind = Kind.UNIMPLEMENTED


class Internal(AerodromeError):
    kind = Kind.INTERNAL


class Unavailable(AerodromeError):
    kind = Kind.UNAVAILABLE


class DataLoss(AerodromeError):
    kind = Kind.DATA_LOSS


class Unauthenticated(AerodromeError):
    kind = Kind.UNAUTHENTICATED


OF_KIND: dict[Kind, type[AerodromeError]] = {
    error.kind: error
    for error in (
        Cancelled, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists, PermissionDenied, ResourceExhausted,
        FailedPrecondition, Conflict, OutOfRange, Unimplemented, Internal, Unavailable, DataLoss, Unauthenticated,
    )
}  # fmt: skip
"""The class of each kind, to turn a received status back into the error that was raised."""
