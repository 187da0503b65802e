-- name: get_spec
SELECT spec FROM executions WHERE execution_id = $1;

-- name: set_spec
UPDATE executions SET spec = $2 WHERE execution_id = $1;

-- name: load_nodes
SELECT node.execution_id, node.node_id, node.phase, node.closure, node.node_execution_metadata, node.input_uri,
    node.started_at, node.node_execution_created_at, node.node_execution_updated_at, node.duration,
    node.parent_node_id, node.parent_task_execution_id, node.error_kind, node.error_code, node.cache_status,
    node.dynamic_workflow_remote_closure_reference, node.event_version, node.engine_state
FROM unnest($1::bigint[], $2::text[]) AS wanted (execution_id, node_id)
JOIN node_executions AS node USING (execution_id, node_id);

-- name: load_live_nodes
SELECT execution_id, node_id, phase, closure, node_execution_metadata, input_uri, started_at,
    node_execution_created_at, node_execution_updated_at, duration, parent_node_id, parent_task_execution_id,
    error_kind, error_code, cache_status, dynamic_workflow_remote_closure_reference, event_version, engine_state
FROM node_executions AS node
WHERE execution_id = $1
    AND (
        phase <> ALL($2::text[])
        OR EXISTS (
            SELECT FROM task_executions AS task
            WHERE task.execution_id = node.execution_id AND task.node_id = node.node_id
                AND task.phase <> ALL($3::text[])
        )
    )
ORDER BY created_at, id;

-- name: load_tasks
SELECT task.execution_id, task.node_id, task.retry_attempt, task.name, task.version, task.project, task.domain,
    task.phase, task.phase_version, task.closure, task.input_uri, task.started_at, task.task_execution_created_at,
    task.task_execution_updated_at, task.duration, task.engine_state
FROM unnest($1::bigint[], $2::text[]) AS wanted (execution_id, node_id)
JOIN task_executions AS task USING (execution_id, node_id)
ORDER BY task.retry_attempt;

-- name: load_items
SELECT item.execution_id, item.node_id, item.item_index, item.phase, item.attempt
FROM unnest($1::bigint[], $2::text[]) AS wanted (execution_id, node_id)
JOIN node_items AS item USING (execution_id, node_id);

-- name: put_items
-- ranges in the order in which they were reported; of several that cover an item, the last one counts; the error of an
-- attempt that failed stays while the next one runs, and the place of a log until the next one begins
INSERT INTO node_items (
    execution_id, node_id, item_index, attempt, system_failures, phase, cache_status, error, log_uri
)
SELECT DISTINCT ON (given.execution_id, given.node_id, item.index)
    given.execution_id, given.node_id, item.index, given.attempt, given.system_failures, given.phase,
    given.cache_status, given.error, given.log_uri
FROM unnest(
    $1::bigint[], $2::text[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::smallint[],
    $8::smallint[], $9::bytea[], $10::text[]
) WITH ORDINALITY AS given (
    execution_id, node_id, first, last, attempt, system_failures, phase, cache_status, error, log_uri, ordinal
),
LATERAL generate_series(given.first, given.last) AS item (index)
ORDER BY given.execution_id, given.node_id, item.index, given.ordinal DESC
ON CONFLICT (execution_id, node_id, item_index) DO UPDATE
SET attempt = excluded.attempt,
    system_failures = excluded.system_failures,
    phase = excluded.phase,
    cache_status = excluded.cache_status,
    error = CASE WHEN excluded.phase = 3 THEN NULL ELSE coalesce(excluded.error, node_items.error) END,
    log_uri = CASE
        WHEN excluded.attempt = node_items.attempt AND excluded.log_uri = '' THEN node_items.log_uri
        ELSE excluded.log_uri
    END,
    updated_at = now();

-- name: find_task_id
SELECT id
FROM task_executions
WHERE execution_id = $1 AND node_id = $2 AND retry_attempt = $3
    AND name = $4 AND version = $5 AND project = $6 AND domain = $7;

-- name: abort_items
UPDATE node_items
SET phase = $2, updated_at = now()
WHERE execution_id = $1 AND phase <> ALL($3::smallint[]);

-- name: list_node_ids
SELECT node_id FROM node_executions WHERE execution_id = $1 ORDER BY created_at, id;
