-- name: get
SELECT e.execution_project, e.execution_domain, e.execution_name, e.spec || CASE WHEN e.phase = 'QUEUED' THEN coalesce((
           SELECT w.shown FROM waiting_executions w WHERE w.execution_id = e.execution_id
       ), '') ELSE '' END AS spec, e.closure || e.state_change AS closure,
       e.phase, e.abort_cause, e."user", e.created_at
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3

-- name: get_data
SELECT e.closure, e.inputs_uri
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3

-- name: get_key
SELECT e.execution_id
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3
