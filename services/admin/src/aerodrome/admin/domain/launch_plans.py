"""What makes a launch plan acceptable, and the form in which it is stored.

Source: spec/control-plane.md, sections 3.1 to 3.4.
"""

from __future__ import annotations

from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanCreateRequest
from flyteidl.core.interface_pb2 import TypedInterface

from aerodrome.admin.domain.concurrency import policy_of
from aerodrome.admin.domain.literals import check_literals, check_parameters
from aerodrome.admin.domain.schedules import check_schedule
from aerodrome.admin.domain.validation import check_labels, check_notifications, check_text, proto_text
from aerodrome.compiler import InterfaceError, expected_inputs
from aerodrome.stdlib.errors import InvalidArgument


def stored_launch_plan(
    request: LaunchPlanCreateRequest, workflow: TypedInterface, *, artifacts_enabled: bool
) -> LaunchPlan:
    """The launch plan of a request whose identifiers were found good, as it is stored; raises InvalidArgument.

    Its default inputs become everything that it expects, required inputs included.
    """
    spec = request.spec
    check_labels(spec.labels.values)
    policy_of(spec)  # that it makes sense
    check_literals("fixed_inputs", spec.fixed_inputs)
    check_parameters("default_inputs", spec.default_inputs, artifacts_enabled=artifacts_enabled)
    try:
        expected = expected_inputs(workflow.inputs, spec.default_inputs, spec.fixed_inputs)
    except InterfaceError as error:
        raise InvalidArgument(str(error)) from error
    schedule = spec.entity_metadata.schedule
    check_schedule(schedule, expected)
    check_text("kickoff_time_input_arg", schedule.kickoff_time_input_arg)
    check_notifications(spec.entity_metadata.notifications)
    if spec.entity_metadata.HasField("launch_conditions"):
        raise InvalidArgument(
            f"Launch condition must be empty, found {proto_text(spec.entity_metadata.launch_conditions)}"
        )
    launch_plan = LaunchPlan(id=request.id, spec=spec)
    launch_plan.spec.default_inputs.CopyFrom(expected)
    launch_plan.closure.expected_inputs.CopyFrom(expected)
    launch_plan.closure.expected_outputs.CopyFrom(workflow.outputs)
    return launch_plan
