"""Pages in the order of creation, stable while others insert: a token holds the place where the last page ended.

A bare decimal is an offset, as in the reference; anything else that we did not issue is refused.
Source: spec/datacatalog-scheduler-notifier.md, A.5; design.md, section 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flyteidl.datacatalog.datacatalog_pb2 import PaginationOptions

from aerodrome.stdlib.errors import InvalidArgument

DEFAULT_LIMIT = 50
_TOKEN = re.compile(r"(?P<order>[ad])\.(?P<micros>\d{1,17})\.(?P<id>\d{1,18})", re.ASCII)
_OFFSET = re.compile(r"\d{1,10}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MICROS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows: `limit` of them, from `offset` on or after the row (`after_created_at`, `after_id`)."""

    limit: int
    ascending: bool
    offset: int = 0
    after_created_at: datetime | None = None
    after_id: int = 0

    def token(self, created_at: datetime, row_id: int) -> str:
        """Leads to what follows this row."""
        micros = (created_at - _EPOCH) // timedelta(microseconds=1)
        return f"{'a' if self.ascending else 'd'}.{micros}.{row_id}"


def page(given: bool, options: PaginationOptions, *, most: int) -> Page:
    """The page that is asked for; raises InvalidArgument for a token that is none of ours, or of another order."""
    if not given:
        return Page(min(DEFAULT_LIMIT, most), ascending=False)
    if options.sortKey != PaginationOptions.CREATION_TIME:
        raise InvalidArgument(f"invalid value for sort key: {options.sortKey}; the one sort key is CREATION_TIME")
    if options.sortOrder not in (PaginationOptions.ASCENDING, PaginationOptions.DESCENDING):
        raise InvalidArgument(f"invalid value for sort order: {options.sortOrder}")
    ascending = options.sortOrder == PaginationOptions.ASCENDING
    limit = min(options.limit or DEFAULT_LIMIT, most)
    token = options.token.strip()
    if not token:
        return Page(limit, ascending)
    if _OFFSET.fullmatch(token) and int(token) < 2**32:
        return Page(limit, ascending, offset=int(token))
    match = _TOKEN.fullmatch(token)
    if match is None or int(match["micros"]) > _LATEST_MICROS or int(match["id"]) >= 2**63:
        raise InvalidArgument("invalid value for pagination token: it is not one that this service gave")
    if (match["order"] == "a") is not ascending:
        raise InvalidArgument("invalid value for pagination token: it belongs to a list in the other order")
    return Page(
        limit,
        ascending,
        after_created_at=_EPOCH + timedelta(microseconds=int(match["micros"])),
        after_id=int(match["id"]),
    )
