"""What users see of the cache: hits in every kind of node, what misses, who computes, and what is said of it all.

A marker file counts the runs of tasks; it is an input that does not count.  Source: spec/data-plane.md, 4.
"""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.core import catalog_pb2, execution_pb2
from flytekit.remote import FlyteNodeExecution, FlyteWorkflowExecution

from aerodrome.idl.catalog.v1 import catalog_pb2 as messages
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import CatalogServiceStub

from .conftest import DOMAIN, PROJECT, Registered
from .instance import Instance, wait_until

SUCCEEDED = execution_pb2.WorkflowExecution.SUCCEEDED
FAILED = execution_pb2.WorkflowExecution.FAILED
ABORTED = execution_pb2.WorkflowExecution.ABORTED
HIT, POPULATED = catalog_pb2.CACHE_HIT, catalog_pb2.CACHE_POPULATED

_NUMBERS = itertools.count(int(time.time()) % 10**6 * 100)


@pytest.fixture
def x() -> int:
    """A number that no other test has used as an input."""
    return next(_NUMBERS)


class Marker:
    """The file in which tasks note that they run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def runs(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def marker(tmp_path: Path) -> Marker:
    return Marker(tmp_path / "runs")


@pytest.fixture(scope="module")
def catalog(instance: Instance) -> Iterator[Any]:
    """The service that explains."""
    with grpc.insecure_channel(instance.endpoint) as channel:
        yield CatalogServiceStub(channel)


def run(registered: Registered, marker: Marker, name: str, **inputs: Any) -> FlyteWorkflowExecution:
    """Run a workflow of this file's to its end."""
    options = inputs.pop("options", {})
    execution = registered.run(f"caching.{name}", {**inputs, "marker": str(marker.path)}, **options)
    assert execution.closure.phase == SUCCEEDED, execution.error
    return execution


def every_node(execution: FlyteWorkflowExecution) -> dict[str, FlyteNodeExecution]:
    """The nodes of an execution at every depth, by their unique ids."""
    found: dict[str, FlyteNodeExecution] = {}
    stack = [dict(execution.node_executions)]
    while stack:
        for name, node in stack.pop().items():
            found[name] = node
            stack.append(dict(node.subworkflow_node_executions or {}))
    return found


def status(execution: FlyteWorkflowExecution, node: str = "n0") -> int:
    """What a node says of the cache."""
    return int(every_node(execution)[node].closure.task_node_metadata.cache_status)


def explain(catalog: Any, execution: FlyteWorkflowExecution, node: str = "n0", item: int | None = None) -> Any:
    asked = messages.NodeOfExecution(project=PROJECT, domain=DOMAIN, execution=execution.id.name, node_id=node)
    if item is not None:
        asked.item = item
    return catalog.Explain(messages.ExplainRequest(node=asked))


def test_a_second_run_is_answered_by_the_first(registered: Registered, marker: Marker, x: int) -> None:
    first = run(registered, marker, "once", x=x)
    assert status(first) == POPULATED
    second = run(registered, marker, "once", x=x)
    assert marker.runs == [f"double {x}"]
    assert second.outputs["o0"] == 2 * x
    node = every_node(second)["n0"]
    assert status(second) == HIT
    assert not node.task_executions
    key = node.closure.task_node_metadata.catalog_key.to_flyte_idl()
    assert key.dataset_id.name == "flyte_task-caching.double"
    assert key.artifact_tag.name.startswith("flyte_cached-")
    source = key.source_task_execution
    assert source.node_execution_id.execution_id.name == first.id.name
    assert (source.node_execution_id.node_id, source.task_id.name) == ("n0", "caching.double")


def test_another_input_or_cache_version_misses(registered: Registered, marker: Marker, x: int) -> None:
    run(registered, marker, "once", x=x)
    other = next(_NUMBERS)
    assert status(run(registered, marker, "once", x=other)) == POPULATED
    assert status(run(registered, marker, "once_newer", x=x)) == POPULATED
    assert status(run(registered, marker, "once_newer", x=x)) == HIT
    assert marker.runs == [f"double {x}", f"double {other}", f"double {x}"]


def test_an_execution_that_overwrites_runs_and_replaces(registered: Registered, marker: Marker, x: int) -> None:
    run(registered, marker, "once", x=x)
    again = run(registered, marker, "once", x=x, options={"overwrite_cache": True})
    assert len(marker.runs) == 2
    assert status(again) == POPULATED
    third = run(registered, marker, "once", x=x)
    key = every_node(third)["n0"].closure.task_node_metadata.catalog_key.to_flyte_idl()
    assert key.source_task_execution.node_execution_id.execution_id.name == again.id.name
    assert len(marker.runs) == 2


@pytest.mark.parametrize(
    ("workflow", "node"), [("nested", "n0-0-n0"), ("chosen", "n0-0-n0-n0"), ("made", "n0")], ids=str
)
def test_hits_inside_of_other_nodes(
    registered: Registered, marker: Marker, catalog: Any, x: int, workflow: str, node: str
) -> None:
    first = run(registered, marker, workflow, x=x)
    assert status(first, node) == POPULATED
    ran = list(marker.runs)
    second = run(registered, marker, workflow, x=x)
    assert status(second, node) == HIT
    assert marker.runs == ran
    assert second.outputs["o0"] == 2 * x
    answer = explain(catalog, second, node)
    assert answer.outcome == messages.OUTCOME_HIT
    assert answer.entry.source_execution == first.id.name


def test_a_child_execution_is_answered_from_the_cache(registered: Registered, marker: Marker, x: int) -> None:
    run(registered, marker, "once", x=x)
    assert run(registered, marker, "launched", x=x).outputs["o0"] == 2 * x
    assert marker.runs == [f"double {x}"]


def test_items_of_a_map_are_cached_one_by_one(registered: Registered, marker: Marker, catalog: Any, x: int) -> None:
    run(registered, marker, "mapped", xs=[x, x + 10**6])
    second = run(registered, marker, "mapped", xs=[x + 10**6, x + 2 * 10**6, x])
    assert second.outputs["o0"] == [2 * (x + 10**6), 2 * (x + 2 * 10**6), 2 * x]
    assert sorted(marker.runs) == sorted(f"double {each}" for each in (x, x + 10**6, x + 2 * 10**6))
    (task_execution,) = every_node(second)["n0"].task_executions
    items = task_execution.closure.to_flyte_idl().metadata.external_resources
    assert [each.cache_status for each in items] == [HIT, POPULATED, HIT]
    assert explain(catalog, second, item=2).outcome == messages.OUTCOME_HIT
    missed = explain(catalog, second, item=1)
    assert missed.entry.source_execution == second.id.name


def test_a_miss_is_explained(registered: Registered, marker: Marker, catalog: Any, x: int) -> None:
    first = run(registered, marker, "paired", x=x, y="a")
    second = run(registered, marker, "paired", x=x, y="b")
    answer = explain(catalog, second)
    assert "found no entry and made this one" in answer.reason
    assert "the input y has another value" in answer.reason
    nearest = answer.nearest[0]
    assert nearest.entry.source_execution == first.id.name
    assert [(each.what, each.name) for each in nearest.differences] == [(messages.Difference.WHAT_INPUT, "y")]
    assert answer.key.cache_version == "1"
    assert sorted(answer.key.input_hashes) == ["x", "y"]
    assert list(answer.key.ignored_inputs) == ["marker"]
    with pytest.raises(grpc.RpcError) as caught:
        explain(catalog, second, "start-node")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "has run no task" in error.details()


def test_the_cache_is_asked_over_http_too(registered: Registered, marker: Marker, instance: Instance, x: int) -> None:
    execution = run(registered, marker, "once", x=x)
    node = {"project": PROJECT, "domain": DOMAIN, "execution": execution.id.name, "nodeId": "n0"}
    request = urllib.request.Request(
        f"{instance.url}/api/v1/aerodrome/catalog/Explain",
        data=json.dumps({"node": node}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    assert answer["outcome"] == "OUTCOME_HIT"
    assert answer["key"]["task"] == "caching.double"


def test_what_is_evicted_runs_again(registered: Registered, marker: Marker, catalog: Any, x: int) -> None:
    first = run(registered, marker, "once", x=x)
    selection = messages.Selection(task="caching.double", source_execution=first.id.name)
    seen = catalog.Evict(messages.EvictRequest(selection=selection, dry_run=True))
    assert [each.source_execution for each in seen.entries] == [first.id.name]
    assert status(run(registered, marker, "once", x=x)) == HIT
    request = messages.EvictByExecutionRequest(project=PROJECT, domain=DOMAIN, name=first.id.name)
    assert catalog.EvictByExecution(request).count == 1
    assert status(run(registered, marker, "once", x=x)) == POPULATED
    assert len(marker.runs) == 2


def test_a_hit_whose_file_is_gone_is_a_miss_and_is_said_to_be(
    registered: Registered, marker: Marker, catalog: Any, x: int
) -> None:
    first = run(registered, marker, "written", text=f"text {x}")
    stored = Path(first.outputs["o0"].path)
    assert stored.read_text() == f"text {x}"
    stored.parent.chmod(0o755)  # what an attempt made is read-only, its directories too
    stored.unlink()
    answer = explain(catalog, first)
    assert answer.outcome == messages.OUTCOME_BROKEN
    assert str(stored) in answer.reason
    selection = messages.Selection(source_execution=first.id.name)
    (broken,) = catalog.Verify(messages.VerifyRequest(selection=selection)).broken
    assert list(broken.missing) == [str(stored)]
    second = run(registered, marker, "written", text=f"text {x}")
    assert status(second) == POPULATED
    third = run(registered, marker, "written", text=f"text {x}")
    assert status(third) == HIT
    assert Path(third.outputs["o0"].path).read_text() == f"text {x}"
    assert len(marker.runs) == 2


def test_of_two_executions_at_once_one_computes(registered: Registered, marker: Marker, x: int) -> None:
    inputs = {"x": x, "seconds": 1.0, "marker": str(marker.path)}
    launched = [registered.launch("caching.alone", inputs) for _ in range(2)]
    finished = [registered.finish(each) for each in launched]
    assert [each.closure.phase for each in finished] == [SUCCEEDED, SUCCEEDED]
    assert [each.outputs["o0"] for each in finished] == [x + 1, x + 1]
    assert marker.runs == [f"slowly {x}"]
    assert sorted(status(each) for each in finished) == sorted([HIT, POPULATED])


def test_a_failed_or_aborted_run_leaves_no_reservation(registered: Registered, marker: Marker, x: int) -> None:
    failed = registered.run("caching.failing", {"x": x, "marker": str(marker.path)})
    assert failed.closure.phase == FAILED
    begun = time.monotonic()
    run(registered, marker, "failing", x=x)
    assert len(marker.runs) == 2

    inputs = {"x": x, "seconds": 60.0, "marker": str(marker.path)}
    holder = registered.launch("caching.alone", inputs)
    wait_until("it runs", lambda: f"slowly {x}" in marker.runs)
    waiter = registered.launch("caching.alone", {**inputs, "seconds": 0.0})
    wait_until("the other one waits", lambda: _waits(registered, waiter))
    registered.remote.terminate(holder, "no longer wanted")
    assert registered.finish(holder).closure.phase == ABORTED
    finished = registered.finish(waiter)
    assert finished.closure.phase == SUCCEEDED
    assert marker.runs[2:] == [f"slowly {x}"] * 2
    assert time.monotonic() - begun < 30  # the time after which a reservation ends by itself


def _waits(registered: Registered, execution: FlyteWorkflowExecution) -> bool:
    """Whether the task's attempt waits for somebody else's."""
    seen = registered.remote.sync_execution(execution, sync_nodes=True)
    node = seen.node_executions.get("n0")
    attempts = [] if node is None else node.task_executions
    return any(each.closure.phase == execution_pb2.TaskExecution.WAITING_FOR_RESOURCES for each in attempts)
