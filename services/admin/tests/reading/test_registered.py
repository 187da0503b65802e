"""Lists of what is registered: tasks, workflows, launch plans, and their names."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, description_entity_pb2, launch_plan_pb2
from flyteidl.core.identifier_pb2 import Identifier, ResourceType


def listing(name: str = "", **fields: Any) -> common_pb2.ResourceListRequest:
    identifier = common_pb2.NamedEntityIdentifier(project="p", domain="d", name=name)
    return common_pb2.ResourceListRequest(id=identifier, **{"limit": 100} | fields)


def ids(**fields: Any) -> common_pb2.NamedEntityIdentifierListRequest:
    given: dict[str, Any] = {"project": "p", "domain": "d", "limit": 100} | fields
    return common_pb2.NamedEntityIdentifierListRequest(**given)


def named(resource_type: int, **fields: Any) -> common_pb2.NamedEntityListRequest:
    given: dict[str, Any] = {"resource_type": resource_type, "project": "p", "domain": "d", "limit": 100} | fields
    return common_pb2.NamedEntityListRequest(**given)


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


async def test_tasks_are_listed_with_their_closures(admin: Any, rows: Any) -> None:
    await rows.task("a", "v1", short_description="first")
    await rows.task("a", "v2", type="spark")
    await rows.task("b", "v1")
    await rows.task("a", "v3", project="q")
    answer = await admin.ListTasks(listing())
    assert [(each.id.name, each.id.version) for each in answer.tasks] == [("a", "v1"), ("a", "v2"), ("b", "v1")]
    first = answer.tasks[0]
    assert first.id.resource_type == ResourceType.TASK
    assert (first.short_description, first.closure.compiled_task.template.type) == ("first", "python-task")
    assert first.closure.created_at.seconds > 0
    newest = await admin.ListTasks(listing("a", limit=1, sort_by=common_pb2.Sort(key="created_at")))
    assert [each.id.version for each in newest.tasks] == ["v2"]
    assert newest.token
    assert [each.id.version for each in (await admin.ListTasks(listing(filters="eq(type,spark)"))).tasks] == ["v2"]
    assert await refusal(admin.ListTasks(listing(token="x"))) == (
        "INVALID_ARGUMENT",
        "invalid pagination token x for ListTasks",
    )


async def test_workflows_are_listed_by_interface_only(admin: Any, rows: Any) -> None:
    await rows.workflow("a", short_description="about")
    (found,) = (await admin.ListWorkflows(listing())).workflows
    template = found.closure.compiled_workflow.primary.template
    assert template.interface.inputs.variables["a"].type.simple == 1
    assert not template.HasField("id")
    assert (found.id.resource_type, found.short_description) == (ResourceType.WORKFLOW, "about")
    assert found.closure.created_at.seconds > 0


async def test_launch_plans_show_the_state_of_their_row(admin: Any, rows: Any) -> None:
    workflow = await rows.workflow("w")
    await rows.launch_plan(workflow, "a", "v1", state=1)
    await rows.launch_plan(workflow, "a", "v2", schedule_type="CRON")
    one, two = (await admin.ListLaunchPlans(listing())).launch_plans
    assert (one.closure.state, two.closure.state) == (launch_plan_pb2.ACTIVE, launch_plan_pb2.INACTIVE)
    assert one.closure.expected_inputs.parameters["a"].required
    assert one.closure.created_at.seconds > 0
    assert one.closure.updated_at.seconds > 0
    assert one.spec.workflow_id.name == "a"
    for filters, versions in {
        "eq(workflow.name,w)+eq(version,v2)": ["v2"],
        "ne(schedule_type,NONE)": ["v2"],
        "eq(state,1)": ["v1"],
        "eq(workflow.name,other)": [],
    }.items():
        answer = await admin.ListLaunchPlans(listing("a", filters=filters))
        assert [each.id.version for each in answer.launch_plans] == versions
    active = await admin.ListActiveLaunchPlans(
        launch_plan_pb2.ActiveLaunchPlanListRequest(project="p", domain="d", limit=5)
    )
    assert [each.id.version for each in active.launch_plans] == ["v1"]
    for request, text in (
        (launch_plan_pb2.ActiveLaunchPlanListRequest(domain="d", limit=5), "missing project"),
        (launch_plan_pb2.ActiveLaunchPlanListRequest(project="p", limit=5), "missing domain"),
        (launch_plan_pb2.ActiveLaunchPlanListRequest(project="p", domain="d"), "invalid value for limit"),
    ):
        assert await refusal(admin.ListActiveLaunchPlans(request)) == ("INVALID_ARGUMENT", text)


async def test_names_are_listed_once_whatever_the_filters(admin: Any, rows: Any) -> None:
    for name in ("b", "a"):
        for version in ("v1", "v2"):
            workflow = await rows.workflow(name, version)
            await rows.task(name, version)
            await rows.launch_plan(workflow, name, version)
    await rows.launch_plan(workflow, "elsewhere", "v1", project="q")
    for call, rpc in (
        (admin.ListTaskIds, " for ListUniqueTaskIdentifiers"),
        (admin.ListWorkflowIds, " for ListWorkflowIdentifiers"),
        (admin.ListLaunchPlanIds, ""),
    ):
        answer = await call(ids(filters="nonsense"))
        assert [each.name for each in answer.entities] == ["a", "b"]
        down = await call(ids(sort_by=common_pb2.Sort(key="name"), limit=1))
        rest = await call(ids(sort_by=common_pb2.Sort(key="name"), limit=1, token=down.token))
        assert [each.name for each in (*down.entities, *rest.entities)] == ["b", "a"]
        assert await refusal(call(ids(token="x"))) == ("INVALID_ARGUMENT", f"invalid pagination token x{rpc}")
        assert await refusal(call(ids(sort_by=common_pb2.Sort(key="created_at")))) == (
            "INVALID_ARGUMENT",
            "invalid sort key 'created_at'",
        )
    assert (await refusal(admin.ListTaskIds(ids(limit=0))))[1] == "invalid value for limit"
    assert (await refusal(admin.ListTaskIds(ids(project=""))))[1] == "missing project"
    assert (await refusal(admin.ListLaunchPlanIds(ids(limit=0))))[1] == "missing and/or invalid parameters: limit"
    everywhere = await admin.ListLaunchPlanIds(ids(project="", domain=""))
    assert [(each.project, each.name) for each in everywhere.entities] == [("p", "a"), ("p", "b"), ("q", "elsewhere")]


async def test_generated_names_are_hidden_unless_somebody_filters(admin: Any, rows: Any) -> None:
    for name in ("a", "b", ".flytegen.x"):
        await rows.workflow(name)
        await rows.workflow(name, "v2")
    await rows.named_entity(ResourceType.WORKFLOW, "b", state=1, description="old")
    await rows.named_entity(ResourceType.WORKFLOW, ".flytegen.x", state=2)
    await rows.named_entity(ResourceType.TASK, "a", state=1)

    async def names(**fields: Any) -> list[str]:
        return [
            each.id.name for each in (await admin.ListNamedEntities(named(ResourceType.WORKFLOW, **fields))).entities
        ]

    assert await names() == ["a", "b"]
    assert await names(filters="eq(state,0)") == ["a"]
    assert await names(filters="eq(state,1)") == ["b"]
    assert await names(filters="contains(name,flytegen)") == [".flytegen.x"]
    assert await names(filters="eq(named_entity_metadata.description,old)+eq(entities.name,b)") == ["b"]
    assert await names(filters="gte(state,0)", sort_by=common_pb2.Sort(key="name")) == ["b", "a", ".flytegen.x"]
    (found,) = (await admin.ListNamedEntities(named(ResourceType.WORKFLOW, filters="eq(state,1)"))).entities
    assert found.resource_type == ResourceType.WORKFLOW
    assert (found.metadata.description, found.metadata.state) == ("old", common_pb2.NAMED_ENTITY_ARCHIVED)


async def test_filtering_names_never_shortens_their_pages(admin: Any, rows: Any) -> None:
    for number in range(12):
        await rows.task(f"t{number:02}")
        if number % 3:
            await rows.named_entity(ResourceType.TASK, f"t{number:02}", state=1)
    seen: list[str] = []
    token = ""
    while True:
        answer = await admin.ListNamedEntities(named(ResourceType.TASK, limit=3, filters="eq(state,1)", token=token))
        seen += [each.id.name for each in answer.entities]
        token = answer.token
        if not token:
            break
        assert len(answer.entities) == 3
    assert seen == [f"t{number:02}" for number in range(12) if number % 3]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"resource_type": ResourceType.DATASET}, "invalid value for resource_type"),
        ({"resource_type": ResourceType.UNSPECIFIED}, "invalid value for resource_type"),
        ({"project": ""}, "missing project"),
        ({"domain": ""}, "missing domain"),
        ({"limit": 0}, "invalid value for limit"),
        ({"token": "x"}, "invalid pagination token x for ListNamedEntities"),
        ({"filters": "eq(created_at,2026-01-01)"}, "'nen.created_at' is invalid filter"),
        ({"filters": "eq(task.name,x)"}, "'t' entity is not allowed in filters"),
        ({"sort_by": common_pb2.Sort(key="created_at")}, "invalid sort key 'created_at'"),
    ],
)
async def test_requests_for_names_are_checked(admin: Any, fields: dict[str, Any], text: str) -> None:
    request = named(ResourceType.WORKFLOW)
    request.MergeFrom(common_pb2.NamedEntityListRequest(**fields))
    for field, value in fields.items():
        if not value:
            request.ClearField(field)
    assert await refusal(admin.ListNamedEntities(request)) == ("INVALID_ARGUMENT", text)


async def test_descriptions_are_kept_apart_by_type(admin: Any, rows: Any) -> None:
    long = description_entity_pb2.Description(value="long text")
    for resource_type in (ResourceType.TASK, ResourceType.WORKFLOW):
        for version in ("v1", "v2"):
            await rows.description(
                resource_type,
                "a",
                version,
                short_description=f"{resource_type} {version}",
                long_description=long.SerializeToString(),
                link="http://example.org",
            )

    async def get(resource_type: ResourceType, version: str = "v1") -> Any:
        key = Identifier(resource_type=resource_type, project="p", domain="d", name="a", version=version)
        return await admin.GetDescriptionEntity(common_pb2.ObjectGetRequest(id=key))

    found = await get(ResourceType.WORKFLOW)
    assert (found.short_description, found.long_description, found.source_code.link) == (
        "2 v1",
        long,
        "http://example.org",
    )
    assert found.id.resource_type == ResourceType.WORKFLOW
    assert (await get(ResourceType.UNSPECIFIED)).short_description == "1 v1"
    assert (await refusal(get(ResourceType.WORKFLOW, "v9")))[0] == "NOT_FOUND"
    assert await refusal(get(ResourceType.WORKFLOW, "")) == ("INVALID_ARGUMENT", "missing version")
    assert (await refusal(admin.GetDescriptionEntity(common_pb2.ObjectGetRequest())))[0] == "INVALID_ARGUMENT"

    async def versions(**fields: Any) -> list[str]:
        identifier = common_pb2.NamedEntityIdentifier(project="p", domain="d", name=fields.pop("name", "a"))
        given: dict[str, Any] = {"resource_type": ResourceType.TASK, "id": identifier, "limit": 5} | fields
        answer = await admin.ListDescriptionEntities(description_entity_pb2.DescriptionEntityListRequest(**given))
        return [each.short_description for each in answer.descriptionEntities]

    assert await versions() == ["1 v1", "1 v2"]
    assert await versions(filters="eq(version,v2)") == ["1 v2"]
    for fields, text in (
        ({"resource_type": 0}, "invalid value for resource_type"),
        ({"name": ""}, "missing name"),
        ({"limit": 0}, "invalid value for limit"),
        ({"token": "x"}, "invalid pagination token x for ListWorkflows"),
    ):
        assert await refusal(versions(**fields)) == ("INVALID_ARGUMENT", text)
