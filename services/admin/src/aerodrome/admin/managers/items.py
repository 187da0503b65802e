"""Items of maps, read a page at a time."""

from __future__ import annotations

from flyteidl.core.catalog_pb2 import CatalogCacheStatus
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier, WorkflowExecutionIdentifier

from aerodrome.admin.domain.phases import TASK_NAMES, TASK_NUMBERS
from aerodrome.admin.domain.validation import check_node_execution_id, not_found, shown
from aerodrome.admin.repositories.items import ItemRepository
from aerodrome.idl.items.v1.items_pb2 import Item, ListItemsRequest, ListItemsResponse
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.database import Database, Record

DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000
_LAST_INDEX = 2**31 - 1


class ItemManager:
    """Lists what is recorded of the items of array nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, request: ListItemsRequest) -> ListItemsResponse:
        """A page of items.  Raises InvalidArgument, and NotFound for an unknown node."""
        wanted = request.node_execution_id
        execution = WorkflowExecutionIdentifier(project=wanted.project, domain=wanted.domain, name=wanted.name)
        node = NodeExecutionIdentifier(node_id=wanted.node_id, execution_id=execution)
        check_node_execution_id(node)
        limit = request.limit or DEFAULT_LIMIT
        if limit > MAX_LIMIT:
            raise InvalidArgument(f"limit is {limit}; ask for at most {MAX_LIMIT} items at a time")
        phases = [_phase(name) for name in request.phases]
        after = _after(request.token)
        async with self._database.connection() as connection:
            items = ItemRepository(connection)
            execution_id = await items.find_node(wanted.project, wanted.domain, wanted.name, wanted.node_id)
            if execution_id is None:
                raise not_found("node execution", node)
            counts = await items.count(execution_id, wanted.node_id) if not request.token else {}
            rows = await items.list(execution_id, wanted.node_id, after=after, phases=phases, limit=limit + 1)
        response = ListItemsResponse(items=[_item(row) for row in rows[:limit]])
        if len(rows) > limit:
            response.token = str(rows[limit - 1]["item_index"])
        for phase, count in counts.items():
            response.total_by_phase[TASK_NAMES[phase]] = count
        return response


def _phase(name: str) -> int:
    number = TASK_NUMBERS.get(name)
    if number is None or not name:
        known = ", ".join(sorted(each for each in TASK_NUMBERS if each))
        raise InvalidArgument(f"there is no phase [{shown(name)}]; there are {known}")
    return number


def _after(token: str) -> int:
    if not token:
        return -1
    if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= _LAST_INDEX):
        raise InvalidArgument(f"invalid token [{shown(token)}]: send the token of the page before, or none")
    return int(token)


def _item(row: Record) -> Item:
    item = Item(
        index=row["item_index"],
        phase=TASK_NAMES[row["phase"]],
        attempt=row["attempt"],
        system_failures=row["system_failures"],
        cache_status=CatalogCacheStatus.Name(row["cache_status"]),
        log_uri=row["log_uri"],
    )
    item.updated_at.FromDatetime(row["updated_at"])
    if row["error"]:
        error = ExecutionError.FromString(row["error"])
        item.error.code, item.error.message = error.code, error.message
        item.error.kind = ExecutionError.ErrorKind.Name(error.kind)
    return item
