"""What is accepted can be read again: the calls that give back what a request made, and lists that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flyteidl.admin.common_pb2 import NamedEntityGetRequest, ObjectGetRequest, ResourceListRequest
from flyteidl.admin.execution_pb2 import (
    ExecutionRelaunchRequest,
    WorkflowExecutionGetDataRequest,
    WorkflowExecutionGetRequest,
)
from flyteidl.admin.node_execution_pb2 import (
    GetDynamicNodeWorkflowRequest,
    NodeExecutionGetDataRequest,
    NodeExecutionGetRequest,
    NodeExecutionListRequest,
)
from flyteidl.admin.project_pb2 import ProjectGetRequest, ProjectListRequest
from flyteidl.admin.task_execution_pb2 import (
    TaskExecutionGetDataRequest,
    TaskExecutionGetRequest,
    TaskExecutionListRequest,
)
from flyteidl.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent
from flyteidl.service.dataproxy_pb2 import CreateDownloadLinkRequest, GetDataRequest
from google.protobuf.message import DecodeError, Message

from .good import DOMAIN, PROJECT

Calls = Iterator[tuple[str, Message]]
LIMIT = 500


def read_back(rpc: str, request: Any, response: Any) -> Calls:
    """Calls that read what `request` made when it was accepted."""
    match rpc:
        case "CreateTask" | "CreateWorkflow" | "CreateLaunchPlan":
            yield f"Get{rpc.removeprefix('Create')}", ObjectGetRequest(id=request.id)
            if request.spec.DESCRIPTOR.fields_by_name.get("description") and request.spec.HasField("description"):
                yield "GetDescriptionEntity", ObjectGetRequest(id=request.id)
        case "UpdateLaunchPlan":
            yield "GetLaunchPlan", ObjectGetRequest(id=request.id)
        case "RegisterProject":
            yield "GetProject", ProjectGetRequest(id=request.project.id)
        case "UpdateProject":
            yield "GetProject", ProjectGetRequest(id=request.id)
        case "UpdateNamedEntity":
            yield "GetNamedEntity", NamedEntityGetRequest(resource_type=request.resource_type, id=request.id)
        case "CreateExecution" | "RelaunchExecution" | "RecoverExecution":
            yield from _execution(response.id)
            yield "RelaunchExecution", ExecutionRelaunchRequest(id=response.id)
        case "UpdateExecution" | "TerminateExecution":
            yield from _execution(request.id)
        case "CreateWorkflowEvent":
            yield from _execution(request.event.execution_id)
        case "CreateNodeEvent":
            yield from _node(request.event.id)
        case "CreateTaskEvent":
            yield from _attempt(request.event)
        case "Append":
            for execution in request.executions:
                for transition in execution.transitions:
                    yield from _transition(transition)


def lists(*executions: str) -> Calls:
    """Calls that list everything."""
    place = {"project": PROJECT, "domain": DOMAIN}
    for rpc in ("ListTasks", "ListWorkflows", "ListLaunchPlans", "ListExecutions"):
        yield rpc, ResourceListRequest(id=place, limit=LIMIT)
    yield "ListProjects", ProjectListRequest(limit=LIMIT)
    for name in executions:
        key = WorkflowExecutionIdentifier(**place, name=name)
        yield "ListNodeExecutions", NodeExecutionListRequest(workflow_execution_id=key, limit=LIMIT)


def _execution(key: WorkflowExecutionIdentifier) -> Calls:
    yield "GetExecution", WorkflowExecutionGetRequest(id=key)
    yield "GetExecutionData", WorkflowExecutionGetDataRequest(id=key)
    yield "ListNodeExecutions", NodeExecutionListRequest(workflow_execution_id=key, limit=LIMIT)


def _node(key: NodeExecutionIdentifier) -> Calls:
    yield "GetNodeExecution", NodeExecutionGetRequest(id=key)
    yield "GetNodeExecutionData", NodeExecutionGetDataRequest(id=key)
    yield "GetDynamicNodeWorkflow", GetDynamicNodeWorkflowRequest(id=key)
    yield "CreateDownloadLink", CreateDownloadLinkRequest(artifact_type="ARTIFACT_TYPE_DECK", node_execution_id=key)
    yield "ListTaskExecutions", TaskExecutionListRequest(node_execution_id=key, limit=LIMIT)
    where = key.execution_id
    for part in "iod":
        url = f"flyte://v1/{where.project}/{where.domain}/{where.name}/{key.node_id}/{part}"
        yield "GetData", GetDataRequest(flyte_url=url)


def _attempt(event: TaskExecutionEvent) -> Calls:
    key = TaskExecutionIdentifier(
        task_id=event.task_id,
        node_execution_id=event.parent_node_execution_id,
        retry_attempt=event.retry_attempt,
    )
    yield "GetTaskExecution", TaskExecutionGetRequest(id=key)
    yield "GetTaskExecutionData", TaskExecutionGetDataRequest(id=key)
    yield "ListTaskExecutions", TaskExecutionListRequest(node_execution_id=key.node_execution_id, limit=LIMIT)


def _transition(transition: Any) -> Calls:
    """What an append of the transition made, if it can be decoded (then it was, or the append was invalid)."""
    try:
        if transition.node.event:
            yield from _node(NodeExecutionEvent.FromString(transition.node.event).id)
        if transition.task.event:
            yield from _attempt(TaskExecutionEvent.FromString(transition.task.event))
    except DecodeError:
        return
