"""Workflows as large as nobody writes them by hand, of tasks that do nothing: registered as protobuf.

What they measure is the engine, its journal and the rows behind the API, every event of every node persisted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.identifier_pb2 import LAUNCH_PLAN, TASK, WORKFLOW, Identifier, ResourceType
from flyteidl.core.interface_pb2 import TypedInterface, Variable
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import INTEGER, LiteralType
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate
from platform_under_test import DOMAIN, PROJECT, VERSION, Platform

INT = LiteralType(simple=INTEGER)
INTS = LiteralType(collection_type=INT)


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


def _register_task(platform: Platform, name: str, kind: LiteralType) -> None:
    interface = TypedInterface()
    interface.inputs.variables["value"].CopyFrom(Variable(type=kind))
    interface.outputs.variables["value"].CopyFrom(Variable(type=kind))
    template = TaskTemplate(id=_id(TASK, name), type="echo", interface=interface)
    template.metadata.runtime.version = "1"
    request = TaskCreateRequest(id=template.id)
    request.spec.template.CopyFrom(template)
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
