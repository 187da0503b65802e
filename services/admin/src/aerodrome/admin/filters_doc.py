"""Writes the reference of filters and sort keys from the allow-list: `python -m aerodrome.admin.filters_doc FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from aerodrome.admin.domain.filters import (
    COLUMNS,
    JOINABLE,
    MAX_EXPRESSIONS,
    MAX_VALUES,
    Entity,
    Function,
    Kind,
)

_LISTS = {
    Entity.EXECUTION: ("Executions", "`ListExecutions`"),
    Entity.NODE_EXECUTION: ("Node executions", "`ListNodeExecutions`, `ListNodeExecutionsForTask`"),
    Entity.TASK_EXECUTION: ("Task executions", "`ListTaskExecutions`"),
    Entity.TASK: ("Tasks", "`ListTasks`"),
    Entity.WORKFLOW: ("Workflows", "`ListWorkflows`"),
    Entity.LAUNCH_PLAN: ("Launch plans", "`ListLaunchPlans`; `ListActiveLaunchPlans` sorts only"),
    Entity.NAMED_ENTITY: ("Named entities", "`ListNamedEntities`"),
    Entity.IDENTIFIER: ("Identifiers", "`ListTaskIds`, `ListWorkflowIds`, `ListLaunchPlanIds`"),
    Entity.DESCRIPTION_ENTITY: ("Description entities", "`ListDescriptionEntities`"),
    Entity.PROJECT: ("Projects", "`ListProjects`"),
    Entity.SIGNAL: ("Signals", "`ListSignals`"),
}
_FUNCTIONS = {
    Function.EQ: "equal",
    Function.NE: "not equal",
    Function.GT: "greater",
    Function.GTE: "greater or equal",
    Function.LT: "less",
    Function.LTE: "less or equal",
    Function.CONTAINS: "the text contains the value; `%` and `_` are wildcards; upper and lower case differ",
    Function.NOT_LIKE: "the text does not match the pattern; `%` and `_` are wildcards",
    Function.VALUE_IN: "one of a list: `value_in(phase,RUNNING;QUEUED)`",
    Function.VALUE_NOT_IN: "none of a list",
}
_KINDS = {
    Kind.TEXT: "as it is, for example the name of a phase: `SUCCEEDED`",
    Kind.INTEGER: "decimal; states and modes are the numbers of their enums",
    Kind.INSTANT: "RFC 3339: `2026-05-01T13:00:00Z`; without a zone it is UTC",
    Kind.DURATION: "seconds (`2.5`) or Go's notation (`1h2m3s`, `300ms`)",
}
_OTHERS = (Entity.EXECUTION_TAG, Entity.ADMIN_TAG, Entity.NAMED_ENTITY_METADATA)

_HEAD = f"""\
# Filters and sort keys

This page is made from the allow-list by `python -m aerodrome.admin.filters_doc docs/filters.md`.

A list call takes `filters`, such as `eq(phase,FAILED)+gte(started_at,2026-05-01T00:00:00Z)`: expressions
`function(field,value)` joined by `+`, all of which must hold. There is no quoting: a value holds neither `,` nor `+`,
and `;` separates the values of a list. At most {MAX_EXPRESSIONS} expressions, and {MAX_VALUES} values in a list, are
accepted. A field of another entity is written with that entity's prefix: `launch_plan.name`. Over HTTP a `+` is written
`%2B`.

`sort_by.key` is a field of the listed entity, without a prefix. Rows without a value come last ascending and first
descending. Tokens are opaque and belong to the question that they were issued for; a bare decimal is an offset.
"""


def render() -> str:
    """The page, in Markdown."""
    lines = [
        *_HEAD.splitlines(),
        "",
        "| Function | Holds when the field is |",
        "|---|---|",
        *(f"| `{function.value}` | {meaning} |" for function, meaning in _FUNCTIONS.items()),
        "",
        "| Type | How a value is written |",
        "|---|---|",
        *(f"| {kind.value} | {meaning} |" for kind, meaning in _KINDS.items()),
    ]
    for entity, (title, calls) in _LISTS.items():
        prefixes = [each for each in JOINABLE[entity] if each is not entity]
        lines += ["", f"## {title}", "", f"{calls}."]
        if not JOINABLE[entity]:
            lines[-1] += " Sort keys only: filters are ignored."
        elif prefixes:
            lines[-1] += f" Prefixes of other entities: {', '.join(f'`{each.prefix}`' for each in prefixes)}."
        lines += _fields(entity)
    lines += ["", "## Only by prefix"]
    for entity in _OTHERS:
        lines += ["", f"`{entity.prefix}.`", *_fields(entity)]
    return "\n".join(lines) + "\n"


def _fields(entity: Entity) -> list[str]:
    return [
        "",
        "| Field | Type |",
        "|---|---|",
        *(f"| `{name}` | {kind.value} |" for name, kind in COLUMNS[entity].items()),
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the page to the file that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m aerodrome.admin.filters_doc FILE\n")
        return 2
    Path(arguments[0]).write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
