"""Retry policies as executions and tasks state them; what they mean is decided in `engine.budget`.

An execution says it by its annotations (which launch plans give it), a task by its config or by annotations of its pod
template, with the keys of `RetryPolicy.with_settings`; the task's word counts more.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Final

from flyteidl.admin import execution_pb2

from aerodrome.plugins import quantity
from aerodrome.plugins.api import TaskContext, V1Pod, bad_task
from aerodrome.plugins.pods import DEFAULTED
from aerodrome.plugins.pods.documents import find_container
from aerodrome.propeller.engine.budget import Limits, RetryPolicy, policy_of
from aerodrome.propeller.runtimes.pods import primary

OOM_KILLED: Final = "OOMKilled"


def limits_of(execution: str, spec: execution_pb2.ExecutionSpec, limits: Limits) -> Limits:
    """The budgets of an execution.  What its annotations say of retries is refused by its tasks if it is malformed."""
    try:
        policy = limits.retry.with_settings(spec.annotations.values)
    except ValueError:
        policy = limits.retry
    return replace(limits, retry=policy, jitter_seed=execution)


def policy_for(context: TaskContext, default: RetryPolicy) -> RetryPolicy:
    """The retry policy of a task's attempts.  Raises PluginError if it cannot be read."""
    try:
        return policy_of(context.task, default.with_settings(context.annotations))
    except ValueError as error:
        raise bad_task(f"{context.describe()}: {error}") from error


def with_more_memory(pod: V1Pod, policy: RetryPolicy, kills: int) -> V1Pod:
    """`pod`, whose primary container asks for more memory after `kills` attempts that had too little.

    Memory that nobody asked for is left to the runtime.  Where the policy has a limit, no more than that is asked for,
    unless the task itself did.
    """
    if not kills or policy.memory_factor <= 1:
        return pod
    if "memory" in (pod["metadata"].get("annotations") or {}).get(DEFAULTED, "").split(","):
        return pod
    name = primary(pod)["name"]
    container = find_container(pod["spec"], name)
    assert container is not None
    resources = dict(container.get("resources") or {})
    for side in ("requests", "limits"):
        asked = (resources.get(side) or {}).get("memory")
        if asked:
            resources[side] = {**resources[side], "memory": _grown(str(asked), policy, kills)}
    containers = [{**each, "resources": resources} if each is container else each for each in pod["spec"]["containers"]]
    return {**pod, "spec": {**pod["spec"], "containers": containers}}


def _grown(asked: str, policy: RetryPolicy, kills: int) -> str:
    base = quantity.parse(asked)
    grown = base * Decimal(str(policy.memory_factor)) ** kills
    if policy.memory_limit:
        grown = min(grown, max(quantity.parse(policy.memory_limit), base))
    return str(int(grown))
