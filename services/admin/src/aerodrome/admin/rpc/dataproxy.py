"""DataProxyService: each call is decoded, handed to the manager, and encoded."""

from __future__ import annotations

from typing import Any

from flyteidl.service.dataproxy_pb2 import (
    CreateDownloadLinkRequest,
    CreateDownloadLinkResponse,
    CreateDownloadLocationRequest,
    CreateDownloadLocationResponse,
    CreateUploadLocationRequest,
    CreateUploadLocationResponse,
    GetDataRequest,
    GetDataResponse,
)
from flyteidl.service.dataproxy_pb2_grpc import DataProxyServiceServicer

from aerodrome.admin.managers.dataproxy import DataProxyManager


class DataProxyRpcs(DataProxyServiceServicer):
    """The servicer of flyteidl.service.DataProxyService."""

    def __init__(self, manager: DataProxyManager) -> None:
        self._manager = manager

    async def CreateUploadLocation(
        self, request: CreateUploadLocationRequest, context: Any
    ) -> CreateUploadLocationResponse:
        return await self._manager.create_upload_location(request)

    async def CreateDownloadLocation(
        self, request: CreateDownloadLocationRequest, context: Any
    ) -> CreateDownloadLocationResponse:
        return await self._manager.create_download_location(request)

    async def CreateDownloadLink(self, request: CreateDownloadLinkRequest, context: Any) -> CreateDownloadLinkResponse:
        return await self._manager.create_download_link(request)

    async def GetData(self, request: GetDataRequest, context: Any) -> GetDataResponse:
        return await self._manager.get_data(request)
