"""Keeps one project's requests from taking what others need: budgets, and turns in front of expensive requests.

Requests that create something and requests that list something are worked on a few at a time, each kind by itself, and
one project never has all of the places, and a quarter of them while others ask for something too: whatever it sends,
another's request waits for one place at most, and shares the process with few: a crowd beside a project that asks for
little goes one at a time.  Beyond that a project has a budget, if one is configured.  An execution that a node of
another one launches takes no budget and is never refused here, because its parent would fail; its parent's parallelism
bounds it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, ExecutionMetadata, ExecutionRecoverRequest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from aerodrome.admin.domain.budgets import Budgets, Turns
from aerodrome.admin.domain.validation import MAX_TEXT_CHARS, shown
from aerodrome.admin.limits_config import LimitsConfig
from aerodrome.admin.rpc.measuring import Handler
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import ResourceExhausted

_SHORTEST_PAUSE_SECONDS = 0.0005
_WHEN_FULL_SECONDS = 1.0
"""After which time it may be worth trying again when too many requests wait."""


@dataclass(frozen=True, slots=True)
class Expensive:
    """What a method costs, and how the project is found that pays."""

    cost: int
    changes: bool
    """Whether it creates something, or only reads."""
    project: Callable[[Any], str]


def _own(request: Any) -> str:
    return str(request.project)


def _of_id(request: Any) -> str:
    return str(request.id.project)


EXPENSIVE: Mapping[str, Expensive] = {
    "CreateExecution": Expensive(1, True, _own),
    "RelaunchExecution": Expensive(1, True, _of_id),
    "RecoverExecution": Expensive(1, True, _of_id),
    "CreateTask": Expensive(1, True, _of_id),
    "CreateWorkflow": Expensive(5, True, _of_id),
    "CreateLaunchPlan": Expensive(1, True, _of_id),
    "ListTasks": Expensive(1, False, _of_id),
    "ListWorkflows": Expensive(1, False, _of_id),
    "ListLaunchPlans": Expensive(1, False, _of_id),
    "ListActiveLaunchPlans": Expensive(1, False, _own),
    "ListTaskIds": Expensive(1, False, _own),
    "ListWorkflowIds": Expensive(1, False, _own),
    "ListLaunchPlanIds": Expensive(1, False, _own),
    "ListNamedEntities": Expensive(1, False, _own),
    "ListDescriptionEntities": Expensive(1, False, _of_id),
    "ListExecutions": Expensive(1, False, _of_id),
    "ListNodeExecutions": Expensive(1, False, lambda request: str(request.workflow_execution_id.project)),
    "ListNodeExecutionsForTask": Expensive(
        1, False, lambda request: str(request.task_execution_id.node_execution_id.execution_id.project)
    ),
    "ListTaskExecutions": Expensive(1, False, lambda request: str(request.node_execution_id.execution_id.project)),
    "GetExecutionMetrics": Expensive(2, False, _of_id),
}
"""The methods of AdminService that are limited."""


class Gate:
    """Lets a few requests through at a time, and projects in turn."""

    def __init__(self, most: int, most_waiting: int, clock: Clock) -> None:
        self._turns: Turns[asyncio.Future[None]] = Turns(most)
        self._most_waiting = most_waiting
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def passing(self, project: str, *, never_refused: bool = False) -> AsyncIterator[None]:
        """Wait for a place, and keep it.  Raises ResourceExhausted if too many of the project wait already."""
        if not self._turns.begin(project, self._clock.boottime()):
            if self._turns.waiting(project) >= self._most_waiting and not never_refused:
                raise _exhausted(
                    f"{self._most_waiting} requests of project {shown(project)} wait already; send fewer at once, or "
                    "let an operator raise limits.requestsWaiting",
                    _WHEN_FULL_SECONDS,
                )
            await self._wait(project)
        try:
            yield
        finally:
            self._end(project)

    async def _wait(self, project: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.wait(project, turn)
        self._look_again()
        try:
            await turn
        except asyncio.CancelledError:
            if not self._turns.give_up(project, turn):
                self._end(project)  # its turn had just come
            raise

    def _end(self, project: str) -> None:
        self._let_in(self._turns.end(project, self._clock.boottime()))

    def _go_on(self) -> None:
        self._timer = None
        self._let_in(self._turns.go_on(self._clock.boottime()))

    def _let_in(self, turns: list[asyncio.Future[None]]) -> None:
        for turn in turns:
            if not turn.done():  # otherwise it was cancelled, and gives its place back itself
                turn.set_result(None)
        self._look_again()

    def _look_again(self) -> None:
        """Where somebody is only held back for a while, nobody's end may let them in."""
        if self._timer is not None:
            return
        seconds = self._turns.pause(self._clock.boottime())
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(max(seconds, _SHORTEST_PAUSE_SECONDS), self._go_on)


def limit(servicer: object, limits: LimitsConfig, clock: Clock) -> None:
    """Replace the expensive handlers of `servicer` by ones that keep to the limits."""
    budgets = Budgets(limits.request_budget, limits.project_request_budgets)
    most = limits.requests_in_flight
    gates = {
        changes: Gate(share, limits.requests_waiting, clock)
        for changes, share in ((True, most), (False, math.ceil(most / 2)))
    }
    for method, expensive in EXPENSIVE.items():
        handler: Handler | None = getattr(servicer, method, None)
        if handler is not None and asyncio.iscoroutinefunction(handler):
            setattr(servicer, method, _limited(handler, expensive, budgets, gates[expensive.changes], clock))


def _limited(handler: Handler, expensive: Expensive, budgets: Budgets, gate: Gate, clock: Clock) -> Handler:
    async def handle(request: Any, context: Any) -> Any:
        project = expensive.project(request)[:MAX_TEXT_CHARS]
        child = _is_child(request)
        if not child:
            seconds = budgets.take(project, expensive.cost, clock.boottime())
            if seconds > 0:
                budget = budgets.of(project)
                raise _exhausted(
                    f"project {shown(project)} has used up its budget of {budget.requests_per_second:g} requests per "
                    f"second (at most {budget.burst} at once): try again in {seconds:.2f} s, send fewer requests, or "
                    "let an operator raise limits.requestBudget",
                    seconds,
                )
        async with gate.passing(project, never_refused=child):
            return await handler(request, context)

    return handle


def _is_child(request: Any) -> bool:
    """Whether it is the node of an execution that launches."""
    if isinstance(request, ExecutionRecoverRequest):
        return request.metadata.HasField("parent_node_execution")
    if not isinstance(request, ExecutionCreateRequest):
        return False
    metadata = request.spec.metadata
    return metadata.mode == ExecutionMetadata.CHILD_WORKFLOW and metadata.HasField("parent_node_execution")


def _exhausted(message: str, seconds: float) -> ResourceExhausted:
    delay = Duration()
    delay.FromNanoseconds(math.ceil(seconds * 1e9))
    return ResourceExhausted(message, [RetryInfo(retry_delay=delay)])
