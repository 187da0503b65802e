-- What is in progress, counted now and then.

-- name: get_in_progress
-- By way of the executions in progress, so that what is over costs nothing, however much there is of it.
WITH active AS MATERIALIZED (
    SELECT e.execution_id
    FROM projects p
    CROSS JOIN unnest($1::text[]) AS d (domain)
    CROSS JOIN unnest($2::text[]) AS s (phase)
    JOIN executions e
        ON e.execution_project = p.identifier AND e.execution_domain = d.domain AND e.phase = s.phase
)
SELECT count(*) AS executions, coalesce(sum(inside.nodes), 0)::bigint AS nodes,
       coalesce(sum(inside.tasks), 0)::bigint AS tasks
FROM active
CROSS JOIN LATERAL (
    SELECT (
               SELECT count(*) FROM node_executions n
               WHERE n.execution_id = active.execution_id AND n.phase = ANY ($3::text[])
           ) AS nodes,
           (
               SELECT count(*) FROM task_executions t
               WHERE t.execution_id = active.execution_id AND t.phase = ANY ($4::text[])
           ) AS tasks
) AS inside;
