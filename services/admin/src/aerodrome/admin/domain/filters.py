"""The filter language of the list calls, and what may be filtered and sorted by.

`eq(phase,SUCCEEDED)+gte(started_at,2024-05-01T00:00:00Z)+value_in(launch_plan.name,a;b)`: expressions that must all
hold.  There is no quoting: a value holds neither `,` nor `+`, and `;` separates the values of a list.  Fields are an
allow-list (`COLUMNS`); a value is read here, by the type of its column, so that nothing a caller wrote ever becomes SQL
text.  How a field is found in the tables is the repositories' subject.  Source: spec/control-plane.md, 6.2 to 6.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from types import MappingProxyType

from aerodrome.admin.domain.validation import invalid_value, shown
from aerodrome.stdlib.errors import InvalidArgument

MAX_FILTERS_CHARS = 1_048_576
"""Longest `filters` text."""
MAX_EXPRESSIONS = 100
"""Most expressions in one `filters` text."""
MAX_VALUES = 10_000
"""Most values in one list."""

Operand = str | int | datetime
"""A value as its column holds it."""


class Entity(Enum):
    """What a field belongs to: the code that error messages use, and the prefix that callers write."""

    EXECUTION = ("e", "execution")
    LAUNCH_PLAN = ("l", "launch_plan")
    NODE_EXECUTION = ("ne", "node_execution")
    TASK = ("t", "task")
    TASK_EXECUTION = ("te", "task_execution")
    WORKFLOW = ("w", "workflow")
    NAMED_ENTITY = ("nen", "entities")
    NAMED_ENTITY_METADATA = ("nem", "named_entity_metadata")
    PROJECT = ("p", "project")
    SIGNAL = ("s", "signal")
    ADMIN_TAG = ("at", "admin_tag")
    EXECUTION_ADMIN_TAG = ("eat", "execution_admin_tag")
    EXECUTION_TAG = ("et", "execution_tag")
    DESCRIPTION_ENTITY = ("de", "description_entity")
    IDENTIFIER = ("id", "identifier")

    def __init__(self, code: str, prefix: str) -> None:
        self.code = code
        self.prefix = prefix


class Kind(Enum):
    """The type of a column, and with it of the values that it is compared with."""

    TEXT = "text"
    INTEGER = "whole number"
    INSTANT = "instant"
    DURATION = "duration"


class Function(Enum):
    """The comparisons."""

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    CONTAINS = "contains"
    NOT_LIKE = "not_like"
    VALUE_IN = "value_in"
    VALUE_NOT_IN = "value_not_in"

    @property
    def takes_list(self) -> bool:
        """Whether its value is a list."""
        return self in (Function.VALUE_IN, Function.VALUE_NOT_IN)

    @property
    def matches_pattern(self) -> bool:
        """Whether its value is a pattern, which only text can be matched with."""
        return self in (Function.CONTAINS, Function.NOT_LIKE)


@dataclass(frozen=True, slots=True)
class Expression:
    """One `function(field,value)` as it was written."""

    function: str
    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one column; `operands` has one element unless the function takes a list."""

    entity: Entity
    column: str
    function: Function
    operands: tuple[Operand, ...]


_KEY = {"project": Kind.TEXT, "domain": Kind.TEXT, "name": Kind.TEXT, "version": Kind.TEXT}
_EXECUTION_KEY = {"execution_project": Kind.TEXT, "execution_domain": Kind.TEXT, "execution_name": Kind.TEXT}
_ROW = {"id": Kind.INTEGER, "created_at": Kind.INSTANT, "updated_at": Kind.INSTANT}
_DELETED = {"deleted_at": Kind.INSTANT}
_INSTANTS = {"created_at": Kind.INSTANT, "updated_at": Kind.INSTANT, "deleted_at": Kind.INSTANT}
_NAMED = {
    "resource_type": Kind.INTEGER, "project": Kind.TEXT, "domain": Kind.TEXT, "name": Kind.TEXT,
    "description": Kind.TEXT, "state": Kind.INTEGER,
}  # fmt: skip

COLUMNS: Mapping[Entity, Mapping[str, Kind]] = MappingProxyType(
    {
        Entity.EXECUTION: _EXECUTION_KEY
        | _ROW
        | _DELETED
        | {
            "launch_plan_id": Kind.INTEGER,
            "workflow_id": Kind.INTEGER,
            "task_id": Kind.INTEGER,
            "phase": Kind.TEXT,
            "started_at": Kind.INSTANT,
            "execution_created_at": Kind.INSTANT,
            "execution_updated_at": Kind.INSTANT,
            "duration": Kind.DURATION,
            "abort_cause": Kind.TEXT,
            "mode": Kind.INTEGER,
            "source_execution_id": Kind.INTEGER,
            "parent_node_execution_id": Kind.INTEGER,
            "cluster": Kind.TEXT,
            "inputs_uri": Kind.TEXT,
            "user_inputs_uri": Kind.TEXT,
            "error_kind": Kind.TEXT,
            "error_code": Kind.TEXT,
            "user": Kind.TEXT,
            "state": Kind.INTEGER,
            "launch_entity": Kind.TEXT,
        },
        Entity.NODE_EXECUTION: _EXECUTION_KEY
        | _ROW
        | _DELETED
        | {
            "node_id": Kind.TEXT,
            "phase": Kind.TEXT,
            "input_uri": Kind.TEXT,
            "started_at": Kind.INSTANT,
            "node_execution_created_at": Kind.INSTANT,
            "node_execution_updated_at": Kind.INSTANT,
            "duration": Kind.DURATION,
            "parent_id": Kind.INTEGER,
            "parent_task_execution_id": Kind.INTEGER,
            "error_kind": Kind.TEXT,
            "error_code": Kind.TEXT,
            "cache_status": Kind.TEXT,
            "dynamic_workflow_remote_closure_reference": Kind.TEXT,
        },
        Entity.TASK_EXECUTION: _KEY
        | _EXECUTION_KEY
        | _ROW
        | _DELETED
        | {
            "node_id": Kind.TEXT,
            "retry_attempt": Kind.INTEGER,
            "phase": Kind.TEXT,
            "phase_version": Kind.INTEGER,
            "input_uri": Kind.TEXT,
            "started_at": Kind.INSTANT,
            "task_execution_created_at": Kind.INSTANT,
            "task_execution_updated_at": Kind.INSTANT,
            "duration": Kind.DURATION,
        },
        Entity.TASK: _KEY | _ROW | _DELETED | {"type": Kind.TEXT, "short_description": Kind.TEXT},
        Entity.WORKFLOW: _KEY
        | _ROW
        | _DELETED
        | {"remote_closure_identifier": Kind.TEXT, "short_description": Kind.TEXT},
        Entity.LAUNCH_PLAN: _KEY
        | _ROW
        | _DELETED
        | {
            "workflow_id": Kind.INTEGER,
            "state": Kind.INTEGER,
            "schedule_type": Kind.TEXT,
            "launch_condition_type": Kind.TEXT,
        },
        Entity.PROJECT: _ROW
        | _DELETED
        | {"identifier": Kind.TEXT, "name": Kind.TEXT, "description": Kind.TEXT, "state": Kind.INTEGER},
        Entity.NAMED_ENTITY: _NAMED,
        Entity.NAMED_ENTITY_METADATA: _NAMED,
        Entity.SIGNAL: _EXECUTION_KEY | _ROW | _DELETED | {"signal_id": Kind.TEXT},
        Entity.EXECUTION_TAG: _EXECUTION_KEY | _INSTANTS | {"key": Kind.TEXT, "value": Kind.TEXT},
        Entity.ADMIN_TAG: _INSTANTS | {"name": Kind.TEXT},
        Entity.EXECUTION_ADMIN_TAG: {},
        Entity.DESCRIPTION_ENTITY: _KEY
        | _ROW
        | _DELETED
        | {"resource_type": Kind.INTEGER, "short_description": Kind.TEXT, "link": Kind.TEXT},
        Entity.IDENTIFIER: {"project": Kind.TEXT, "domain": Kind.TEXT, "name": Kind.TEXT},
    }
)
"""What each entity may be filtered by, and sorted by where it is what is listed; not columns that hold protobuf."""

JOINABLE: Mapping[Entity, tuple[Entity, ...]] = MappingProxyType(
    {
        Entity.EXECUTION: (
            Entity.EXECUTION, Entity.LAUNCH_PLAN, Entity.WORKFLOW, Entity.TASK, Entity.ADMIN_TAG, Entity.EXECUTION_TAG,
        ),
        Entity.LAUNCH_PLAN: (Entity.LAUNCH_PLAN, Entity.WORKFLOW),
        Entity.NODE_EXECUTION: (Entity.NODE_EXECUTION, Entity.EXECUTION),
        Entity.TASK_EXECUTION: (Entity.TASK_EXECUTION, Entity.TASK, Entity.EXECUTION, Entity.NODE_EXECUTION),
        Entity.TASK: (Entity.TASK,),
        Entity.WORKFLOW: (Entity.WORKFLOW,),
        Entity.PROJECT: (Entity.PROJECT,),
        Entity.SIGNAL: (Entity.SIGNAL,),
        Entity.NAMED_ENTITY: (Entity.NAMED_ENTITY, Entity.NAMED_ENTITY_METADATA),
        Entity.DESCRIPTION_ENTITY: (Entity.DESCRIPTION_ENTITY,),
        Entity.IDENTIFIER: (),
    }
)  # fmt: skip
"""The prefixes that a list of each entity understands; nothing else can be listed."""

_BY_PREFIX: Mapping[str, Entity] = {
    entity.prefix: entity for entity in Entity if entity not in (Entity.IDENTIFIER, Entity.DESCRIPTION_ENTITY)
}


def parse(filters: str, primary: Entity) -> tuple[Filter, ...]:
    """The conditions that `filters` asks for in a list of `primary`; none for an empty text.

    Raises InvalidArgument, with the texts that clients know, for anything that is not such a condition.
    """
    return tuple(resolve(expression, primary) for expression in split(filters))


def split(filters: str) -> tuple[Expression, ...]:
    """The expressions of `filters`, unjudged.  Raises InvalidArgument if one is malformed or there are too many."""
    if not filters:
        return ()
    if len(filters) > MAX_FILTERS_CHARS:
        raise InvalidArgument(
            f"filters are too long: {len(filters)} characters, at most {MAX_FILTERS_CHARS} are allowed"
        )
    parts = filters.split("+", MAX_EXPRESSIONS)
    if len(parts) > MAX_EXPRESSIONS:
        raise InvalidArgument(f"too many filters: at most {MAX_EXPRESSIONS} expressions are allowed")
    return tuple(map(_expression, parts))


def join(expressions: Iterable[Expression]) -> str:
    """The text of `expressions`: what `split` takes apart again."""
    return "+".join(f"{each.function}({each.field},{each.value})" for each in expressions)


def resolve(expression: Expression, primary: Entity) -> Filter:
    """What `expression` means in a list of `primary`.  Raises InvalidArgument if it means nothing there."""
    try:
        function = Function(expression.function)
    except ValueError:
        raise InvalidArgument(f"unrecognized filter function: {shown(expression.function)}") from None
    prefix, _, column = expression.field.rpartition(".")
    entity = _BY_PREFIX.get(prefix)
    if entity is None:  # no prefix, or none that is known: then the whole is no column either
        entity, column = primary, expression.field
    if entity not in JOINABLE[primary]:
        raise InvalidArgument(f"'{entity.code}' entity is not allowed in filters")
    kind = COLUMNS[entity].get(column)
    if kind is None:
        raise InvalidArgument(f"'{entity.code}.{shown(column)}' is invalid filter")
    if function.matches_pattern and kind is not Kind.TEXT:
        raise InvalidArgument(f"{function.value} compares texts, but '{entity.code}.{column}' is a {kind.value}")
    values = expression.value.split(";", MAX_VALUES)
    if not function.takes_list and len(values) > 1:
        raise InvalidArgument(f"{function.value} takes one value, but [{shown(expression.value)}] is a list")
    if len(values) > MAX_VALUES:
        raise InvalidArgument(f"too many values for {entity.code}.{column}: at most {MAX_VALUES} are allowed")
    return Filter(entity, column, function, tuple(operand(kind, value) for value in values))


def operand(kind: Kind, value: str) -> Operand:
    """`value` as a column of `kind` holds it; durations are nanoseconds.  Raises InvalidArgument if it is none."""
    match kind:
        case Kind.TEXT:
            return _text(value)
        case Kind.INTEGER:
            return _integer(value)
        case Kind.INSTANT:
            return _instant(value)
        case Kind.DURATION:
            return _duration(value)


def sort_kind(primary: Entity, key: str) -> Kind:
    """The type of the column that `key` names in a list of `primary`.  Raises InvalidArgument if there is none."""
    kind = COLUMNS[primary].get(key)
    if kind is None:
        raise InvalidArgument(f"invalid sort key '{shown(key)}'")
    return kind


def _expression(text: str) -> Expression:
    """The function reaches to the last `(` that leaves room for a field, the field to the last `,` before the end."""
    end = text.rfind(")")
    comma = text.rfind(",", 0, max(end - 1, 0))
    opening = text.rfind("(", 1, max(comma - 1, 0))
    if end < 0 or comma < 0 or opening < 0 or "\n" in text:
        raise invalid_value("filters")
    value = text[comma + 1 : end]
    if len(value) > 1 and value[0] in " \t\f\r":
        value = value[1:]
    return Expression(function=text[:opening], field=text[opening + 1 : comma], value=value)


def _text(value: str) -> str:
    if "\x00" in value:
        raise InvalidArgument("filters must not contain NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("filters are not valid Unicode text") from None
    return value


_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_INT64 = range(-(2**63), 2**63)


def _integer(value: str) -> int:
    if not _INTEGER.fullmatch(value) or (number := int(value)) not in _INT64:
        raise InvalidArgument(f"[{shown(value)}] is not a whole number")
    return number


def _instant(value: str) -> datetime:
    try:
        instant = datetime.fromisoformat(value.strip())
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"[{shown(value)}] is not an instant; write it as in RFC 3339, such as 2024-05-01T13:00:00Z"
        ) from None


_SECONDS = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?")
_UNIT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000,
    "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip


def _duration(value: str) -> int:
    """Nanoseconds of a number of seconds (`2.5`) or of Go's notation (`1h2m3s`, `300ms`)."""
    nanoseconds = Decimal(value) * 1_000_000_000 if _SECONDS.fullmatch(value) else _go_duration(value)
    if nanoseconds is None or int(nanoseconds) not in _INT64:
        raise InvalidArgument(f"Failed to parse duration [{shown(value)}]")
    return int(nanoseconds)


def _go_duration(value: str) -> Decimal | None:
    negative = value.startswith("-")
    rest = value.removeprefix("-") if negative else value.removeprefix("+")
    total, at = Decimal(0), 0
    while at < len(rest) and at < 256:
        if (part := _UNIT.match(rest, at)) is None:
            return None
        total += Decimal(part[1]) * _NANOSECONDS[part[2]]
        at = part.end()
    return (-total if negative else total) if 0 < at == len(rest) else None
