"""What an answer from the cache takes: a chain of tasks whose results are all there, measured by run.py.

Each node reads what the one before it gave, is looked up, has its outputs copied and is journalled; so a node's share
of the chain is the whole way of a hit, as a workflow sees it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.node_execution_pb2 import NodeExecutionGetRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.catalog_pb2 import CACHE_HIT
from flyteidl.core.identifier_pb2 import (
    LAUNCH_PLAN,
    TASK,
    WORKFLOW,
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
)
from flyteidl.core.interface_pb2 import Variable
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import INTEGER, LiteralType
from flyteidl.core.workflow_pb2 import WorkflowTemplate
from platform_under_test import DOMAIN, PROJECT, VERSION, Platform

HITS = 50
RUNS = 5

INT = Variable(type=LiteralType(simple=INTEGER))


@dataclass(frozen=True)
class Measured:
    """Milliseconds of each run, for each hit after the first of its chain."""

    per_hit: list[float]


def measure(platform: Platform) -> Measured:
    """Fill the cache, then run the chain and a chain of one against each other."""
    _register_task(platform)
    long, short = _register_chain(platform, HITS), _register_chain(platform, 1)
    for name in (long, short):
        _run(platform, name)
    one = statistics.median(_run(platform, short) for _ in range(RUNS))
    return Measured([(_run(platform, long, f"n{HITS - 1}") - one) / (HITS - 1) * 1000 for _ in range(RUNS)])


def _run(platform: Platform, workflow: str, hit: str = "") -> float:
    """Seconds from submitting to the poll that saw the success; the node `hit` must have been answered by the cache."""
    request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=f"c{time.time_ns():x}"[:20])
    request.inputs.literals["value"].scalar.primitive.integer = 1
    request.spec.launch_plan.CopyFrom(_id(LAUNCH_PLAN, workflow))
    begun = time.perf_counter()
    created = platform.admin.CreateExecution(request).id
    platform.wait(created.name)
    taken = time.perf_counter() - begun
    if hit:
        node = NodeExecutionIdentifier(node_id=hit, execution_id=created)
        closure = platform.admin.GetNodeExecution(NodeExecutionGetRequest(id=node)).closure
        if closure.task_node_metadata.cache_status != CACHE_HIT:
            raise RuntimeError(f"node {hit} was not answered from the cache, so nothing was measured")
    return taken


def _id(kind: ResourceType, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version=VERSION)


def _register_task(platform: Platform) -> None:
    template = TaskTemplate(id=_id(TASK, "cached_echo"), type="echo")
    template.metadata.discoverable = True
    template.metadata.discovery_version = "1"
    template.metadata.runtime.version = "1"
    template.interface.inputs.variables["value"].CopyFrom(INT)
    template.interface.outputs.variables["value"].CopyFrom(INT)
    request = TaskCreateRequest(id=template.id)
    request.spec.template.CopyFrom(template)
    platform.admin.CreateTask(request)


def _register_chain(platform: Platform, length: int) -> str:
    name = f"cached_chain_{length}"
    template = WorkflowTemplate(id=_id(WORKFLOW, name))
    template.interface.inputs.variables["value"].CopyFrom(INT)
    for number in range(length):
        node = template.nodes.add(id=f"n{number}")
        node.task_node.reference_id.CopyFrom(_id(TASK, "cached_echo"))
        promise = node.inputs.add(var="value").binding.promise
        promise.var = "value"
        if number:
            promise.node_id = f"n{number - 1}"
            node.upstream_node_ids.append(f"n{number - 1}")
        else:
            promise.node_id = ""
    request = WorkflowCreateRequest(id=template.id)
    request.spec.template.CopyFrom(template)
    platform.admin.CreateWorkflow(request)
    plan = LaunchPlanCreateRequest(id=_id(LAUNCH_PLAN, name))
    plan.spec.workflow_id.CopyFrom(template.id)
    parameter = plan.spec.default_inputs.parameters["value"]
    parameter.var.CopyFrom(INT)
    parameter.required = True
    platform.admin.CreateLaunchPlan(plan)
    return name
