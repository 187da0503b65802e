-- Items of maps, one row each.

-- name: find_node
SELECT node.execution_id
FROM executions AS execution
JOIN node_executions AS node USING (execution_id)
WHERE execution.execution_project = $1 AND execution.execution_domain = $2 AND execution.execution_name = $3
    AND node.node_id = $4 AND node.phase <> '';

-- name: count
SELECT phase, count(*) AS count
FROM node_items
WHERE execution_id = $1 AND node_id = $2
GROUP BY phase;

-- name: list
SELECT item_index, attempt, system_failures, phase, cache_status, error, log_uri, updated_at
FROM node_items
WHERE execution_id = $1 AND node_id = $2 AND item_index > $3
    AND (cardinality($4::smallint[]) = 0 OR phase = ANY($4::smallint[]))
ORDER BY item_index
LIMIT $5;
