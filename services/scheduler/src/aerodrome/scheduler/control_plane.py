"""The control plane as the scheduler calls it: launch plans are read there, and executions are created there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import grpc
from flyteidl.admin.common_pb2 import ObjectGetRequest
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import ActiveLaunchPlanListRequest, LaunchPlan
from flyteidl.admin.project_pb2 import ProjectListRequest
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.stdlib.rpc.client import aerodrome_error

_PAGE = 100
_T = TypeVar("_T")


class ControlPlane:
    """AdminService; every call raises AerodromeError, and DeadlineExceeded after `timeout`."""

    def __init__(self, channel: grpc.aio.Channel, timeout: timedelta) -> None:
        make: Any = AdminServiceStub
        self._stub: Any = make(channel)
        self._seconds = timeout.total_seconds()

    async def create_execution(self, request: ExecutionCreateRequest) -> None:
        """Create an execution.  Raises AlreadyExists if there is one of its name."""
        await _translated(self._stub.CreateExecution(request, timeout=self._seconds))

    async def launch_plan(self, identifier: Identifier) -> LaunchPlan:
        """A launch plan as it is now.  Raises NotFound."""
        return await _translated(self._stub.GetLaunchPlan(ObjectGetRequest(id=identifier), timeout=self._seconds))

    async def active_launch_plans(self) -> AsyncIterator[Sequence[LaunchPlan]]:
        """The active launch plans of all domains of all projects, page by page."""
        async for project, domain in self._places():
            token = ""
            while True:
                request = ActiveLaunchPlanListRequest(project=project, domain=domain, limit=_PAGE, token=token)
                page = await _translated(self._stub.ListActiveLaunchPlans(request, timeout=self._seconds))
                yield page.launch_plans
                token = page.token
                if not token:
                    break

    async def _places(self) -> AsyncIterator[tuple[str, str]]:
        token = ""
        while True:
            request = ProjectListRequest(limit=_PAGE, token=token)
            page = await _translated(self._stub.ListProjects(request, timeout=self._seconds))
            for project in page.projects:
                for domain in project.domains:
                    yield project.id, domain.id
            token = page.token
            if not token:
                return


async def _translated(call: Awaitable[_T]) -> _T:
    try:
        return await call
    except grpc.RpcError as error:
        raise aerodrome_error(error) from error
