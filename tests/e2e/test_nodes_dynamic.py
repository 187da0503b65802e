"""Dynamic workflows, failure nodes and eager workflows, in every way in which they may end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from flytekit.remote import FlyteRemote, FlyteWorkflowExecution

from .conftest import Registered
from .instance import is_alive, wait_until
from .seen import Seen, phases_of, runs


@pytest.fixture(scope="module")
def seen(remote: FlyteRemote) -> Seen:
    return Seen(remote)


@pytest.fixture(scope="module", autouse=True)
def eager(registered: Registered) -> list[FlyteWorkflowExecution]:
    """As many as there are slots, begun before everything else: the SDK looks only now and then how its children do."""
    workflow = registered.remote.fetch_workflow(name="nodes.eagerly", version=registered.version)
    return [registered.remote.execute(workflow, inputs={"value": 1}) for _ in range(os.cpu_count() or 1)]


@pytest.fixture(scope="module", autouse=True)
def leaving_eager(registered: Registered) -> FlyteWorkflowExecution:
    """One that takes its time to leave."""
    workflow = registered.remote.fetch_workflow(name="nodes.eagerly_leaving", version=registered.version)
    return registered.remote.execute(workflow, inputs={"value": 1})


@pytest.fixture(scope="module", autouse=True)
def aborted_eager(
    registered: Registered, seen: Seen, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[tuple[FlyteWorkflowExecution, int]]]:
    """One that is aborted as soon as what it launched runs, with the process of that; it takes the whole grace."""
    folder = tmp_path_factory.mktemp("eager")
    workflow = registered.remote.fetch_workflow(name="nodes.eagerly_endless", version=registered.version)
    execution = registered.remote.execute(workflow, inputs={"folder": str(folder)})

    def abort() -> tuple[FlyteWorkflowExecution, int]:
        pid = noted(folder / "endless")
        seen.terminate(execution.id.to_flyte_idl(), "enough")
        return execution, pid

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(abort)


def noted(marker: Path) -> int:
    """The process of the task that noted it."""
    return int(wait_until("the task runs", lambda: marker.read_text().split() if marker.exists() else None)[0])


def test_what_a_dynamic_task_makes_is_run_and_shown(registered: Registered, seen: Seen) -> None:
    execution = registered.run("nodes.dynamic_everything", {"value": 1})
    assert execution.outputs["o0"] == 3
    node = seen.nodes(execution)["n0"]
    two = {"dn0": "SUCCEEDED", "dn1": "SUCCEEDED"}
    assert (node.phase, node.phases()) == (
        "SUCCEEDED",
        {"dn0": "SUCCEEDED", "dn1": ("SUCCEEDED", {"dn0": "SUCCEEDED"}), "dn2": "SUCCEEDED", "dn3": ("SUCCEEDED", two)},
    )
    inside = node.inside
    assert node.flags == {"parent", "dynamic"}
    assert [inside[name].flags for name in ("dn0", "dn1", "dn2", "dn3")] == [
        {"array"}, {"parent"}, set(), {"parent", "dynamic"}
    ]  # fmt: skip
    assert {each.message.metadata.retry_group for each in inside.values()} == {"0"}
    assert inside["dn1"].id == f"{node.id}-0-dn1"
    assert seen.attempts(node) == ["SUCCEEDED"]
    assert seen.phase(inside["dn2"].child) == "SUCCEEDED"
    made = seen.dynamic_workflow(node)
    assert made.primary.template.id.name == "dynamic_n0"
    assert {each.id for each in made.primary.template.nodes} >= {"dn0", "dn1", "dn2", "dn3"}
    assert node.message.closure.dynamic_job_spec_uri.endswith("/n0/data/0/futures.pb")
    assert execution.node_executions["n0"].subworkflow_node_executions, "the SDK shows it too"


def test_a_dynamic_task_is_retried_as_any_task(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.run("nodes.dynamic_flaky", {"folder": str(tmp_path)})
    assert execution.outputs["o0"] == 2
    node = seen.nodes(execution)["n0"]
    assert seen.attempts(node) == ["FAILED", "SUCCEEDED"]
    assert node.inside["dn0"].id == "n0-1-dn0"
    assert node.inside["dn0"].message.metadata.retry_group == "1"


def test_what_fails_inside_fails_the_dynamic_node(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.run("nodes.dynamic_broken", {"value": 1, "folder": str(tmp_path)})
    node = seen.nodes(execution)["n0"]
    assert (node.phase, node.phases()) == ("FAILED", {"dn0": "SUCCEEDED", "dn1": "FAILED"})
    assert "broken is broken" in node.error.message
    assert seen.attempts(node) == ["SUCCEEDED"]
    assert runs(tmp_path) == {"spread": 1, "fine": 1, "broken": 1}


def test_an_abort_reaches_what_a_dynamic_task_made(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.launch("nodes.dynamic_endless", {"folder": str(tmp_path)})
    pid = noted(tmp_path / "endless")
    registered.remote.terminate(execution, "enough")
    assert seen.finished(execution, seconds=10) == "ABORTED"
    node = seen.nodes(execution)["n0"]
    assert (node.phase, node.phases()) == ("ABORTED", {"dn0": "ABORTED"})
    assert not is_alive(pid)


@pytest.mark.parametrize("where", ["nodes.tidy", "nodes.tidy_around"])
def test_a_failure_node_is_given_the_error(registered: Registered, seen: Seen, tmp_path: Path, where: str) -> None:
    execution = registered.run(where, {"value": 1, "folder": str(tmp_path)})
    assert "broken is broken" in (tmp_path / "cleaned").read_text()
    nodes = seen.nodes(execution)
    around = nodes["n0"].inside if where == "nodes.tidy_around" else nodes
    assert phases_of(around) == {"n0": "FAILED", "fn0": "SUCCEEDED"}
    assert "broken is broken" in seen.execution(execution).closure.error.message


def test_eager_workflows_give_their_slots_to_what_they_wait_for(
    eager: list[FlyteWorkflowExecution], registered: Registered, seen: Seen
) -> None:
    for execution in eager:
        assert seen.finished(execution) == "SUCCEEDED"
        assert registered.finish(execution).outputs["o0"] == 3


def test_an_eager_workflow_ends_although_the_sdk_still_looks_after_what_it_launched(
    leaving_eager: FlyteWorkflowExecution, registered: Registered, seen: Seen
) -> None:
    assert seen.finished(leaving_eager) == "SUCCEEDED"
    assert registered.finish(leaving_eager).outputs["o0"] == 2


def test_an_abort_reaches_what_an_eager_workflow_launched(
    aborted_eager: Future[tuple[FlyteWorkflowExecution, int]], seen: Seen
) -> None:
    execution, pid = aborted_eager.result()
    assert seen.finished(execution, seconds=20) == "ABORTED"
    wait_until("what it launched ends too", lambda: not is_alive(pid))
