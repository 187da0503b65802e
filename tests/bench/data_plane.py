"""Workflows as large as nobody writes them by hand, of tasks that do nothing: registered as protobuf.

What they measure is the engine, its journal and the rows behind the API, every event of every node persisted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from flyteidl.admin.execution_pb2 import (
    ExecutionCreateRequest,
    ExecutionRecoverRequest,
    ExecutionTerminateRequest,
    WorkflowExecutionGetRequest,
)
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.node_execution_pb2 import NodeExecutionGetRequest, NodeExecutionListRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.execution_pb2 import NodeExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import (
    LAUNCH_PLAN,
    TASK,
    WORKFLOW,
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.interface_pb2 import TypedInterface, Variable
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import INTEGER, LiteralType
from flyteidl.core.workflow_pb2 import Node, WorkflowMetadata, WorkflowTemplate
from platform_under_test import DOMAIN, PROJECT, VERSION, Platform

INT = LiteralType(simple=INTEGER)
INTS = LiteralType(collection_type=INT)
FLAW = "flaw"
"""The node that fails."""


def register_echoes(platform: Platform, count: int) -> str:
    """A workflow of `count` echo tasks that do not depend on each other; its name."""
    name = f"echoes_{count}"
    _register_task(platform, "echo", INT)
    workflow = WorkflowTemplate(id=_id(WORKFLOW, name))
    workflow.interface.inputs.variables["value"].CopyFrom(Variable(type=INT))
    for number in range(count):
        node = workflow.nodes.add(id=f"n{number}")
        node.task_node.reference_id.CopyFrom(_id(TASK, "echo"))
        _bind(node)
    _register_workflow(platform, workflow)
    return name


def register_map(platform: Platform) -> str:
    """A workflow that maps an echo task over the list that it is given; its name."""
    _register_task(platform, "echo_map", INTS)
    workflow = WorkflowTemplate(id=_id(WORKFLOW, "map_of_echoes"))
    workflow.interface.inputs.variables["value"].CopyFrom(Variable(type=INTS))
    workflow.interface.outputs.variables["value"].CopyFrom(Variable(type=INTS))
    node = workflow.nodes.add(id="n0")
    node.array_node.node.id = "item"
    node.array_node.node.task_node.reference_id.CopyFrom(_id(TASK, "echo_map"))
    node.array_node.min_success_ratio = 1.0
    _bind(node)
    _bind(node.array_node.node)
    output = workflow.outputs.add(var="value")
    output.binding.promise.node_id = "n0"
    output.binding.promise.var = "value"
    _register_workflow(platform, workflow)
    return "map_of_echoes"


def register_sleepers(platform: Platform, count: int) -> str:
    """A workflow of `count` nodes that are running until they are aborted; its name."""
    name = f"sleepers_{count}"
    workflow = WorkflowTemplate(id=_id(WORKFLOW, name))
    for number in range(count):
        gate = workflow.nodes.add(id=f"n{number}").gate_node
        gate.sleep.duration.FromSeconds(3600)
    _register_workflow(platform, workflow)
    return name


def register_flawed(platform: Platform, count: int) -> str:
    """A workflow of `count` echo tasks and, after all of them, one task that nothing here can run; its name."""
    name = f"flawed_{count}"
    _register_task(platform, "echo", INT)
    _register_task(platform, "flaw", INT, kind_of_task="nothing-runs-this")
    workflow = WorkflowTemplate(id=_id(WORKFLOW, name))
    workflow.metadata.on_failure = WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
    workflow.interface.inputs.variables["value"].CopyFrom(Variable(type=INT))
    for number in range(count + 1):
        node = workflow.nodes.add(id=f"n{number}" if number < count else FLAW)
        node.task_node.reference_id.CopyFrom(_id(TASK, "echo" if number < count else "flaw"))
        _bind(node)
    workflow.nodes[count].upstream_node_ids.extend(f"n{number}" for number in range(count))
    _register_workflow(platform, workflow)
    return name


def register_parent(platform: Platform, child: str, count: int) -> str:
    """A workflow that starts the launch plan `child` so many times, at once; its name."""
    name = f"parent_of_{count}"
    workflow = WorkflowTemplate(id=_id(WORKFLOW, name))
    workflow.interface.inputs.variables["value"].CopyFrom(Variable(type=INT))
    for number in range(count):
        node = workflow.nodes.add(id=f"n{number}")
        node.workflow_node.launchplan_ref.CopyFrom(_id(LAUNCH_PLAN, child))
        _bind(node)
    _register_workflow(platform, workflow)
    return name


def register_nest(platform: Platform, innermost: str, depth: int) -> list[str]:
    """Launch plans, each of which starts the one before it, and the first one `innermost`; their names."""
    names = [innermost]
    for number in range(depth):
        workflow = WorkflowTemplate(id=_id(WORKFLOW, f"nest_{number}"))
        workflow.interface.inputs.variables["value"].CopyFrom(Variable(type=INT))
        node = workflow.nodes.add(id="n0")
        node.workflow_node.launchplan_ref.CopyFrom(_id(LAUNCH_PLAN, names[-1]))
        _bind(node)
        _register_workflow(platform, workflow)
        names.append(workflow.id.name)
    return names[1:]


def abort(platform: Platform, workflow: str, count: int) -> float:
    """Seconds from the request to the poll that saw the execution aborted, with `count` nodes running."""
    request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"d{time.time_ns():x}"[:20])
    request.spec.launch_plan.CopyFrom(_id(LAUNCH_PLAN, workflow))
    request.spec.max_parallelism = 2 * count
    request.inputs.SetInParent()
    name = platform.admin.CreateExecution(request).id
    listing = NodeExecutionListRequest(workflow_execution_id=name, limit=count + 10, filters="eq(phase,RUNNING)")
    while len(platform.admin.ListNodeExecutions(listing).node_executions) < count:
        time.sleep(0.2)
    begun = time.perf_counter()
    platform.admin.TerminateExecution(ExecutionTerminateRequest(id=name, cause="measured"))
    _wait_for_end(platform, name)
    return time.perf_counter() - begun


def recover(platform: Platform, workflow: str) -> float:
    """Seconds from the request to the poll that saw the failed node run again, all others taken over."""
    request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"d{time.time_ns():x}"[:20], inputs=one())
    request.spec.launch_plan.CopyFrom(_id(LAUNCH_PLAN, workflow))
    failed = platform.admin.CreateExecution(request).id
    _wait_for_end(platform, failed)
    begun = time.perf_counter()
    recovered = platform.admin.RecoverExecution(ExecutionRecoverRequest(id=failed, name=f"r{time.time_ns():x}"[:20])).id
    node = NodeExecutionIdentifier(execution_id=recovered, node_id=FLAW)
    while True:
        try:
            found = platform.admin.GetNodeExecution(NodeExecutionGetRequest(id=node))
            if found.closure.phase in (NodeExecution.RUNNING, NodeExecution.FAILING, NodeExecution.FAILED):
                break
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        time.sleep(0.05)
    taken = time.perf_counter() - begun
    _wait_for_end(platform, recovered)
    return taken


def _wait_for_end(platform: Platform, name: WorkflowExecutionIdentifier) -> None:
    over = {
        WorkflowExecution.SUCCEEDED, WorkflowExecution.FAILED, WorkflowExecution.ABORTED, WorkflowExecution.TIMED_OUT
    }  # fmt: skip
    while platform.admin.GetExecution(WorkflowExecutionGetRequest(id=name)).closure.phase not in over:
        time.sleep(0.05)


def run(platform: Platform, workflow: str, inputs: LiteralMap) -> float:
    """Seconds from submitting to the poll that saw the success."""
    request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"d{time.time_ns():x}"[:20], inputs=inputs)
    request.spec.launch_plan.CopyFrom(_id(LAUNCH_PLAN, workflow))
    begun = time.perf_counter()
    name = platform.admin.CreateExecution(request).id.name
    platform.wait(name)
    return time.perf_counter() - begun


def one() -> LiteralMap:
    """The input of the echoes."""
    inputs = LiteralMap()
    inputs.literals["value"].CopyFrom(_integer(1))
    return inputs


def many(count: int, *, name: str = "value") -> LiteralMap:
    """The numbers below `count`, to be mapped over."""
    inputs = LiteralMap()
    inputs.literals[name].collection.literals.extend(_integer(number) for number in range(count))
    return inputs


@contextmanager
def started(platform: Platform) -> Iterator[Platform]:
    """The platform, running, and stopped afterwards."""
    platform.start()
    try:
        yield platform
    finally:
        platform.stop()


def _integer(value: int) -> Literal:
    literal = Literal()
    literal.scalar.primitive.integer = value
    return literal


def _id(kind: ResourceType, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version=VERSION)


def _bind(node: Node) -> None:
    binding = node.inputs.add(var="value")
    binding.binding.promise.node_id = ""
    binding.binding.promise.var = "value"


def _register_task(platform: Platform, name: str, kind: LiteralType, *, kind_of_task: str = "echo") -> None:
    interface = TypedInterface()
    interface.inputs.variables["value"].CopyFrom(Variable(type=kind))
    interface.outputs.variables["value"].CopyFrom(Variable(type=kind))
    template = TaskTemplate(id=_id(TASK, name), type=kind_of_task, interface=interface)
    template.metadata.runtime.version = "1"
    request = TaskCreateRequest(id=template.id)
    request.spec.template.CopyFrom(template)
    with contextlib.suppress(grpc.RpcError):  # another measure has registered it
        platform.admin.CreateTask(request)


def _register_workflow(platform: Platform, template: WorkflowTemplate) -> None:
    request = WorkflowCreateRequest(id=template.id)
    request.spec.template.CopyFrom(template)
    platform.admin.CreateWorkflow(request)
    plan = LaunchPlanCreateRequest(id=_id(LAUNCH_PLAN, template.id.name))
    plan.spec.workflow_id.CopyFrom(template.id)
    for name, variable in template.interface.inputs.variables.items():
        parameter = plan.spec.default_inputs.parameters[name]
        parameter.var.CopyFrom(variable)
        parameter.required = True
    platform.admin.CreateLaunchPlan(plan)
