"""AdminService: matchable attributes.  Each call is decoded, handed to the manager, and encoded."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.matchable_resource_pb2 import ListMatchableAttributesRequest, ListMatchableAttributesResponse
from flyteidl.admin.project_attributes_pb2 import (
    ProjectAttributesDeleteRequest,
    ProjectAttributesDeleteResponse,
    ProjectAttributesGetRequest,
    ProjectAttributesGetResponse,
    ProjectAttributesUpdateRequest,
    ProjectAttributesUpdateResponse,
)
from flyteidl.admin.project_domain_attributes_pb2 import (
    ProjectDomainAttributesDeleteRequest,
    ProjectDomainAttributesDeleteResponse,
    ProjectDomainAttributesGetRequest,
    ProjectDomainAttributesGetResponse,
    ProjectDomainAttributesUpdateRequest,
    ProjectDomainAttributesUpdateResponse,
)
from flyteidl.admin.workflow_attributes_pb2 import (
    WorkflowAttributesDeleteRequest,
    WorkflowAttributesDeleteResponse,
    WorkflowAttributesGetRequest,
    WorkflowAttributesGetResponse,
    WorkflowAttributesUpdateRequest,
    WorkflowAttributesUpdateResponse,
)

from aerodrome.admin.managers.attributes import AttributeManager


class AttributeRpcs:
    """The part of AdminService about attributes; whoever composes the service sets its manager."""

    _attributes: AttributeManager

    async def UpdateProjectAttributes(
        self, request: ProjectAttributesUpdateRequest, context: Any
    ) -> ProjectAttributesUpdateResponse:
        await self._attributes.update_project(request)
        return ProjectAttributesUpdateResponse()

    async def GetProjectAttributes(
        self, request: ProjectAttributesGetRequest, context: Any
    ) -> ProjectAttributesGetResponse:
        return await self._attributes.get_project(request)

    async def DeleteProjectAttributes(
        self, request: ProjectAttributesDeleteRequest, context: Any
    ) -> ProjectAttributesDeleteResponse:
        await self._attributes.delete_project(request)
        return ProjectAttributesDeleteResponse()

    async def UpdateProjectDomainAttributes(
        self, request: ProjectDomainAttributesUpdateRequest, context: Any
    ) -> ProjectDomainAttributesUpdateResponse:
        await self._attributes.update_project_domain(request)
        return ProjectDomainAttributesUpdateResponse()

    async def GetProjectDomainAttributes(
        self, request: ProjectDomainAttributesGetRequest, context: Any
    ) -> ProjectDomainAttributesGetResponse:
        return await self._attributes.get_project_domain(request)

    async def DeleteProjectDomainAttributes(
        self, request: ProjectDomainAttributesDeleteRequest, context: Any
    ) -> ProjectDomainAttributesDeleteResponse:
        await self._attributes.delete_project_domain(request)
        return ProjectDomainAttributesDeleteResponse()

    async def UpdateWorkflowAttributes(
        self, request: WorkflowAttributesUpdateRequest, context: Any
    ) -> WorkflowAttributesUpdateResponse:
        await self._attributes.update_workflow(request)
        return WorkflowAttributesUpdateResponse()

    async def GetWorkflowAttributes(
        self, request: WorkflowAttributesGetRequest, context: Any
    ) -> WorkflowAttributesGetResponse:
        return await self._attributes.get_workflow(request)

    async def DeleteWorkflowAttributes(
        self, request: WorkflowAttributesDeleteRequest, context: Any
    ) -> WorkflowAttributesDeleteResponse:
        await self._attributes.delete_workflow(request)
        return WorkflowAttributesDeleteResponse()

    async def ListMatchableAttributes(
        self, request: ListMatchableAttributesRequest, context: Any
    ) -> ListMatchableAttributesResponse:
        return await self._attributes.list(request)
