"""Pages of rows: filtered, sorted, and taken up again where the last page ended.

What can be listed is a `Source`: a table, what may be joined to it, and where its fields are found.  SQL text is put
together from sources only; whatever a caller wrote is a bound parameter.  A token holds the sort key of the last row it
was issued for, so page N+1 costs what the first one did; it also holds a fingerprint of the question, since a position
means nothing in another list.  A bare decimal is an offset, as scripts compute it.  Rows that have no value in the sort
column are after all others ascending, before them descending.  Source: spec/control-plane.md, sections 6.1 to 6.4.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flyteidl.admin.common_pb2 import Sort

from aerodrome.admin.domain.filters import COLUMNS, Entity, Filter, Function, Kind, Operand, parse, sort_kind
from aerodrome.admin.domain.validation import invalid_value, shown
from aerodrome.stdlib.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from aerodrome.stdlib.postgres.database import Database, Record

MAX_PAGE_ROWS = 10_000
"""Most rows of one page, whatever limit is asked for; the token leads on."""
MAX_PAGE_BYTES = 32 * 2**20
"""A page ends early when its rows have grown to this many bytes."""
STREAMED_ROWS = 100
"""Larger pages are taken from the server in pieces of so many rows, so that their size is known in time."""
MAX_TOKEN_CHARS = 8_192
MAX_KEY_CHARS = 1_024
"""A longer text is not put into a token; an offset is issued instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is found: an SQL expression, and the entities that must be joined for it."""

    sql: str
    needs: frozenset[Entity] = frozenset()


@dataclass(frozen=True, slots=True)
class Lead:
    """Rows of another entity, of which an index has those with the same `column` in the order of a list."""

    column: str
    join: str
    """How they are joined to what is listed."""
    first: str
    """A condition that holds for one of the rows that belong to the same listed one and satisfy `{conditions}`, which
    are of `lowest`."""
    places: Mapping[str, Place]
    """Where they have the fields that are sorted by; the first is the one of the list's order."""
    scope: Mapping[str, str]
    """Where they have the columns that a scope names."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be listed."""

    entity: Entity
    select: str
    """The columns of a row."""
    table: str
    """Where the rows are, under the entity's code as alias."""
    tie: tuple[str, ...]
    """Fields that are never null and together tell any two rows apart; the last part of every order."""
    default_sort: str = "created_at"
    joins: Mapping[Entity, str] = field(default_factory=dict)
    """How an entity is joined, each at most once per row."""
    exists: Mapping[Entity, tuple[str, str]] = field(default_factory=dict)
    """Entities of which a row may have many: the table and how it refers to the row.  Conditions on them ask for one
    that satisfies them all."""
    leads: Mapping[Entity, Lead] = field(default_factory=dict)
    """Those of which an index has the rows in the order of the list, so that a page is the beginning of a range."""
    places: Mapping[tuple[Entity, str], Place] = field(default_factory=dict)
    """Fields that are not simply the column of that name."""
    nullable: frozenset[str] = frozenset()
    """Sortable fields that may be null."""
    numbered: Mapping[Entity, tuple[str, int]] = field(default_factory=dict)
    """Joined entities whose name the row has as a number: the column, and the resource type of the name.  Project,
    domain and name together then need no join, and an index has such rows in order."""
    apart: str = ""
    """A field by whose value an index has the rows, those of each in the order of creation: a filter that asks for
    several values is asked for one at a time."""
    begin: str = ""
    """The field that says when what a row stands for began: next to never before `created_at`."""
    advice: str = ""
    """What to filter and sort by instead, for who asks what no index helps with."""

    def place(self, entity: Entity, column: str) -> Place:
        """Where a field of the allow-list is found."""
        place = self.places.get((entity, column))
        if place is not None:
            return place
        return Place(f'{entity.code}."{column}"', frozenset() if entity is self.entity else frozenset({entity}))


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller asks of a list; `rpc` is the name that error messages use."""

    rpc: str
    limit: int
    token: str = ""
    filters: str = ""
    sort_by: Sort | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the token of the next page: empty when this page is not full."""

    rows: list[Record]
    token: str


class Parameters:
    """The bound values of a statement."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def bind(self, value: object, sql_type: str) -> str:
        """The text that stands for `value` in the statement."""
        self.values.append(value)
        return f"${len(self.values)}::{sql_type}"


class Scope:
    """Conditions that the rpc itself sets, such as the project; `column = value` unless `where` says otherwise."""

    def __init__(self, **equal: str | int) -> None:
        self.equal = dict(equal)
        self.fixed: list[str] = []
        self.null: list[str] = []

    def where(self, condition: str) -> Scope:
        """Add a condition that holds nothing a caller wrote."""
        self.fixed.append(condition)
        return self

    def where_null(self, column: str) -> Scope:
        """Only rows without a value in `column`.

        Unlike an equality this does not tell PostgreSQL that the column cannot matter for the order, so an index that
        has it before the sort key would not be used.  It is therefore sorted by first, which changes nothing.
        """
        self.null.append(column)
        return self

    def conditions(self, source: Source, parameters: Parameters) -> list[str]:
        """As SQL."""
        written = [
            f"{source.entity.code}.{column} = {parameters.bind(value, 'text' if isinstance(value, str) else 'bigint')}"
            for column, value in self.equal.items()
        ]
        return [*written, *(f"{source.entity.code}.{column} IS NULL" for column in self.null), *self.fixed]


def check_limit(limit: int) -> None:
    """Raises InvalidArgument for the limit that means none was given."""
    if limit <= 0:
        raise invalid_value("limit")


async def list_page(
    database: Database,
    source: Source,
    scope: Scope,
    ask: Ask,
    *,
    filters: Sequence[Filter] | None = None,
    max_rows: int = MAX_PAGE_ROWS,
    max_bytes: int = MAX_PAGE_BYTES,
) -> Page:
    """The page that `ask` is for; `filters`, when given, are its filters as already parsed.

    Raises InvalidArgument for filters, sort keys and tokens that cannot be understood, and ResourceExhausted, with what
    to ask for instead, if finding the rows takes longer than a statement may.
    """
    try:
        return await _list_page(database, source, scope, ask, filters, max_rows, max_bytes)
    except DeadlineExceeded as error:
        narrower = source.advice or "filter by an equality, and sort by created_at"
        raise ResourceExhausted(
            f"the rows for filters [{shown(ask.filters)}] and sort key '{shown(_sort_key(source, ask))}' were not "
            f"found within the time that the database may take: {narrower}"
        ) from error


async def _list_page(
    database: Database,
    source: Source,
    scope: Scope,
    ask: Ask,
    filters: Sequence[Filter] | None,
    max_rows: int,
    max_bytes: int,
) -> Page:
    conditions = parse(ask.filters, source.entity) if filters is None else filters
    order = _order(source, scope, ask)
    fingerprint = _fingerprint(source, scope, ask, order)
    position = _position(ask, order, fingerprint)
    limit = min(ask.limit, max_rows)
    rows: list[Record] = []
    size_bytes = 0
    segments = position.segments(order)
    if not position.offset:
        segments = _split_by_begin(source, conditions, order, segments)
    for segment in segments:
        statement, values = _statement(source, scope, conditions, order, segment, limit - len(rows), position.offset)
        async with aclosing(_rows(database, statement, values, limit - len(rows))) as found:
            async for row in found:
                rows.append(row)
                size_bytes += sum(len(value) for value in row.values() if isinstance(value, bytes | str))
                if size_bytes >= max_bytes:
                    limit = len(rows)
                    break
        if len(rows) >= limit:
            return Page(rows, _next_token(order, fingerprint, position.passed + len(rows), rows[-1]))
    return Page(rows, "")


_PLAN_FOR_VALUES = "SET LOCAL plan_cache_mode = force_custom_plan"
"""What is common and what is rare differ by orders of magnitude here: a plan that fits all values fits none.  Prepared
statements would get one after a few calls."""


async def _rows(
    database: Database, statement: str, values: Sequence[object], limit: int
) -> AsyncGenerator[Record, None]:
    async with database.transaction(readonly=True) as conn:
        await conn.execute(_PLAN_FOR_VALUES)
        if limit <= STREAMED_ROWS:
            for row in await conn.fetch(statement, *values):
                yield row
            return
        cursor = cast(AsyncGenerator[Record, None], conn.cursor(statement, *values, prefetch=STREAMED_ROWS))
        async with aclosing(cursor):
            async for row in cursor:
                yield row


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    kind: Kind
    place: Place
    nullable: bool


@dataclass(frozen=True, slots=True)
class _Order:
    key: str
    """The field that was asked for."""
    columns: tuple[_Column, ...]
    """What is sorted by: the field and the tie-breakers, without those that are the same in all rows of the scope."""
    descending: bool


def _sort_key(source: Source, ask: Ask) -> str:
    return ask.sort_by.key if ask.sort_by is not None and ask.sort_by.key else source.default_sort


def _order(source: Source, scope: Scope, ask: Ask) -> _Order:
    key, descending = _sort_key(source, ask), False
    if ask.sort_by is not None and ask.sort_by.key:
        if ask.sort_by.direction not in (Sort.ASCENDING, Sort.DESCENDING):
            raise InvalidArgument(f"invalid sort direction '{ask.sort_by.direction}'")
        descending = ask.sort_by.direction == Sort.DESCENDING
    sort_kind(source.entity, key)
    names = (key, *(name for name in source.tie if name != key))
    varying = [name for name in names if name not in scope.equal] or [names[-1]]
    columns = (
        _Column(name, COLUMNS[source.entity][name], source.place(source.entity, name), name in source.nullable)
        for name in varying
    )
    return _Order(key, tuple(columns), descending)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A range of the order: rows whose first key is (not) null, after `key` where given."""

    null_first_key: bool | None = None
    after: tuple[Operand, ...] | None = None
    created_before: datetime | None = None
    begun_early_since: datetime | None = None
    """Only rows created since then that began well before they were created, by the clock of their engine."""


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a page starts: at the beginning, at an offset, or behind the row with this key."""

    offset: int = 0
    passed: int = 0
    """How many rows the pages before held."""
    after: tuple[Operand | None, ...] | None = None

    def segments(self, order: _Order) -> list[_Segment]:
        """The ranges that follow this position, each of which an index can serve."""
        if self.after is None:
            return [_Segment()]
        first, *rest = self.after
        ties = tuple(value for value in rest if value is not None)
        if first is None:
            tail = _Segment(null_first_key=True, after=ties)
            return [tail, _Segment(null_first_key=False)] if order.descending else [tail]
        tail = _Segment(after=(first, *ties))
        return [tail, _Segment(null_first_key=True)] if order.columns[0].nullable and not order.descending else [tail]


_EARLY = timedelta(minutes=10)
"""Clocks of data planes are not further off than this, but for those that an index is kept of."""


def _split_by_begin(
    source: Source, filters: Iterable[Filter], order: _Order, segments: list[_Segment]
) -> list[_Segment]:
    """Where rows that began before an instant are listed by creation, the latest first: start at that instant.

    Otherwise all that was created since would be passed over.  What claims to have begun long before it was created is
    found by an index of its own, so that nothing is missed.
    """
    if not source.begin or not order.descending or order.columns[0].name != "created_at":
        return segments
    bounds = [
        each.operands[0]
        for each in filters
        if each.entity is source.entity and each.column == source.begin and each.function in (Function.LT, Function.LTE)
    ]
    latest = min((each for each in bounds if isinstance(each, datetime)), default=None)
    if latest is None or latest > _LATEST - _EARLY:
        return segments
    bound = latest + _EARLY
    return [
        part
        for segment in segments
        for part in (replace(segment, begun_early_since=bound), replace(segment, created_before=bound))
    ]


_LATEST = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)

_SQL_TYPES = {Kind.TEXT: "text", Kind.INTEGER: "bigint", Kind.INSTANT: "timestamptz", Kind.DURATION: "bigint"}
_COMPARISONS = {
    Function.EQ: "=", Function.NE: "<>", Function.GT: ">", Function.GTE: ">=", Function.LT: "<", Function.LTE: "<=",
}  # fmt: skip


def _statement(
    source: Source,
    scope: Scope,
    filters: Iterable[Filter],
    order: _Order,
    segment: _Segment,
    limit: int,
    offset: int,
) -> tuple[str, list[object]]:
    parameters = Parameters()
    needs: set[Entity] = set()
    conditions = scope.conditions(source, parameters)
    many: dict[Entity, list[str]] = {}
    named, filters = _named(source, tuple(filters))
    for number, resource_type, key in named:
        bound = [parameters.bind(value, "text") for value in key]
        conditions.append(
            f"{number} = (SELECT id FROM registered_names WHERE resource_type = {resource_type:d} "
            f"AND project = {bound[0]} AND domain = {bound[1]} AND name = {bound[2]})"
        )
    parts, filters = _apart(source, filters)
    joins = []
    if (entity := _leading(source, filters, order)) is not None:
        lead = source.leads[entity]
        joins.append(lead.join)
        places = (lead.places.get(each.name, each.place) for each in order.columns)
        columns = (replace(each, place=place) for each, place in zip(order.columns, places, strict=True))
        order = replace(order, columns=tuple(columns))
        own = [each for each in filters if each.entity is entity]
        filters = tuple(each for each in filters if each.entity is not entity)
        parts = next((several for each in own if each.column == lead.column and (several := _one_at_a_time(each))), [])
        conditions += _led(source, lead, own, scope, parameters, apart=bool(parts))
        needs |= frozenset().union(*(source.place(entity, each.column).needs for each in own)) - {entity}
    for each in filters:
        place = source.place(each.entity, each.column)
        condition = _condition(each, place, parameters)
        if each.entity in source.exists:
            many.setdefault(each.entity, []).append(condition)
            needs |= place.needs - {each.entity}
        else:
            conditions.append(condition)
            needs |= place.needs
    for entity, wanted in many.items():
        table, reference = source.exists[entity]
        conditions.append(f"EXISTS (SELECT 1 FROM {table} WHERE {' AND '.join((reference, *wanted))})")
    for column in order.columns:
        needs |= column.place.needs
    conditions += _range(order, segment, parameters)
    conditions += _created(source, segment, parameters)
    keys = {f"key_{index}": column.place.sql for index, column in enumerate(order.columns)}
    fixed = {f"null_{index}": f"{source.entity.code}.{column}" for index, column in enumerate(scope.null)}
    direction = " DESC" if order.descending else ""
    joins += [join for entity, join in source.joins.items() if entity in needs]

    def select(shown: Mapping[str, str], further: Sequence[str], most: int) -> list[str]:
        both = [*conditions, *further]
        return [
            ", ".join((f"SELECT {source.select}", *(f"{sql} AS {name}" for name, sql in shown.items()))),
            f"FROM {source.table}",
            *joins,
            *([f"WHERE {' AND '.join(both)}"] if both else []),
            f"ORDER BY {', '.join(sql + direction for sql in (*fixed.values(), *keys.values()))}",
            f"LIMIT {parameters.bind(most, 'bigint')}",
        ]

    if parts:
        # each by itself in the order of the list, so that no more rows of one are read than the page holds
        selects = [
            "\n".join(
                select(
                    fixed | keys, [_condition(each, source.place(each.entity, each.column), parameters)], limit + offset
                )
            )
            for each in parts
        ]
        lines = [
            "SELECT * FROM (",
            "\nUNION ALL\n".join(f"({each})" for each in selects),
            ") AS parts",
            f"ORDER BY {', '.join(name + direction for name in (*fixed, *keys))}",
            f"LIMIT {parameters.bind(limit, 'bigint')}",
        ]
    else:
        lines = select(keys, [], limit)
    if offset:
        lines.append(f"OFFSET {parameters.bind(offset, 'bigint')}")
    return "\n".join(lines), parameters.values


def _led(
    source: Source, lead: Lead, own: Sequence[Filter], scope: Scope, parameters: Parameters, *, apart: bool
) -> list[str]:
    """That the row of `lead` is in the scope, satisfies the filters, and is the one of its listed row that counts.

    `apart`: what the lead's column equals is asked for elsewhere, one value at a time.
    """
    written = [
        f"{lead.scope[column]} = {parameters.bind(value, 'text' if isinstance(value, str) else 'bigint')}"
        for column, value in scope.equal.items()
        if column in lead.scope
    ]
    wanted = [(each, _condition(each, source.place(each.entity, each.column), parameters)) for each in own]
    written += [condition for each, condition in wanted if not (apart and each.column == lead.column)]
    of_lowest = " AND ".join(condition for _, condition in wanted)
    of_lowest = re.sub(rf"\b{own[0].entity.code}\.", "lowest.", of_lowest)
    return [*written, lead.first.format(conditions=of_lowest)]


MAX_PARTS = 12
"""Values that a filter asks for one at a time, at most: as many as there are phases."""


def _one_at_a_time(each: Filter) -> list[Filter]:
    """A filter that asks for one of several values as one for each of them; none if it is no such filter."""
    values = list(dict.fromkeys(each.operands))
    if each.function is not Function.VALUE_IN or not 1 < len(values) <= MAX_PARTS:
        return []
    return [replace(each, function=Function.EQ, operands=(value,)) for value in values]


def _apart(source: Source, filters: tuple[Filter, ...]) -> tuple[list[Filter], tuple[Filter, ...]]:
    """A filter for several values of the source's field as one for each of them; and the filters that are left."""
    for each in filters:
        if each.entity is source.entity and each.column == source.apart and (parts := _one_at_a_time(each)):
            return parts, tuple(other for other in filters if other is not each)
    return [], filters


def _leading(source: Source, filters: tuple[Filter, ...], order: _Order) -> Entity | None:
    """The entity whose rows an index has in this order, if the filters ask for some of them by an equality."""
    for each in filters:
        lead = source.leads.get(each.entity)
        if lead is not None and each.column == lead.column and order.columns[0].name == next(iter(lead.places)):
            if each.function is Function.EQ:
                return each.entity
            if each.function is Function.VALUE_IN and len(set(each.operands)) <= MAX_PARTS:
                return each.entity
    return None


_NAME = ("project", "domain", "name")


def _named(
    source: Source, filters: tuple[Filter, ...]
) -> tuple[list[tuple[str, int, tuple[Operand, ...]]], tuple[Filter, ...]]:
    """The names that filters ask for and that rows have as numbers, and the filters that are left.

    Only where an entity is asked for by project, domain and name and nothing else: with its version, the row that is
    joined says more.
    """
    found = []
    for entity, (column, resource_type) in source.numbered.items():
        own = [each for each in filters if each.entity is entity]
        values = {each.column: each.operands[0] for each in own if each.function is Function.EQ}
        if len(own) == len(_NAME) and values.keys() == set(_NAME):
            found.append((column, resource_type, tuple(values[each] for each in _NAME)))
            filters = tuple(each for each in filters if each.entity is not entity)
    return found, filters


def _condition(each: Filter, place: Place, parameters: Parameters) -> str:
    sql_type = _SQL_TYPES[COLUMNS[each.entity][each.column]]
    match each.function:
        case Function.VALUE_IN if len(each.operands) > 1:
            return f"{place.sql} = ANY({parameters.bind(list(each.operands), sql_type + '[]')})"
        case Function.VALUE_NOT_IN:
            return f"{place.sql} <> ALL({parameters.bind(list(each.operands), sql_type + '[]')})"
        case Function.CONTAINS:
            return f"{place.sql} LIKE {parameters.bind(f'%{each.operands[0]}%', sql_type)} ESCAPE ''"
        case Function.NOT_LIKE:
            return f"{place.sql} NOT LIKE {parameters.bind(each.operands[0], sql_type)} ESCAPE ''"
        case Function.VALUE_IN:  # of one: an equality, which leaves an index in its order
            return f"{place.sql} = {parameters.bind(each.operands[0], sql_type)}"
        case comparison:
            return f"{place.sql} {_COMPARISONS[comparison]} {parameters.bind(each.operands[0], sql_type)}"


def _range(order: _Order, segment: _Segment, parameters: Parameters) -> list[str]:
    first = order.columns[0].place.sql
    written = []
    columns = order.columns
    if segment.null_first_key is not None:
        written.append(f"{first} IS {'' if segment.null_first_key else 'NOT '}NULL")
        if segment.null_first_key:
            columns = columns[1:]
    if segment.after is not None and columns:
        places = ", ".join(column.place.sql for column in columns)
        values = ", ".join(
            parameters.bind(value, _SQL_TYPES[column.kind])
            for column, value in zip(columns, segment.after, strict=True)
        )
        written.append(f"({places}) {'<' if order.descending else '>'} ({values})")
    return written


def _created(source: Source, segment: _Segment, parameters: Parameters) -> list[str]:
    created = f"{source.entity.code}.created_at"
    if segment.created_before is not None:
        return [f"{created} < {parameters.bind(segment.created_before, 'timestamptz')}"]
    if segment.begun_early_since is not None:
        begun = f"{source.entity.code}.{source.begin}"
        since = parameters.bind(segment.begun_early_since, "timestamptz")
        return [f"{created} >= {since}", f"{created} - {begun} > interval '10 minutes'"]
    return []


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _fingerprint(source: Source, scope: Scope, ask: Ask, order: _Order) -> str:
    question = json.dumps(
        [
            ask.rpc, source.entity.code, source.table, sorted(scope.equal.items()), scope.fixed, scope.null,
            ask.filters,
            order.key, order.descending,
        ],
        ensure_ascii=True,
    )  # fmt: skip
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def _next_token(order: _Order, fingerprint: str, passed: int, row: Record) -> str:
    keys: list[Any] = [row[f"key_{index}"] for index in range(len(order.columns))]
    if any(isinstance(key, str) and len(key) > MAX_KEY_CHARS for key in keys):
        return str(passed)
    plain = [(key - _EPOCH) // _MICROSECOND if isinstance(key, datetime) else key for key in keys]
    body = json.dumps([fingerprint, passed, *plain], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


_OFFSET = re.compile(r"[0-9]{1,18}")


def _position(ask: Ask, order: _Order, fingerprint: str) -> _Position:
    if not ask.token:
        return _Position()
    if _OFFSET.fullmatch(ask.token):
        offset = int(ask.token)
        return _Position(offset=offset, passed=offset)
    position = _read_token(ask.token, order, fingerprint)
    if position is None:
        suffix = f" for {ask.rpc}" if ask.rpc else ""
        raise InvalidArgument(f"invalid pagination token {shown(ask.token)}{suffix}")
    return position


def _read_token(token: str, order: _Order, fingerprint: str) -> _Position | None:
    """What a token of this list says; None if it is none."""
    if len(token) > MAX_TOKEN_CHARS:
        return None
    try:
        body = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    match body:
        case [str(owner), int(passed), *plain] if owner == fingerprint and len(plain) == len(order.columns):
            pass
        case _:
            return None
    keys: list[Operand | None] = []
    for column, value in zip(order.columns, plain, strict=True):
        if value is None and column.nullable:
            keys.append(None)
            continue
        key = _read_key(column.kind, value)
        if key is None:
            return None
        keys.append(key)
    return _Position(passed=max(0, min(passed, 10**18 - 1)), after=tuple(keys))


def _read_key(kind: Kind, value: object) -> Operand | None:
    if kind is Kind.TEXT:
        storable = isinstance(value, str) and "\x00" not in value and not re.search("[\ud800-\udfff]", value)
        return value if isinstance(value, str) and storable else None
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        return None
    if kind is not Kind.INSTANT:
        return value
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        return None
