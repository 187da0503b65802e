"""SignalService: each call is decoded, handed to the manager, and encoded."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.signal_pb2 import (
    Signal,
    SignalGetOrCreateRequest,
    SignalList,
    SignalListRequest,
    SignalSetRequest,
    SignalSetResponse,
)
from flyteidl.service.signal_pb2_grpc import SignalServiceServicer

from aerodrome.admin.managers.signals import SignalManager


class SignalRpcs(SignalServiceServicer):
    """The servicer of flyteidl.service.SignalService."""

    def __init__(self, signals: SignalManager) -> None:
        self._signals = signals

    async def GetOrCreateSignal(self, request: SignalGetOrCreateRequest, context: Any) -> Signal:
        return await self._signals.get_or_create(request)

    async def ListSignals(self, request: SignalListRequest, context: Any) -> SignalList:
        return await self._signals.list(request)

    async def SetSignal(self, request: SignalSetRequest, context: Any) -> SignalSetResponse:
        await self._signals.set(request)
        return SignalSetResponse()
