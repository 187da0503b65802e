-- name: get
SELECT te.id, te.execution_id, te.node_id, te.retry_attempt, te.project, te.domain, te.name, te.version,
       te.input_uri, te.closure,
       EXISTS (
           SELECT 1 FROM node_executions child
           WHERE child.execution_id = te.execution_id AND child.parent_task_execution_id = te.id AND child.phase <> ''
       ) AS is_parent
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
