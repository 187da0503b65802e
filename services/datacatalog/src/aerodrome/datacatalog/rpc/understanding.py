"""aerodrome.catalog.v1.CatalogService: each call is handed to its manager."""

from __future__ import annotations

from typing import Any

from aerodrome.datacatalog.managers.understanding import UnderstandingManager
from aerodrome.idl.catalog.v1 import catalog_pb2 as messages
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import CatalogServiceServicer


class CatalogRpcs(CatalogServiceServicer):
    """The servicer of aerodrome.catalog.v1.CatalogService."""

    def __init__(self, manager: UnderstandingManager) -> None:
        self._manager = manager

    async def Explain(self, request: messages.ExplainRequest, context: Any) -> messages.ExplainResponse:
        return await self._manager.explain(request)

    async def Evict(self, request: messages.EvictRequest, context: Any) -> messages.EvictResponse:
        return await self._manager.evict(request)

    async def EvictByExecution(
        self, request: messages.EvictByExecutionRequest, context: Any
    ) -> messages.EvictByExecutionResponse:
        return await self._manager.evict_by_execution(request)

    async def Verify(self, request: messages.VerifyRequest, context: Any) -> messages.VerifyResponse:
        return await self._manager.verify(request)
