"""What an attempt came to, once its process is done: decided from the files that the task left.

flytekit's entry points exit with 0 whatever happened, so an exit code of 0 means nothing by itself: the error document
is looked at first, then the outputs.  Source: spec/data-plane.md, sections 2.3, 2.4 and 9.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from typing import Final

from flyteidl.core import errors_pb2, execution_pb2

from aerodrome.plugins.api import ErrorKind, Failure

OUTPUTS: Final = "outputs.pb"
ERROR: Final = "error.pb"

_MIB: Final = 1 << 20
_TAIL_HEADING: Final = "Last lines of its log:"


@dataclass(frozen=True, slots=True)
class Success:
    """The attempt succeeded; `outputs_size` is the size of `outputs.pb` in bytes, None where none is declared."""

    outputs_size: int | None = None


def decide(
    error_document: errors_pb2.ErrorDocument | None,
    error_bytes_bad: bool,
    outputs_size: int | None,
    declared_outputs: bool,
    limit: int,
    *,
    output_prefix: str = "",
) -> Success | Failure:
    """What an attempt came to whose process ended well and that left no `futures.pb`.

    `error_document` is the parsed `error.pb`, None if there is none or if it could not be parsed (`error_bytes_bad`).
    `outputs_size` is the size of `outputs.pb` in bytes, None if it is missing; zero bytes are an empty map.  `limit` is
    the largest `outputs.pb` in bytes, 0 for any.  `output_prefix` locates the files in messages.
    """
    if error_bytes_bad or (error_document is not None and not error_document.HasField("error")):
        return Failure(
            "ErrorFileBadFormat",
            f"{_path(output_prefix, ERROR)} is not an error document",
            ErrorKind.SYSTEM,
            retryable=True,
        )
    if error_document is not None:
        return reported(error_document.error)
    if not declared_outputs:
        return Success()
    if outputs_size is None:
        return Failure(
            "OutputsNotFound",
            f"the task ended without an error and without {_path(output_prefix, OUTPUTS)}, though it declares outputs",
            ErrorKind.UNKNOWN,
            retryable=True,
        )
    if 0 < limit < outputs_size:
        return Failure(
            "OutputSizeExceeded",
            f"{_path(output_prefix, OUTPUTS)} has {outputs_size} bytes ({outputs_size / _MIB:.1f} MiB); at most "
            f"{limit} ({limit / _MIB:.1f} MiB) are read. Return large values as files or DataFrames, or raise "
            "storage.limits.maxDownloadMBs",
            ErrorKind.UNKNOWN,
            retryable=False,
        )
    return Success(outputs_size)


def error_file_vanished(output_prefix: str) -> Failure:
    """The failure of an attempt whose error document was seen and then could not be read."""
    return Failure(
        "ErrorFileNotFound",
        f"{_path(output_prefix, ERROR)} was there and vanished before it was read",
        ErrorKind.SYSTEM,
        retryable=True,
    )


def error_file_too_large(why: str) -> errors_pb2.ErrorDocument:
    """What stands for an error document that is too large to be read; `why` says where it is and how large."""
    error = errors_pb2.ContainerError(
        code="ErrorFileTooLarge",
        message=f"the task failed, and the error that it reports is too large to be read: {why}",
        kind=errors_pb2.ContainerError.NON_RECOVERABLE,
        origin=execution_pb2.ExecutionError.USER,
    )
    return errors_pb2.ErrorDocument(error=error)


def reported(error: errors_pb2.ContainerError) -> Failure:
    """The failure that a task reports in its error document."""
    return Failure(
        code=error.code,
        message=error.message,
        kind=_KINDS.get(error.origin, ErrorKind.UNKNOWN),
        retryable=error.kind == errors_pb2.ContainerError.RECOVERABLE,
        timestamp=error.timestamp.ToDatetime(UTC) if error.HasField("timestamp") else None,
        worker=error.worker,
    )


def explained(failure: Failure, error_document: errors_pb2.ErrorDocument | None) -> Failure:
    """The failure of a process that ended badly, in the task's own words where it left an error document.

    Only an ordinary failure (USER: it exited by itself) can be explained so: a process that the system ended may have
    left anything.  Whether there is another attempt is the document's word, and the clean-up the runtime's.
    """
    if failure.kind is not ErrorKind.USER or error_document is None or not error_document.HasField("error"):
        return failure
    return replace(reported(error_document.error), cleanup=failure.cleanup)


def error_with_log_tail(failure: Failure, tail: str, limit: int = 8192) -> Failure:
    """`failure` with the last lines of the attempt's log below its message.

    At most the last `limit` characters of `tail` are taken, from the start of a line where there is one.  A tail whose
    text the message has already adds nothing.
    """
    kept = tail.strip("\n")
    if len(kept) > limit:
        kept = kept[-limit:]
        kept = kept.partition("\n")[2] or kept
    if not kept.strip() or kept.strip() in failure.message:
        return failure
    return replace(failure, message=f"{failure.message.rstrip()}\n\n{_TAIL_HEADING}\n{kept}")


_KINDS: Final = {
    execution_pb2.ExecutionError.USER: ErrorKind.USER,
    execution_pb2.ExecutionError.SYSTEM: ErrorKind.SYSTEM,
}


def _path(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix else name
