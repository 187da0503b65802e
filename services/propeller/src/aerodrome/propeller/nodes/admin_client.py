"""What handlers ask of the control plane: child executions, signals, entities, and the nodes of earlier executions.

Errors are those of `aerodrome.stdlib.errors`, as the control plane raised them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, signal_pb2, task_pb2
from flyteidl.core import identifier_pb2
from flyteidl.service import admin_pb2_grpc, signal_pb2_grpc

from aerodrome.idl.items.v1 import items_pb2, items_pb2_grpc
from aerodrome.idl.journal.v1 import journal_pb2, journal_pb2_grpc
from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import (
    AerodromeError,
    Cancelled,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.client import aerodrome_error

log = get_logger(__name__)

T = TypeVar("T")

MOST_NAMES = 100
"""Executions that are asked for at once."""
_ITEMS_AT_ONCE = 10_000
_RPC_TIMEOUT = 30.0
_ABSENT = (Unavailable, ResourceExhausted, DeadlineExceeded)
"""The control plane cannot answer now: it is asked for as long as it takes."""
_PASSING = (*_ABSENT, Internal, Conflict, DataLoss, Cancelled)
_TRIES = 8
"""Times that something is asked which the control plane cannot do, although it answers."""
_LONGEST_DELAY = 10.0


class AdminClient:
    """The control plane, as the nodes of one data plane see it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self._signals: Any = signal_pb2_grpc.SignalServiceStub(channel)
        self._journal: Any = journal_pb2_grpc.JournalServiceStub(channel)
        self._items: Any = items_pb2_grpc.ItemServiceStub(channel)

    async def create_execution(self, request: execution_pb2.ExecutionCreateRequest) -> None:
        """Raises AlreadyExists if the name is taken or the launch plan's concurrency limit is reached, and others."""
        await _call(self._admin.CreateExecution, request)
        faults.point("child.created")

    async def recover_execution(self, request: execution_pb2.ExecutionRecoverRequest) -> None:
        """Raises AlreadyExists, NotFound if there is nothing to recover from, and others."""
        await _call(self._admin.RecoverExecution, request)

    async def terminate_execution(self, identifier: identifier_pb2.WorkflowExecutionIdentifier, cause: str) -> None:
        """Raises NotFound, FailedPrecondition if it is over."""
        request = execution_pb2.ExecutionTerminateRequest(id=identifier, cause=cause)
        await _call(self._admin.TerminateExecution, request)

    async def get_execution(self, identifier: identifier_pb2.WorkflowExecutionIdentifier) -> execution_pb2.Execution:
        """Raises NotFound."""
        request = execution_pb2.WorkflowExecutionGetRequest(id=identifier)
        found: execution_pb2.Execution = await _call(self._admin.GetExecution, request)
        return found

    async def get_execution_data(
        self, identifier: identifier_pb2.WorkflowExecutionIdentifier
    ) -> execution_pb2.WorkflowExecutionGetDataResponse:
        """Raises NotFound."""
        request = execution_pb2.WorkflowExecutionGetDataRequest(id=identifier)
        found: execution_pb2.WorkflowExecutionGetDataResponse = await _call(self._admin.GetExecutionData, request)
        return found

    async def list_executions(self, project: str, domain: str, names: Sequence[str]) -> list[execution_pb2.Execution]:
        """Those of the executions that exist, at most `MOST_NAMES` of them; their texts may be shortened."""
        request = common_pb2.ResourceListRequest(
            id=common_pb2.NamedEntityIdentifier(project=project, domain=domain),
            limit=MOST_NAMES,
            filters=f"value_in(execution_name,{';'.join(names)})",
        )
        found = await _call(self._admin.ListExecutions, request)
        return list(found.executions)

    async def get_task(self, identifier: identifier_pb2.Identifier) -> task_pb2.Task:
        """Raises NotFound."""
        found: task_pb2.Task = await _call(self._admin.GetTask, common_pb2.ObjectGetRequest(id=identifier))
        return found

    async def get_launch_plan(self, identifier: identifier_pb2.Identifier) -> launch_plan_pb2.LaunchPlan:
        """Raises NotFound."""
        request = common_pb2.ObjectGetRequest(id=identifier)
        found: launch_plan_pb2.LaunchPlan = await _call(self._admin.GetLaunchPlan, request)
        return found

    async def get_or_create_signal(self, request: signal_pb2.SignalGetOrCreateRequest) -> signal_pb2.Signal:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        found: signal_pb2.Signal = await _call(self._signals.GetOrCreateSignal, request)
        return found

    async def list_items(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, node_id: str, *phases: str
    ) -> AsyncIterator[items_pb2.Item]:
        """The items of an array node that are in one of `phases`, by index.  Raises NotFound."""
        request = items_pb2.ListItemsRequest(
            node_execution_id=items_pb2.NodeExecution(
                project=execution.project, domain=execution.domain, name=execution.name, node_id=node_id
            ),
            phases=phases,
            limit=_ITEMS_AT_ONCE,
        )
        while True:
            page = await patiently("list items", lambda: _call(self._items.ListItems, request))
            for item in page.items:
                yield item
            if not page.token:
                return
            request.token = page.token

    async def recall(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier
    ) -> AsyncIterator[journal_pb2.RecalledNode]:
        """The nodes of an earlier execution.  Raises NotFound; asks again where the control plane cannot answer now."""
        request = journal_pb2.RecallRequest(project=execution.project, domain=execution.domain, name=execution.name)
        while True:
            page = await patiently("recall", lambda: _call(self._journal.Recall, request))
            for node in page.nodes:
                yield node
            if not page.next_token:
                return
            request.token = page.next_token


async def patiently(what: str, work: Callable[[], Awaitable[T]]) -> T:
    """Ask again, with growing delays, where the error may pass; raises what does not."""
    delay, tries = 0.1, 0
    while True:
        try:
            return await work()
        except _PASSING as error:
            tries += not isinstance(error, _ABSENT)
            if tries >= _TRIES:
                raise
            log.warning("the control plane failed, asking again", what=what, error=error.message)
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)


def may_pass(error: AerodromeError) -> bool:
    """Whether asking again may help."""
    return isinstance(error, _PASSING)


async def _call(method: Any, request: Any) -> Any:
    try:
        return await method(request, timeout=_RPC_TIMEOUT)
    except grpc.RpcError as error:
        raise aerodrome_error(error) from error
