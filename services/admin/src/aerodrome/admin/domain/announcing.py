"""What is announced, as values: messages on the bus, and the events that others may listen to.

Source: spec/control-plane.md sections 12.2 and 12.3, spec/datacatalog-scheduler-notifier.md section C.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionMetadata, ExecutionSpec
from flyteidl.core.execution_pb2 import ExecutionError, NodeExecution, TaskExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.event.cloudevents_pb2 import (
    CloudEventNodeExecution,
    CloudEventTaskExecution,
    CloudEventWorkflowExecution,
)
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from aerodrome.admin.domain.validation import proto_text
from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.stdlib.pubsub.cloudevents import CloudEvent

TERMINAL_TOPIC = "executions.terminal"
"""Outbox topic of executions that ended: key is the execution id, payload a WorkflowExecutionEventRequest."""
EVENT_TOPICS = {"workflow": "events.workflow", "node": "events.node", "task": "events.task"}
"""Outbox topics of accepted events, by kind: key is the execution id, payload the kind's event request."""
SOURCE = "/aerodrome/admin"
"""Where announcements on our own bus come from."""
REFERENCE_SOURCE = "https://github.com/flyteorg/flyte/flyteadmin"
"""The source of events in version 1, which listeners of the reference filter by."""
MAX_ERROR_CHARS = 16 * 1024

EventRequest = WorkflowExecutionEventRequest | NodeExecutionEventRequest | TaskExecutionEventRequest
REQUESTS: dict[str, type[EventRequest]] = {
    "workflow": WorkflowExecutionEventRequest,
    "node": NodeExecutionEventRequest,
    "task": TaskExecutionEventRequest,
}
Enriched = CloudEventWorkflowExecution | CloudEventNodeExecution | CloudEventTaskExecution


def kinds(event_types: Iterable[str]) -> frozenset[str]:
    """The kinds of events that `eventsPublisher.eventTypes` names; unknown words name none."""
    words = {word.strip().lower() for word in event_types}
    return frozenset(EVENT_TOPICS) if words & {"all", "*"} else frozenset(words & EVENT_TOPICS.keys())


def execution_ended(
    execution_id: int,
    request: WorkflowExecutionEventRequest,
    spec: ExecutionSpec,
    closure: ExecutionClosure,
    *,
    principal: str,
    parent: tuple[str, str, str] | None,
) -> ExecutionEnded:
    """The message of an execution's end; `spec` and `closure` are empty if it was deleted meanwhile."""
    event = request.event
    metadata = spec.metadata
    message = ExecutionEnded(
        execution_id=execution_id,
        project=event.execution_id.project,
        domain=event.execution_id.domain,
        name=event.execution_id.name,
        phase=WorkflowExecution.Phase.Name(event.phase),
        principal=principal or metadata.principal,
        mode=ExecutionMetadata.ExecutionMode.Name(metadata.mode),
        labels=dict(spec.labels.values),
        annotations=dict(spec.annotations.values),
        notifications=[each.SerializeToString() for each in closure.notifications],
        output_uri=event.output_uri,
        abort_cause=closure.abort_metadata.cause,
        aborted_by=closure.abort_metadata.principal,
    )
    for target, source in ((message.workflow, closure.workflow_id), (message.launch_plan, spec.launch_plan)):
        target.project, target.domain = source.project, source.domain
        target.name, target.version = source.name, source.version
    if closure.HasField("created_at"):
        message.created_at.CopyFrom(closure.created_at)
    if closure.HasField("started_at"):
        message.started_at.CopyFrom(closure.started_at)
    message.ended_at.CopyFrom(event.occurred_at)
    if event.HasField("error"):
        message.error.code = event.error.code
        message.error.message = event.error.message[:MAX_ERROR_CHARS]
        message.error.kind = ExecutionError.ErrorKind.Name(event.error.kind)
    if parent is not None:
        message.parent.project, message.parent.domain, message.parent.name = parent
    return message


def phase_name(request: EventRequest) -> str:
    """The phase that an event reports."""
    if isinstance(request, WorkflowExecutionEventRequest):
        return WorkflowExecution.Phase.Name(request.event.phase)
    if isinstance(request, NodeExecutionEventRequest):
        return NodeExecution.Phase.Name(request.event.phase)
    return TaskExecution.Phase.Name(request.event.phase)


def _identity(request: EventRequest) -> str:
    if isinstance(request, WorkflowExecutionEventRequest):
        return f"{proto_text(request.event.execution_id)}.{phase_name(request)}"
    if isinstance(request, NodeExecutionEventRequest):
        return f"{proto_text(request.event.id)}.{phase_name(request)}"
    return f"{proto_text(request.event.task_id)}.{phase_name(request)}"


def _occurred(request: EventRequest) -> datetime | None:
    if not request.event.HasField("occurred_at"):
        return None
    return request.event.occurred_at.ToDatetime(tzinfo=UTC)


def plain_event(request: EventRequest) -> CloudEvent:
    """Version 1: the event request itself, as JSON."""
    return CloudEvent(
        id=_identity(request),
        source=REFERENCE_SOURCE,
        type=f"com.flyte.resource.{request.DESCRIPTOR.full_name}",
        time=_occurred(request),
        data=_json(request),
        data_content_type="application/json",
        extensions={"jsonschemaurl": ""},
    )


_NAMES = {"workflow": "WorkflowExecution", "node": "NodeExecution", "task": "TaskExecution"}


def enriched_event(kind: str, request: EventRequest, message: Enriched) -> CloudEvent:
    """Version 2: the event with what it is about, in the shapes of flyteidl's cloudevents.proto."""
    return CloudEvent(
        id=_identity(request),
        source=_source(request),
        type=f"com.flyte.resource.cloudevents.{_NAMES[kind]}",
        time=_occurred(request),
        data=_json(message),
        data_content_type="application/json",
        extensions={"jsonschemaurl": ""},
    )


def topic_suffix(kind: str) -> str:
    """What version 2 appends to the topic's name for a kind of event."""
    return f"cloudevents.{_NAMES[kind]}"


def _source(request: EventRequest) -> str:
    if isinstance(request, WorkflowExecutionEventRequest):
        execution = request.event.execution_id
        return f"{execution.project}/{execution.domain}/{execution.name}/end-node"
    if isinstance(request, NodeExecutionEventRequest):
        execution, node = request.event.id.execution_id, request.event.id.node_id
        return f"{execution.project}/{execution.domain}/{execution.name}/{node}"
    node_id = request.event.parent_node_execution_id
    execution = node_id.execution_id
    return f"{execution.project}/{execution.domain}/{execution.name}/{node_id.node_id}/{request.event.retry_attempt}"


def _json(message: Message) -> bytes:
    return MessageToJson(message, indent=None).encode()


def launch_plan_of(spec: ExecutionSpec) -> Identifier | None:
    """What launched an execution, unless it is a task by itself."""
    return spec.launch_plan if spec.launch_plan.resource_type != ResourceType.TASK else None
