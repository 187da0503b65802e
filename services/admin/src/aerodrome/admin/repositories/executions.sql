-- Executions, as they are created and archived.

-- name: insert
-- Any number of executions with their leases and their tags.  The ids of those come back whose names were free: not
-- taken by another one of these either, nor by an execution that was deleted.  They are inserted in the order in which
-- they are given, which is that of their names for everybody: so two such statements never wait for each other in turn.
WITH given AS (
    SELECT *
    FROM unnest(
        $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::text[], $12::timestamptz[], $13::smallint[], $14::bigint[], $15::bigint[],
        $16::text[], $17::text[], $18::text[], $19::text[], $20::bytea[], $21::bytea[], $22::bigint[], $23::text[],
        $24::text[], $25::text[], $26::bytea[], $27::text[]
    ) WITH ORDINALITY AS given (
        execution_id, project, domain, name, phase, spec, closure, launch_plan_id, workflow_id, task_id, launch_entity,
        at, mode, source_execution_id, parent_execution_id, parent_node_id, cluster, inputs_uri, user_inputs_uri,
        task_resources, plugin_overrides, recovered_execution_id, error_kind, error_code, "user", state_change,
        lease_state, number
    )
), execution AS (
    INSERT INTO executions (
        execution_id, execution_project, execution_domain, execution_name, phase, spec, closure,
        launch_plan_id, workflow_id, task_id, launch_entity, execution_created_at, execution_updated_at, mode,
        source_execution_id, parent_execution_id, parent_node_id, cluster, inputs_uri, user_inputs_uri,
        task_resources, plugin_overrides, recovered_execution_id, error_kind, error_code, "user", state_change
    )
    SELECT execution_id, project, domain, name, phase, spec, closure, launch_plan_id, workflow_id, task_id,
           launch_entity, at, at, mode, source_execution_id, parent_execution_id, parent_node_id, cluster, inputs_uri,
           user_inputs_uri, task_resources, plugin_overrides, recovered_execution_id, error_kind, error_code, "user",
           state_change
    FROM given
    WHERE NOT EXISTS (
        SELECT FROM execution_tombstones t
        WHERE t.execution_project = given.project AND t.execution_domain = given.domain
          AND t.execution_name = given.name
    )
    ORDER BY number
    ON CONFLICT (execution_project, execution_domain, execution_name) DO NOTHING
    RETURNING execution_id
), lease AS (
    INSERT INTO leases (execution_id, cluster, state, project)
    SELECT given.execution_id, given.cluster, given.lease_state, given.project
    FROM execution JOIN given USING (execution_id)
), tags AS (
    INSERT INTO execution_tags (execution_id, key, value)
    SELECT execution_id, tag.key, tag.value
    FROM execution JOIN unnest($28::bigint[], $29::text[], $30::text[]) AS tag (execution_id, key, value)
        USING (execution_id)
)
SELECT execution_id FROM execution;

-- name: source
SELECT execution_id, spec, phase, "user", inputs_uri, user_inputs_uri
FROM executions
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;

-- name: parent
SELECT e.execution_id, e.spec, e.phase, e."user"
FROM executions e
JOIN node_executions n ON n.execution_id = e.execution_id AND n.node_id = $4 AND n.phase <> ''
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3;

-- name: set_state
UPDATE executions SET state = $4, state_change = $5, updated_at = now()
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3
RETURNING execution_id;
