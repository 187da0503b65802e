"""AdminService: launching executions, launching them again, and archiving them."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.execution_pb2 import (
    ExecutionCreateRequest,
    ExecutionCreateResponse,
    ExecutionRecoverRequest,
    ExecutionRelaunchRequest,
    ExecutionUpdateRequest,
    ExecutionUpdateResponse,
)

from aerodrome.admin.managers.executions import ExecutionManager
from aerodrome.stdlib.rpc.context import identity


class LaunchingRpcs:
    """The launching part of AdminService; whoever composes the service sets its manager."""

    _executions: ExecutionManager

    async def CreateExecution(self, request: ExecutionCreateRequest, context: Any) -> ExecutionCreateResponse:
        return ExecutionCreateResponse(id=await self._executions.create(request, identity()))

    async def RelaunchExecution(self, request: ExecutionRelaunchRequest, context: Any) -> ExecutionCreateResponse:
        return ExecutionCreateResponse(id=await self._executions.relaunch(request, identity()))

    async def RecoverExecution(self, request: ExecutionRecoverRequest, context: Any) -> ExecutionCreateResponse:
        return ExecutionCreateResponse(id=await self._executions.recover(request, identity()))

    async def UpdateExecution(self, request: ExecutionUpdateRequest, context: Any) -> ExecutionUpdateResponse:
        await self._executions.update(request, identity())
        return ExecutionUpdateResponse()
