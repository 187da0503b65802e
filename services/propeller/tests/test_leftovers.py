"""Pods of executions that are over are ended, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from flyteidl.admin import execution_pb2
from flyteidl.core import identifier_pb2

from aerodrome.propeller.leftovers import Leftovers
from aerodrome.propeller.pods import PodHub
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import NotFound, Unavailable


class Cluster:
    """A runtime with one pod for each execution, and the control plane that knows some of them."""

    def __init__(self, phases: dict[str, str | Exception]) -> None:
        self.phases = phases
        self.pods = list(phases)

    async def list(self, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "name": f"{name}-n0-0",
                    "namespace": "p-d",
                    "labels": {"execution-id": name, "project": "p", "domain": "d"},
                }
            }
            for name in self.pods
            if labels is None or labels == {"execution-id": name}
        ]

    async def delete(self, namespace: str, name: str) -> None:
        assert namespace == "p-d"
        self.pods.remove(name.split("-")[0])

    async def get_execution(self, identifier: identifier_pb2.WorkflowExecutionIdentifier) -> execution_pb2.Execution:
        phase = self.phases[identifier.name]
        if isinstance(phase, Exception):
            raise phase
        return execution_pb2.Execution(id=identifier, closure=execution_pb2.ExecutionClosure(phase=phase))


@pytest.mark.parametrize("driven", [False, True])
async def test_only_pods_of_ended_executions_that_nobody_drives_are_ended(driven: bool) -> None:
    cluster = Cluster(
        {
            "aborted": "ABORTED",
            "failed": "FAILED",
            "running": "RUNNING",
            "aborting": "ABORTING",
            "unknown": NotFound("never heard of it"),
            "away": Unavailable("later"),
        }
    )
    keys = {("p", "d", name) for name in cluster.pods} if driven else set()
    leftovers = Leftovers(PodHub(cluster), cluster, ManualClock(), lambda: keys)  # type: ignore[arg-type]
    ended = await leftovers.tick()
    others = ["running", "aborting", "unknown", "away"]
    assert (ended, cluster.pods) == ((0, ["aborted", "failed", *others]) if driven else (2, others))


async def test_what_is_left_of_one_execution_is_ended_without_asking() -> None:
    cluster = Cluster({"one": "RUNNING", "other": "RUNNING"})
    leftovers = Leftovers(PodHub(cluster), cluster, ManualClock(), set)  # type: ignore[arg-type]
    await leftovers.clear(("another project", "d", "one"))
    assert cluster.pods == ["one", "other"]
    await leftovers.clear(("p", "d", "one"))
    assert cluster.pods == ["other"]


async def test_it_is_looked_soon_after_the_start_and_then_now_and_then() -> None:
    cluster, clock = Cluster({"one": "FAILED"}), ManualClock()
    leftovers = Leftovers(PodHub(cluster), cluster, clock, set)  # type: ignore[arg-type]
    running = asyncio.create_task(leftovers.run())
    for seconds in (2.0, 60.0):
        cluster.pods = ["one"]
        await asyncio.sleep(0.01)
        await clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0.01)
        assert cluster.pods == []
    running.cancel()


async def test_it_is_looked_soon_after_an_execution_was_dropped() -> None:
    cluster, clock = Cluster({"one": "SUCCEEDED"}), ManualClock()
    leftovers = Leftovers(PodHub(cluster), cluster, clock, set)  # type: ignore[arg-type]
    running = asyncio.create_task(leftovers.run())
    await asyncio.sleep(0.01)
    await clock.advance(2.0)
    await asyncio.sleep(0.01)
    cluster.pods = ["one"]
    leftovers.hint()
    await asyncio.sleep(0.01)
    await clock.advance(2.0)
    await asyncio.sleep(0.01)
    assert cluster.pods == []
    running.cancel()
