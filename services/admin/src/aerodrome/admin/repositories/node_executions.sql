-- name: get
SELECT ne.node_id, ne.input_uri, ne.closure, ne.node_execution_metadata,
       ne.dynamic_workflow_remote_closure_reference,
       ne.dynamic_workflow_remote_closure_reference <> '' AS is_dynamic,
       ne.event_version = 0 AND EXISTS (
           SELECT 1 FROM node_executions child
           WHERE child.execution_id = ne.execution_id AND child.parent_node_id = ne.node_id AND child.phase <> ''
       ) AS is_parent
FROM executions e
JOIN node_executions ne ON ne.execution_id = e.execution_id AND ne.node_id = $4 AND ne.phase <> ''
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3

-- name: exists
SELECT 1
FROM node_executions ne
WHERE ne.execution_id = $1 AND ne.node_id = $2 AND ne.phase <> ''
