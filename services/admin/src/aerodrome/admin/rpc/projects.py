"""AdminService: projects, domains, and the version of the service."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.project_pb2 import (
    GetDomainRequest,
    GetDomainsResponse,
    Project,
    ProjectGetRequest,
    ProjectListRequest,
    ProjectRegisterRequest,
    ProjectRegisterResponse,
    Projects,
    ProjectUpdateResponse,
)
from flyteidl.admin.version_pb2 import GetVersionRequest, GetVersionResponse, Version

from aerodrome.admin.managers.projects import ProjectManager

CONTRACT_VERSION = "v1.16.8"
"""The release of the contract that is served; clients give hints by it."""


class ProjectRpcs:
    """The part of AdminService about projects; whoever composes the service sets its manager."""

    _projects: ProjectManager

    async def RegisterProject(self, request: ProjectRegisterRequest, context: Any) -> ProjectRegisterResponse:
        await self._projects.register(request)
        return ProjectRegisterResponse()

    async def UpdateProject(self, request: Project, context: Any) -> ProjectUpdateResponse:
        await self._projects.update(request)
        return ProjectUpdateResponse()

    async def GetProject(self, request: ProjectGetRequest, context: Any) -> Project:
        return await self._projects.get(request)

    async def ListProjects(self, request: ProjectListRequest, context: Any) -> Projects:
        return await self._projects.list(request)

    async def GetDomains(self, request: GetDomainRequest, context: Any) -> GetDomainsResponse:
        return self._projects.domains()

    async def GetVersion(self, request: GetVersionRequest, context: Any) -> GetVersionResponse:
        return GetVersionResponse(
            control_plane_version=Version(Build="aerodrome", Version=CONTRACT_VERSION, BuildTime="")
        )
