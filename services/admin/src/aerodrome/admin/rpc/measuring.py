"""Counts and times the calls of a servicer, under the names that dashboards of Flyte read.

Source: spec/control-plane.md, section 14.4.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aerodrome.stdlib.errors import AerodromeError, Kind
from aerodrome.stdlib.telemetry import Counter, Metrics

ENDPOINTS: Mapping[str, str] = {
    "CreateExecution": "create_execution",
    "RelaunchExecution": "relaunch_execution",
    "RecoverExecution": "recover_execution",
    "CreateWorkflowEvent": "create_execution_event",
    "GetExecution": "get_execution",
    "UpdateExecution": "update_execution",
    "GetExecutionData": "get_execution_data",
    "GetExecutionMetrics": "get_execution_metrics",
    "ListExecutions": "list_execution",
    "TerminateExecution": "terminate_execution",
    "CreateLaunchPlan": "create_launch_plan",
    "UpdateLaunchPlan": "update_launch_plan",
    "GetLaunchPlan": "get_launch_plan",
    "GetActiveLaunchPlan": "get_active_launch_plan",
    "ListLaunchPlans": "list_launch_plan",
    "ListActiveLaunchPlans": "list_active_launch_plans",
    "ListLaunchPlanIds": "list_launch_plan_ids",
    "GetNamedEntity": "get_named_entity",
    "ListNamedEntities": "list_named_entities",
    "UpdateNamedEntity": "update_named_entity",
    "CreateNodeEvent": "create_node_execution_event",
    "GetNodeExecution": "get_node_execution",
    "GetNodeExecutionData": "get_node_execution_data",
    "ListNodeExecutions": "list_node_execution",
    "ListNodeExecutionsForTask": "list_children_node_executions",
    "GetDynamicNodeWorkflow": "get_dynamic_node_workflow",
    "RegisterProject": "register_project",
    "ListProjects": "list_projects",
    "UpdateProject": "update_project",
    "GetProject": "get_project",
    "GetDomains": "get_domain",
    "CreateTask": "create_task",
    "GetTask": "get_task",
    "ListTasks": "list_task",
    "ListTaskIds": "list_task_ids",
    "CreateTaskEvent": "create_task_execution_event",
    "GetTaskExecution": "get_task_execution",
    "GetTaskExecutionData": "get_task_execution_data",
    "ListTaskExecutions": "list_task_execution",
    "CreateWorkflow": "create_workflow",
    "GetWorkflow": "get_workflow",
    "ListWorkflows": "list_workflow",
    "ListWorkflowIds": "list_workflow_ids",
    "GetDescriptionEntity": "get_description_entity",
    "ListDescriptionEntities": "list_description_entity",
    **{
        f"{verb}{level}Attributes": f"{verb.lower()}_{name}_attrs"
        for verb in ("Update", "Get", "Delete")
        for level, name in (("Project", "project"), ("ProjectDomain", "project_domain"), ("Workflow", "workflow"))
    },
    "ListMatchableAttributes": "list_matchable_resource_attrs",
    "GetVersion": "get_version",
    "GetOrCreateSignal": "create_signal",
    "ListSignals": "list_signals",
    "SetSignal": "set_signal",
}
"""The methods of AdminService and SignalService, and what they are called."""

Handler = Callable[[Any, Any], Awaitable[Any]]


def measure(servicer: object, metrics: Metrics, *, scope: str, part: str = "admin") -> None:
    """Replace the handlers of `servicer` by ones that count and time.

    The names begin with `scope`, such as `flyte:`, and `admin:<part>`.
    """
    panics = metrics.counter(f"{scope}admin:{part}:handler_panic", description="Calls that a defect ended")
    for method, endpoint in ENDPOINTS.items():
        handler: Handler | None = getattr(servicer, method, None)
        if handler is not None and asyncio.iscoroutinefunction(handler):
            setattr(servicer, method, _measured(handler, metrics, f"{scope}admin:{part}:{endpoint}", panics))


def _measured(handler: Handler, metrics: Metrics, prefix: str, panics: Counter) -> Handler:
    duration = metrics.stopwatch(f"{prefix}:duration_ms")
    succeeded = metrics.counter(f"{prefix}:success")
    failed = metrics.counter(f"{prefix}:errors")

    def ended(kind: str) -> None:
        metrics.counter(f"{prefix}:codes:{kind}").add()

    async def handle(request: Any, context: Any) -> Any:
        started = time.perf_counter()
        try:
            answer = await handler(request, context)
        except BaseException as error:
            failed.add()
            if not isinstance(error, AerodromeError | asyncio.CancelledError):
                panics.add()
            ended(_code_name(error))
            raise
        else:
            succeeded.add()
            ended("OK")
            return answer
        finally:
            duration.observe(time.perf_counter() - started)

    return handle


def _code_name(error: BaseException) -> str:
    if isinstance(error, AerodromeError):
        return camel(error.kind)
    return camel(Kind.CANCELLED) if isinstance(error, asyncio.CancelledError) else camel(Kind.INTERNAL)


def camel(kind: Kind) -> str:
    """A kind as gRPC's Go library names its code: `InvalidArgument`."""
    return "".join(word.capitalize() for word in kind.name.split("_"))
