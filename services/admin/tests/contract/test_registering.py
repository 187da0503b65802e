"""What registration accepts and refuses: every row of spec/control-plane.md, sections 1.2 to 1.7 and 3.1 to 3.5."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from flyteidl.admin import workflow_pb2
from flyteidl.admin.project_pb2 import InactiveProject
from flyteidl.core.types_pb2 import SimpleType
from google.protobuf.json_format import ParseDict

from aerodrome.stdlib.postgres.testing import ServerForTests

from .doors import (
    DOORS,
    METHODS,
    REMOVED,
    ROUTES,
    Row,
    by_grpc,
    changed,
    entity,
    everywhere,
    granted,
    place_of,
    request_of,
    rows,
)
from .serving import DOMAIN, PROJECT, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

CONFIG = {
    "task_resources": {"limits": {"cpu": "4", "memory": "8Gi", "gpu": "2", "ephemeral_storage": "10Gi"}},
    "task_type_whitelist": {
        "elsewhere": [{"project": "other"}, {"project": PROJECT, "domain": "production"}],
        "here": [{"project": PROJECT, "domain": DOMAIN}],
        "project": [{"project": PROJECT}],
        "anywhere": [{}],
    },
    "registration": {"max_workflow_nodes": 4, "workflow_size_limit": "5Ki"},
}
INTEGER, STRING, DATETIME = {"simple": "INTEGER"}, {"simple": "STRING"}, {"simple": "DATETIME"}
CONDITIONS = {"launchConditions": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}}
STATES = {"archived": "ARCHIVED", "generated": "SYSTEM_GENERATED", "hidden": "SYSTEM_ARCHIVED"}


def literal(**value: Any) -> dict[str, Any]:
    """A primitive."""
    return {"scalar": {"primitive": value}}


def variables(**types: Any) -> dict[str, Any]:
    return {"variables": {name: {"type": type_} for name, type_ in types.items()}}


def interface(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": variables(**inputs), "outputs": variables(**outputs)}


def bound(var: str, value: Any) -> dict[str, Any]:
    return {"var": var, "binding": value}


TASK = {
    "id": entity("TASK", "t"),
    "spec": {
        "template": {
            "type": "python-task",
            "metadata": {"runtime": {"version": "1"}},
            "interface": interface({"a": INTEGER}, {"o": INTEGER}),
            "container": {"image": "python:3.11", "args": ["run"]},
        }
    },
}
NODE = {
    "id": "n0",
    "inputs": [bound("a", {"scalar": {"primitive": {"integer": 1}}})],
    "taskNode": {"referenceId": entity("TASK", "t")},
}
WORKFLOW = {
    "id": entity("WORKFLOW", "w"),
    "spec": {
        "template": {
            "interface": interface({"a": INTEGER, "s": STRING, "at": DATETIME}, {"o": INTEGER}),
            "nodes": [NODE],
            "outputs": [bound("o", {"promise": {"nodeId": "n0", "var": "o"}})],
        }
    },
}
EMPTY = changed(
    WORKFLOW, ("id", entity("WORKFLOW", "empty")), ("spec.template.interface", {}), ("spec.template.outputs", [])
)
PLAN = {
    "id": entity("LAUNCH_PLAN", "lp"),
    "spec": {
        "workflowId": entity("WORKFLOW", "w"),
        "defaultInputs": {"parameters": {"s": {"var": {"type": STRING}, "default": literal(stringValue="x")}}},
        "fixedInputs": {"literals": {"a": literal(integer="1")}},
    },
}
FREE = changed(PLAN, ("id", entity("LAUNCH_PLAN", "free")))
POD = changed(
    TASK,
    ("id", entity("TASK", "pod")),
    ("spec.template.container", REMOVED),
    ("spec.template.k8sPod", {"podSpec": {"containers": [{"name": "primary", "image": "x"}]}}),
)
PROJECT_JSON = {"project": {"id": "fresh", "name": "Fresh"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(postgres_server, tmp_path_factory.mktemp("store"), CONFIG) as made:
        for name, state in STATES.items():
            project = {"id": name, "name": name, "state": state}
            await granted(made, "RegisterProject", {"project": project})
        for rpc, request in (
            ("CreateTask", TASK), ("CreateWorkflow", WORKFLOW), ("CreateWorkflow", EMPTY), ("CreateLaunchPlan", PLAN),
        ):  # fmt: skip
            await granted(made, rpc, request)
        yield made


# 1.2


def identified(rpc: str, request: dict[str, Any], at: str, kind: str) -> Iterator[Row]:
    """An identifier that has to be complete: what is missing is named in order."""
    wrong, name = ("WORKFLOW", "workflow") if kind != "WORKFLOW" else ("TASK", "task")
    whole = entity(kind, "t")
    yield Row(rpc, changed(request, (at, REMOVED)), "missing id")
    yield Row(
        rpc,
        changed(request, (at, whole | {"resourceType": wrong})),
        f"unexpected resource type {name} for identifier […], expected {kind.lower()} instead",
    )
    left = {"resourceType": kind}
    for field in ("project", "domain", "name", "version"):
        yield Row(rpc, changed(request, (at, dict(left))), f"missing {field}")
        left[field] = whole[field]


@rows(
    *identified("CreateTask", TASK, "id", "TASK"),
    *identified("CreateWorkflow", WORKFLOW, "id", "WORKFLOW"),
    *identified("CreateLaunchPlan", PLAN, "spec.workflowId", "WORKFLOW"),
    *identified("CreateLaunchPlan", PLAN, "id", "LAUNCH_PLAN"),
    *identified("GetWorkflow", {}, "id", "WORKFLOW"),
    *identified("GetLaunchPlan", {}, "id", "LAUNCH_PLAN"),
    *identified("UpdateLaunchPlan", {}, "id", "LAUNCH_PLAN"),
    [
        Row(rpc, changed({"id": place_of("x")}, *changes), f"missing {field}")
        for rpc in ("GetActiveLaunchPlan",)
        for field, changes in (
            ("id", [("id", REMOVED)]), ("project", [("id.project", "")]), ("domain", [("id.domain", "")]),
            ("name", [("id.name", "")]),
        )
    ],
    Row("GetWorkflow", {"id": entity("WORKFLOW", "none")}, "missing entity of type WORKFLOW with identifier …",
        "NOT_FOUND"),
    Row("GetLaunchPlan", {"id": entity("LAUNCH_PLAN", "none")},
        "missing entity of type LAUNCH_PLAN with identifier …", "NOT_FOUND"),
    Row("GetTask", {"id": entity("TASK", "none")}, "missing entity of type TASK with identifier …", "NOT_FOUND"),
    Row("GetTask", {"id": {"resourceType": "TASK", "project": PROJECT}},
        "missing entity of type TASK with identifier …", "NOT_FOUND"),
    Row("GetActiveLaunchPlan", {"id": place_of("none")},
        f"No active launch plan could be found: {PROJECT}:{DOMAIN}:none", "NOT_FOUND"),
)  # fmt: skip
async def test_an_identifier_is_complete_and_of_its_kind(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    ("rpc", "name"), [("GetTask", "t"), ("GetWorkflow", "w"), ("GetLaunchPlan", "lp"), ("UpdateLaunchPlan", "lp")]
)
async def test_the_kind_may_be_left_out(platform: Served, rpc: str, name: str) -> None:
    left_out = entity("UNSPECIFIED", name)
    for door in DOORS:
        await granted(platform, rpc, {"id": left_out}, door)


# 1.3


def placed(rpc: str, request: dict[str, Any], project: str, domain: str) -> Iterator[Row]:
    """A project and a domain that are written to have to be known, and active."""
    yield Row(
        rpc,
        changed(request, (project, "nowhere")),
        f"failed to validate that project [nowhere] and domain [{DOMAIN}] are registered, "
        "err: [project [nowhere] not found]",
    )
    for name in STATES:
        yield Row(
            rpc,
            changed(request, (project, name)),
            f"project [{name}] is not active",
            details=(InactiveProject(id=name),),
        )
    yield Row(rpc, changed(request, (domain, "nowhere")), "domain [nowhere] is unrecognized by system")


LAUNCH = {"project": PROJECT, "domain": DOMAIN, "spec": {"launchPlan": entity("LAUNCH_PLAN", "lp")}}


@rows(
    *placed("CreateTask", TASK, "id.project", "id.domain"),
    *placed("CreateWorkflow", WORKFLOW, "id.project", "id.domain"),
    *placed("CreateLaunchPlan", PLAN, "id.project", "id.domain"),
    *placed("CreateExecution", LAUNCH, "project", "domain"),
)
async def test_what_is_written_belongs_to_an_active_project(platform: Served, row: Row) -> None:
    await row.check(platform)


# 1.4


@rows(
    Row("CreateTask", TASK, "task with identical structure already exists", "ALREADY_EXISTS"),
    Row(
        "CreateTask",
        changed(TASK, ("spec.template.container.image", "other")),
        "t task with different structure already exists. (Please register a new version of the task):\n"
        "…image…\n\t- …python:3.11…\n\t+ …other…",
    ),
    Row(
        "CreateWorkflow",
        WORKFLOW,
        "workflow with identical structure already exists",
        "ALREADY_EXISTS",
        (
            ParseDict(
                {"existsIdenticalStructure": {"id": entity("WORKFLOW", "w")}},
                workflow_pb2.CreateWorkflowFailureReason(),
            ),
        ),
    ),
    Row(
        "CreateWorkflow",
        changed(WORKFLOW, ("spec.template.nodes.0.inputs", [bound("a", literal(integer="2"))])),
        "w workflow with different structure already exists. (Please register a new version of the workflow):\n…",
        details=(
            ParseDict(
                {"existsDifferentStructure": {"id": entity("WORKFLOW", "w")}},
                workflow_pb2.CreateWorkflowFailureReason(),
            ),
        ),
    ),
    Row("CreateLaunchPlan", PLAN, "launch plan with identical structure already exists", "ALREADY_EXISTS"),
    Row(
        "CreateLaunchPlan",
        changed(PLAN, ("spec.fixedInputs.literals.a", literal(integer="2"))),
        "lp launch plan with different structure already exists. "
        "(Please register a new version of the launch plan):\n…\n\t- …1…\n\t+ …2…",
    ),
)
async def test_registering_again_says_whether_it_is_the_same(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    ("rpc", "request_"), [("CreateTask", TASK), ("CreateWorkflow", WORKFLOW), ("CreateLaunchPlan", PLAN)]
)
async def test_what_is_wrong_is_said_before_what_is_there_already(
    platform: Served, rpc: str, request_: dict[str, Any]
) -> None:
    wrong = {
        "CreateTask": ("spec.template.type", ""),
        "CreateWorkflow": ("spec.template.nodes.0.taskNode.referenceId.name", "none"),
        "CreateLaunchPlan": ("spec.entityMetadata", CONDITIONS),
    }
    answer = await by_grpc(platform, rpc, request_of(rpc, changed(request_, wrong[rpc])))
    assert answer.code == "INVALID_ARGUMENT"
    assert "already exists" not in answer.text


# 1.5


def task(*changes: tuple[str, Any]) -> dict[str, Any]:
    """A task that is not registered, in most ways like the one that is."""
    return changed(TASK, ("id.name", "wrong"), *((f"spec.template.{path}", value) for path, value in changes))


def resources(requests: dict[str, str], limits: dict[str, str] | None = None) -> dict[str, Any]:
    """A task whose container asks for something."""
    return task(
        (
            "container.resources",
            {
                "requests": [{"name": name, "value": value} for name, value in requests.items()],
                "limits": [{"name": name, "value": value} for name, value in (limits or {}).items()],
            },
        )
    )


def pod(requests: dict[str, Any], limits: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same of the second container of a pod."""
    container = {"name": "b", "image": "x", "resources": {"requests": requests, "limits": limits or {}}}
    spec = {"containers": [{"name": "a", "image": "x"}, container]}
    return changed(POD, ("id.name", "wrong"), ("spec.template.k8sPod.podSpec", spec))


NOT_MORE = "Please contact Flyte Admins to change these limits or consult the configuration"


def limited(name: str, what: str, value: str, most: str) -> str:
    return (
        f"Requested {name} {what} [{value}] is greater than current limit set in the platform configuration [{most}]. "
        + NOT_MORE
    )


@rows(
    Row("CreateTask", changed(task(), ("spec", REMOVED)), "missing spec"),
    Row("CreateTask", changed(task(), ("spec", {})), "missing spec"),
    Row("CreateTask", task(("type", "")), "missing type"),
    Row("CreateTask", task(("type", "elsewhere")), "task type must be whitelisted before use"),
    Row("CreateTask", task(("metadata", REMOVED)), "missing metadata"),
    Row("CreateTask", task(("metadata.runtime.version", "")), "missing runtime version"),
    Row("CreateTask", task(("interface", REMOVED)), "missing typed interface"),
    Row("CreateTask", task(("container.image", "")), "missing image"),
    [
        Row(
            "CreateTask",
            task((f"container.resources.{side}", [{"name": name, "value": "1"}] * 2)),
            f"can't specify {name} limit for task […] multiple times",
        )
        for side in ("requests", "limits")
        for name in ("CPU", "MEMORY", "GPU", "EPHEMERAL_STORAGE")
    ],
    [
        Row(
            "CreateTask",
            resources({name: "lots"}),
            f"Parsing of {name} request failed for value lots - reason  …. …https://kubernetes.io/docs/…",
        )
        for name in ("CPU", "MEMORY", "GPU", "EPHEMERAL_STORAGE")
    ],
    Row("CreateTask", resources({}, {"CPU": "1x"}), "Parsing of CPU limit failed for value 1x - reason  …"),
    Row("CreateTask", resources({"GPU": "1.5"}), "gpu for […] must be a whole number, got: 1.5 instead"),
    [
        Row(
            "CreateTask",
            resources({name: more}, {name: less}),
            f"Requested {name} default [{more}] is greater than the limit [{less}]. Please fix your configuration",
        )
        for name, more, less in (("CPU", "2", "1"), ("MEMORY", "2Gi", "1Gi"), ("EPHEMERAL_STORAGE", "2Gi", "1Gi"))
    ],
    [
        Row("CreateTask", request, limited(name, what, more, most))
        for name, more, most in (("CPU", "5", "4"), ("MEMORY", "9Gi", "8Gi"), ("EPHEMERAL_STORAGE", "11Gi", "10Gi"))
        for what, request in (
            ("default", resources({name: more})),
            ("limit", resources({name: "1"}, {name: more})),
        )
    ],
    Row("CreateTask", resources({"GPU": "1"}, {"GPU": "2"}),
        "For extended resource 'gpu' the default value must equal the limit value for task […]"),
    Row("CreateTask", resources({"GPU": "3"}, {"GPU": "3"}), limited("GPU", "default", "3", "2")),
    Row("CreateTask", changed(POD, ("id.name", "wrong"), ("spec.template.k8sPod", {})),
        "invalid TaskSpecification, pod tasks should specify their target as a K8sPod with a defined pod spec"),
    Row("CreateTask", pod({"cpu": "2"}, {"cpu": "1"}),
        "Requested CPU default [2] is greater than the limit [1]. Please fix your configuration"),
    Row("CreateTask", pod({"cpu": 5}), limited("CPU", "default", "5", "4")),
    Row("CreateTask", pod({"memory": "9Gi"}), limited("MEMORY", "default", "9Gi", "8Gi")),
    Row("CreateTask", pod({"ephemeral-storage": "11Gi"}), limited("EPHEMERAL_STORAGE", "default", "11Gi", "10Gi")),
    Row("CreateTask", pod({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "2"}),
        "For extended resource 'gpu' the default value must equal the limit value for task […]"),
)  # fmt: skip
async def test_what_is_wrong_with_a_task(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    "request_",
    [
        task(("interface", {})),
        task(("metadata", {})),
        task(("type", "here")),
        task(("type", "project")),
        task(("type", "anywhere")),
        task(("container", REMOVED)),
        task(("container", REMOVED), ("sql", {"statement": "SELECT 1"})),
        task(("metadata.timeout", "-5s"), ("metadata.retries", {"retries": 2_000})),
        task(("container.resources.requests", [{"name": name, "value": "9Ti"} for name in ("STORAGE", "UNKNOWN")] * 2)),
        resources({"CPU": "1500m"}, {"CPU": "2"}),
        resources({"CPU": "3500m"}),
        resources({"CPU": "200m"}, {"CPU": "100m"}),  # quantities are rounded up to whole numbers first
        resources({}, {"CPU": "100", "MEMORY": "1Ti"}),  # a limit without a request is not looked at
        resources({"GPU": "2"}, {"GPU": "2"}),
        pod({"cpu": "4", "memory": "8Gi", "example.com/thing": "100"}),
    ],
)
async def test_what_is_fine_with_a_task(platform: Served, request_: dict[str, Any]) -> None:
    name = f"fine{next(_numbers)}"
    await granted(platform, "CreateTask", changed(request_, ("id.name", name)))


async def test_a_limit_of_the_domain_takes_the_place_of_the_configured_ones(platform: Served) -> None:
    attributes = {
        "project": PROJECT,
        "domain": "staging",
        "matchingAttributes": {"taskResourceAttributes": {"limits": {"cpu": "1"}}},
    }
    await granted(platform, "UpdateProjectDomainAttributes", {"attributes": attributes})
    asked = changed(resources({"CPU": "2"}), ("id.domain", "staging"))
    await Row("CreateTask", asked, limited("CPU", "default", "2", "1")).check(platform)
    unlimited = changed(resources({"MEMORY": "100Gi"}), ("id.domain", "staging"), ("id.name", f"x{next(_numbers)}"))
    await granted(platform, "CreateTask", unlimited)


async def test_a_task_is_given_back_as_it_was_compiled(platform: Served) -> None:
    description = {
        "shortDescription": "short",
        "longDescription": {"value": "long", "format": "DESCRIPTION_FORMAT_MARKDOWN"},
        "sourceCode": {"link": "https://example.org"},
    }
    asked = changed(TASK, ("id.name", "described"), ("spec.description", description))
    await granted(platform, "CreateTask", asked)
    key = entity("TASK", "described")
    found = await everywhere(platform, "GetTask", {"id": key})
    template = request_of("CreateTask", asked).spec.template
    template.id.CopyFrom(found.id)
    assert found.closure.compiled_task.template == template
    assert found.closure.HasField("created_at")
    assert found.short_description == "short"
    written = await everywhere(platform, "GetDescriptionEntity", {"id": key})
    assert written == ParseDict({"id": key} | description, type(written)())
    await Row("GetDescriptionEntity", {"id": entity("TASK", "t")}, "…", "NOT_FOUND").check(platform)


# 1.6


def workflow(*changes: tuple[str, Any]) -> dict[str, Any]:
    return changed(WORKFLOW, ("id.name", "wrong"), *((f"spec.{path}", value) for path, value in changes))


COMPILING = "failed to compile workflow for […] with err: "


@rows(
    Row("CreateWorkflow", workflow(("template", REMOVED)), "missing spec"),
    Row("CreateWorkflow", changed(workflow(), ("spec", REMOVED)), "missing spec"),
    Row("CreateWorkflow", workflow(("template.nodes.0.taskNode.referenceId.name", "none")), COMPILING + "…none…"),
    Row("CreateWorkflow",
        workflow(("template.nodes", [NODE, {"id": "n1", "workflowNode": {
            "launchplanRef": entity("LAUNCH_PLAN", "none")}}])),
        COMPILING + "…none…"),
    Row("CreateWorkflow", workflow(("template.nodes.0.inputs", [])), COMPILING + "…"),
    Row("CreateWorkflow", workflow(("template.nodes", [NODE | {"id": f"n{at}"} for at in range(5)])),
        "number of nodes in workflow […] exceeds limit (5 > 4)"),
    Row("CreateWorkflow", workflow(("template.metadata", {"tags": {"long": "x" * 6_000}})),
        "Workflow closure size exceeds max limit [5Ki]"),
)  # fmt: skip
async def test_what_is_wrong_with_a_workflow(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_a_workflow_is_given_with_its_closure_and_listed_without(platform: Served) -> None:
    found = await everywhere(platform, "GetWorkflow", {"id": entity("WORKFLOW", "w")})
    closure = found.closure.compiled_workflow
    assert found.closure.HasField("created_at")
    assert {node.id for node in closure.primary.template.nodes} == {"start-node", "end-node", "n0"}
    assert [each.template.id.name for each in closure.tasks] == ["t"]
    listed = await everywhere(platform, "ListWorkflows", {"id": place_of("w"), "limit": 1})
    (one,) = listed.workflows
    assert one.id == found.id
    bare = type(one)(id=one.id, short_description=one.short_description)
    bare.closure.created_at.CopyFrom(one.closure.created_at)
    bare.closure.compiled_workflow.primary.template.interface.CopyFrom(closure.primary.template.interface)
    assert one == bare


async def test_a_closure_that_is_gone_is_our_own_fault(platform: Served) -> None:
    gone = changed(WORKFLOW, ("id.name", "gone"))
    await granted(platform, "CreateWorkflow", gone)
    reference = await platform.database.fetchval(
        "SELECT remote_closure_identifier FROM workflows WHERE name = 'gone' AND project = $1", PROJECT
    )
    await platform.storage.delete(reference)
    await Row(
        "GetWorkflow",
        {"id": entity("WORKFLOW", "gone")},
        f"Unable to read WorkflowClosure from location {reference} : …",
        "INTERNAL",
    ).check(platform)


# 1.7: projects and names


def project(*changes: tuple[str, Any]) -> dict[str, Any]:
    return changed(PROJECT_JSON, *((f"project.{path}", value) for path, value in changes))


MANY_LABELS = {"values": {f"k{at}": "v" for at in range(17)}}
DOMAINS = "Domains are currently only set system wide. Please retry without domains included in your request."
PROJECTS = (
    (("id", "Not_a_label"), "invalid project id [Not_a_label]: …"),
    (("id", "x" * 64), f"invalid project id [{'x' * 64}]: …"),
    (("name", "x" * 65), "project_name cannot exceed 64 characters"),
    (("description", "x" * 301), "project_description cannot exceed 300 characters"),
    (("domains", [{"id": DOMAIN, "name": DOMAIN}]), DOMAINS),
    (("labels", MANY_LABELS), "labels map cannot exceed 16 entries"),
    (("labels", {"values": {"no spaces": "v"}}), "invalid label key [no spaces]: …"),
    (("labels", {"values": {"k": "no spaces"}}), "invalid label value [no spaces]: …"),
)
NAME = {"resourceType": "TASK", "id": place_of("t"), "metadata": {"description": "about", "state": 1}}


@rows(
    Row("RegisterProject", {}, "missing project"),
    Row("RegisterProject", project(("name", "")), "missing project_name"),
    Row("RegisterProject", project(("id", "")), "missing project_id"),
    [Row("RegisterProject", project(change), text) for change, text in PROJECTS],
    Row("RegisterProject", {"project": {"id": PROJECT, "name": "again"}},
        "value with matching already exists (…)", "ALREADY_EXISTS"),
    Row("UpdateProject", {"id": "Not_there", "name": "x" * 65}, "project [Not_there] not found", "NOT_FOUND"),
    [
        Row("UpdateProject", {"id": PROJECT} | {path: value}, text)
        for (path, value), text in PROJECTS
        if path != "id"
    ],
    Row("GetProject", {"id": "nowhere"}, "project [nowhere] not found", "NOT_FOUND"),
    Row("UpdateNamedEntity", changed(NAME, ("resourceType", 0)), "invalid value for resource_type"),
    Row("UpdateNamedEntity", changed(NAME, ("id", REMOVED)), "missing id"),
    [
        Row("UpdateNamedEntity", changed(NAME, (f"id.{field}", "")), f"missing {field}")
        for field in ("project", "domain", "name")
    ],
    Row("UpdateNamedEntity", changed(NAME, ("metadata", REMOVED)), "missing metadata"),
    Row("UpdateNamedEntity", changed(NAME, ("resourceType", "DATASET")),
        "Resource [DATASET] cannot have its state updated"),
    Row("UpdateNamedEntity", changed(NAME, ("id.name", "none")), "entry not found", "NOT_FOUND"),
    [
        Row("GetNamedEntity", {"resourceType": kind, "id": place_of("none")}, "entry not found", "NOT_FOUND")
        for kind in ("TASK", "WORKFLOW", "LAUNCH_PLAN")
    ],
    Row("GetNamedEntity", {"resourceType": "DATASET", "id": place_of("t")}, "…"),
    [
        Row("GetNamedEntity", changed({"resourceType": "TASK", "id": place_of("t")}, (f"id.{field}", "")),
            f"missing {field}")
        for field in ("project", "domain", "name")
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_project_or_a_name(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(("kind", "name"), [("TASK", "t"), ("WORKFLOW", "w"), ("LAUNCH_PLAN", "lp")])
async def test_a_name_has_defaults_until_something_is_written_about_it(platform: Served, kind: str, name: str) -> None:
    asked = {"resourceType": kind, "id": place_of(name)}
    found = await everywhere(platform, "GetNamedEntity", asked)
    assert (found.metadata.description, found.metadata.state) == ("", 0)
    for door in DOORS:
        metadata = {"description": f"about {door.__name__}", "state": "NAMED_ENTITY_ARCHIVED"}
        await granted(platform, "UpdateNamedEntity", asked | {"metadata": metadata}, door)
        found = await everywhere(platform, "GetNamedEntity", asked)
        assert (found.metadata.description, found.metadata.state) == (metadata["description"], 1)
    await granted(platform, "UpdateNamedEntity", asked | {"metadata": {}})
    found = await everywhere(platform, "GetNamedEntity", asked)
    assert (found.metadata.description, found.metadata.state) == ("", 0)


# 1.7: literals, labels and notifications; 3.1 to 3.3


def plan(*changes: tuple[str, Any]) -> dict[str, Any]:
    return changed(PLAN, ("id.name", "wrong"), *((f"spec.{path}", value) for path, value in changes))


def scheduled(schedule: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    """A launch plan on a schedule, whose one free input that has no value is `at`."""
    return plan(("entityMetadata", {"schedule": schedule}), *changes)


def parameter(**given: Any) -> tuple[str, Any]:
    return ("defaultInputs", {"parameters": {"s": given}})


def told(notification: dict[str, Any]) -> tuple[str, Any]:
    return ("entityMetadata", {"notifications": [notification]})


EMAIL = {"recipientsEmail": ["a@example.org"]}
CRON = {"cronSchedule": {"schedule": "0 0 * * *"}, "kickoffTimeInputArg": "at"}
OF_EMPTY = ("workflowId", entity("WORKFLOW", "empty"))


@rows(
    Row("CreateLaunchPlan", plan(("workflowId", entity("WORKFLOW", "none"))),
        "missing entity of type WORKFLOW with identifier …none…", "NOT_FOUND"),
    Row("CreateLaunchPlan", changed(PLAN, ("id", REMOVED), ("spec.workflowId.name", "none")),
        "missing entity of type WORKFLOW with identifier …none…", "NOT_FOUND"),  # which is looked for first
    Row("CreateLaunchPlan", plan(("labels", MANY_LABELS)), "labels map cannot exceed 16 entries"),
    Row("CreateLaunchPlan", plan(("labels", {"values": {"no spaces": "v"}})), "invalid label key [no spaces]: …"),
    Row("CreateLaunchPlan", plan(("labels", {"values": {"k": "no spaces"}})), "invalid label value [no spaces]: …"),
    Row("CreateLaunchPlan", plan(("fixedInputs.literals", {"": literal(integer="1")})), "missing key in fixed_inputs"),
    Row("CreateLaunchPlan", plan(("fixedInputs.literals", {"a": {}})), "missing valid literal in fixed_inputs a"),
    Row("CreateLaunchPlan", plan(parameter(var={"type": STRING}, artifactQuery={})),
        "artifact mode not enabled but query found default_inputs s"),
    [
        Row("CreateLaunchPlan", plan(parameter(**given)),
            "The Variable component of the Parameter s in default_inputs either is missing, or has a missing Type")
        for given in ({"required": True}, {"required": True, "var": {"description": "x"}})
    ],
    [
        Row("CreateLaunchPlan", plan(parameter(var={"type": STRING}, **given)),
            "Invalid variable s in default_inputs - variable has neither default, nor is required. "
            "One must be specified")
        for given in ({}, {"required": False})
    ],
    Row("CreateLaunchPlan", plan(parameter(var={"type": STRING}, default=literal(integer="1"))),
        "Type mismatch for Parameter s in default_inputs has type …, expected …"),
    Row("CreateLaunchPlan", plan(("entityMetadata", CONDITIONS)),
        "Launch condition must be empty, found …"),
    Row("CreateLaunchPlan", plan(OF_EMPTY, ("fixedInputs", {})),
        "invalid launch plan default inputs, expected none but found 1"),
    Row("CreateLaunchPlan", plan(OF_EMPTY, ("defaultInputs", {})),
        "invalid launch plan fixed inputs, expected none but found 1"),
    Row("CreateLaunchPlan", plan(("defaultInputs.parameters.x", {"var": {"type": STRING}, "required": True})),
        "unexpected default_input x"),
    Row("CreateLaunchPlan", plan(parameter(var={"type": INTEGER}, required=True)),
        "invalid default_input wrong type s, expected …, got … instead"),
    Row("CreateLaunchPlan", plan(("fixedInputs.literals.x", literal(integer="1"))), "unexpected fixed_input x"),
    Row("CreateLaunchPlan", plan(("fixedInputs.literals.a", literal(stringValue="1"))),
        "invalid fixed_input wrong type a, expected …, got … instead"),
    Row("CreateLaunchPlan", scheduled(changed(CRON, ("kickoffTimeInputArg", REMOVED))),
        "Cannot create a launch plan with a schedule if there is an unbound required input. [at] is required"),
    [
        Row("CreateLaunchPlan", scheduled(CRON | {"kickoffTimeInputArg": name},
            ("fixedInputs.literals.at", literal(datetime="2026-01-01T00:00:00Z"))),
            "Cannot create a schedule with a KickoffTimeInputArg that does not point to a free input. "
            f"[{name}] is not free or does not exist.")
        for name in ("at", "nothing")
    ],
    Row("CreateLaunchPlan", scheduled(CRON | {"kickoffTimeInputArg": "s"},
        ("fixedInputs.literals.at", literal(datetime="2026-01-01T00:00:00Z"))),
        "KickoffTimeInputArg must reference a datetime input. [s] is a […]"),
    [
        Row("CreateLaunchPlan", scheduled({"kickoffTimeInputArg": "at", **expression}),
            "Invalid cron expression: …")
        for text in (
            "* * * *", "0 12 * * ? *", "0 0 12 * * *", "@fortnightly", "@every", "60 * * * *", "TZ=Mars * * * * *",
        )
        for expression in ({"cronExpression": text}, {"cronSchedule": {"schedule": text}})
    ],
    Row("CreateLaunchPlan", plan(told({"phases": ["FAILED"]})), "invalid value for notification type"),
    [
        row
        for way in ("email", "slack", "pagerDuty")
        for row in (
            Row("CreateLaunchPlan", plan(told({way: {}})), "missing recipients"),
            Row("CreateLaunchPlan", plan(told({way: {"recipientsEmail": ["a", ""]}})), "missing recipient"),
            Row("CreateLaunchPlan", plan(told({way: EMAIL, "phases": ["FAILED", "RUNNING"]})),
                "invalid value for phase"),
        )
    ],
    Row("UpdateLaunchPlan", {"id": entity("LAUNCH_PLAN", "none")}, "missing entity of type LAUNCH_PLAN …",
        "NOT_FOUND"),
    Row("UpdateLaunchPlan", {"id": entity("LAUNCH_PLAN", "none"), "state": "ACTIVE"},
        "missing entity of type LAUNCH_PLAN …", "NOT_FOUND"),
    Row("UpdateLaunchPlan", {"id": entity("LAUNCH_PLAN", "lp"), "state": 7},
        "Unrecognized launch plan state 7 for update for launch plan […]"),
)  # fmt: skip
async def test_what_is_wrong_with_a_launch_plan(platform: Served, row: Row) -> None:
    await row.check(platform)


@pytest.mark.parametrize(
    ("schedule", "type_", "condition"),
    [
        *(
            ({kind: value, "kickoffTimeInputArg": "at"}, "CRON", "SCHED")
            for text in (
                "0 0 * * *", "@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually", "@midnight",
                "@every 1h30m", "TZ=Europe/Berlin 0 9 * * 1-5", "CRON_TZ=Asia/Tokyo @daily",
            )
            for kind, value in (("cronExpression", text), ("cronSchedule", {"schedule": text}))
        ),
        ({"rate": {"value": 3, "unit": "HOUR"}, "kickoffTimeInputArg": "at"}, "RATE", "SCHED"),
        ({"kickoffTimeInputArg": "nothing"}, "NONE", None),
    ],
)  # fmt: skip
async def test_a_schedule_that_can_be_kept(
    platform: Served, schedule: dict[str, Any], type_: str, condition: str | None
) -> None:
    name = f"scheduled{next(_numbers)}"
    await granted(platform, "CreateLaunchPlan", changed(scheduled(schedule), ("id.name", name)))
    listed = await granted(
        platform, "ListLaunchPlans", {"id": place_of(name), "limit": 5, "filters": f"eq(schedule_type,{type_})"}
    )
    assert [each.id.name for each in listed.launch_plans] == [name]
    kept = await platform.database.fetchval("SELECT launch_condition_type FROM launch_plans WHERE name = $1", name)
    assert kept == condition


async def test_what_a_launch_plan_expects_is_computed(platform: Served) -> None:
    found = await everywhere(platform, "GetLaunchPlan", {"id": entity("LAUNCH_PLAN", "lp")})
    expected = found.closure.expected_inputs.parameters
    assert sorted(expected) == ["at", "s"]
    assert expected["at"].required
    assert expected["at"].var.type.simple == SimpleType.DATETIME
    assert expected["s"].default.scalar.primitive.string_value == "x"
    assert found.spec.default_inputs == found.closure.expected_inputs
    assert sorted(found.closure.expected_outputs.variables) == ["o"]


async def test_a_default_stays_although_the_input_is_fixed(platform: Served) -> None:
    both = plan(("fixedInputs.literals.s", literal(stringValue="y")))
    await granted(platform, "CreateLaunchPlan", changed(both, ("id.name", "both")))
    found = await everywhere(platform, "GetLaunchPlan", {"id": entity("LAUNCH_PLAN", "both")})
    assert sorted(found.closure.expected_inputs.parameters) == ["at", "s"]


# 3.4 and 3.5


async def test_one_version_is_active_at_most(platform: Served) -> None:
    for version in ("v1", "v2"):
        made = changed(PLAN, ("id", entity("LAUNCH_PLAN", "states", version)))
        await granted(platform, "CreateLaunchPlan", made)
        found = await everywhere(platform, "GetLaunchPlan", {"id": entity("LAUNCH_PLAN", "states", version)})
        assert found.closure.state == 0  # whatever is there
    active = {"id": place_of("states")}
    for door, version in itertools.product(DOORS, ("v1", "v1", "v2")):
        key = entity("LAUNCH_PLAN", "states", version)
        await granted(platform, "UpdateLaunchPlan", {"id": key, "state": "ACTIVE"}, door)
        assert (await everywhere(platform, "GetActiveLaunchPlan", active)).id.version == version
        listed = await everywhere(
            platform, "ListActiveLaunchPlans", {"project": PROJECT, "domain": DOMAIN, "limit": 100}
        )
        assert [each.id.version for each in listed.launch_plans if each.id.name == "states"] == [version]
    other = await everywhere(platform, "GetLaunchPlan", {"id": entity("LAUNCH_PLAN", "states", "v1")})
    assert other.closure.state == 0
    assert other.closure.updated_at.ToNanoseconds() >= other.closure.created_at.ToNanoseconds() > 0
    for _ in range(2):  # which may be repeated
        for door in DOORS:
            key = entity("LAUNCH_PLAN", "states", "v2")
            await granted(platform, "UpdateLaunchPlan", {"id": key}, door)
    await Row("GetActiveLaunchPlan", active, f"No active launch plan could be found: {PROJECT}:{DOMAIN}:states",
              "NOT_FOUND").check(platform)  # fmt: skip


async def test_a_plan_may_be_of_a_workflow_elsewhere(platform: Served) -> None:
    made = changed(PLAN, ("id", entity("LAUNCH_PLAN", "elsewhere", domain="production")))
    await granted(platform, "CreateLaunchPlan", made)


async def test_every_rpc_has_the_route_of_section_15() -> None:
    assert METHODS.keys() == ROUTES.keys()
