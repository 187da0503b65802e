-- What the spans of an execution are made of.  Rows without a phase have no event folded into them yet.

-- name: find_execution
SELECT e.execution_id, e.execution_project, e.execution_domain, e.execution_name, e.closure,
    w.remote_closure_identifier
FROM executions e
LEFT JOIN workflows w ON w.id = e.workflow_id
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3;

-- name: list_nodes
-- of the top level only where $2 says so
SELECT node_id, parent_node_id, closure, node_execution_metadata, dynamic_workflow_remote_closure_reference
FROM node_executions
WHERE execution_id = $1 AND phase <> '' AND parent_task_execution_id IS NULL
    AND (parent_node_id IS NULL OR NOT $2)
ORDER BY created_at, id
LIMIT $3;

-- name: list_tasks
SELECT node_id, retry_attempt, project, domain, name, version, closure
FROM task_executions
WHERE execution_id = $1 AND phase <> ''
ORDER BY node_id, retry_attempt, id
LIMIT $2;
