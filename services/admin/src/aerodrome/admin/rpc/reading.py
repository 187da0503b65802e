"""AdminService: everything that only reads.  Each call is decoded, handed to a manager, and encoded."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.common_pb2 import (
    NamedEntityIdentifierList,
    NamedEntityIdentifierListRequest,
    NamedEntityList,
    NamedEntityListRequest,
    ObjectGetRequest,
    ResourceListRequest,
)
from flyteidl.admin.description_entity_pb2 import (
    DescriptionEntity,
    DescriptionEntityList,
    DescriptionEntityListRequest,
)
from flyteidl.admin.execution_pb2 import (
    Execution,
    ExecutionList,
    WorkflowExecutionGetDataRequest,
    WorkflowExecutionGetDataResponse,
    WorkflowExecutionGetMetricsRequest,
    WorkflowExecutionGetMetricsResponse,
    WorkflowExecutionGetRequest,
)
from flyteidl.admin.launch_plan_pb2 import ActiveLaunchPlanListRequest, LaunchPlanList
from flyteidl.admin.node_execution_pb2 import (
    DynamicNodeWorkflowResponse,
    GetDynamicNodeWorkflowRequest,
    NodeExecution,
    NodeExecutionForTaskListRequest,
    NodeExecutionGetDataRequest,
    NodeExecutionGetDataResponse,
    NodeExecutionGetRequest,
    NodeExecutionList,
    NodeExecutionListRequest,
)
from flyteidl.admin.task_execution_pb2 import (
    TaskExecution,
    TaskExecutionGetDataRequest,
    TaskExecutionGetDataResponse,
    TaskExecutionGetRequest,
    TaskExecutionList,
    TaskExecutionListRequest,
)
from flyteidl.admin.task_pb2 import TaskList
from flyteidl.admin.workflow_pb2 import WorkflowList
from flyteidl.core.identifier_pb2 import ResourceType, TaskExecutionIdentifier

from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.metrics import MetricsManager
from aerodrome.admin.managers.reading import ReadingManager


class ReadingRpcs:
    """The reading part of AdminService; whoever composes the service sets its managers."""

    _reading: ReadingManager
    _data: DataManager
    _metrics: MetricsManager

    async def GetExecution(self, request: WorkflowExecutionGetRequest, context: Any) -> Execution:
        return await self._reading.get_execution(request.id)

    async def GetExecutionData(
        self, request: WorkflowExecutionGetDataRequest, context: Any
    ) -> WorkflowExecutionGetDataResponse:
        return await self._data.execution_data(request.id)

    async def GetExecutionMetrics(
        self, request: WorkflowExecutionGetMetricsRequest, context: Any
    ) -> WorkflowExecutionGetMetricsResponse:
        return await self._metrics.execution_metrics(request)

    async def ListExecutions(self, request: ResourceListRequest, context: Any) -> ExecutionList:
        return await self._reading.list_executions(request)

    async def GetNodeExecution(self, request: NodeExecutionGetRequest, context: Any) -> NodeExecution:
        return await self._reading.get_node_execution(request.id)

    async def GetDynamicNodeWorkflow(
        self, request: GetDynamicNodeWorkflowRequest, context: Any
    ) -> DynamicNodeWorkflowResponse:
        return await self._data.dynamic_node_workflow(request.id)

    async def GetNodeExecutionData(
        self, request: NodeExecutionGetDataRequest, context: Any
    ) -> NodeExecutionGetDataResponse:
        return await self._data.node_execution_data(request.id)

    async def ListNodeExecutions(self, request: NodeExecutionListRequest, context: Any) -> NodeExecutionList:
        return await self._reading.list_node_executions(request)

    async def ListNodeExecutionsForTask(
        self, request: NodeExecutionForTaskListRequest, context: Any
    ) -> NodeExecutionList:
        _default_to_task(request.task_execution_id)
        return await self._reading.list_node_executions_for_task(request)

    async def GetTaskExecution(self, request: TaskExecutionGetRequest, context: Any) -> TaskExecution:
        _default_to_task(request.id)
        return await self._reading.get_task_execution(request.id)

    async def GetTaskExecutionData(
        self, request: TaskExecutionGetDataRequest, context: Any
    ) -> TaskExecutionGetDataResponse:
        _default_to_task(request.id)
        return await self._data.task_execution_data(request.id)

    async def ListTaskExecutions(self, request: TaskExecutionListRequest, context: Any) -> TaskExecutionList:
        return await self._reading.list_task_executions(request)

    async def ListTasks(self, request: ResourceListRequest, context: Any) -> TaskList:
        return await self._reading.list_tasks(request)

    async def ListTaskIds(self, request: NamedEntityIdentifierListRequest, context: Any) -> NamedEntityIdentifierList:
        return await self._reading.list_task_ids(request)

    async def ListWorkflows(self, request: ResourceListRequest, context: Any) -> WorkflowList:
        return await self._reading.list_workflows(request)

    async def ListWorkflowIds(
        self, request: NamedEntityIdentifierListRequest, context: Any
    ) -> NamedEntityIdentifierList:
        return await self._reading.list_workflow_ids(request)

    async def ListLaunchPlans(self, request: ResourceListRequest, context: Any) -> LaunchPlanList:
        return await self._reading.list_launch_plans(request)

    async def ListLaunchPlanIds(
        self, request: NamedEntityIdentifierListRequest, context: Any
    ) -> NamedEntityIdentifierList:
        return await self._reading.list_launch_plan_ids(request)

    async def ListActiveLaunchPlans(self, request: ActiveLaunchPlanListRequest, context: Any) -> LaunchPlanList:
        return await self._reading.list_active_launch_plans(request)

    async def ListNamedEntities(self, request: NamedEntityListRequest, context: Any) -> NamedEntityList:
        return await self._reading.list_named_entities(request)

    async def GetDescriptionEntity(self, request: ObjectGetRequest, context: Any) -> DescriptionEntity:
        if request.HasField("id") and request.id.resource_type == ResourceType.UNSPECIFIED:
            request.id.resource_type = ResourceType.TASK
        return await self._reading.get_description_entity(request.id)

    async def ListDescriptionEntities(
        self, request: DescriptionEntityListRequest, context: Any
    ) -> DescriptionEntityList:
        return await self._reading.list_description_entities(request)


def _default_to_task(identifier: TaskExecutionIdentifier) -> None:
    """HTTP paths do not carry the resource type."""
    if identifier.HasField("task_id") and identifier.task_id.resource_type == ResourceType.UNSPECIFIED:
        identifier.task_id.resource_type = ResourceType.TASK
