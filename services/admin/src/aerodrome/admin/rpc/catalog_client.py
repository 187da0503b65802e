"""The data catalog, as far as the control plane needs it: it forgets what deleted executions made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc

from aerodrome.idl.catalog.v1.catalog_pb2 import EvictByExecutionRequest
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from aerodrome.stdlib.errors import OF_KIND, Kind

PATIENCE = timedelta(seconds=60)


class CatalogClient:
    """Calls `aerodrome.catalog.v1.CatalogService` over a channel, which may be one within the process."""

    def __init__(self, channel: Any, *, patience: timedelta = PATIENCE) -> None:
        self._stub: Any = CatalogServiceStub(channel)
        self._patience = patience

    async def evict_execution(self, project: str, domain: str, name: str) -> None:
        """Forget every cache entry that an execution made; raises AerodromeError if that cannot be done now."""
        try:
            await self._stub.EvictByExecution(
                EvictByExecutionRequest(project=project, domain=domain, name=name),
                timeout=self._patience.total_seconds(),
            )
        except grpc.aio.AioRpcError as error:
            code = Kind(error.code().value[0])
            raise OF_KIND[code](f"the data catalog did not forget {project}/{domain}/{name}: {error.details()}") from (
                error
            )
