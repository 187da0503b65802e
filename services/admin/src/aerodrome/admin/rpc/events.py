"""AdminService: events of outside engines, and the termination of executions."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    NodeExecutionEventResponse,
    TaskExecutionEventRequest,
    TaskExecutionEventResponse,
    WorkflowExecutionEventRequest,
    WorkflowExecutionEventResponse,
)
from flyteidl.admin.execution_pb2 import ExecutionTerminateRequest, ExecutionTerminateResponse

from aerodrome.admin.domain.validation import missing
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.stdlib.rpc.context import identity


class EventRpcs:
    """The part of AdminService that changes executions in progress; whoever composes the service sets its journal."""

    _journal: JournalWriter

    async def CreateWorkflowEvent(
        self, request: WorkflowExecutionEventRequest, context: Any
    ) -> WorkflowExecutionEventResponse:
        if not request.HasField("event"):
            raise missing("event")
        await self._journal.report_workflow(request.event)
        return WorkflowExecutionEventResponse()

    async def CreateNodeEvent(self, request: NodeExecutionEventRequest, context: Any) -> NodeExecutionEventResponse:
        if not request.HasField("event"):
            raise missing("event")
        await self._journal.report_node(request.event)
        return NodeExecutionEventResponse()

    async def CreateTaskEvent(self, request: TaskExecutionEventRequest, context: Any) -> TaskExecutionEventResponse:
        if not request.HasField("event"):
            raise missing("event")
        await self._journal.report_task(request.event)
        return TaskExecutionEventResponse()

    async def TerminateExecution(self, request: ExecutionTerminateRequest, context: Any) -> ExecutionTerminateResponse:
        await self._journal.request_abort(request.id, request.cause, identity().user_id)
        return ExecutionTerminateResponse()
