-- name: get_ended
SELECT e.execution_id, e.execution_project, e.execution_domain, e.execution_name, e.phase, e.spec, e.closure,
       e.abort_cause, e."user", parent.execution_project AS parent_project,
       parent.execution_domain AS parent_domain, parent.execution_name AS parent_name
FROM executions e
LEFT JOIN executions parent ON parent.execution_id = e.parent_execution_id
WHERE e.execution_id = $1

-- name: get_newest_attempt
SELECT t.project, t.domain, t.name, t.version, t.retry_attempt
FROM task_executions t
WHERE t.execution_id = $1 AND t.node_id = $2
ORDER BY t.retry_attempt DESC, t.id DESC
LIMIT 1

-- name: get_task_interface
SELECT closure FROM tasks WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4

-- name: get_workflow_interface
SELECT typed_interface FROM workflows WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4
