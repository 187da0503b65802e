"""Matchable attributes from the outside.  Source: spec/control-plane.md, sections 8.2, 8.3 and 1.3."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from flyteidl.admin import project_pb2
from flyteidl.admin.matchable_resource_pb2 import ListMatchableAttributesRequest, MatchableResource, MatchingAttributes
from flyteidl.admin.project_attributes_pb2 import (
    ProjectAttributesDeleteRequest,
    ProjectAttributesGetRequest,
    ProjectAttributesUpdateRequest,
)
from flyteidl.admin.project_domain_attributes_pb2 import (
    ProjectDomainAttributesDeleteRequest,
    ProjectDomainAttributesGetRequest,
    ProjectDomainAttributesUpdateRequest,
)
from flyteidl.admin.workflow_attributes_pb2 import (
    WorkflowAttributesDeleteRequest,
    WorkflowAttributesGetRequest,
    WorkflowAttributesUpdateRequest,
)
from google.protobuf.json_format import ParseDict

from aerodrome.stdlib.postgres.testing import ServerForTests

from .serving import DOMAIN, PROJECT, Served, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

KINDS: dict[str, dict[str, Any]] = {
    "TASK_RESOURCE": {"taskResourceAttributes": {"defaults": {"cpu": "500m"}, "limits": {"memory": "2Gi"}}},
    "CLUSTER_RESOURCE": {"clusterResourceAttributes": {"attributes": {"projectQuotaCpu": "9"}}},
    "EXECUTION_QUEUE": {"executionQueueAttributes": {"tags": ["fast", "cheap"]}},
    "EXECUTION_CLUSTER_LABEL": {"executionClusterLabel": {"value": "gpu"}},
    "PLUGIN_OVERRIDE": {"pluginOverrides": {"overrides": [{"taskType": "spark", "pluginId": ["a"]}]}},
    "WORKFLOW_EXECUTION_CONFIG": {"workflowExecutionConfig": {"maxParallelism": 7, "interruptible": False}},
    "CLUSTER_ASSIGNMENT": {"clusterAssignment": {"clusterPoolName": "p"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    config = {"flyteadmin": {"labels": {"team": "all"}, "k8s_service_account": "runner"}}
    async with served(postgres_server, tmp_path_factory.mktemp("store"), config) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def project(platform: Served) -> str:
    """A project that has no attributes."""
    return await platform.register_project(f"project-{next(_numbers)}")


def matching(attributes: dict[str, Any]) -> MatchingAttributes:
    return ParseDict(attributes, MatchingAttributes())


def label(value: str) -> MatchingAttributes:
    return matching({"executionClusterLabel": {"value": value}})


LABEL = MatchableResource.EXECUTION_CLUSTER_LABEL


class At:
    """The calls of one level, all alike."""

    def __init__(self, platform: Served, project: str, domain: str = "", workflow: str = "") -> None:
        self.key = {"project": project}
        self._name = "Project"
        self._types: tuple[Any, Any, Any] = (
            ProjectAttributesUpdateRequest,
            ProjectAttributesGetRequest,
            ProjectAttributesDeleteRequest,
        )
        if workflow:
            self.key |= {"domain": domain, "workflow": workflow}
            self._name = "Workflow"
            self._types = (
                WorkflowAttributesUpdateRequest,
                WorkflowAttributesGetRequest,
                WorkflowAttributesDeleteRequest,
            )
        elif domain:
            self.key |= {"domain": domain}
            self._name = "ProjectDomain"
            self._types = (
                ProjectDomainAttributesUpdateRequest,
                ProjectDomainAttributesGetRequest,
                ProjectDomainAttributesDeleteRequest,
            )
        self._stub = platform.admin

    async def put(self, attributes: MatchingAttributes | None) -> None:
        request = self._types[0](attributes={**self.key, "matching_attributes": attributes})
        await getattr(self._stub, f"Update{self._name}Attributes")(request)

    async def put_nothing(self) -> None:
        await getattr(self._stub, f"Update{self._name}Attributes")(self._types[0]())

    async def get(self, kind: int = LABEL) -> Any:
        return (
            await getattr(self._stub, f"Get{self._name}Attributes")(self._types[1](**self.key, resource_type=kind))
        ).attributes

    async def delete(self, kind: int = LABEL) -> None:
        await getattr(self._stub, f"Delete{self._name}Attributes")(self._types[2](**self.key, resource_type=kind))


def _row_text(at: At, kind: str) -> str:
    domain, workflow = at.key.get("domain", ""), at.key.get("workflow", "")
    return f"{{Project:{at.key['project']} Domain:{domain} Workflow:{workflow} LaunchPlan: ResourceType:{kind}}}"


def levels(platform: Served, project: str) -> list[At]:
    """From the project to the workflow."""
    return [
        At(platform, project),
        At(platform, project, DOMAIN),
        At(platform, project, DOMAIN, "a.workflow"),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0, 1, 2])
async def test_every_kind_is_kept_replaced_and_forgotten_at_every_level(
    platform: Served, project: str, kind: str, level: int
) -> None:
    at, number = levels(platform, project)[level], MatchableResource.Value(kind)
    given = matching(KINDS[kind])
    await at.put(given)
    await at.put(given)
    found = await at.get(number)
    assert {field: getattr(found, field) for field in at.key} == at.key
    if not (kind == "WORKFLOW_EXECUTION_CONFIG" and level == 0):  # a project's is shown with the defaults in it
        assert found.matching_attributes == given
    await at.delete(number)
    await at.delete(number)  # nothing is left to delete, which is fine
    if kind == "WORKFLOW_EXECUTION_CONFIG" and level == 0:
        return
    code, text = await refused(at.get(number))
    assert code == "NOT_FOUND"
    assert text == f"Resource [{_row_text(at, kind)}] not found"


async def test_the_most_specific_row_answers_whole_and_says_where_it_is(platform: Served, project: str) -> None:
    of_project, of_domain, of_workflow = levels(platform, project)
    await of_project.put(label("p"))
    found = await of_workflow.get()
    assert (found.project, found.domain, found.workflow) == (project, "", "")
    assert found.matching_attributes == label("p")
    assert (await of_domain.get()).domain == ""
    await of_domain.put(label("d"))
    found = await of_workflow.get()
    assert (found.domain, found.workflow, found.matching_attributes) == (DOMAIN, "", label("d"))
    await of_workflow.put(label("w"))
    assert (await of_workflow.get()).workflow == "a.workflow"
    assert (await of_domain.get()).matching_attributes == label("d")
    assert (await of_project.get()).matching_attributes == label("p")
    # another domain and another workflow see what covers them
    assert (await At(platform, project, "staging").get()).matching_attributes == label("p")
    assert (await At(platform, project, DOMAIN, "other").get()).matching_attributes == label("d")


async def test_deleting_a_level_leaves_those_below_it(platform: Served, project: str) -> None:
    of_project, of_domain, of_workflow = levels(platform, project)
    for at, value in ((of_project, "p"), (of_domain, "d"), (of_workflow, "w")):
        await at.put(label(value))
    await of_project.delete()
    await of_domain.delete()
    assert (await of_workflow.get()).matching_attributes == label("w")
    assert (await refused(of_domain.get()))[0] == "NOT_FOUND"
    await of_workflow.delete()
    assert (await refused(of_workflow.get()))[0] == "NOT_FOUND"


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_plugin_overrides_are_merged_by_task_type(platform: Served, project: str, level: int) -> None:
    at = levels(platform, project)[level]

    def overrides(**plugins: str) -> MatchingAttributes:
        entries = [{"taskType": kind, "pluginId": [plugin]} for kind, plugin in plugins.items()]
        return matching({"pluginOverrides": {"overrides": entries}})

    await at.put(overrides(spark="a", sidecar="b"))
    await at.put(overrides(sidecar="c", ray="d"))
    found = (await at.get(MatchableResource.PLUGIN_OVERRIDE)).matching_attributes
    assert found == overrides(spark="a", sidecar="c", ray="d")


async def test_plugin_overrides_that_are_given_at_once_are_all_kept(platform: Served, project: str) -> None:
    at = At(platform, project, DOMAIN)
    kinds = [f"kind-{number}" for number in range(12)]
    await asyncio.gather(
        *(at.put(matching({"pluginOverrides": {"overrides": [{"taskType": kind}]}})) for kind in kinds)
    )
    found = (await at.get(MatchableResource.PLUGIN_OVERRIDE)).matching_attributes.plugin_overrides.overrides
    assert sorted(each.task_type for each in found) == sorted(kinds)


async def test_a_projects_execution_configuration_is_shown_with_the_defaults(platform: Served, project: str) -> None:
    at = At(platform, project)
    shown = (await at.get(MatchableResource.WORKFLOW_EXECUTION_CONFIG)).matching_attributes.workflow_execution_config
    assert shown.max_parallelism == 25
    assert dict(shown.labels.values) == {"team": "all"}
    assert shown.security_context.run_as.k8s_service_account == "runner"
    await at.put(matching({"workflowExecutionConfig": {"maxParallelism": 3, "labels": {"values": {"team": "us"}}}}))
    shown = (await at.get(MatchableResource.WORKFLOW_EXECUTION_CONFIG)).matching_attributes.workflow_execution_config
    assert shown.max_parallelism == 3
    assert dict(shown.labels.values) == {"team": "us"}
    assert shown.security_context.run_as.k8s_service_account == "runner"
    below = await At(platform, project, DOMAIN).get(MatchableResource.WORKFLOW_EXECUTION_CONFIG)
    assert below.matching_attributes.workflow_execution_config.max_parallelism == 3
    assert not below.matching_attributes.workflow_execution_config.HasField("security_context")


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_what_an_update_lacks_is_named_in_order(platform: Served, project: str, level: int) -> None:
    at = levels(platform, project)[level]
    assert await refused(at.put_nothing()) == ("INVALID_ARGUMENT", "missing attributes")
    assert await refused(at.put(None)) == ("INVALID_ARGUMENT", "missing matching_attributes")
    key = "-".join(at.key.values())
    for unknown in (MatchingAttributes(), matching({"qualityOfService": {"tier": "HIGH"}})):
        assert await refused(at.put(unknown)) == (
            "INVALID_ARGUMENT",
            f"Unrecognized matching attributes type for request {key}",
        )


async def test_a_workflow_needs_a_name(platform: Served, project: str) -> None:
    stub = platform.admin
    key = {"project": project, "domain": DOMAIN}
    for call in (
        stub.UpdateWorkflowAttributes(WorkflowAttributesUpdateRequest(attributes=key)),
        stub.GetWorkflowAttributes(WorkflowAttributesGetRequest(**key)),
        stub.DeleteWorkflowAttributes(WorkflowAttributesDeleteRequest(**key)),
    ):
        assert await refused(call) == ("INVALID_ARGUMENT", "missing name")


@pytest.mark.parametrize("level", [1, 2])
async def test_an_unknown_project_or_domain_is_refused(platform: Served, project: str, level: int) -> None:
    nowhere = levels(platform, "nowhere")[level]
    text = (
        "failed to validate that project [nowhere] and domain [development] are registered, "
        "err: [project [nowhere] not found]"
    )
    for call in (nowhere.put(label("x")), nowhere.get(), nowhere.delete()):
        assert await refused(call) == ("INVALID_ARGUMENT", text)
    lost = At(platform, project, "lost", "w" if level == 2 else "")
    for call in (lost.put(label("x")), lost.get(), lost.delete()):
        assert await refused(call) == ("INVALID_ARGUMENT", "domain [lost] is unrecognized by system")


async def test_an_unknown_project_is_refused(platform: Served) -> None:
    at = At(platform, "nowhere")
    registered = "failed to validate that project [nowhere] is registered, err: [project [nowhere] not found]"
    assert await refused(at.put(label("x"))) == ("INVALID_ARGUMENT", registered)
    assert await refused(at.delete()) == ("INVALID_ARGUMENT", registered)
    exists = "failed to validate that project [nowhere] exists, err: [project [nowhere] not found]"
    assert await refused(at.get()) == ("INVALID_ARGUMENT", exists)


async def test_an_archived_projects_own_attributes_can_be_read_and_no_others(platform: Served, project: str) -> None:
    of_project, of_domain, _ = levels(platform, project)
    await of_project.put(label("p"))
    await of_domain.put(label("d"))
    await platform.admin.UpdateProject(project_pb2.Project(id=project, state=project_pb2.Project.ARCHIVED))
    assert (await of_project.get()).matching_attributes == label("p")
    inactive = f"project [{project}] is not active"
    assert await refused(of_project.put(label("x"))) == ("INVALID_ARGUMENT", inactive)
    for call in (of_domain.put(label("x")), of_domain.get(), of_domain.delete()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (caught.value.code().name, caught.value.details()) == ("INVALID_ARGUMENT", inactive)
        trailer = dict(caught.value.trailing_metadata() or ())
        assert b"InactiveProject" in bytes(trailer["grpc-status-details-bin"])


async def test_an_unknown_kind_is_refused(platform: Served, project: str) -> None:
    for at in levels(platform, project):
        assert await refused(at.get(99)) == ("INVALID_ARGUMENT", "invalid value for resource_type")
        assert await refused(at.delete(99)) == ("INVALID_ARGUMENT", "invalid value for resource_type")
    request = ListMatchableAttributesRequest(resource_type=99)  # type: ignore[arg-type]  # an open enum's number
    assert await refused(platform.admin.ListMatchableAttributes(request)) == (
        "INVALID_ARGUMENT",
        "invalid value for resource_type",
    )


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"taskResourceAttributes": {"limits": {"cpu": "much"}}}, "task_resource_attributes.limits.cpu"),
        ({"taskResourceAttributes": {"defaults": {"memory": "-1Gi"}}}, "task_resource_attributes.defaults.memory"),
        ({"workflowExecutionConfig": {"labels": {"values": {"": "x"}}}}, "invalid label key"),
        ({"clusterResourceAttributes": {"attributes": {"a": "x" * 300_000}}}, "too large"),
    ],
)
async def test_what_no_launch_could_use_is_refused(
    platform: Served, project: str, attributes: dict[str, Any], named: str
) -> None:
    code, text = await refused(At(platform, project).put(matching(attributes)))
    assert code == "INVALID_ARGUMENT"
    assert named in text


async def test_all_rows_of_a_kind_are_listed_the_most_specific_first(platform: Served, project: str) -> None:
    kind = MatchableResource.CLUSTER_ASSIGNMENT
    for at in levels(platform, project):
        await at.put(matching({"clusterAssignment": {"clusterPoolName": str(len(at.key))}}))
    answer = await platform.admin.ListMatchableAttributes(ListMatchableAttributesRequest(resource_type=kind))
    ours = [each for each in answer.configurations if each.project == project]
    assert [(each.domain, each.workflow, each.attributes.cluster_assignment.cluster_pool_name) for each in ours] == [
        (DOMAIN, "a.workflow", "3"),
        (DOMAIN, "", "2"),
        ("", "", "1"),
    ]
    ranks = [(bool(each.workflow), bool(each.domain)) for each in answer.configurations]
    assert ranks == sorted(ranks, reverse=True)
    none = await platform.admin.ListMatchableAttributes(
        ListMatchableAttributesRequest(resource_type=MatchableResource.QUALITY_OF_SERVICE_SPECIFICATION)
    )
    assert not none.configurations


async def test_a_launch_takes_what_was_set(platform: Served) -> None:
    """The attributes reach an execution through the same rows."""
    await platform.register("attributed", [{"id": "n", "gateNode": {"sleep": {"duration": "1s"}}}], tasks=[])
    at = At(platform, PROJECT, DOMAIN, "attributed")
    await at.put(matching({"workflowExecutionConfig": {"envs": {"values": [{"key": "A", "value": "b"}]}}}))
    execution = await platform.launch("attributed", "attributed-one")
    status, found = await platform.ask("GET", f"/api/v1/executions/{PROJECT}/{DOMAIN}/{execution.name}")
    assert status == 200
    assert found["spec"]["envs"]["values"] == [{"key": "A", "value": "b"}]


async def test_all_of_it_over_http(platform: Served, project: str) -> None:
    resources = {"taskResourceAttributes": {"defaults": {"cpu": "2"}, "limits": {"memory": "4Gi"}}}
    paths = [
        (f"/api/v1/project_attributes/{project}", {"project": project}),
        (
            f"/api/v1/project_domain_attributes/{project}/{DOMAIN}",
            {"project": project, "domain": DOMAIN},
        ),
        (
            f"/api/v1/workflow_attributes/{project}/{DOMAIN}/a.workflow",
            {"project": project, "domain": DOMAIN, "workflow": "a.workflow"},
        ),
    ]
    for path, key in paths:
        body = {"attributes": {**key, "matchingAttributes": resources}}
        assert await platform.ask("PUT", path, body) == (200, {})
        status, found = await platform.ask("GET", f"{path}?resource_type=TASK_RESOURCE")
        assert status == 200
        assert found["attributes"]["matchingAttributes"]["taskResourceAttributes"]["defaults"]["cpu"] == "2"
    status, found = await platform.ask("GET", "/api/v1/matchable_attributes?resource_type=TASK_RESOURCE")
    assert status == 200
    assert [each["workflow"] for each in found["configurations"] if each["project"] == project] == [
        "a.workflow",
        "",
        "",
    ]
    for path, key in paths:
        assert (await platform.ask("DELETE", path, {**key, "resourceType": "TASK_RESOURCE"}))[0] == 200
    status, found = await platform.ask("GET", f"{paths[2][0]}?resource_type=TASK_RESOURCE")
    assert (status, found["code"]) == (404, 5)
