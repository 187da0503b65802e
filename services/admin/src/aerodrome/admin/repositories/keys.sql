-- name: find_execution
-- (see execution_views.sql for why not by equality alone)
SELECT execution_id
FROM (
    SELECT execution_id, execution_project, execution_domain, execution_name
    FROM executions
    WHERE (execution_project, execution_domain, execution_name) >= ($1, $2, $3)
    ORDER BY execution_project, execution_domain, execution_name
    LIMIT 1
) AS execution
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;
