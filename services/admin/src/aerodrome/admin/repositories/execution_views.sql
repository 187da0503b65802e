-- An execution is looked up as the first one that is not before its key, in the order of the keys.  Equality alone lets
-- the planner choose among all indexes that begin with project and domain; as long as a table has no statistics, or
-- those of its first rows, it takes them all to find one row, and the statement reads whatever the project has.

-- name: get_many
SELECT e.execution_project, e.execution_domain, e.execution_name, e.spec || CASE WHEN e.phase = 'QUEUED' THEN coalesce((
           SELECT w.shown FROM waiting_executions w WHERE w.execution_id = e.execution_id
       ), '') ELSE '' END AS spec, e.closure || e.state_change AS closure,
       e.phase, e.abort_cause, e."user", e.created_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (project, domain, name)
CROSS JOIN LATERAL (
    SELECT *
    FROM executions c
    WHERE (c.execution_project, c.execution_domain, c.execution_name) >= (wanted.project, wanted.domain, wanted.name)
    ORDER BY c.execution_project, c.execution_domain, c.execution_name
    LIMIT 1
) e
WHERE e.execution_project = wanted.project AND e.execution_domain = wanted.domain AND e.execution_name = wanted.name

-- name: get_data
SELECT e.closure, e.inputs_uri
FROM (
    SELECT *
    FROM executions c
    WHERE (c.execution_project, c.execution_domain, c.execution_name) >= ($1, $2, $3)
    ORDER BY c.execution_project, c.execution_domain, c.execution_name
    LIMIT 1
) e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.execution_name = $3
