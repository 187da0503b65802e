"""Between rows and messages of tasks, workflows and launch plans."""

from __future__ import annotations

from datetime import datetime

from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.task_pb2 import Task
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.stdlib.postgres.database import Record


def identifier_of(row: Record, resource_type: ResourceType) -> Identifier:
    """The identifier in a row's key columns."""
    return Identifier(
        resource_type=resource_type,
        project=row["project"],
        domain=row["domain"],
        name=row["name"],
        version=row["version"],
    )


def task_of(row: Record) -> Task:
    """The message of a task's row."""
    task = Task(id=identifier_of(row, ResourceType.TASK), short_description=row["short_description"])
    task.closure.ParseFromString(row["closure"])
    return task


def launch_plan_of(row: Record) -> LaunchPlan:
    """The message of a launch plan's row; state and times come from the row."""
    launch_plan = LaunchPlan(id=identifier_of(row, ResourceType.LAUNCH_PLAN))
    launch_plan.spec.ParseFromString(row["spec"])
    launch_plan.closure.ParseFromString(row["closure"])
    launch_plan.closure.state = row["state"]
    set_time(launch_plan.closure.created_at, row["created_at"])
    set_time(launch_plan.closure.updated_at, row["updated_at"])
    return launch_plan


def set_time(timestamp: Timestamp, instant: datetime) -> None:
    """Write `instant` into a protobuf timestamp."""
    timestamp.FromDatetime(instant)
