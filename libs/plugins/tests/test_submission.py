"""Answers of the API server to a submission."""

from __future__ import annotations

import pytest

from aerodrome.plugins.api import ErrorKind, Phase
from aerodrome.plugins.submission import Answer, beyond_quota, judge_submission

QUOTA = (
    'pods "p" is forbidden: exceeded quota: team, requested: requests.cpu={asked},requests.memory=1Gi, '
    "used: requests.cpu=3,requests.memory=2Gi, limited: requests.cpu=4,requests.memory=8Gi"
)


@pytest.mark.parametrize("answer", [Answer(201), Answer(409, "AlreadyExists", 'pods "p" already exists')])
def test_a_pod_that_is_there_is_queued(answer: Answer) -> None:
    info = judge_submission("p", answer)
    assert info is not None
    assert (info.phase, info.version) == (Phase.QUEUED, 0)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, "Forbidden", QUOTA.format(asked="2000m")),
        Answer(429, "TooManyRequests"),
        Answer(500, "ServerTimeout"),
        Answer(500, "InternalError", "etcdserver: too many requests"),
    ],
)
def test_a_full_cluster_is_waited_for(answer: Answer) -> None:
    info = judge_submission("p", answer)
    assert info is not None
    assert (info.phase, info.version) == (Phase.WAITING_FOR_RESOURCES, 0)
    assert info.reason


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (Answer(403, "Forbidden", QUOTA.format(asked="5")), "ResourceRequestsExceedLimits", False),
        (Answer(403, "Forbidden", "no rights"), "RuntimeFailure", True),
        (Answer(400, "BadRequest", "bad"), "BadTaskFormat", False),
        (Answer(422, "Invalid", "bad"), "BadTaskFormat", False),
        (Answer(413, "RequestEntityTooLarge"), "EntityTooLarge", False),
    ],
)
def test_a_refusal_is_the_users_failure(answer: Answer, code: str, retryable: bool) -> None:
    info = judge_submission("p", answer)
    assert info is not None
    assert info.failure is not None
    assert (info.failure.code, info.failure.kind, info.failure.retryable) == (code, ErrorKind.USER, retryable)


@pytest.mark.parametrize("answer", [Answer(500, "InternalError"), Answer(401), Answer(409, "Conflict"), Answer(503)])
def test_trouble_of_the_cluster_says_nothing_about_the_task(answer: Answer) -> None:
    assert judge_submission("p", answer) is None


def test_a_hopeless_request_is_explained() -> None:
    assert beyond_quota(QUOTA.format(asked="5")) == {"requests.cpu": "5 requested, 4 at most"}
    assert beyond_quota(QUOTA.format(asked="4")) == {}
    assert beyond_quota(QUOTA.format(asked="lots")) == {}
    assert beyond_quota("something else") == {}
