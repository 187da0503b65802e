"""ItemService: each call is decoded, handed to the manager, and encoded."""

from __future__ import annotations

from typing import Any

from aerodrome.admin.managers.items import ItemManager
from aerodrome.idl.items.v1.items_pb2 import ListItemsRequest, ListItemsResponse
from aerodrome.idl.items.v1.items_pb2_grpc import ItemServiceServicer


class ItemRpcs(ItemServiceServicer):
    """The servicer of aerodrome.items.v1.ItemService."""

    def __init__(self, items: ItemManager) -> None:
        self._items = items

    async def ListItems(self, request: ListItemsRequest, context: Any) -> ListItemsResponse:
        return await self._items.list(request)
