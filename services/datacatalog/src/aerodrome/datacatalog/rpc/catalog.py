"""datacatalog.DataCatalog: each call is handed to its manager."""

from __future__ import annotations

from typing import Any

from flyteidl.datacatalog import datacatalog_pb2 as catalog
from flyteidl.datacatalog.datacatalog_pb2_grpc import DataCatalogServicer

from aerodrome.datacatalog.managers.artifacts import ArtifactManager
from aerodrome.datacatalog.managers.datasets import DatasetManager
from aerodrome.datacatalog.managers.reservations import ReservationManager


class DataCatalogRpcs(DataCatalogServicer):
    """The servicer of datacatalog.DataCatalog."""

    def __init__(self, datasets: DatasetManager, artifacts: ArtifactManager, reservations: ReservationManager) -> None:
        self._datasets = datasets
        self._artifacts = artifacts
        self._reservations = reservations

    async def CreateDataset(self, request: catalog.CreateDatasetRequest, context: Any) -> catalog.CreateDatasetResponse:
        await self._datasets.create(request)
        return catalog.CreateDatasetResponse()

    async def GetDataset(self, request: catalog.GetDatasetRequest, context: Any) -> catalog.GetDatasetResponse:
        return catalog.GetDatasetResponse(dataset=await self._datasets.get(request))

    async def ListDatasets(self, request: catalog.ListDatasetsRequest, context: Any) -> catalog.ListDatasetsResponse:
        return await self._datasets.list(request)

    async def CreateArtifact(
        self, request: catalog.CreateArtifactRequest, context: Any
    ) -> catalog.CreateArtifactResponse:
        await self._artifacts.create(request)
        return catalog.CreateArtifactResponse()

    async def GetArtifact(self, request: catalog.GetArtifactRequest, context: Any) -> catalog.GetArtifactResponse:
        return catalog.GetArtifactResponse(artifact=await self._artifacts.get(request))

    async def UpdateArtifact(
        self, request: catalog.UpdateArtifactRequest, context: Any
    ) -> catalog.UpdateArtifactResponse:
        return catalog.UpdateArtifactResponse(artifact_id=await self._artifacts.update(request))

    async def AddTag(self, request: catalog.AddTagRequest, context: Any) -> catalog.AddTagResponse:
        await self._artifacts.add_tag(request)
        return catalog.AddTagResponse()

    async def ListArtifacts(self, request: catalog.ListArtifactsRequest, context: Any) -> catalog.ListArtifactsResponse:
        return await self._artifacts.list(request)

    async def GetOrExtendReservation(
        self, request: catalog.GetOrExtendReservationRequest, context: Any
    ) -> catalog.GetOrExtendReservationResponse:
        return catalog.GetOrExtendReservationResponse(reservation=await self._reservations.get_or_extend(request))

    async def ReleaseReservation(
        self, request: catalog.ReleaseReservationRequest, context: Any
    ) -> catalog.ReleaseReservationResponse:
        await self._reservations.release(request)
        return catalog.ReleaseReservationResponse()
