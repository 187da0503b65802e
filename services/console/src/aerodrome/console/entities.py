"""The page of a workflow, task or launch plan, as texts: what it takes and gives, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyteidl.admin import schedule_pb2
from flyteidl.core import types_pb2

from aerodrome.console import literals

MAX_PARTS = 500
"""Nodes of a workflow that are listed."""

MAX_VALUES = 20
"""Values of an enum, variants of a union, and columns that are named."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity: how the API calls it, and what filters of executions call it."""

    title: str
    getter: str
    column: str


KINDS: Mapping[str, Kind] = {
    "workflow": Kind("Workflow", "GetWorkflow", "workflow"),
    "task": Kind("Task", "GetTask", "task"),
    "launch_plan": Kind("Launch plan", "GetLaunchPlan", "launch_plan"),
}
"""By the name that clients put into URLs."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An input or output."""

    name: str
    kind: str
    note: str
    default: literals.Value | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A node of a workflow."""

    node_id: str
    name: str
    runs: str
    after: str


@dataclass(frozen=True, slots=True)
class EntityView:
    """What the page shows."""

    title: str
    facts: tuple[tuple[str, str], ...]
    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    parts: tuple[Part, ...] = ()
    more_parts: int = 0


def view(kind: Kind, entity: Any) -> EntityView:
    """The view of a flyteidl.admin.Workflow, Task or LaunchPlan."""
    make = {"workflow": _workflow, "task": _task, "launch_plan": _launch_plan}[kind.column]
    return make(kind, entity)


def type_text(kind: Any) -> str:
    """A flyteidl.core.LiteralType in words."""
    match kind.WhichOneof("type"):
        case "simple":
            known = types_pb2.SimpleType.DESCRIPTOR.values_by_number.get(kind.simple)
            return "unknown" if known is None else str(known.name).lower()
        case "collection_type":
            return f"list of {type_text(kind.collection_type)}"
        case "map_value_type":
            return f"map of {type_text(kind.map_value_type)}"
        case "blob":
            what = "directory" if kind.blob.dimensionality else "file"
            return f"{what} ({kind.blob.format})" if kind.blob.format else what
        case "enum_type":
            return f"one of {_some(kind.enum_type.values)}"
        case "structured_dataset_type":
            columns = [str(column.name) for column in kind.structured_dataset_type.columns]
            return f"dataset ({_some(columns)})" if columns else "dataset"
        case "schema":
            columns = [str(column.name) for column in kind.schema.columns]
            return f"schema ({_some(columns)})" if columns else "schema"
        case "union_type":
            variants = [type_text(each) for each in kind.union_type.variants[:MAX_VALUES]]
            return " or ".join(dict.fromkeys(variants))
    return "unknown"


def _workflow(kind: Kind, entity: Any) -> EntityView:
    template = entity.closure.compiled_workflow.primary.template
    nodes = [node for node in template.nodes if node.id not in ("start-node", "end-node")]
    return EntityView(
        title=entity.id.name,
        facts=_facts(("Version", entity.id.version), ("Created", _created(entity.closure))),
        inputs=_variables(template.interface.inputs),
        outputs=_variables(template.interface.outputs),
        parts=tuple(
            Part(
                node.id,
                node.metadata.name,
                _runs(node),
                ", ".join(each for each in node.upstream_node_ids if each != "start-node"),
            )
            for node in nodes[:MAX_PARTS]
        ),
        more_parts=max(0, len(nodes) - MAX_PARTS),
    )


def _task(kind: Kind, entity: Any) -> EntityView:
    template = entity.closure.compiled_task.template
    metadata = template.metadata
    cache = f"version {metadata.discovery_version or '(none)'}" if metadata.discoverable else ""
    return EntityView(
        title=entity.id.name,
        facts=_facts(
            ("Version", entity.id.version),
            ("Type", template.type),
            ("Image", template.container.image),
            ("Command", " ".join([*template.container.command, *template.container.args])[:2_000]),
            ("Retries", str(metadata.retries.retries) if metadata.retries.retries else ""),
            ("Cached", cache),
            ("Created", _created(entity.closure)),
        ),
        inputs=_variables(template.interface.inputs),
        outputs=_variables(template.interface.outputs),
    )


def _launch_plan(kind: Kind, entity: Any) -> EntityView:
    spec, closure = entity.spec, entity.closure
    workflow = spec.workflow_id
    fixed = spec.fixed_inputs.literals
    inputs = [
        Variable(
            name,
            type_text(parameter.var.type),
            "required" if parameter.required else "",
            literals.of_literal(parameter.default) if parameter.WhichOneof("behavior") == "default" else None,
        )
        for name, parameter in sorted(closure.expected_inputs.parameters.items())
    ]
    inputs += [Variable(name, "", "fixed", literals.of_literal(fixed[name])) for name in sorted(fixed)]
    return EntityView(
        title=entity.id.name,
        facts=_facts(
            ("Version", entity.id.version),
            ("State", "active" if closure.state else "inactive"),
            ("Workflow", f"{workflow.name} @ {workflow.version}"),
            ("Schedule", _schedule(spec.entity_metadata.schedule)),
            ("Created", _created(closure)),
        ),
        inputs=tuple(inputs),
        outputs=_variables(closure.expected_outputs),
    )


def _variables(found: Any) -> tuple[Variable, ...]:
    return tuple(
        Variable(name, type_text(found.variables[name].type), _note(name, found.variables[name].description))
        for name in sorted(found.variables)
    )


def _note(name: str, description: str) -> str:
    return "" if description == name else description


def _runs(node: Any) -> str:
    target = node.WhichOneof("target")
    if target == "task_node":
        return f"task {node.task_node.reference_id.name}"
    if target == "workflow_node":
        reference = node.workflow_node.WhichOneof("reference")
        if reference == "launchplan_ref":
            return f"launch plan {node.workflow_node.launchplan_ref.name}"
        return f"workflow {node.workflow_node.sub_workflow_ref.name}"
    return {"branch_node": "a branch", "gate_node": "a gate", "array_node": "a map"}.get(target or "", "")


def _schedule(schedule: Any) -> str:
    match schedule.WhichOneof("ScheduleExpression"):
        case "cron_schedule":
            return str(schedule.cron_schedule.schedule)
        case "cron_expression":
            return str(schedule.cron_expression)
        case "rate":
            unit = schedule_pb2.FixedRateUnit.DESCRIPTOR.values_by_number.get(schedule.rate.unit)
            name = "unit" if unit is None else str(unit.name).lower()
            return f"every {schedule.rate.value} {name}{'' if schedule.rate.value == 1 else 's'}"
    return ""


def _created(closure: Any) -> str:
    return literals.second(closure.created_at) if closure.HasField("created_at") else ""


def _some(values: Any) -> str:
    more = ", …" if len(values) > MAX_VALUES else ""
    return ", ".join(values[:MAX_VALUES]) + more


def _facts(*facts: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in facts if value)
