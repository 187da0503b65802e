import grpc
import pytest
from flyteidl.admin import event_pb2, project_pb2
from google.protobuf import any_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.stdlib.errors import OF_KIND, AerodromeError, FailedPrecondition, Internal, Kind
from aerodrome.stdlib.rpc.status import CODES, DETAILS_KEY, MAX_TRAILER_BYTES, aerodrome_error, cut, outcome, unpack


def on_the_wire(message: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != ord("%") else 3 for byte in message.encode())


def received(error: AerodromeError) -> AerodromeError:
    code, message, details = outcome(error)
    trailing = grpc.aio.Metadata(*(() if details is None else ((DETAILS_KEY, details),)))
    return aerodrome_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=message))


texts = st.text(st.characters(codec="utf-8", exclude_categories=()), max_size=20).map(lambda text: text * 3_000)


@given(texts, st.integers(0, 40_000), st.integers(0, 1))
def test_a_cut_message_is_the_longest_beginning_that_fits(message: str, limit: int, copies: int) -> None:
    kept = cut(message, limit, copies=copies)
    clean = message.encode("utf-8", errors="replace").decode()
    assert clean.startswith(kept)
    assert on_the_wire(kept) + copies * len(kept.encode()) <= limit
    if kept != clean:
        longer = clean[: len(kept) + 1]
        assert on_the_wire(longer) + copies * len(longer.encode()) > limit


@given(texts, st.text(max_size=500))
def test_message_and_details_together_fit_what_clients_accept(message: str, phase: str) -> None:
    reason = event_pb2.EventFailureReason(
        already_in_terminal_state=event_pb2.EventErrorAlreadyInTerminalState(current_phase=phase)
    )
    _, kept, details = outcome(FailedPrecondition(message, [reason]))
    assert details is not None
    assert on_the_wire(kept) + len(details) <= MAX_TRAILER_BYTES
    status = status_pb2.Status.FromString(details)
    assert status.message == kept  # grpc-status refuses a status whose two messages differ
    assert unpack(status.details[0]) == reason


@given(st.sampled_from(sorted(OF_KIND, key=lambda kind: kind.value)), st.text(max_size=100))
def test_an_error_is_received_as_the_kind_that_was_raised(kind: Kind, message: str) -> None:
    ours = received(OF_KIND[kind](message))
    assert ours.kind is kind
    assert ours.message == message


def test_unknown_is_never_sent() -> None:
    assert grpc.StatusCode.UNKNOWN not in CODES.values()
    assert set(CODES) == set(Kind)


def test_details_that_are_too_large_give_way_to_the_message() -> None:
    huge = project_pb2.Project(description="x" * 30_000)
    code, message, details = outcome(Internal("short", [huge]))
    assert (code, message, details) == (grpc.StatusCode.INTERNAL, "short", None)


def test_details_of_types_that_are_not_known_here_stay_packed() -> None:
    packed = any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"x")
    ours = received(Internal("x", [packed]))
    assert ours.details == (packed,)


@pytest.mark.parametrize("trailing", [(), ((DETAILS_KEY, b"\xff\xff\xff"),), (("other-bin", b"x"),)])
def test_a_status_without_readable_details_is_still_an_error(trailing: tuple[tuple[str, bytes], ...]) -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, None, grpc.aio.Metadata(*trailing), details=None)
    ours = aerodrome_error(error)
    assert (ours.kind, ours.message, ours.details) == (Kind.ABORTED, "", ())
