"""Rows as the messages that the reading calls answer with.

Each function fills an empty message of the right type, so that a list grows in place, and returns it.  Stored messages
are taken over as they are, with whatever fields this release does not know; identifiers are made from the key columns.
Source: spec/control-plane.md, sections 1.6, 5.2, 6.5 and 6.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flyteidl.admin.common_pb2 import NamedEntity, NamedEntityIdentifier
from flyteidl.admin.description_entity_pb2 import DescriptionEntity
from flyteidl.admin.execution_pb2 import EXECUTION_ACTIVE, Execution
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.node_execution_pb2 import NodeExecution
from flyteidl.admin.task_execution_pb2 import TaskExecution
from flyteidl.admin.task_pb2 import Task
from flyteidl.admin.workflow_pb2 import Workflow
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.execution_pb2 import TaskExecution as CoreTaskExecution
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, WorkflowExecutionIdentifier
from flyteidl.event.event_pb2 import ExternalResourceInfo
from google.protobuf.message import Message

from aerodrome.stdlib.postgres.database import Record

LISTED_ERROR_BYTES = 100
"""How much of an error message the lists of executions and node executions show."""
_TASK_PHASES = {value.number: str(value.name) for value in CoreTaskExecution.Phase.DESCRIPTOR.values}


def fill_execution(target: Execution, row: Record) -> Execution:
    """An execution in full."""
    target.id.project = row["execution_project"]
    target.id.domain = row["execution_domain"]
    target.id.name = row["execution_name"]
    _merge(target.spec, row["spec"])
    closure = target.closure
    _merge(closure, row["closure"])
    if not closure.HasField("state_change_details"):
        details = closure.state_change_details
        details.state = EXECUTION_ACTIVE
        details.principal = row["user"]
        details.occurred_at.FromDatetime(row["created_at"])
    if row["phase"] == "ABORTED" and not closure.HasField("abort_metadata"):
        cause = row["abort_cause"]
        if cause or closure.WhichOneof("output_result") is None:
            closure.abort_metadata.cause = cause
    return target


def fill_listed_execution(target: Execution, row: Record) -> Execution:
    """An execution as lists show it: without inputs, its error cut short."""
    fill_execution(target, row)
    target.spec.ClearField("inputs")
    target.closure.ClearField("computed_inputs")
    if target.closure.HasField("error"):
        _cut(target.closure.error)
    return target


def fill_node_execution(target: NodeExecution, execution: WorkflowExecutionIdentifier, row: Record) -> NodeExecution:
    """A node execution in full."""
    _fill_execution_id(target.id.execution_id, execution)
    target.id.node_id = row["node_id"]
    target.input_uri = row["input_uri"]
    _merge(target.closure, row["closure"])
    metadata = target.metadata
    _merge(metadata, row["node_execution_metadata"])
    if row["is_parent"] and not metadata.is_parent_node and not metadata.is_dynamic:
        metadata.is_parent_node = True
        metadata.is_dynamic = row["is_dynamic"]
    return target


def fill_listed_node_execution(
    target: NodeExecution, execution: WorkflowExecutionIdentifier, row: Record
) -> NodeExecution:
    """A node execution as lists show it: its error cut short."""
    fill_node_execution(target, execution, row)
    if target.closure.HasField("error"):
        _cut(target.closure.error)
    return target


def fill_task_execution(target: TaskExecution, execution: WorkflowExecutionIdentifier, row: Record) -> TaskExecution:
    """An attempt of a task."""
    node = target.id.node_execution_id
    _fill_execution_id(node.execution_id, execution)
    node.node_id = row["node_id"]
    _fill_identifier(target.id.task_id, ResourceType.TASK, row)
    target.id.retry_attempt = row["retry_attempt"]
    target.input_uri = row["input_uri"]
    _merge(target.closure, row["closure"])
    target.is_parent = row["is_parent"]
    return target


def add_items(target: TaskExecution, counts: Mapping[int, int], rows: Iterable[Record]) -> TaskExecution:
    """Show the items of a map in its attempt: those of `rows`, and in `custom_info` how many there are of each phase.

    What the engine itself reported of an item, such as its logs, stays where it is about the same attempt of it.
    """
    metadata = target.closure.metadata
    reported = {(each.index, each.retry_attempt): each for each in metadata.external_resources}
    node = target.id.node_execution_id
    prefix = f"{node.execution_id.name}-{node.node_id}-{target.id.retry_attempt}"
    items = [
        _item(f"{prefix}-n{row['item_index']}-{row['attempt']}", row, reported.get((row["item_index"], row["attempt"])))
        for row in sorted(rows, key=lambda row: int(row["item_index"]))
    ]
    del metadata.external_resources[:]
    metadata.external_resources.extend(items)
    summary = target.closure.custom_info.get_or_create_struct("items")
    summary["total"] = sum(counts.values())
    summary["shown"] = len(items)
    for phase in sorted(counts):
        summary[_TASK_PHASES[phase]] = counts[phase]
    return target


def _item(external_id: str, row: Record, reported: ExternalResourceInfo | None) -> ExternalResourceInfo:
    item = ExternalResourceInfo() if reported is None else reported
    item.external_id = item.external_id or external_id
    item.index = row["item_index"]
    item.retry_attempt = row["attempt"]
    item.phase = row["phase"]
    item.cache_status = row["cache_status"]
    if row["log_uri"] and not item.logs:
        item.logs.add(uri=row["log_uri"], name=f"Log {row['item_index']}-{row['attempt']}")
    if row["error"]:
        error = _cut(ExecutionError.FromString(row["error"]))
        item.custom_info.update({"error": {"code": error.code, "message": error.message}})
    return item


def fill_task(target: Task, row: Record) -> Task:
    """A registered task."""
    _fill_identifier(target.id, ResourceType.TASK, row)
    _merge(target.closure, row["closure"])
    target.short_description = row["short_description"]
    return target


def fill_listed_workflow(target: Workflow, row: Record) -> Workflow:
    """A registered workflow as lists show it: of its closure only the interface and when it was created."""
    _fill_identifier(target.id, ResourceType.WORKFLOW, row)
    target.short_description = row["short_description"]
    _merge(target.closure.compiled_workflow.primary.template.interface, row["typed_interface"])
    target.closure.created_at.FromDatetime(row["created_at"])
    return target


def fill_launch_plan(target: LaunchPlan, row: Record) -> LaunchPlan:
    """A launch plan; its state and times are those of the row."""
    _fill_identifier(target.id, ResourceType.LAUNCH_PLAN, row)
    _merge(target.spec, row["spec"])
    _merge(target.closure, row["closure"])
    target.closure.state = row["state"]
    target.closure.created_at.FromDatetime(row["created_at"])
    target.closure.updated_at.FromDatetime(row["updated_at"])
    return target


def fill_description_entity(target: DescriptionEntity, row: Record) -> DescriptionEntity:
    """What was written about a version of a task or workflow."""
    _fill_identifier(target.id, row["resource_type"], row)
    target.short_description = row["short_description"]
    if row["long_description"]:
        _merge(target.long_description, row["long_description"])
    if row["link"]:
        target.source_code.link = row["link"]
    return target


def fill_named_entity(target: NamedEntity, resource_type: int, row: Record) -> NamedEntity:
    """A name and what is known of it."""
    target.resource_type = resource_type  # type: ignore[assignment]  # open enum: a checked number
    fill_named_entity_id(target.id, row)
    target.metadata.SetInParent()
    target.metadata.description = row["description"]
    target.metadata.state = row["state"]
    return target


def fill_named_entity_id(target: NamedEntityIdentifier, row: Record) -> NamedEntityIdentifier:
    """The name of a registered entity, whatever its version."""
    target.project = row["project"]
    target.domain = row["domain"]
    target.name = row["name"]
    return target


def _merge(target: Message, stored: bytes) -> None:
    target.SetInParent()
    if stored:
        target.MergeFromString(stored)


def _fill_execution_id(target: WorkflowExecutionIdentifier, execution: WorkflowExecutionIdentifier) -> None:
    target.project = execution.project
    target.domain = execution.domain
    target.name = execution.name


def _fill_identifier(target: Identifier, resource_type: ResourceType, row: Record) -> None:
    target.resource_type = resource_type
    target.project = row["project"]
    target.domain = row["domain"]
    target.name = row["name"]
    target.version = row["version"]


def _cut(error: ExecutionError) -> ExecutionError:
    """Keep what fits into `LISTED_ERROR_BYTES`, in whole characters."""
    encoded = error.message.encode()
    if len(encoded) > LISTED_ERROR_BYTES:
        error.message = encoded[:LISTED_ERROR_BYTES].decode(errors="ignore")
    return error
