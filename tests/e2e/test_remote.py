"""FlyteRemote's whole surface, and what of the raw client has no method there.

Source: spec/control-plane.md, sections 6.9, 8.3, 9.4, 9.6 and 16.3.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionMetadata
from flyteidl.admin.matchable_resource_pb2 import MatchableResource
from flyteidl.core import execution_pb2 as phases
from flytekit import ContainerTask, LaunchPlan, Workflow, kwtypes
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.type_engine import LiteralsResolver
from flytekit.exceptions.user import FlyteEntityNotExistException, FlyteInvalidInputException
from flytekit.models.admin.common import Sort
from flytekit.models.common import NamedEntityIdentifier
from flytekit.models.core.identifier import WorkflowExecutionIdentifier
from flytekit.models.filters import Equal
from flytekit.models.literals import Literal
from flytekit.models.matchable_resource import ClusterResourceAttributes, ExecutionClusterLabel, MatchingAttributes
from flytekit.models.project import Project
from flytekit.remote import FlyteNodeExecution, FlyteRemote, FlyteWorkflowExecution

from .conftest import DOMAIN, PROJECT, Registered
from .instance import wait_until

SUCCEEDED = phases.WorkflowExecution.SUCCEEDED


@pytest.fixture(scope="module")
def nested(registered: Registered) -> FlyteWorkflowExecution:
    """An execution with nodes of many kinds, all of it read."""
    return registered.run("surface.nested", {"n": 3, "numbers": [1, 2, 3]})


def named(remote: FlyteRemote, name: str) -> FlyteWorkflowExecution:
    return remote.fetch_execution(name=name)


# --- registering and fetching


def settings(version: str = "v1") -> SerializationSettings:
    """Those of one registration."""
    image = ImageConfig.auto("python:3.11")
    return SerializationSettings(image_config=image, project=PROJECT, domain=DOMAIN, version=version)


def container(name: str, word: str = "hello") -> ContainerTask:
    return ContainerTask(name, image="python:3.11", command=["echo", word], inputs=kwtypes(n=int))


def flow(name: str, task: ContainerTask, *, nodes: int = 1) -> Any:
    made = Workflow(name=name)
    made.add_workflow_input("n", int)
    for _ in range(nodes):
        made.add_entity(task, n=made.inputs["n"])
    return made


def plan(name: str, workflow: Any, n: int) -> LaunchPlan:
    LaunchPlan.CACHE.pop(name, None)
    return LaunchPlan.create(name, workflow, default_inputs={"n": n})


def test_what_is_registered_again_as_it_was_is_there_and_with_other_content_is_refused(remote: FlyteRemote) -> None:
    name = f"again.{secrets.token_hex(4)}"
    task = container(f"{name}.task")
    for _ in range(2):
        assert remote.register_task(task, settings(), version="v1").id.name == f"{name}.task"
        assert remote.register_workflow(flow(name, task), settings(), version="v1").id.name == name
        registered = remote.register_launch_plan(
            plan(f"{name}.plan", flow(name, task), 1), version="v1", serialization_settings=settings()
        )
        assert (registered.id.name, registered.id.version) == (f"{name}.plan", "v1")
    with pytest.raises(FlyteInvalidInputException, match="task with different structure already exists"):
        remote.register_task(container(f"{name}.task", "bye"), settings(), version="v1")
    with pytest.raises(FlyteInvalidInputException, match="workflow with different structure already exists"):
        remote.register_workflow(flow(name, task, nodes=2), settings(), version="v1", default_launch_plan=False)
    with pytest.raises(FlyteInvalidInputException, match="launch plan with different structure already exists"):
        remote.register_launch_plan(
            plan(f"{name}.plan", flow(name, task), 2), version="v1", serialization_settings=settings()
        )


def test_entities_are_fetched_by_their_version_or_the_latest(remote: FlyteRemote) -> None:
    name = f"versions.{secrets.token_hex(4)}"
    for version in ("v1", "v2"):
        task = container(f"{name}.task", version)
        remote.register_workflow(flow(name, task), settings(version), version=version)
    for fetch, entity in (
        (remote.fetch_task, f"{name}.task"),
        (remote.fetch_workflow, name),
        (remote.fetch_launch_plan, name),
    ):
        assert fetch(name=entity, version="v1").id.version == "v1"
        assert fetch(name=entity).id.version == "v2"
        with pytest.raises(FlyteEntityNotExistException):
            fetch(name=entity, version="v3")
    assert remote.fetch_task(name=f"{name}.task", version="v1").template.container.command == ["echo", "v1"]
    assert [each.id.name for each in remote.list_tasks_by_version("v2") if each.id.name.startswith(name)] == [
        f"{name}.task"
    ]
    newest_first = Sort("created_at", Sort.Direction.DESCENDING)
    found, _ = remote.client.list_workflows_paginated(
        NamedEntityIdentifier(PROJECT, DOMAIN, name), limit=10, sort_by=newest_first
    )
    assert [each.id.version for each in found] == ["v2", "v1"]
    assert remote.fetch_active_launchplan(name=name) is None
    for version in ("v1", "v2"):
        remote.activate_launchplan(remote.fetch_launch_plan(name=name, version=version).id)
        active = remote.fetch_active_launchplan(name=name)
        assert active is not None
        assert active.id.version == version
    remote.deactivate_launchplan(active.id)
    assert remote.fetch_active_launchplan(name=name) is None


def test_projects_domains_and_names_are_listed(remote: FlyteRemote, registered: Registered) -> None:
    assert PROJECT in [each.id for each in remote.list_projects()]
    assert [each.id for each in remote.get_domains()] == ["development", "staging", "production"]
    client = remote.client
    new = f"project-{secrets.token_hex(4)}"
    client.register_project(Project(new, "a project", "for a test"))
    assert new in [each.id for each in remote.list_projects(limit=1000)]
    names, _ = client.list_workflow_ids_paginated(PROJECT, DOMAIN, limit=1000)
    assert "surface.nested" in [each.name for each in names]


# --- executing


def test_a_task_a_workflow_and_a_launch_plan_are_executed(registered: Registered, nested: Any) -> None:
    remote, version = registered.remote, registered.version
    label = f"batch-{secrets.token_hex(4)}"
    started = [
        remote.execute(remote.fetch_task(name="surface.double", version=version), inputs={"n": 4}),
        remote.execute(remote.fetch_workflow(name="surface.inner", version=version), inputs={"n": 4}, tags=[label]),
        remote.execute(remote.fetch_launch_plan(name="surface.inner_plan", version=version), inputs={}, tags=[label]),
    ]
    done = [registered.finish(each) for each in started]
    assert [each.outputs["o0"] for each in done] == [8, 16, 20]
    assert named(remote, done[0].id.name).closure.phase == SUCCEEDED
    recent = [each.id.name for each in remote.recent_executions(limit=10)]
    assert {each.id.name for each in done} <= set(recent)
    by_name = remote.recent_executions(filters=[Equal("execution_name", done[1].id.name)])
    assert [each.id.name for each in by_name] == [done[1].id.name]
    tagged = remote.recent_executions(filters=[Equal("admin_tag.name", label)])
    assert {each.id.name for each in tagged} == {done[1].id.name, done[2].id.name}


def test_an_execution_is_relaunched_with_its_inputs(registered: Registered, nested: FlyteWorkflowExecution) -> None:
    remote = registered.remote
    first = registered.run("surface.inner", {"n": 7})
    again = remote.client.relaunch_execution(first.id, name=f"again-{first.id.name}")
    assert again.name == f"again-{first.id.name}"
    done = registered.finish(named(remote, again.name))
    assert (done.inputs["n"], done.outputs["o0"]) == (7, 28)
    assert remote.client.get_execution(done.id).spec.metadata.mode == ExecutionMetadata.RELAUNCH
    fresh = remote.client.relaunch_execution(first.id)
    assert fresh.name not in (first.id.name, again.name)
    assert registered.finish(named(remote, fresh.name)).outputs["o0"] == 28


def test_an_execution_is_recovered_from_where_it_failed(registered: Registered, tmp_path: Path) -> None:
    remote, marker = registered.remote, tmp_path / "marker"
    failed = registered.run("surface.fragile", {"n": 2, "marker": str(marker)})
    assert failed.closure.phase == phases.WorkflowExecution.FAILED
    marker.write_text("there")
    again = remote.client.recover_execution(failed.id, name=f"more-{failed.id.name}")
    done = registered.finish(named(remote, again.name))
    assert (done.closure.phase, done.outputs["o0"]) == (SUCCEEDED, 4)
    nodes = {each.metadata.spec_node_id: each for each in done.node_executions.values()}
    assert nodes["n0"].closure.phase == phases.NodeExecution.RECOVERED
    assert nodes["n1"].closure.phase == phases.NodeExecution.SUCCEEDED


def test_an_execution_is_terminated(registered: Registered) -> None:
    remote = registered.remote
    execution = registered.launch("surface.unending", {"n": 1})
    remote.terminate(execution, "no time for it")
    done = registered.finish(execution)
    assert done.closure.phase == phases.WorkflowExecution.ABORTED
    assert remote.client.get_execution(done.id).closure.abort_metadata.cause == "no time for it"
    with pytest.raises(Exception, match="already terminated"):
        remote.terminate(execution, "again")


# --- reading


def by_spec(nodes: dict[str, FlyteNodeExecution]) -> dict[str, FlyteNodeExecution]:
    return {each.metadata.spec_node_id: each for each in nodes.values()}


def test_nested_nodes_are_synced(registered: Registered, nested: FlyteWorkflowExecution) -> None:
    assert nested.closure.phase == SUCCEEDED
    assert [nested.outputs[f"o{index}"] for index in range(5)] == [12, 24, 12, 3, [2, 4, 6]]
    nodes = by_spec(nested.node_executions)
    branch, inner, dynamic, launched, mapped = (nodes[f"n{index}"] for index in range(5))
    assert [node.metadata.is_parent_node for node in (branch, inner, dynamic)] == [True, True, True]
    assert [spec for spec in by_spec(branch.subworkflow_node_executions) if spec != "end-node"] == ["n0-n1"]
    assert {"n0", "n1"} <= by_spec(inner.subworkflow_node_executions).keys()
    assert by_spec(inner.subworkflow_node_executions)["n1"].outputs["o0"] == 12
    assert dynamic.metadata.is_dynamic
    made = by_spec(dynamic.subworkflow_node_executions)
    assert by_spec(made["dn0"].subworkflow_node_executions)["dn1"].outputs["o0"] == 12
    assert made["dn1"].outputs["o0"] == 24
    (child,) = launched.workflow_executions
    assert (child.outputs["o0"], child.closure.phase) == (12, SUCCEEDED)
    assert mapped.metadata.is_array
    (attempt,) = mapped.task_executions
    items = registered.remote.client.get_task_execution(attempt.id).closure.metadata.external_resources
    assert [each.phase for each in items] == [phases.TaskExecution.SUCCEEDED] * 3


def test_spans_tell_where_the_time_went(registered: Registered, nested: FlyteWorkflowExecution) -> None:
    span = registered.remote.get_execution_metrics(nested.id, depth=10)
    told = str(span.to_flyte_idl())
    for operation in ("WORKFLOW_SETUP", "NODE_TRANSITION", "NODE_SETUP", "TASK_RUNTIME"):
        assert operation in told


def test_every_form_of_a_flyte_url_is_resolved(registered: Registered, nested: FlyteWorkflowExecution) -> None:
    remote = registered.remote
    prefix = f"flyte://v1/{PROJECT}/{DOMAIN}/{nested.id.name}"
    (shown,) = [
        node
        for node in by_spec(nested.node_executions)["n0"].subworkflow_node_executions.values()
        if node.metadata.spec_node_id == "n0-n1"
    ]
    url = f"{prefix}/{shown.id.node_id}"
    for base in (url, f"{url}/0"):
        whole = remote.get(f"{base}/i")
        assert isinstance(whole, LiteralsResolver)
        assert whole.get("n", int) == 3
        assert remote.get(f"{base}/o").get("o0", int) == 3
        one = remote.get(f"{base}/i/n")
        assert isinstance(one, Literal)
        assert one.scalar.primitive.integer == 3
        assert remote.get(f"{base}/o/o0").scalar.primitive.integer == 3
    assert b"the number 3" in remote.get(f"{url}/d")
    for wrong in (f"{url}/o/other", f"{url}/0/d", f"{url}/7/o", f"{prefix}/nothing", "flyte://v2/x"):
        with pytest.raises(FlyteInvalidInputException):
            remote.client.get_data(wrong)
    with pytest.raises(FlyteEntityNotExistException):
        remote.client.get_data(f"{prefix}/nowhere/o")
    assert remote.get(f"{url}/o/other") is None


# --- attributes


def test_attributes_are_set_read_listed_and_fall_back(remote: FlyteRemote) -> None:
    client = remote.client
    project = f"attributes-{secrets.token_hex(4)}"
    client.register_project(Project(project, project, ""))
    label = MatchableResource.EXECUTION_CLUSTER_LABEL
    client.update_project_domain_attributes(
        project, DOMAIN, MatchingAttributes(execution_cluster_label=ExecutionClusterLabel("domain"))
    )
    found = client.get_workflow_attributes(project, DOMAIN, "some.workflow", label)
    assert found.attributes.matching_attributes.execution_cluster_label.value == "domain"
    assert found.attributes.workflow == ""
    client.update_workflow_attributes(
        project, DOMAIN, "some.workflow", MatchingAttributes(execution_cluster_label=ExecutionClusterLabel("workflow"))
    )
    found = client.get_workflow_attributes(project, DOMAIN, "some.workflow", label)
    assert found.attributes.matching_attributes.execution_cluster_label.value == "workflow"
    found = client.get_project_domain_attributes(project, DOMAIN, label)
    assert found.attributes.matching_attributes.execution_cluster_label.value == "domain"
    listed = client.list_matchable_attributes(label).configurations
    assert [each.workflow for each in listed if each.project == project] == ["some.workflow", ""]
    with pytest.raises(FlyteEntityNotExistException):
        client.get_project_domain_attributes(project, DOMAIN, MatchableResource.CLUSTER_RESOURCE)
    quota = MatchingAttributes(cluster_resource_attributes=ClusterResourceAttributes({"projectQuotaCpu": "9"}))
    client.update_project_domain_attributes(project, DOMAIN, quota)
    found = client.get_project_domain_attributes(project, DOMAIN, MatchableResource.CLUSTER_RESOURCE)
    assert dict(found.attributes.matching_attributes.cluster_resource_attributes.attributes) == {"projectQuotaCpu": "9"}


# --- signals


def waiting(remote: FlyteRemote, execution: FlyteWorkflowExecution, count: int) -> dict[str, Any]:
    """The signals of an execution, once there are so many."""

    def look() -> dict[str, Any] | None:
        found = {each.id.signal_id: each for each in remote.list_signals(execution.id.name)}
        return found if len(found) >= count else None

    return wait_until("the gates have been reached", look)


def test_gates_pass_on_what_is_set_and_approved(registered: Registered) -> None:
    remote = registered.remote
    execution = registered.launch("surface.gated", {"n": 1})
    (number,) = waiting(remote, execution, 1).values()
    assert (number.id.signal_id, number.HasField("value")) == ("number", False)
    with pytest.raises(FlyteInvalidInputException, match="is not castable to existing signal type"):
        remote.set_input("number", execution.id.name, "four")
    remote.set_signal("number", execution.id.name, 4)
    signals = waiting(remote, execution, 2)
    assert signals["number"].value.scalar.primitive.integer == 4
    assert not signals["go"].HasField("value")
    remote.approve("go", execution.id.name)
    done = registered.finish(execution)
    assert (done.closure.phase, done.outputs["o0"]) == (SUCCEEDED, 8)
    with pytest.raises(Exception, match="the execution is over"):
        remote.approve("go", execution.id.name)


def test_what_is_rejected_fails(registered: Registered) -> None:
    remote = registered.remote
    execution = registered.launch("surface.gated", {"n": 1})
    waiting(remote, execution, 1)
    remote.set_input("number", execution.id.name, 4)
    waiting(remote, execution, 2)
    remote.reject("go", execution.id.name)
    done = registered.finish(execution)
    assert done.closure.phase == phases.WorkflowExecution.FAILED


def test_a_signal_that_nobody_waits_for_cannot_be_set(registered: Registered, nested: FlyteWorkflowExecution) -> None:
    with pytest.raises(FlyteInvalidInputException, match="failed to validate that signal"):
        registered.remote.set_signal("nothing", nested.id.name, 1)
    assert not registered.remote.list_signals(nested.id.name)
    nowhere = WorkflowExecutionIdentifier(PROJECT, DOMAIN, "nowhere")
    assert not registered.remote.list_signals(nowhere.name)
