"""Items of maps, as `folded` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "items.sql")


class ItemRepository:
    """Reads on the connection that it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def find_node(self, project: str, domain: str, name: str, node_id: str) -> int | None:
        """The id of the execution if it has such a node."""
        found: int | None = await self._connection.fetchval(_SQL.find_node, project, domain, name, node_id)
        return found

    async def count(self, execution_id: int, node_id: str) -> Mapping[int, int]:
        """How many items of a node there are, by the number of their phase."""
        rows = await self._connection.fetch(_SQL.count, execution_id, node_id)
        return {row["phase"]: row["count"] for row in rows}

    async def list(
        self, execution_id: int, node_id: str, *, after: int, phases: Sequence[int], limit: int
    ) -> list[Record]:
        """Up to `limit` items behind index `after`, in the order of their indexes; all phases if `phases` is empty."""
        return await self._connection.fetch(_SQL.list, execution_id, node_id, after, phases, limit)
