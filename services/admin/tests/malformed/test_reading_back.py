"""What was accepted, however odd, can be read again: over gRPC, over HTTP, alone and in lists."""

from __future__ import annotations

from random import Random
from urllib.parse import urlencode

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import given, settings

from .checking import check_refusal_or_answer, check_works
from .good import DONE
from .mutations import spoil
from .reading_back import LIMIT, lists, read_back
from .test_grpc import seeds, some
from .test_http import JSON, KNOWN, check, target
from .world import RPCS, World

WRITING = (
    "CreateTask", "CreateWorkflow", "CreateLaunchPlan", "UpdateLaunchPlan", "RegisterProject", "UpdateProject",
    "UpdateNamedEntity", "CreateExecution", "RelaunchExecution", "RecoverExecution", "UpdateExecution",
    "TerminateExecution", "CreateWorkflowEvent", "CreateNodeEvent", "CreateTaskEvent", "Append",
)  # fmt: skip
GETTING = {binding.method.name: binding for binding in reversed(KNOWN) if binding.verb == "GET"}


@pytest.mark.parametrize("rpc", WRITING)
def test_what_was_accepted_can_be_read(rpc: str, platform: World) -> None:
    @settings(some, max_examples=max(8, some.max_examples // 2))
    @given(seeds)
    def written(seed: int) -> None:
        chance = Random(seed)
        data = spoil(chance, chance.choice(platform.requests(rpc)))
        answer = platform.call(rpc, data)
        if answer.code is not grpc.StatusCode.OK:
            return
        method = RPCS[rpc]
        request = message_factory.GetMessageClass(method.input_type).FromString(data)
        response = message_factory.GetMessageClass(method.output_type).FromString(answer.body)
        for reading, asked in read_back(rpc, request, response):
            read(platform, reading, asked)

    written()
    for listing, asked in lists(DONE, platform.good.outside, platform.good.held):
        read(platform, listing, asked)
    check_works(platform)


def read(platform: World, rpc: str, request: Message) -> None:
    """Ask over gRPC, and over HTTP where that is possible."""
    check_refusal_or_answer(platform, rpc, request.SerializeToString())
    binding = GETTING.get(rpc)
    if binding is None:
        return
    query = {
        field.name: value
        for field, value in request.ListFields()
        if field.name in ("limit", "flyte_url") and value in (LIMIT, getattr(request, "flyte_url", ""))
    }
    check(platform, binding, f"{target(binding, request)}?{urlencode(query)}", b"", {"Accept": JSON})
