"""Projects, domains and the version."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, project_pb2, version_pb2

from aerodrome.admin.config import AdminConfig

CODE = grpc.StatusCode
Project = project_pb2.Project


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return caught.value.details() or ""


def register(**fields: Any) -> project_pb2.ProjectRegisterRequest:
    return project_pb2.ProjectRegisterRequest(project=Project(**fields))


async def test_a_registered_project_has_the_configured_domains(platform: Any) -> None:
    await platform.stub.RegisterProject(register(id="p1", name="One", labels=common_pb2.Labels(values={"a": "b"})))
    project = await platform.stub.GetProject(project_pb2.ProjectGetRequest(id="p1"))
    assert (project.name, project.description, dict(project.labels.values)) == ("One", "", {"a": "b"})
    assert [each.id for each in project.domains] == ["development", "staging", "production"]
    domains = (await platform.stub.GetDomains(project_pb2.GetDomainRequest())).domains
    assert list(project.domains) == list(domains)


async def test_a_project_is_registered_once(platform: Any) -> None:
    await platform.stub.RegisterProject(register(id="p1", name="One"))
    await refused(platform.stub.RegisterProject(register(id="p1", name="Two")), CODE.ALREADY_EXISTS)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "missing project"),
        ({"id": "p"}, "missing project_name"),
        ({"name": "n"}, "missing project_id"),
        ({"id": "Upper", "name": "n"}, "invalid project id [Upper]: "),
        ({"id": "p", "name": "n" * 65}, "project_name cannot exceed 64 characters"),
        ({"id": "p", "name": "n", "description": "d" * 301}, "project_description cannot exceed 300 characters"),
        ({"id": "p", "name": "n", "domains": [project_pb2.Domain(id="x")]}, "Domains are currently only set system"),
        ({"id": "p", "name": "n", "labels": common_pb2.Labels(values={"!": ""})}, "invalid label key [!]: "),
    ],
)
async def test_what_is_wrong_is_named(fields: Any, text: str, platform: Any) -> None:
    details = await refused(platform.stub.RegisterProject(register(**fields)), CODE.INVALID_ARGUMENT)
    assert details.startswith(text)


async def test_an_update_keeps_what_it_leaves_out_but_not_the_state(platform: Any) -> None:
    stub = platform.stub
    labels = common_pb2.Labels(values={"a": "b"})
    await stub.RegisterProject(register(id="p1", name="One", description="first", labels=labels))
    await stub.UpdateProject(Project(id="p1", state=Project.ARCHIVED))
    project = await stub.GetProject(project_pb2.ProjectGetRequest(id="p1"))
    assert (project.name, project.description, project.labels) == ("One", "first", labels)
    assert project.state == Project.ARCHIVED
    await stub.UpdateProject(Project(id="p1", name="Two", labels=common_pb2.Labels()))
    project = await stub.GetProject(project_pb2.ProjectGetRequest(id="p1"))
    assert (project.name, dict(project.labels.values), project.state) == ("Two", {}, Project.ACTIVE)


async def test_an_unknown_project_is_not_found_before_anything_else(platform: Any) -> None:
    details = await refused(platform.stub.UpdateProject(Project(id="no", name="n" * 99)), CODE.NOT_FOUND)
    assert details == "project [no] not found"
    details = await refused(platform.stub.GetProject(project_pb2.ProjectGetRequest(id="no")), CODE.NOT_FOUND)
    assert details == "project [no] not found"


async def test_archived_projects_are_listed_only_when_asked_for(platform: Any) -> None:
    stub = platform.stub
    for name in ("b", "a", "c"):
        await stub.RegisterProject(register(id=name, name=name))
    await stub.UpdateProject(Project(id="b", state=Project.ARCHIVED))
    await stub.UpdateProject(Project(id="c", state=Project.SYSTEM_GENERATED))

    async def listed(**fields: Any) -> list[str]:
        answer = await stub.ListProjects(project_pb2.ProjectListRequest(**fields))
        return [each.id for each in answer.projects]

    assert await listed() == ["a", "c", "flytesnacks"]
    assert await listed(filters="eq(state,1)") == ["b"]
    assert await listed(filters="value_in(identifier,a;b)") == ["a", "b"]
    descending = common_pb2.Sort(key="identifier", direction=common_pb2.Sort.DESCENDING)
    assert await listed(sort_by=descending, limit=2) == ["flytesnacks", "c"]
    first = await stub.ListProjects(project_pb2.ProjectListRequest(limit=2))
    rest = await stub.ListProjects(project_pb2.ProjectListRequest(limit=2, token=first.token))
    assert [each.id for each in (*first.projects, *rest.projects)] == ["a", "c", "flytesnacks"]
    assert rest.token == ""


async def test_the_version_is_one_that_clients_understand(platform: Any) -> None:
    version = await platform.stub.GetVersion(version_pb2.GetVersionRequest())
    assert version.control_plane_version.Version.startswith("v1.16.")


class TestSeeds:
    @pytest.fixture
    def config(self) -> AdminConfig:
        detailed = [{"name": "two", "description": "x"}]
        return AdminConfig.model_validate(
            {"flyte": {"admin": {"seedProjects": ["one"], "seedProjectsWithDetails": detailed}}}
        )

    async def test_configured_projects_exist_from_the_start(self, platform: Any) -> None:
        projects = (await platform.stub.ListProjects(project_pb2.ProjectListRequest())).projects
        assert [(each.id, each.name, each.description) for each in projects] == [
            ("one", "one", "one description"), ("two", "two", "x"),
        ]  # fmt: skip
