"""Announces what the outbox holds: executions that ended and launch plans that changed on our own bus, and accepted
events wherever the configuration sends them.

The outbox holds only what changed; what else an announcement tells is read when it leaves, off the path of those who
wait for the change.  A message leaves the outbox when every receiver has it durably, so none is lost and one may come
twice; its id stays the same.  Source: spec/control-plane.md section 12.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.admin.execution_pb2 import ExecutionClosure, ExecutionSpec
from flyteidl.admin.task_pb2 import TaskClosure
from flyteidl.core.execution_pb2 import NodeExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, TaskExecutionIdentifier
from flyteidl.core.interface_pb2 import TypedInterface
from flyteidl.event.cloudevents_pb2 import (
    CloudEventNodeExecution,
    CloudEventTaskExecution,
    CloudEventWorkflowExecution,
)

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.announcing import (
    EVENT_TOPICS,
    REQUESTS,
    SOURCE,
    TERMINAL_TOPIC,
    Enriched,
    EventRequest,
    enriched_event,
    execution_ended,
    kinds,
    launch_plan_of,
    plain_event,
    topic_suffix,
)
from aerodrome.admin.external_config import CloudEventsConfig, ExternalEventsConfig
from aerodrome.admin.repositories.announced import AnnouncedRepository
from aerodrome.stdlib.postgres.database import Database, Record
from aerodrome.stdlib.postgres.outbox import Outgoing
from aerodrome.stdlib.pubsub.bus import Bus
from aerodrome.stdlib.pubsub.cloudevents import CloudEvent
from aerodrome.stdlib.pubsub.sinks import BusSink, nats_sink, sns_sink

_KINDS = {topic: kind for kind, topic in EVENT_TOPICS.items()}


class Sink(Protocol):
    """Where events go that others listen to."""

    async def send(self, topic: str, id: str, body: bytes, headers: Mapping[str, str]) -> None:  # noqa: A002 - as the bus calls it
        """Hand over a message, and return when it is safe.  Raises Unavailable."""
        ...


@dataclass(frozen=True)
class Outside:
    """Who listens to events: raw event requests (`externalEvents`) and CloudEvents (`cloudEvents`)."""

    raw: ExternalEventsConfig | None = None
    raw_sink: Sink | None = None
    cloud: CloudEventsConfig | None = None
    cloud_sink: Sink | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of events that anybody listens to; the journal keeps none of the others for them."""
        found: frozenset[str] = frozenset()
        if self.raw is not None:
            found |= kinds(self.raw.events_publisher.event_types)
        if self.cloud is not None:
            # Version 2 does not ask which: it sends everything.
            version_2 = self.cloud.cloud_event_version == "v2"
            found |= frozenset(EVENT_TOPICS) if version_2 else kinds(self.cloud.events_publisher.event_types)
        return found


NOBODY = Outside()
"""Nobody listens to events."""


async def open_outside(config: AdminConfig, bus: Bus, stack: AsyncExitStack) -> Outside:
    """Whom the configuration wants to hear of events; what is opened is closed with `stack`.

    Raises Unavailable when a server is away.
    """
    raw, cloud = config.external_events, config.cloud_events
    raw_sink = await _open_sink(raw, bus, stack) if raw.enable else None
    cloud_sink = await _open_sink(cloud, bus, stack) if cloud.enable else None
    return Outside(
        raw=None if raw_sink is None else raw,
        raw_sink=raw_sink,
        cloud=None if cloud_sink is None else cloud,
        cloud_sink=cloud_sink,
    )


async def _open_sink(config: ExternalEventsConfig, bus: Bus, stack: AsyncExitStack) -> Sink | None:
    match config.type:
        case "nats":
            return await stack.enter_async_context(nats_sink(config.nats))
        case "aws":
            return await stack.enter_async_context(sns_sink(config.aws.region, config.aws.endpoint))
        case "sandbox":
            return BusSink(bus)
        case "local":
            return None


class Announcements:
    """What an OutboxRelay publishes with."""

    def __init__(self, database: Database, bus: Bus, outside: Outside) -> None:
        self._read = AnnouncedRepository(database)
        self._bus = bus
        self._outside = outside

    async def publish(self, outgoing: Outgoing) -> None:
        """Hand a message to everybody whom it is for.  Raises Unavailable while one of them is away."""
        kind = _KINDS.get(outgoing.topic)
        if kind is not None:
            await self._tell_outside(kind, outgoing)
        elif outgoing.topic == TERMINAL_TOPIC:
            await self._tell_end(outgoing)
        else:
            await self._tell(outgoing, outgoing.payload, f"aerodrome.{outgoing.topic}", subject=outgoing.key)

    async def _tell_end(self, outgoing: Outgoing) -> None:
        request = WorkflowExecutionEventRequest.FromString(outgoing.payload)
        row = await self._read.get_execution(int(outgoing.key))
        parent = None
        if row is not None and row["parent_name"] is not None:
            parent = (row["parent_project"], row["parent_domain"], row["parent_name"])
        message = execution_ended(
            int(outgoing.key),
            request,
            *_spec_and_closure(row),
            principal="" if row is None else row["user"],
            parent=parent,
        )
        await self._tell(
            outgoing,
            message.SerializeToString(),
            message.DESCRIPTOR.full_name,
            subject=f"{message.project}/{message.domain}/{message.name}",
        )

    async def _tell(self, outgoing: Outgoing, body: bytes, event_type: str, *, subject: str) -> None:
        event = CloudEvent(
            id=outgoing.message_id,
            source=SOURCE,
            type=event_type,
            subject=subject,
            time=outgoing.created_at,
            data=body,
        )
        await self._bus.deliver(outgoing.topic, body, key=outgoing.key, headers=event.headers(), id=outgoing.message_id)

    # --- events for others

    async def _tell_outside(self, kind: str, outgoing: Outgoing) -> None:
        request = REQUESTS[kind].FromString(outgoing.payload)
        outside = self._outside
        if outside.raw is not None and outside.raw_sink is not None:
            publisher = outside.raw.events_publisher
            if kind in kinds(publisher.event_types):
                await outside.raw_sink.send(
                    publisher.topic_name,
                    outgoing.message_id,
                    base64.b64encode(outgoing.payload) if outside.raw.type == "aws" else outgoing.payload,
                    {"key": request.DESCRIPTOR.full_name},
                )
        if outside.cloud is not None and outside.cloud_sink is not None:
            await self._tell_cloud(kind, request, outgoing, outside.cloud, outside.cloud_sink)

    async def _tell_cloud(
        self, kind: str, request: EventRequest, outgoing: Outgoing, config: CloudEventsConfig, sink: Sink
    ) -> None:
        publisher = config.events_publisher
        if config.cloud_event_version == "v1":
            if kind not in kinds(publisher.event_types):
                return
            event, topic = plain_event(request), publisher.topic_name
        else:
            enriched = await self._enrich(
                int(outgoing.key), request, everything=publisher.enrich_all_workflow_event_types
            )
            event, topic = enriched_event(kind, request, enriched), f"{publisher.topic_name}.{topic_suffix(kind)}"
        await sink.send(topic, outgoing.message_id, event.to_json(), {"content-type": "application/cloudevents+json"})

    async def _enrich(self, execution_id: int, request: EventRequest, *, everything: bool) -> Enriched:
        row = await self._read.get_execution(execution_id)
        spec, closure = _spec_and_closure(row)
        labels = dict(spec.labels.values)
        principal = "" if row is None else row["user"]
        if isinstance(request, TaskExecutionEventRequest):
            return CloudEventTaskExecution(raw_event=request.event, labels=labels)
        if isinstance(request, NodeExecutionEventRequest):
            node = CloudEventNodeExecution(raw_event=request.event)
            if request.event.phase != NodeExecution.SUCCEEDED or request.event.id.node_id == "start-node":
                return node
            await self._enrich_node(execution_id, node)
            _tell_origin(node, spec, principal, labels)
            return node
        workflow = CloudEventWorkflowExecution(raw_event=request.event)
        if request.event.phase != WorkflowExecution.SUCCEEDED and not everything:
            return workflow
        interface = await self._read.get_workflow_interface(closure.workflow_id)
        if interface is not None:
            workflow.output_interface.CopyFrom(TypedInterface.FromString(interface))
        if spec.metadata.HasField("reference_execution"):
            workflow.reference_execution.CopyFrom(spec.metadata.reference_execution)
        _tell_origin(workflow, spec, principal, labels)
        return workflow

    async def _enrich_node(self, execution_id: int, node: CloudEventNodeExecution) -> None:
        attempt = await self._read.get_newest_attempt(execution_id, node.raw_event.id.node_id)
        if attempt is None:
            return
        task = Identifier(
            resource_type=ResourceType.TASK,
            project=attempt["project"],
            domain=attempt["domain"],
            name=attempt["name"],
            version=attempt["version"],
        )
        node.task_exec_id.CopyFrom(
            TaskExecutionIdentifier(
                task_id=task, node_execution_id=node.raw_event.id, retry_attempt=attempt["retry_attempt"]
            )
        )
        closure = await self._read.get_task_closure(task)
        if closure is not None:
            node.output_interface.CopyFrom(TaskClosure.FromString(closure).compiled_task.template.interface)


def _spec_and_closure(row: Record | None) -> tuple[ExecutionSpec, ExecutionClosure]:
    if row is None:
        return ExecutionSpec(), ExecutionClosure()
    return ExecutionSpec.FromString(row["spec"]), ExecutionClosure.FromString(row["closure"])


def _tell_origin(
    message: CloudEventNodeExecution | CloudEventWorkflowExecution,
    spec: ExecutionSpec,
    principal: str,
    labels: Mapping[str, str],
) -> None:
    launch_plan = launch_plan_of(spec)
    if launch_plan is not None:
        message.launch_plan_id.CopyFrom(launch_plan)
    message.principal = principal
    message.labels.update(labels)
