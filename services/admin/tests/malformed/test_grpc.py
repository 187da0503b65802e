"""Whatever bytes an rpc is sent, the answer says what is wrong with them, and nothing is left behind.

The rpcs are those of the services' descriptors, the requests good ones that were changed as the descriptors of their
messages permit.  `MALFORMED_EXAMPLES` in the environment says how many of each; a few thousand take an hour.
"""

from __future__ import annotations

import os
from random import Random

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .checking import check_refusal_or_answer, check_works
from .good import REQUESTS
from .graphs import any_graph, chain, tower
from .mutations import noise, spoil, texts_of
from .world import MAX_MESSAGE_BYTES, RPCS, SERVICES, World

UNIMPLEMENTED: frozenset[str] = frozenset()
"""What this release does not offer."""
LONG_TEXT = "x" * 10_000_000

some = settings(
    max_examples=int(os.environ.get("MALFORMED_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(min_value=0, max_value=2**64 - 1)
"""What is drawn depends on what was made before, so that nothing could be shrunk: a failure shows the request."""


def test_the_rpcs_are_those_of_every_service_that_is_served(platform: World) -> None:
    assert set(platform.services) == {service.full_name for service in SERVICES}
    assert REQUESTS.keys() == RPCS.keys()


@pytest.mark.parametrize("rpc", RPCS)
def test_good_requests_are_accepted(rpc: str, platform: World) -> None:
    for index in range(len(platform.requests(rpc))):
        request = platform.requests(rpc)[index]
        answer = platform.call(rpc, request.SerializeToString())
        if rpc in UNIMPLEMENTED:
            assert answer.code is grpc.StatusCode.UNIMPLEMENTED
            assert rpc in answer.text
        else:
            assert answer.code is grpc.StatusCode.OK, (answer.text, request)


@pytest.mark.parametrize("rpc", RPCS)
def test_good_requests_with_a_spoiled_place_are_understood_or_refused(rpc: str, platform: World) -> None:
    @some
    @given(seeds)
    def spoiled(seed: int) -> None:
        chance = Random(seed)
        check_refusal_or_answer(platform, rpc, spoil(chance, chance.choice(platform.requests(rpc))))

    spoiled()
    check_works(platform)


@pytest.mark.parametrize("rpc", RPCS)
def test_bytes_that_are_no_request_are_refused(rpc: str, platform: World) -> None:
    @settings(some, max_examples=max(6, some.max_examples // 4))
    @given(seeds)
    def noisy(seed: int) -> None:
        chance = Random(seed)
        check_refusal_or_answer(platform, rpc, noise(chance, chance.choice(platform.requests(rpc))))

    noisy()
    check_works(platform)


@settings(some, max_examples=4 * some.max_examples)
@given(seeds)
def test_workflows_of_any_shape_are_compiled_or_refused(platform: World, seed: int) -> None:
    check_refusal_or_answer(platform, "CreateWorkflow", any_graph(Random(seed), platform.good).SerializeToString())


@pytest.mark.parametrize("length", [1, 2, 300])
def test_nodes_that_wait_for_each_other_are_refused(platform: World, length: int) -> None:
    answer = check_refusal_or_answer(
        platform, "CreateWorkflow", chain(platform.good, length, closed=True).SerializeToString()
    )
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "CycleDetected" in answer.text
    answer = check_refusal_or_answer(
        platform, "CreateWorkflow", chain(platform.good, length, closed=False).SerializeToString()
    )
    assert answer.code is grpc.StatusCode.OK


@pytest.mark.parametrize("height", [1, 2, 300])
def test_workflows_that_hold_themselves_are_refused(platform: World, height: int) -> None:
    answer = check_refusal_or_answer(platform, "CreateWorkflow", tower(platform.good, height).SerializeToString())
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "CycleDetected" in answer.text


@pytest.mark.parametrize("rpc", sorted(RPCS.keys() - UNIMPLEMENTED))
def test_a_text_of_ten_million_characters_is_refused_wherever_it_is_too_long(rpc: str, platform: World) -> None:
    for field in chosen_texts(rpc, platform):
        request = with_long_text(platform.requests(rpc)[0], field)
        answer = check_refusal_or_answer(platform, rpc, request.SerializeToString())
        if field in ("project", "domain", "name", "version", "node_id", "cluster", "holder"):
            assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (field, answer)
    check_works(platform)


def test_a_message_that_is_too_large_is_refused(platform: World) -> None:
    answer = platform.call("GetTask", bytes(MAX_MESSAGE_BYTES + 1))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    check_works(platform)


def chosen_texts(rpc: str, platform: World) -> list[str]:
    """Names of text fields to try: all that name something, and one other."""
    names = sorted({name.rpartition(".")[2] for _, name in texts_of(platform.requests(rpc)[0])})
    if "MALFORMED_EXAMPLES" in os.environ:
        return names
    others = [name for name in names if name not in ("name", "cluster", "node_id")]
    return [name for name in names if name not in others] + others[:1]


def with_long_text(request: Message, field: str) -> Message:
    """`request` with ten million characters in the first text field of this name."""
    put = next(put for put, name in texts_of(request) if name.rpartition(".")[2] == field)
    put(LONG_TEXT)
    return request
