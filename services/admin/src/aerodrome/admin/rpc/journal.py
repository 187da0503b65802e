"""JournalService: the data plane's contract with the control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aerodrome.admin.managers.children import ChildManager
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.managers.leases import LeaseManager
from aerodrome.admin.managers.sessions import SessionManager
from aerodrome.idl.journal.v1.journal_pb2 import (
    AppendRequest,
    AppendResponse,
    CloseSessionRequest,
    CloseSessionResponse,
    HandOverRequest,
    HandOverResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    LeaseRequest,
    LeaseResponse,
    OpenSessionRequest,
    OpenSessionResponse,
    RecallRequest,
    RecallResponse,
    ReleaseRequest,
    ReleaseResponse,
)
from aerodrome.idl.journal.v1.journal_pb2_grpc import JournalServiceServicer


class JournalRpcs(JournalServiceServicer):
    """The servicer of aerodrome.journal.v1.JournalService."""

    def __init__(
        self, journal: JournalWriter, sessions: SessionManager, leases: LeaseManager, children: ChildManager
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._leases = leases
        self._children = children

    async def OpenSession(self, request: OpenSessionRequest, context: Any) -> OpenSessionResponse:
        session_id = await self._sessions.open(request.cluster, request.holder)
        response = OpenSessionResponse(session_id=session_id)
        response.term.FromTimedelta(self._sessions.term)
        return response

    async def Heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        response = HeartbeatResponse(controls=await self._sessions.heartbeat(request.session_id))
        response.term.FromTimedelta(self._sessions.term)
        return response

    async def CloseSession(self, request: CloseSessionRequest, context: Any) -> CloseSessionResponse:
        await self._sessions.close(request.session_id)
        return CloseSessionResponse()

    async def Lease(self, request: LeaseRequest, context: Any) -> AsyncIterator[LeaseResponse]:
        async for response in self._leases.lease(request.session_id, request.capacity):
            yield response

    async def Append(self, request: AppendRequest, context: Any) -> AppendResponse:
        return await self._journal.append(request)

    async def Release(self, request: ReleaseRequest, context: Any) -> ReleaseResponse:
        keys = [(lease.execution_id, lease.epoch) for lease in request.leases]
        await self._leases.release(request.session_id, keys)
        return ReleaseResponse()

    async def HandOver(self, request: HandOverRequest, context: Any) -> HandOverResponse:
        keys = [(lease.execution_id, lease.epoch) for lease in request.leases]
        await self._leases.hand_over(request.session_id, keys, request.cluster)
        return HandOverResponse()

    async def Recall(self, request: RecallRequest, context: Any) -> RecallResponse:
        return await self._children.recall(request)
