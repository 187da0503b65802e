"""What an execution runs with, and who decides: every row of spec/control-plane.md, sections 4.1 and 4.5 to 4.10."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, project_pb2, task_pb2, workflow_pb2
from flyteidl.admin.project_attributes_pb2 import ProjectAttributesUpdateRequest
from flyteidl.admin.project_domain_attributes_pb2 import ProjectDomainAttributesUpdateRequest
from flyteidl.admin.workflow_attributes_pb2 import WorkflowAttributesUpdateRequest
from flyteidl.core.identifier_pb2 import Identifier, NodeExecutionIdentifier, WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.json_format import ParseDict

from aerodrome.idl.journal.v1.journal_pb2 import Assignment, LeaseRequest, OpenSessionRequest
from aerodrome.stdlib.postgres.testing import ServerForTests

from .serving import DOMAIN, PROJECT, Served, identifier, integer, reference, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

CONFIG = {
    "flyteadmin": {
        "max_parallelism": 10,
        "labels": {"from": "settings"},
        "annotations": {"from": "settings"},
        "envs": {"FROM": "settings"},
        "interruptible": True,
        "assumable_iam_role": "settings",
        "output_location_prefix": "s3://settings",
    },
    "task_resources": {"defaults": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "8Gi", "gpu": "2"}},
    "registration": {"max_label_entries": 3, "max_annotation_entries": 2},
    "clusters": {
        "cluster_configs": [{"name": name, "enabled": True} for name in ("one", "two", "three")],
        "label_cluster_map": {"gold": [{"id": "one"}], "silver": [{"id": "two"}], "usual": [{"id": "three"}]},
        "default_execution_label": "usual",
    },
    "cluster_pools": {"cluster_pool_assignments": {"staging": {"pool": "blue"}}},
    "queues": {
        "execution_queues": [
            {"dynamic": "gpu-queue", "attributes": ["gpu", "dear"]},
            {"dynamic": "day-queue", "attributes": ["usual"]},
            {"dynamic": "night-queue", "attributes": ["usual", "cheap"]},
        ],
        "workflow_configs": [{"domain": "staging", "tags": ["unknown", "gpu"]}, {"tags": ["cheap"]}],
    },
}
ASKED = {"phases": ["FAILED"], "email": {"recipientsEmail": ["request@x"]}}
WORKFLOW: dict[str, Any] = {
    "interface": {"inputs": {"variables": {"a": {"type": {"simple": "INTEGER"}}}}},
    "nodes": [
        {
            "id": "n0",
            "taskNode": {"referenceId": reference("TASK", "t")},
            "inputs": [{"var": "a", "binding": {"promise": {"nodeId": "", "var": "a"}}}],
        }
    ],
}
SOURCES = ("request", "plan", "workflow", "domain", "project", "settings")
"""In the order in which they win."""
PARALLELISM = {source: 5 + at for at, source in enumerate(SOURCES)}


def configured(source: str) -> dict[str, Any]:
    """What a source says about everything that it may say something about."""
    return {
        "maxParallelism": PARALLELISM[source],
        "labels": {"values": {"from": source}},
        "annotations": {"values": {"from": source}},
        "envs": {"values": [{"key": "FROM", "value": source}]},
        "rawOutputDataConfig": {"outputLocationPrefix": f"s3://{source}"},
        "securityContext": {"runAs": {"iamRole": source}},
        "interruptible": source == "settings",  # an explicit "no" is an answer
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store"), CONFIG) as made:
        task = task_pb2.TaskCreateRequest(id=identifier("TASK", "t"))
        ParseDict(
            {
                "type": "python-task",
                "metadata": {"runtime": {"version": "1"}},
                "interface": {"inputs": {"variables": {"a": {"type": {"simple": "INTEGER"}}}}},
                "container": {"image": "python:3.11", "args": ["run"]},
            },
            task.spec.template,
        )
        await made.admin.CreateTask(task)
        workflow = workflow_pb2.WorkflowCreateRequest(id=identifier("WORKFLOW", "w"))
        ParseDict(WORKFLOW, workflow.spec.template)
        await made.admin.CreateWorkflow(workflow)
        await plan(made, "bare")
        await plan(made, "full", **configured("plan"))
        yield made


async def plan(platform: Served, name: str, **spec: Any) -> None:
    """A launch plan of the workflow."""
    request = launch_plan_pb2.LaunchPlanCreateRequest(id=identifier("LAUNCH_PLAN", name))
    ParseDict({"workflowId": reference("WORKFLOW", "w"), **spec}, request.spec)
    await platform.admin.CreateLaunchPlan(request)


def request_for(kind: str = "LAUNCH_PLAN", name: str = "bare", **spec: Any) -> execution_pb2.ExecutionCreateRequest:
    request = execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"e{next(_numbers)}")
    ParseDict({"launchPlan": reference(kind, name), **spec}, request.spec)
    request.inputs.literals["a"].CopyFrom(integer(1))
    return request


async def run(platform: Served, request: execution_pb2.ExecutionCreateRequest) -> execution_pb2.ExecutionSpec:
    """What the execution of a request says that it runs with."""
    key = (await platform.admin.CreateExecution(request)).id
    return (await platform.admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=key))).spec


async def new_project(platform: Served) -> str:
    return await platform.register_project(f"p{next(_numbers)}")


async def attribute(platform: Served, level: str, project: str, workflow: str = "w", **matching: Any) -> None:
    """Say something at a level: of a project, of a domain in it, or of a workflow there."""
    if level == "project":
        of_project = ProjectAttributesUpdateRequest()
        ParseDict({"attributes": {"project": project, "matchingAttributes": matching}}, of_project)
        await platform.admin.UpdateProjectAttributes(of_project)
        return
    if level == "domain":
        of_domain = ProjectDomainAttributesUpdateRequest()
        ParseDict({"attributes": {"project": project, "domain": DOMAIN, "matchingAttributes": matching}}, of_domain)
        await platform.admin.UpdateProjectDomainAttributes(of_domain)
        return
    of_workflow = WorkflowAttributesUpdateRequest()
    ParseDict(
        {
            "attributes": {
                "project": project, "domain": DOMAIN, "workflow": workflow, "matchingAttributes": matching,
            }
        },
        of_workflow,
    )  # fmt: skip
    await platform.admin.UpdateWorkflowAttributes(of_workflow)


async def assignment_of(platform: Served, cluster: str, name: str) -> Assignment:
    """What a data plane of `cluster` is handed for an execution."""
    session = await platform.journal.OpenSession(OpenSessionRequest(cluster=cluster, holder=f"h{next(_numbers)}"))
    call = platform.journal.Lease(LeaseRequest(session_id=session.session_id, capacity=1_000), timeout=20)
    try:
        async for response in call:
            if response.assignment.name == name:
                found: Assignment = response.assignment
                return found
    finally:
        call.cancel()
    raise AssertionError(f"{name} was not handed out")


class TestConfiguration:
    @pytest.mark.parametrize("kind", ["LAUNCH_PLAN", "TASK"])
    @pytest.mark.parametrize("first", SOURCES)
    async def test_the_first_source_that_says_something_wins(self, first: str, kind: str, platform: Served) -> None:
        says = SOURCES[SOURCES.index(first) :]
        project = await new_project(platform)
        for level in ("workflow", "domain", "project"):
            if level in says:
                name = "w" if kind == "LAUNCH_PLAN" else ".flytegen.t"
                await attribute(platform, level, project, name, workflowExecutionConfig=configured(level))
        if kind == "TASK":
            request = request_for("TASK", "t", **(configured("request") if "request" in says else {}))
            expected = "workflow" if first == "plan" else first  # there is no launch plan that could say something
        else:
            request = request_for(
                "LAUNCH_PLAN",
                "full" if "plan" in says else "bare",
                **(configured("request") if "request" in says else {}),
            )
            expected = first
        request.project = project
        spec = await run(platform, request)
        assert spec.max_parallelism == PARALLELISM[expected]
        assert dict(spec.labels.values) == {"from": expected}
        assert dict(spec.annotations.values) == {"from": expected}
        assert [(each.key, each.value) for each in spec.envs.values] == [("FROM", expected)]
        assert spec.raw_output_data_config.output_location_prefix == f"s3://{expected}"
        assert spec.security_context.run_as.iam_role == expected
        assert spec.interruptible.value is (expected == "settings")
        assert spec.HasField("interruptible")

    async def test_what_the_most_specific_row_leaves_out_is_taken_from_the_project_alone(
        self, platform: Served
    ) -> None:
        project = await new_project(platform)
        await attribute(platform, "workflow", project, workflowExecutionConfig={"maxParallelism": 77})
        await attribute(platform, "domain", project, workflowExecutionConfig=configured("domain"))
        await attribute(
            platform, "project", project, workflowExecutionConfig={"labels": {"values": {"from": "project"}}}
        )
        request = request_for()
        request.project = project
        spec = await run(platform, request)
        assert spec.max_parallelism == 77
        assert dict(spec.labels.values) == {"from": "project"}
        assert dict(spec.annotations.values) == {"from": "settings"}  # and not the domain's

    @pytest.mark.parametrize(
        ("plan_says", "request_says", "expected"),
        [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
    )
    async def test_one_yes_is_enough_to_overwrite_the_cache(
        self, plan_says: bool, request_says: bool, expected: bool, platform: Served
    ) -> None:
        name = f"cached{next(_numbers)}"
        await plan(platform, name, overwriteCache=plan_says)
        assert (await run(platform, request_for(name=name, overwriteCache=request_says))).overwrite_cache is expected

    async def test_maps_are_taken_whole_and_not_merged(self, platform: Served) -> None:
        spec = await run(
            platform, request_for(name="full", labels={"values": {"own": "1"}}, annotations={"values": {"own": "2"}})
        )
        assert dict(spec.labels.values) == {"own": "1"}
        assert dict(spec.annotations.values) == {"own": "2"}

    async def test_labels_of_the_project_are_added_where_their_keys_are_free(self, platform: Served) -> None:
        project = await new_project(platform)
        labels = common_pb2.Labels(values={"from": "project", "team": "blue"})
        await platform.admin.UpdateProject(project_pb2.Project(id=project, labels=labels))
        request = request_for(labels={"values": {"from": "request"}})
        request.project = project
        assert dict((await run(platform, request)).labels.values) == {"from": "request", "team": "blue"}

    @pytest.mark.parametrize(("what", "limit"), [("labels", 3), ("annotations", 2)])
    async def test_too_many_are_refused_but_not_of_single_tasks(self, what: str, limit: int, platform: Served) -> None:
        many: dict[str, Any] = {what: {"values": {f"k{at}": "v" for at in range(limit + 1)}}}
        assert await refused(platform.admin.CreateExecution(request_for(**many))) == (
            "INVALID_ARGUMENT",
            f"{what} has too many entries [{limit + 1} > {limit}]",
        )
        assert len(getattr(await run(platform, request_for("TASK", "t", **many)), what).values) == limit + 1

    async def test_deprecated_roles_count_between_attributes_and_settings(self, platform: Served) -> None:
        old = {"role": "oldest"}
        middle = old | {"auth": {"assumableIamRole": "old"}}
        new = middle | {"authRole": {"assumableIamRole": "new", "kubernetesServiceAccount": "account"}}
        for spec, role in ((old, "oldest"), (middle, "old"), (new, "new")):
            name = f"roles{next(_numbers)}"
            await plan(platform, name, **spec)
            run_as = (await run(platform, request_for(name=name))).security_context.run_as
            assert run_as.iam_role == role
        assert run_as.k8s_service_account == "account"
        asked = request_for(name=name, authRole={"assumableIamRole": "asked"})
        assert (await run(platform, asked)).security_context.run_as.iam_role == "asked"
        project = await new_project(platform)
        await attribute(platform, "project", project, workflowExecutionConfig=configured("project"))
        asked = request_for(name=name, authRole={"assumableIamRole": "asked"})
        asked.project = project
        assert (await run(platform, asked)).security_context.run_as.iam_role == "project"

    @pytest.mark.parametrize(
        ("plan_says", "spec", "told"),
        [
            (True, {}, ["plan@x"]),
            (True, {"disableAll": True}, []),
            (True, {"notifications": {"notifications": [ASKED]}}, ["request@x"]),
            (False, {}, []),
        ],
    )  # fmt: skip
    async def test_who_is_told_of_the_end(
        self, plan_says: bool, spec: dict[str, Any], told: list[str], platform: Served
    ) -> None:
        name = f"loud{next(_numbers)}"
        loud = {"notifications": [{"phases": ["FAILED"], "email": {"recipientsEmail": ["plan@x"]}}]}
        await plan(platform, name, **({"entityMetadata": loud} if plan_says else {}))
        key = (await platform.admin.CreateExecution(request_for(name=name, **spec))).id
        closure = (await platform.admin.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=key))).closure
        assert [mail for each in closure.notifications for mail in each.email.recipients_email] == told


class TestTaskResources:
    async def test_the_most_specific_row_replaces_the_settings_whole(self, platform: Served) -> None:
        request = request_for(executionClusterLabel={"value": "gold"})
        await platform.admin.CreateExecution(request)
        usual = (await assignment_of(platform, "one", request.name)).resources
        assert dict(usual.defaults) == {"cpu": "1", "memory": "1Gi"}
        assert dict(usual.limits) == {"cpu": "4", "memory": "8Gi", "gpu": "2"}
        await attribute(
            platform, "workflow", PROJECT, taskResourceAttributes={"defaults": {"cpu": "3"}, "limits": {"cpu": "5"}}
        )
        await attribute(platform, "project", PROJECT, taskResourceAttributes={"defaults": {"memory": "2Gi"}})
        request = request_for(executionClusterLabel={"value": "gold"})
        await platform.admin.CreateExecution(request)
        own = (await assignment_of(platform, "one", request.name)).resources
        assert (dict(own.defaults), dict(own.limits)) == ({"cpu": "3"}, {"cpu": "5"})
        task = request_for("TASK", "t", executionClusterLabel={"value": "gold"})  # of another workflow
        await platform.admin.CreateExecution(task)
        other = (await assignment_of(platform, "one", task.name)).resources
        assert (dict(other.defaults), dict(other.limits)) == ({"memory": "2Gi"}, {})

    async def test_plugin_overrides_reach_the_data_plane(self, platform: Served) -> None:
        project = await new_project(platform)
        overrides = {"overrides": [{"taskType": "python-task", "pluginId": ["echo"]}]}
        await attribute(platform, "workflow", project, pluginOverrides=overrides)
        await attribute(platform, "workflow", project, ".flytegen.t", pluginOverrides=overrides)
        for request in (request_for(), request_for("TASK", "t")):
            request.project = project
            request.spec.execution_cluster_label.value = "gold"
            await platform.admin.CreateExecution(request)
            assert b"echo" in (await assignment_of(platform, "one", request.name)).plugin_overrides


class TestQueues:
    async def queue_of(self, platform: Served, request: execution_pb2.ExecutionCreateRequest) -> str:
        """What the data plane is told of the queue of a new execution's container tasks."""
        request.spec.execution_cluster_label.value = "gold"
        await platform.admin.CreateExecution(request)
        return (await assignment_of(platform, "one", request.name)).resources.child_queue

    @pytest.mark.parametrize(
        ("levels", "domain", "expected"),
        [
            ({}, DOMAIN, "night-queue"),
            ({}, "staging", "gpu-queue"),
            ({"project": ["nobody has this", "gpu", "cheap"]}, DOMAIN, "gpu-queue"),
            ({"project": ["cheap"]}, "staging", "night-queue"),
            ({"project": ["gpu"], "domain": ["cheap"]}, DOMAIN, "night-queue"),
            ({"domain": ["cheap"], "workflow": ["dear"]}, DOMAIN, "gpu-queue"),
            ({"workflow": ["nobody has this"]}, DOMAIN, "night-queue"),
        ],
    )
    async def test_attributes_win_over_the_configuration(
        self, levels: dict[str, list[str]], domain: str, expected: str, platform: Served
    ) -> None:
        project = await new_project(platform)
        for level, tags in levels.items():
            await attribute(platform, level, project, executionQueueAttributes={"tags": tags})
        request = request_for()
        request.spec.launch_plan.CopyFrom(await self.plan_in(platform, project, domain))
        assert await self.queue_of(platform, request) == expected

    async def plan_in(self, platform: Served, project: str, domain: str) -> Identifier:
        """A launch plan of a workflow that is registered there: the workflow's place counts, not the execution's."""
        workflow = workflow_pb2.WorkflowCreateRequest(id=identifier("WORKFLOW", "w"))
        ParseDict(WORKFLOW, workflow.spec.template)
        workflow.id.project, workflow.id.domain = project, domain
        await platform.admin.CreateWorkflow(workflow)
        plan = launch_plan_pb2.LaunchPlanCreateRequest(id=identifier("LAUNCH_PLAN", "w"))
        plan.id.project, plan.id.domain = project, domain
        plan.spec.workflow_id.CopyFrom(workflow.id)
        await platform.admin.CreateLaunchPlan(plan)
        return plan.id

    async def test_a_task_that_is_launched_by_itself_has_one_too(self, platform: Served) -> None:
        await attribute(platform, "workflow", PROJECT, ".flytegen.t", executionQueueAttributes={"tags": ["gpu"]})
        assert await self.queue_of(platform, request_for("TASK", "t")) == "gpu-queue"

    async def test_chance_decides_among_several_and_not_twice(self, platform: Served) -> None:
        await attribute(platform, "workflow", PROJECT, executionQueueAttributes={"tags": ["usual"]})
        chosen = {await self.queue_of(platform, request_for()) for _ in range(12)}
        assert chosen == {"day-queue", "night-queue"}


class TestClusters:
    @pytest.mark.parametrize(
        ("levels", "asked", "expected"),
        [
            ({}, "", "three"),
            ({"project": "silver"}, "", "two"),
            ({"project": "silver", "domain": "gold"}, "", "one"),
            ({"project": "silver", "domain": "gold", "workflow": "silver"}, "", "two"),
            ({"workflow": "silver"}, "gold", "one"),
            ({"workflow": "silver"}, "unknown", "three"),
        ],
    )
    async def test_a_label_decides_where_it_runs(
        self, levels: dict[str, str], asked: str, expected: str, platform: Served
    ) -> None:
        project = await new_project(platform)
        for level, label in levels.items():
            await attribute(platform, level, project, executionClusterLabel={"value": label})
        own: dict[str, Any] = {"executionClusterLabel": {"value": asked}} if asked else {}
        request = request_for(**own)
        request.project = project
        metadata = (await run(platform, request)).metadata.system_metadata
        assert metadata.execution_cluster == expected
        assert metadata.namespace == f"{project}-{DOMAIN}"

    async def test_pools_of_request_and_domain_may_not_contradict(self, platform: Served) -> None:
        project = await new_project(platform)
        request = request_for(clusterAssignment={"clusterPoolName": "red"})
        request.project, request.domain = project, "staging"
        assert await refused(platform.admin.CreateExecution(request)) == (
            "INVALID_ARGUMENT",
            f'execution with project "{project}" and domain "staging" cannot run on cluster pool "red", because its '
            'configured to run on pool "blue"',
        )
        request.spec.cluster_assignment.cluster_pool_name = "blue"
        await platform.admin.CreateExecution(request)
        await attribute(platform, "domain", project, clusterAssignment={"clusterPoolName": "green"})
        request = request_for(clusterAssignment={"clusterPoolName": "blue"})
        request.project = project
        assert (await refused(platform.admin.CreateExecution(request)))[1].endswith('configured to run on pool "green"')


class TestChildren:
    async def test_a_child_takes_after_its_parent(self, platform: Served) -> None:
        parent = request_for(executionClusterLabel={"value": "gold"})
        key: WorkflowExecutionIdentifier = (await platform.admin.CreateExecution(parent)).id
        await platform.workflow_event(key, "RUNNING", "00:01", producerId="propeller")
        await platform.node_event(key, "n0", "QUEUED", "00:02")
        node = NodeExecutionIdentifier(node_id="n0", execution_id=key)
        former = key
        for depth in (1, 2):
            request = request_for(executionClusterLabel={"value": "silver"}, metadata={"mode": "CHILD_WORKFLOW"})
            request.spec.metadata.principal = "somebody else"
            request.spec.metadata.parent_node_execution.CopyFrom(node)
            spec = await run(platform, request)
            assert spec.metadata.nesting == depth
            assert spec.metadata.principal == ""  # the parent's, who was nobody
            assert spec.execution_cluster_label.value == "gold"
            assert spec.metadata.system_metadata.execution_cluster == "one"
            child = WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=request.name)
            await platform.workflow_event(child, "RUNNING", "00:03", producerId="propeller")
            await platform.node_event(child, "n0", "QUEUED", "00:04")
            node = NodeExecutionIdentifier(node_id="n0", execution_id=child)
            assert spec.metadata.parent_node_execution.execution_id == former
            former = child


class TestInputs:
    async def test_what_the_user_gave_and_what_it_runs_with_are_kept_apart(self, platform: Served) -> None:
        await plan(platform, "prepared", fixedInputs={"literals": {"a": {"scalar": {"primitive": {"integer": "5"}}}}})
        request = request_for(name="prepared")
        request.inputs.Clear()
        await platform.admin.CreateExecution(request)
        row = await platform.database.fetchrow(
            "SELECT inputs_uri, user_inputs_uri FROM executions WHERE execution_name = $1", request.name
        )
        assert row is not None
        assert row["inputs_uri"] != row["user_inputs_uri"]
        given = LiteralMap.FromString(await platform.storage.read(row["user_inputs_uri"]))
        used = LiteralMap.FromString(await platform.storage.read(row["inputs_uri"]))
        assert not given.literals
        assert used.literals["a"] == integer(5)

    @pytest.mark.parametrize(
        ("name", "inputs", "text"),
        [
            ("bare", {}, "expected_inputs a missing"),
            ("bare", {"a": integer(1), "zz": integer(2)}, "invalid input zz"),
            ("fixed", {"a": integer(1)}, "invalid input a"),
        ],
    )
    async def test_what_is_wrong_names_the_input(
        self, name: str, inputs: dict[str, Any], text: str, platform: Served
    ) -> None:
        if name == "fixed":
            await plan(platform, "fixed", fixedInputs={"literals": {"a": {"scalar": {"primitive": {"integer": "5"}}}}})
        request = request_for(name=name)
        request.inputs.Clear()
        for key, literal in inputs.items():
            request.inputs.literals[key].CopyFrom(literal)
        assert await refused(platform.admin.CreateExecution(request)) == ("INVALID_ARGUMENT", text)

    async def test_the_api_over_http_launches_the_same(self, platform: Served) -> None:
        name = f"http{next(_numbers)}"
        status, answer = await platform.ask(
            "POST",
            "/api/v1/executions",
            {
                "project": PROJECT, "domain": DOMAIN, "name": name,
                "spec": {"launchPlan": reference("LAUNCH_PLAN", "bare")},
                "inputs": {"literals": {"a": {"scalar": {"primitive": {"integer": "1"}}}}},
            },
        )  # fmt: skip
        assert (status, answer["id"]["name"]) == (200, name)
        status, answer = await platform.ask(
            "POST",
            "/api/v1/executions",
            {"project": PROJECT, "domain": DOMAIN, "spec": {"launchPlan": reference("WORKFLOW", "w")}},
        )
        assert status == 400
        assert answer["message"] == (
            "Invalid reference entity resource type [WORKFLOW], only [LAUNCH_PLAN, TASK] allowed"
        )
