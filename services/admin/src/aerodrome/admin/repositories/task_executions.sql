-- name: get
SELECT te.id, te.execution_id, te.node_id, te.retry_attempt, te.project, te.domain, te.name, te.version,
       te.input_uri, te.closure,
       EXISTS (
           SELECT 1 FROM node_executions child
           WHERE child.execution_id = te.execution_id AND child.parent_task_execution_id = te.id AND child.phase <> ''
       ) AS is_parent,
       EXISTS (
           SELECT 1 FROM node_items item WHERE item.execution_id = te.execution_id AND item.node_id = te.node_id
       ) AND NOT EXISTS (
           SELECT 1 FROM task_executions later
           WHERE later.execution_id = te.execution_id AND later.node_id = te.node_id
             AND later.retry_attempt > te.retry_attempt AND later.phase <> ''
       ) AS has_items
FROM executions e
JOIN task_executions te ON te.execution_id = e.execution_id AND te.phase <> ''
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3
  AND te.node_id = $4 AND te.retry_attempt = $5
  AND te.project = $6 AND te.domain = $7 AND te.name = $8 AND te.version = $9

-- name: get_by_attempt
SELECT te.project, te.domain, te.name, te.version
FROM executions e
JOIN task_executions te ON te.execution_id = e.execution_id AND te.phase <> ''
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3
  AND te.node_id = $4 AND te.retry_attempt = $5
ORDER BY te.id DESC
LIMIT 1

-- name: count_items
SELECT item.phase, count(*) AS count
FROM node_items item
WHERE item.execution_id = $1 AND item.node_id = $2
GROUP BY item.phase

-- name: list_items
-- up to $3 of them: those that failed, then those that run, then those that wait or were aborted, then the others
SELECT item.item_index, item.attempt, item.phase, item.cache_status, item.error, item.log_uri
FROM node_items item
WHERE item.execution_id = $1 AND item.node_id = $2
ORDER BY CASE WHEN item.phase IN (5, 8) THEN 0 WHEN item.phase = 2 THEN 1 WHEN item.phase = 3 THEN 3 ELSE 2 END,
    item.item_index
LIMIT $3
