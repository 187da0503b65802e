"""AdminService: registering and reading tasks, workflows, launch plans and their names."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.common_pb2 import (
    NamedEntity,
    NamedEntityGetRequest,
    NamedEntityUpdateRequest,
    NamedEntityUpdateResponse,
    ObjectGetRequest,
)
from flyteidl.admin.launch_plan_pb2 import (
    ActiveLaunchPlanRequest,
    LaunchPlan,
    LaunchPlanCreateRequest,
    LaunchPlanCreateResponse,
    LaunchPlanUpdateRequest,
    LaunchPlanUpdateResponse,
)
from flyteidl.admin.task_pb2 import Task, TaskCreateRequest, TaskCreateResponse
from flyteidl.admin.workflow_pb2 import Workflow, WorkflowCreateRequest, WorkflowCreateResponse
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.admin.managers.launch_plans import LaunchPlanManager
from aerodrome.admin.managers.named_entities import NamedEntityManager
from aerodrome.admin.managers.tasks import TaskManager
from aerodrome.admin.managers.workflows import WorkflowManager


class RegistrationRpcs:
    """The registering part of AdminService; whoever composes the service sets its managers."""

    _tasks: TaskManager
    _workflows: WorkflowManager
    _launch_plans: LaunchPlanManager
    _names: NamedEntityManager

    async def CreateTask(self, request: TaskCreateRequest, context: Any) -> TaskCreateResponse:
        await self._tasks.create(request)
        return TaskCreateResponse()

    async def GetTask(self, request: ObjectGetRequest, context: Any) -> Task:
        return await self._tasks.get(_defaulted(request.id, ResourceType.TASK))

    async def CreateWorkflow(self, request: WorkflowCreateRequest, context: Any) -> WorkflowCreateResponse:
        await self._workflows.create(request)
        return WorkflowCreateResponse()

    async def GetWorkflow(self, request: ObjectGetRequest, context: Any) -> Workflow:
        return await self._workflows.get(_defaulted(request.id, ResourceType.WORKFLOW))

    async def CreateLaunchPlan(self, request: LaunchPlanCreateRequest, context: Any) -> LaunchPlanCreateResponse:
        await self._launch_plans.create(request)
        return LaunchPlanCreateResponse()

    async def GetLaunchPlan(self, request: ObjectGetRequest, context: Any) -> LaunchPlan:
        return await self._launch_plans.get(_defaulted(request.id, ResourceType.LAUNCH_PLAN))

    async def GetActiveLaunchPlan(self, request: ActiveLaunchPlanRequest, context: Any) -> LaunchPlan:
        return await self._launch_plans.get_active(request.id)

    async def UpdateLaunchPlan(self, request: LaunchPlanUpdateRequest, context: Any) -> LaunchPlanUpdateResponse:
        _defaulted(request.id, ResourceType.LAUNCH_PLAN)
        await self._launch_plans.update(request)
        return LaunchPlanUpdateResponse()

    async def GetNamedEntity(self, request: NamedEntityGetRequest, context: Any) -> NamedEntity:
        return await self._names.get(request)

    async def UpdateNamedEntity(self, request: NamedEntityUpdateRequest, context: Any) -> NamedEntityUpdateResponse:
        await self._names.update(request)
        return NamedEntityUpdateResponse()


def _defaulted(identifier: Identifier, resource_type: ResourceType) -> Identifier:
    """HTTP paths do not carry the resource type."""
    if identifier.ByteSize() and identifier.resource_type == ResourceType.UNSPECIFIED:
        identifier.resource_type = resource_type
    return identifier
