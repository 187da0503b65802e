"""flyteidl.cacheservice.CacheService: each call is handed to its manager."""

from __future__ import annotations

from typing import Any

from flyteidl.cacheservice import cacheservice_pb2 as cache
from flyteidl.cacheservice.cacheservice_pb2_grpc import CacheServiceServicer

from aerodrome.datacatalog.managers.outputs import OutputManager
from aerodrome.datacatalog.managers.reservations import ReservationManager


class CacheServiceRpcs(CacheServiceServicer):
    """The servicer of flyteidl.cacheservice.CacheService."""

    def __init__(self, outputs: OutputManager, reservations: ReservationManager) -> None:
        self._outputs = outputs
        self._reservations = reservations

    async def Get(self, request: cache.GetCacheRequest, context: Any) -> cache.GetCacheResponse:
        return cache.GetCacheResponse(output=await self._outputs.get(request.key))

    async def Put(self, request: cache.PutCacheRequest, context: Any) -> cache.PutCacheResponse:
        await self._outputs.put(request)
        return cache.PutCacheResponse()

    async def Delete(self, request: cache.DeleteCacheRequest, context: Any) -> cache.DeleteCacheResponse:
        await self._outputs.delete(request.key)
        return cache.DeleteCacheResponse()

    async def GetOrExtendReservation(
        self, request: cache.GetOrExtendReservationRequest, context: Any
    ) -> cache.GetOrExtendReservationResponse:
        return cache.GetOrExtendReservationResponse(reservation=await self._reservations.get_or_extend_cache(request))

    async def ReleaseReservation(
        self, request: cache.ReleaseReservationRequest, context: Any
    ) -> cache.ReleaseReservationResponse:
        await self._reservations.release_cache(request)
        return cache.ReleaseReservationResponse()
