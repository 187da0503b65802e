-- name: get_many
SELECT e.execution_project, e.execution_domain, e.execution_name, e.spec || CASE WHEN e.phase = 'QUEUED' THEN coalesce((
           SELECT w.shown FROM waiting_executions w WHERE w.execution_id = e.execution_id
       ), '') ELSE '' END AS spec, e.closure || e.state_change AS closure,
       e.phase, e.abort_cause, e."user", e.created_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (project, domain, name)
JOIN executions e
    ON e.execution_project = wanted.project AND e.execution_domain = wanted.domain AND e.execution_name = wanted.name

-- name: get_data
SELECT e.closure, e.inputs_uri
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3

-- name: get_key
SELECT e.execution_id
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3
