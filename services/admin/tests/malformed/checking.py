"""What holds after any call: a definite answer, and no trace of what was refused."""

from __future__ import annotations

import grpc
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToJson

from aerodrome.idl.journal.v1.journal_pb2 import AppendResponse, AppendStatus, TransitionStatus

from .world import PATIENCE_SECONDS, RPCS, Answer, World

DEFINITE = frozenset(
    {
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED,
    }
)  # fmt: skip
"""Codes that say that the request is to blame, and that it is of no use to repeat it as it is."""
MAX_TEXT_BYTES = 32_000
READING = ("Get", "List", "Recall", "CreateDownload", "CreateUpload")
"""How the names of rpcs begin that change nothing, whatever they answer."""

MAKING = ("GetOrCreateSignal",)
"""Those among them that may make what they get."""


def check_refusal_or_answer(platform: World, rpc: str, data: bytes) -> Answer:
    """Call `rpc` with `data`, and check what comes of it."""
    before = platform.stored()
    answer = platform.call(rpc, data)
    told = f"{rpc}: {answer.code.name} {answer.text[:1_000]}\n{shown(rpc, data)}"
    assert answer.code in DEFINITE, told
    refused = answer.code is not grpc.StatusCode.OK
    if refused:
        assert answer.text, told
        assert len(answer.text.encode()) <= MAX_TEXT_BYTES, told
        assert answer.trailer_bytes <= MAX_TEXT_BYTES, told
    else:
        message_factory.GetMessageClass(RPCS[rpc].output_type).FromString(answer.body)
        if rpc == "Append":
            refused = was_refused(AppendResponse.FromString(answer.body), told)
    if refused or (rpc.startswith(READING) and rpc not in MAKING):
        assert platform.stored() == before, told
    return answer


def was_refused(response: AppendResponse, told: str) -> bool:
    """Nothing of an append was applied, and it says why."""
    accepted = False
    for execution in response.executions:
        assert execution.status != AppendStatus.APPEND_STATUS_UNSPECIFIED, told
        if execution.status != AppendStatus.APPEND_STATUS_APPLIED:
            assert 0 < len(execution.reason.encode()) <= MAX_TEXT_BYTES, told
        for result in execution.results:
            accepted |= result.status == TransitionStatus.TRANSITION_STATUS_ACCEPTED
            assert result.status != TransitionStatus.TRANSITION_STATUS_UNSPECIFIED, told
    return not accepted


def check_works(platform: World) -> None:
    """The control plane goes on: what is good is answered, and soon."""
    request = platform.requests("GetProject")[0]
    assert platform.call("GetProject", request.SerializeToString()).code is grpc.StatusCode.OK
    assert platform.slowest_seconds < PATIENCE_SECONDS
    platform.check_alive()


def shown(rpc: str, data: bytes) -> str:
    """A request for people."""
    try:
        message = message_factory.GetMessageClass(RPCS[rpc].input_type).FromString(data)
        return MessageToJson(message)[:5_000]
    except Exception as error:  # noqa: BLE001 - it need not be one
        return f"{data[:1_000]!r} ({error})"
