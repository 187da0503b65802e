"""What an attempt came to, from the files that it left."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from flyteidl.core import errors_pb2, execution_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.plugins.outcome import Success, decide, error_file_vanished, error_with_log_tail, explained

USER, SYSTEM = execution_pb2.ExecutionError.USER, execution_pb2.ExecutionError.SYSTEM
RECOVERABLE, NON_RECOVERABLE = errors_pb2.ContainerError.RECOVERABLE, errors_pb2.ContainerError.NON_RECOVERABLE


def document(
    code: str = "USER:ValueError", kind: int = NON_RECOVERABLE, origin: int = USER
) -> errors_pb2.ErrorDocument:
    return errors_pb2.ErrorDocument(
        error=errors_pb2.ContainerError(
            code=code,
            message="no such column",
            kind=errors_pb2.ContainerError.Kind.Name(kind),
            origin=execution_pb2.ExecutionError.ErrorKind.Name(origin),
            timestamp=Timestamp(seconds=1577836800),
            worker="w1",
        )
    )


@pytest.mark.parametrize(
    ("kind", "origin", "retryable", "blamed"),
    [
        (NON_RECOVERABLE, USER, False, ErrorKind.USER),
        (RECOVERABLE, USER, True, ErrorKind.USER),
        (NON_RECOVERABLE, SYSTEM, False, ErrorKind.SYSTEM),
        (RECOVERABLE, SYSTEM, True, ErrorKind.SYSTEM),
        (RECOVERABLE, execution_pb2.ExecutionError.UNKNOWN, True, ErrorKind.UNKNOWN),
    ],
)
def test_an_error_document_decides_even_beside_outputs(
    kind: int, origin: int, retryable: bool, blamed: ErrorKind
) -> None:
    assert decide(document(kind=kind, origin=origin), False, 10, True, 0) == Failure(
        "USER:ValueError",
        "no such column",
        blamed,
        retryable,
        timestamp=datetime(2020, 1, 1, tzinfo=UTC),
        worker="w1",
    )


@pytest.mark.parametrize(("given_document", "bad"), [(errors_pb2.ErrorDocument(), False), (None, True)])
def test_an_unreadable_error_document_is_a_system_failure(
    given_document: errors_pb2.ErrorDocument | None, bad: bool
) -> None:
    failure = decide(given_document, bad, 10, True, 0, output_prefix="s3://b/x/0/")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.kind, failure.retryable) == ("ErrorFileBadFormat", ErrorKind.SYSTEM, True)
    assert "s3://b/x/0/error.pb" in failure.message


def test_a_vanished_error_document_is_a_system_failure() -> None:
    failure = error_file_vanished("s3://b/x/0")
    assert (failure.code, failure.kind, failure.retryable) == ("ErrorFileNotFound", ErrorKind.SYSTEM, True)


def test_without_declared_outputs_none_are_needed() -> None:
    assert decide(None, False, None, False, 5) == Success()
    assert decide(None, False, 1000, False, 5) == Success()


def test_missing_outputs_are_worth_another_attempt() -> None:
    failure = decide(None, False, None, True, 0, output_prefix="/data/0")
    assert isinstance(failure, Failure)
    assert (failure.code, failure.kind, failure.retryable) == ("OutputsNotFound", ErrorKind.UNKNOWN, True)
    assert "/data/0/outputs.pb" in failure.message


def test_an_empty_outputs_file_is_an_empty_map() -> None:
    assert decide(None, False, 0, True, 5) == Success(0)


def test_outputs_up_to_the_limit_are_read_and_larger_ones_are_not() -> None:
    assert decide(None, False, 5, True, 5) == Success(5)
    assert decide(None, False, 1 << 40, True, 0) == Success(1 << 40)
    failure = decide(None, False, 6, True, 5)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.kind, failure.retryable) == ("OutputSizeExceeded", ErrorKind.UNKNOWN, False)
    assert "maxDownloadMBs" in failure.message


CRASH = Failure("Error", "container a exited with code 1", ErrorKind.USER, retryable=True, cleanup=True)


def test_a_crash_is_explained_by_the_error_document_that_it_left() -> None:
    explanation = explained(CRASH, document())
    assert (explanation.code, explanation.retryable, explanation.cleanup) == ("USER:ValueError", False, True)


def test_a_crash_without_an_explanation_stays_as_it_is() -> None:
    assert explained(CRASH, None) is CRASH
    assert explained(CRASH, errors_pb2.ErrorDocument()) is CRASH


def test_what_a_task_left_that_the_system_ended_explains_nothing() -> None:
    lost = Failure("Interrupted", "lost", ErrorKind.SYSTEM, retryable=True)
    assert explained(lost, document()) is lost


def test_the_log_tail_stands_below_the_message_once() -> None:
    told = error_with_log_tail(CRASH, "one\ntwo\n")
    assert told.message == "container a exited with code 1\n\nLast lines of its log:\none\ntwo"
    assert error_with_log_tail(told, "two\n") == told
    assert error_with_log_tail(CRASH, "  \n") == CRASH


def test_a_long_tail_is_cut_at_the_start_of_a_line() -> None:
    told = error_with_log_tail(CRASH, "first\nsecond\nthird", limit=9)
    assert told.message.endswith("log:\nthird")


@given(st.text(max_size=50), st.integers(1, 20))
def test_the_tail_never_grows_beyond_its_limit(tail: str, limit: int) -> None:
    added = len(error_with_log_tail(CRASH, tail, limit).message) - len(CRASH.message)
    assert added <= limit + len("\n\nLast lines of its log:\n")


def test_a_failure_becomes_the_error_of_the_api() -> None:
    failure = decide(document(), False, None, True, 0)
    assert isinstance(failure, Failure)
    error = failure.error()
    assert (error.code, error.message, error.kind, error.worker) == ("USER:ValueError", "no such column", USER, "w1")
    assert error.timestamp.seconds == 1577836800
    assert not CRASH.error().HasField("timestamp")
