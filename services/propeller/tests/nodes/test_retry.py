"""More memory for retries, and policies of executions."""

from __future__ import annotations

from typing import Any

import pytest
from flyteidl.admin import execution_pb2

from aerodrome.propeller.engine.budget import Limits, RetryPolicy
from aerodrome.propeller.nodes.retry import limits_of, with_more_memory

MIB = 1 << 20


def pod(requests: str | None, limits: str | None, **annotations: str) -> dict[str, Any]:
    sides = {"requests": requests, "limits": limits}
    resources = {side: {"memory": value, "cpu": "1"} for side, value in sides.items() if value is not None}
    beside = {"name": "beside", "resources": {"limits": {"memory": "1Mi"}}}
    return {
        "metadata": {"name": "p", "annotations": {"primary_container_name": "main", **annotations}},
        "spec": {"containers": [beside, {"name": "main", "resources": resources}]},
    }


def memory(changed: dict[str, Any]) -> dict[str, str]:
    _, main = changed["spec"]["containers"]
    return {side: values["memory"] for side, values in main["resources"].items()}


@pytest.mark.parametrize(
    ("policy", "kills", "expected"),
    [
        (RetryPolicy(memory_factor=2), 0, {"requests": "100Mi", "limits": "200Mi"}),
        (RetryPolicy(memory_factor=1), 3, {"requests": "100Mi", "limits": "200Mi"}),
        (RetryPolicy(memory_factor=2), 1, {"requests": str(200 * MIB), "limits": str(400 * MIB)}),
        (RetryPolicy(memory_factor=1.5), 2, {"requests": str(225 * MIB), "limits": str(450 * MIB)}),
        (
            RetryPolicy(memory_factor=4, memory_limit="300Mi"),
            1,
            {"requests": str(300 * MIB), "limits": str(300 * MIB)},
        ),
        (
            RetryPolicy(memory_factor=4, memory_limit="150Mi"),
            1,
            {"requests": str(150 * MIB), "limits": str(200 * MIB)},
        ),
    ],
)
def test_memory_grows_up_to_the_limit_and_never_shrinks(
    policy: RetryPolicy, kills: int, expected: dict[str, str]
) -> None:
    before = pod("100Mi", "200Mi")
    assert memory(with_more_memory(before, policy, kills)) == expected
    assert memory(before) == {"requests": "100Mi", "limits": "200Mi"}, "the original was changed"


def test_memory_that_nobody_asked_for_is_left_alone() -> None:
    defaulted = pod("1Gi", "1Gi", **{"aerodrome/defaulted-resources": "cpu,memory"})
    assert with_more_memory(defaulted, RetryPolicy(memory_factor=2), 1) is defaulted
    assert memory(with_more_memory(pod(None, None), RetryPolicy(memory_factor=2), 1)) == {}


def test_an_execution_says_it_by_annotations() -> None:
    spec = execution_pb2.ExecutionSpec()
    spec.annotations.values.update({"aerodrome.retry.backoff": "3s", "team": "x"})
    limits = limits_of("p/d/e", spec, Limits(retry=RetryPolicy(factor=3)))
    assert limits.retry == RetryPolicy(backoff=3, factor=3)
    assert limits.jitter_seed == "p/d/e"
    spec.annotations.values["aerodrome.retry.backoff"] = "soon"
    assert limits_of("p/d/e", spec, Limits()).retry == RetryPolicy()
