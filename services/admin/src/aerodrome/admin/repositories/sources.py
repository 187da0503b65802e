"""What the list calls list: tables, joins, and where each field of the allow-list is found in this schema.

Node and task executions refer to their execution by number, so the fields of an execution's key come from a join; an
execution's parent and a node's parent are kept as keys, so their numbers are looked up.  A join here never multiplies
rows: tags, of which an execution has many, are asked for with EXISTS.  Source: spec/control-plane.md, 6.3, 6.4, 6.7.
"""

from __future__ import annotations

from typing import Final

from flyteidl.core.identifier_pb2 import ResourceType

from aerodrome.admin.domain.filters import Entity
from aerodrome.admin.repositories.listing import Lead, Place, Source

_THROUGH_EXECUTION: Final = frozenset({Entity.EXECUTION})


def _execution_key(entity: Entity) -> dict[tuple[Entity, str], Place]:
    """The key of the execution that rows of `entity` belong to, and its own fields."""
    return {
        (entity, column): Place(f"e.{column}", _THROUGH_EXECUTION)
        for column in ("execution_project", "execution_domain", "execution_name")
    }


_NEVER: Final = Place("NULL::timestamptz")
"""When rows were deleted that this schema does not keep once they are."""


def _instants(entity: Entity, row: str) -> dict[tuple[Entity, str], Place]:
    """When rows that are never changed were made, changed and deleted."""
    made = Place(f"{row}.created_at")
    return {(entity, "created_at"): made, (entity, "updated_at"): made, (entity, "deleted_at"): _NEVER}


_OF_EXECUTIONS = {
    (Entity.EXECUTION, "id"): Place("e.execution_id"),
    (Entity.EXECUTION, "parent_node_execution_id"): Place(
        "(SELECT parent.id FROM node_executions parent "
        "WHERE parent.execution_id = e.parent_execution_id AND parent.node_id = e.parent_node_id)"
    ),
}
_JOINED_EXECUTION = {key: Place(place.sql, _THROUGH_EXECUTION) for key, place in _OF_EXECUTIONS.items()}
_OF_NODE_EXECUTIONS = {
    (Entity.NODE_EXECUTION, "parent_id"): Place(
        "(SELECT parent.id FROM node_executions parent "
        "WHERE parent.execution_id = ne.execution_id AND parent.node_id = ne.parent_node_id)"
    ),
    (Entity.NODE_EXECUTION, "deleted_at"): _NEVER,
}


def _tagged(entity: Entity, column: str) -> Lead:
    """The executions of a tag, as `entity` has tags, in the order of creation."""
    tag = entity.code
    return Lead(
        column=column,
        # by nothing but the key: whatever else is equal too, the planner would take for a further restriction
        join=f"JOIN execution_tags {tag} ON {tag}.execution_id = e.execution_id",
        first=(
            # in what the planner cannot see through: it would think that next to no tag is the lowest of its execution
            f"coalesce(({tag}.key, {tag}.value) = (SELECT lowest.key, lowest.value FROM execution_tags lowest "
            f"WHERE lowest.execution_id = {tag}.execution_id AND {{conditions}} "
            "ORDER BY lowest.key, lowest.value LIMIT 1), false)"
        ),
        places={"created_at": Place(f"{tag}.execution_created_at"), "id": Place(f"{tag}.execution_id")},
        scope={column: f"{tag}.{column}" for column in ("execution_project", "execution_domain")},
    )


EXECUTIONS = Source(
    entity=Entity.EXECUTION,
    select=(
        "e.execution_project, e.execution_domain, e.execution_name, "
        "e.spec || CASE WHEN e.phase = 'QUEUED' THEN coalesce((SELECT w.shown FROM waiting_executions w "
        "WHERE w.execution_id = e.execution_id), '') ELSE '' END AS spec, "  # what it waits for
        "e.closure || e.state_change AS closure, e.phase, e.abort_cause, "
        'e."user", e.created_at'
    ),
    table="executions e",
    tie=("id",),
    joins={
        Entity.LAUNCH_PLAN: "JOIN launch_plans l ON l.id = e.launch_plan_id AND e.launch_entity = 'launch_plan'",
        Entity.WORKFLOW: "JOIN workflows w ON w.id = e.workflow_id",
        Entity.TASK: "JOIN tasks t ON t.id = e.task_id",
    },
    exists={
        Entity.ADMIN_TAG: ("execution_tags at", "at.execution_id = e.execution_id"),
        Entity.EXECUTION_TAG: ("execution_tags et", "et.execution_id = e.execution_id"),
    },
    leads={
        Entity.ADMIN_TAG: _tagged(Entity.ADMIN_TAG, "name"),
        Entity.EXECUTION_TAG: _tagged(Entity.EXECUTION_TAG, "key"),
    },
    places=_OF_EXECUTIONS
    | _instants(Entity.ADMIN_TAG, "at")
    | _instants(Entity.EXECUTION_TAG, "et")
    | {
        (Entity.ADMIN_TAG, "name"): Place("at.key"),
        (Entity.EXECUTION_TAG, "execution_project"): Place("e.execution_project"),
        (Entity.EXECUTION_TAG, "execution_domain"): Place("e.execution_domain"),
        (Entity.EXECUTION_TAG, "execution_name"): Place("e.execution_name"),
    },
    nullable=frozenset(
        {
            "deleted_at", "launch_plan_id", "task_id", "started_at", "duration", "source_execution_id",
            "parent_node_execution_id", "error_kind", "error_code",
        }
    ),
    numbered={
        Entity.LAUNCH_PLAN: ("e.launch_plan_name_id", ResourceType.LAUNCH_PLAN),
        Entity.WORKFLOW: ("e.workflow_name_id", ResourceType.WORKFLOW),
        Entity.TASK: ("e.task_name_id", ResourceType.TASK),
    },
    begin="started_at",
    advice=(
        "add an eq filter on execution_name, phase, user, mode, or on project, domain and name of launch_plan, "
        "workflow or task, or a range of started_at or duration, and sort by created_at or started_at"
    ),
)  # fmt: skip

NODE_EXECUTIONS = Source(
    entity=Entity.NODE_EXECUTION,
    select=(
        "ne.node_id, ne.input_uri, ne.closure, ne.node_execution_metadata, "
        "ne.dynamic_workflow_remote_closure_reference <> '' AS is_dynamic, "
        # not EXISTS, for which all nodes of all executions may be put into a hash table if many rows are expected
        "ne.event_version = 0 AND coalesce((SELECT true FROM node_executions child "
        "WHERE child.execution_id = ne.execution_id AND child.parent_node_id = ne.node_id AND child.phase <> '' "
        "LIMIT 1), false) AS is_parent"
    ),
    table="node_executions ne",
    tie=("id",),
    joins={Entity.EXECUTION: "JOIN executions e ON e.execution_id = ne.execution_id"},
    places=_execution_key(Entity.NODE_EXECUTION) | _JOINED_EXECUTION | _OF_NODE_EXECUTIONS,
    nullable=frozenset(
        {
            "deleted_at", "started_at", "node_execution_created_at", "node_execution_updated_at", "duration",
            "parent_id", "parent_task_execution_id", "error_kind", "error_code", "cache_status",
        }
    ),
    apart="phase",
    advice="list below a unique_parent_id, add a filter on node_id, or sort by created_at",
)  # fmt: skip

TASK_EXECUTIONS = Source(
    entity=Entity.TASK_EXECUTION,
    select=(
        "te.node_id, te.retry_attempt, te.project, te.domain, te.name, te.version, te.input_uri, te.closure, "
        "EXISTS (SELECT 1 FROM node_executions child WHERE child.execution_id = te.execution_id "
        "AND child.parent_task_execution_id = te.id AND child.phase <> '') AS is_parent, te.execution_id, "
        "EXISTS (SELECT 1 FROM node_items item WHERE item.execution_id = te.execution_id "
        "AND item.node_id = te.node_id) AND NOT EXISTS (SELECT 1 FROM task_executions later "
        "WHERE later.execution_id = te.execution_id AND later.node_id = te.node_id "
        "AND later.retry_attempt > te.retry_attempt AND later.phase <> '') AS has_items"
    ),
    table="task_executions te",
    tie=("id",),
    joins={
        Entity.TASK: (
            "LEFT JOIN tasks t ON t.project = te.project AND t.domain = te.domain "
            "AND t.name = te.name AND t.version = te.version"
        ),
        Entity.EXECUTION: "JOIN executions e ON e.execution_id = te.execution_id",
        Entity.NODE_EXECUTION: (
            "JOIN node_executions ne ON ne.execution_id = te.execution_id AND ne.node_id = te.node_id"
        ),
    },
    places=_execution_key(Entity.TASK_EXECUTION)
    | _JOINED_EXECUTION
    | {(Entity.TASK_EXECUTION, "deleted_at"): _NEVER}
    | {
        (Entity.NODE_EXECUTION, column): Place(f"e.{column}", frozenset({Entity.EXECUTION, Entity.NODE_EXECUTION}))
        for column in ("execution_project", "execution_domain", "execution_name")
    }
    | {key: Place(place.sql, frozenset({Entity.NODE_EXECUTION})) for key, place in _OF_NODE_EXECUTIONS.items()},
    nullable=frozenset(
        {"deleted_at", "started_at", "task_execution_created_at", "task_execution_updated_at", "duration"}
    ),
)

TASKS = Source(
    entity=Entity.TASK,
    select="t.project, t.domain, t.name, t.version, t.closure, t.short_description",
    table="tasks t",
    tie=("id",),
    nullable=frozenset({"deleted_at"}),
)

WORKFLOWS = Source(
    entity=Entity.WORKFLOW,
    select="w.project, w.domain, w.name, w.version, w.typed_interface, w.created_at, w.short_description",
    table="workflows w",
    tie=("id",),
    nullable=frozenset({"deleted_at"}),
)

LAUNCH_PLANS = Source(
    entity=Entity.LAUNCH_PLAN,
    select="l.project, l.domain, l.name, l.version, l.spec, l.closure, l.state, l.created_at, l.updated_at",
    table="launch_plans l",
    tie=("id",),
    joins={Entity.WORKFLOW: "JOIN workflows w ON w.id = l.workflow_id"},
    nullable=frozenset({"deleted_at", "launch_condition_type"}),
)

DESCRIPTION_ENTITIES = Source(
    entity=Entity.DESCRIPTION_ENTITY,
    select=(
        "de.resource_type, de.project, de.domain, de.name, de.version, de.short_description, de.long_description, "
        "de.link"
    ),
    table="description_entities de",
    tie=("id",),
    nullable=frozenset({"deleted_at"}),
)

IDENTIFIERS = {
    table: Source(
        entity=Entity.IDENTIFIER,
        select="id.project, id.domain, id.name",
        table=f"(SELECT project, domain, name FROM registered_names WHERE resource_type = {resource_type:d}) id",
        tie=("project", "domain", "name"),
        default_sort="project",
    )
    for table, resource_type in (
        ("tasks", ResourceType.TASK), ("workflows", ResourceType.WORKFLOW), ("launch_plans", ResourceType.LAUNCH_PLAN),
    )
}  # fmt: skip
"""The distinct names of registered entities, by their table."""


def named_entities(resource_type: int) -> Source:
    """The names of the entities of this type with what is known of each; nothing stored means the defaults."""
    places = {
        "resource_type": Place(f"{resource_type:d}::bigint"),
        "project": Place("nen.project"),
        "domain": Place("nen.domain"),
        "name": Place("nen.name"),
        "description": Place("coalesce(nem.description, '')"),
        "state": Place("coalesce(nem.state, 0)"),
    }
    return Source(
        entity=Entity.NAMED_ENTITY,
        select=(
            "nen.project, nen.domain, nen.name, coalesce(nem.description, '') AS description, "
            "coalesce(nem.state, 0) AS state"
        ),
        table=(
            f"(SELECT project, domain, name FROM registered_names WHERE resource_type = {resource_type:d}) nen "
            f"LEFT JOIN named_entity_metadata nem ON nem.resource_type = {resource_type:d} "
            "AND nem.project = nen.project AND nem.domain = nen.domain AND nem.name = nen.name"
        ),
        tie=("project", "domain", "name"),
        default_sort="project",
        places={
            (entity, column): place
            for entity in (Entity.NAMED_ENTITY, Entity.NAMED_ENTITY_METADATA)
            for column, place in places.items()
        },
    )
