"""Tasks without a process share the files of their values: whatever happens, each node shows its own, and for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin import (
    execution_pb2,
    launch_plan_pb2,
    node_execution_pb2,
    task_pb2,
    workflow_pb2,
)
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, interface_pb2, tasks_pb2, types_pb2
from flyteidl.core import workflow_pb2 as core_workflow_pb2
from flyteidl.service import admin_pb2_grpc

from .instance import Instance, kill, running, wait_until, wait_until_dead
from .plugged import DOMAIN, PROJECT

WIDTH = 300
VALUES = 7
"""How many different values the nodes have."""
SAMPLE = range(0, WIDTH, 13)
_N = phases.NodeExecution
_OVER = {phases.WorkflowExecution.SUCCEEDED, phases.WorkflowExecution.FAILED}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    base = tmp_path_factory.mktemp("shared")
    with running(Instance(base / "data", base / "home")) as started:
        yield started


@pytest.fixture(scope="module")
def admin(platform: Instance) -> Iterator[Any]:
    with grpc.insecure_channel(platform.endpoint) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def identifier(kind: identifier_pb2.ResourceType, name: str) -> identifier_pb2.Identifier:
    return identifier_pb2.Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version="v1")


def register_task(admin: Any, name: str, kind: str) -> None:
    variable = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
    template = tasks_pb2.TaskTemplate(id=identifier(identifier_pb2.TASK, name), type=kind)
    template.metadata.runtime.version = "1"
    template.interface.inputs.variables["value"].CopyFrom(variable)
    template.interface.outputs.variables["value"].CopyFrom(variable)
    admin.CreateTask(task_pb2.TaskCreateRequest(id=template.id, spec=task_pb2.TaskSpec(template=template)))


def register(admin: Any) -> identifier_pb2.Identifier:
    """Echoes of a few constants, an echo of each of them, and a task behind all that nothing runs."""
    register_task(admin, "echo", "echo")
    register_task(admin, "flaw", "nothing-runs-this")
    template = core_workflow_pb2.WorkflowTemplate(id=identifier(identifier_pb2.WORKFLOW, "echoes"))
    template.metadata.on_failure = core_workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
    for number in range(WIDTH):
        first, second = template.nodes.add(id=f"n{number}"), template.nodes.add(id=f"m{number}")
        for node in (first, second):
            node.task_node.reference_id.CopyFrom(identifier(identifier_pb2.TASK, "echo"))
        first.inputs.add(var="value").binding.scalar.primitive.integer = number % VALUES
        promise = second.inputs.add(var="value").binding.promise
        promise.node_id, promise.var = first.id, "value"
    flaw = template.nodes.add(id="flaw", upstream_node_ids=[f"m{number}" for number in range(WIDTH)])
    flaw.task_node.reference_id.CopyFrom(identifier(identifier_pb2.TASK, "flaw"))
    flaw.inputs.add(var="value").binding.scalar.primitive.integer = 1
    spec = workflow_pb2.WorkflowSpec(template=template)
    admin.CreateWorkflow(workflow_pb2.WorkflowCreateRequest(id=template.id, spec=spec))
    plan = launch_plan_pb2.LaunchPlanCreateRequest(id=identifier(identifier_pb2.LAUNCH_PLAN, "echoes"))
    plan.spec.workflow_id.CopyFrom(template.id)
    admin.CreateLaunchPlan(plan)
    return plan.id


def finish(admin: Any, execution: identifier_pb2.WorkflowExecutionIdentifier) -> None:
    request = execution_pb2.WorkflowExecutionGetRequest(id=execution)
    wait_until("it is over", lambda: admin.GetExecution(request, wait_for_ready=True).closure.phase in _OVER)


def check(admin: Any, execution: identifier_pb2.WorkflowExecutionIdentifier, phase: int) -> None:
    """Every node did well, and shows its own value out of few files that nobody can change."""
    request = node_execution_pb2.NodeExecutionListRequest(workflow_execution_id=execution, limit=3 * WIDTH)
    nodes = {node.id.node_id: node for node in admin.ListNodeExecutions(request).node_executions}
    assert {nodes[f"{kind}{number}"].closure.phase for kind in "nm" for number in range(WIDTH)} == {phase}
    assert nodes["flaw"].closure.phase == _N.FAILED
    files: set[str] = set()
    for number in SAMPLE:
        for kind in "nm":
            node = nodes[f"{kind}{number}"]
            data = admin.GetNodeExecutionData(node_execution_pb2.NodeExecutionGetDataRequest(id=node.id))
            for values in (data.full_inputs, data.full_outputs):
                assert values.literals["value"].scalar.primitive.integer == number % VALUES
            files |= {node.input_uri, node.closure.output_uri}
    assert len(files) == VALUES
    for file in map(Path, files):
        assert execution.name in str(file.parent)
        assert not file.stat().st_mode & 0o222


def test_nodes_share_their_values_over_a_crash_and_a_recovery(platform: Instance, admin: Any) -> None:
    wait_until("its zygote is there, which is to be taken over", lambda: platform.zygotes)
    spec = execution_pb2.ExecutionSpec(launch_plan=register(admin))
    created = admin.CreateExecution(
        execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name="shared", spec=spec)
    ).id
    listing = node_execution_pb2.NodeExecutionListRequest(
        workflow_execution_id=created, limit=1, filters="eq(phase,RUNNING)"
    )
    wait_until("its nodes run", lambda: admin.ListNodeExecutions(listing).node_executions, every=0.002)
    died = platform.pid
    kill(died)
    wait_until_dead([died])
    platform.up()
    finish(admin, created)
    check(admin, created, _N.SUCCEEDED)
    again = admin.RecoverExecution(execution_pb2.ExecutionRecoverRequest(id=created, name="again")).id
    finish(admin, again)
    check(admin, again, _N.RECOVERED)
