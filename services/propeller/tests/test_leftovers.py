"""Pods of executions that are over are ended, and no others."""

from __future__ import annotations

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

    async def list(self) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "name": f"{name}-n0-0",
                    "namespace": "p-d",
                    "labels": {"execution-id": name, "project": "p", "domain": "d"},
                }
            }
            for name in self.pods
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
