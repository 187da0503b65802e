-- Executions, as they are created and archived.

-- name: insert
-- Nothing comes back if the name is taken, also by an execution that was deleted.
WITH execution AS (
    INSERT INTO executions (
        execution_id, execution_project, execution_domain, execution_name, phase, spec, closure,
        launch_plan_id, workflow_id, task_id, launch_entity, execution_created_at, execution_updated_at, mode,
        source_execution_id, parent_execution_id, parent_node_id, cluster, inputs_uri, user_inputs_uri,
        task_resources, plugin_overrides, recovered_execution_id, error_kind, error_code, "user", state_change
    )
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
           $23, $24, $25, $26
    WHERE NOT EXISTS (
        SELECT FROM execution_tombstones
        WHERE execution_project = $2 AND execution_domain = $3 AND execution_name = $4
    )
    ON CONFLICT (execution_project, execution_domain, execution_name) DO NOTHING
    RETURNING execution_id
), lease AS (
    INSERT INTO leases (execution_id, cluster, state, project) SELECT execution_id, $17, $27, $2 FROM execution
), tags AS (
    INSERT INTO execution_tags (execution_id, key, value)
    SELECT execution.execution_id, tag.key, tag.value
    FROM execution, unnest($28::text[], $29::text[]) AS tag (key, value)
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
