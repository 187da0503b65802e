-- Executions of launch plans that limit how many are in progress.  A launch plan stands for all of its versions, wherever
-- they are launched into.

-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('launches' || chr(31) || $1 || chr(31) || $2 || chr(31) || $3, 0));

-- name: count_running
SELECT count(*)
FROM launch_plans l
JOIN executions e ON e.launch_plan_id = l.id
WHERE l.project = $1 AND l.domain = $2 AND l.name = $3
  AND e.launch_plan_id IS NOT NULL AND e.phase NOT IN ('SUCCEEDED', 'FAILED', 'ABORTED', 'TIMED_OUT')
  AND e.phase IN ('UNDEFINED', 'QUEUED', 'RUNNING');

-- name: count_started
SELECT count(*)
FROM launch_plans l
JOIN executions e ON e.launch_plan_id = l.id
WHERE l.project = $1 AND l.domain = $2 AND l.name = $3
  AND e.launch_plan_id IS NOT NULL AND e.phase NOT IN ('SUCCEEDED', 'FAILED', 'ABORTED', 'TIMED_OUT')
  AND NOT EXISTS (SELECT FROM waiting_executions w WHERE w.execution_id = e.execution_id);

-- name: list_live
SELECT e.execution_id, e.phase = 'ABORTING' AS aborting, w.execution_id IS NOT NULL AS waiting
FROM launch_plans l
JOIN executions e ON e.launch_plan_id = l.id
LEFT JOIN waiting_executions w ON w.execution_id = e.execution_id
WHERE l.project = $1 AND l.domain = $2 AND l.name = $3
  AND e.launch_plan_id IS NOT NULL AND e.phase NOT IN ('SUCCEEDED', 'FAILED', 'ABORTED', 'TIMED_OUT')
ORDER BY e.execution_id;

-- name: somebody_waits
SELECT EXISTS (SELECT FROM waiting_executions WHERE project = $1 AND domain = $2 AND name = $3);

-- name: put_waiting
INSERT INTO waiting_executions (execution_id, project, domain, name, most, shown) VALUES ($1, $2, $3, $4, $5, $6);

-- name: list_names
SELECT DISTINCT project, domain, name FROM waiting_executions;

-- name: forget_those_that_do_not_wait
-- an abort ends what waits, without knowing of this table
DELETE FROM waiting_executions w
USING leases, executions e
WHERE w.project = $1 AND w.domain = $2 AND w.name = $3
  AND leases.execution_id = w.execution_id AND e.execution_id = w.execution_id
  AND (leases.state <> 'waiting' OR e.phase IN ('SUCCEEDED', 'FAILED', 'ABORTED', 'TIMED_OUT'));

-- name: list_next
SELECT w.execution_id, w.most, e.phase = 'ABORTING' AS aborting
FROM waiting_executions w
JOIN executions e USING (execution_id)
WHERE w.project = $1 AND w.domain = $2 AND w.name = $3
ORDER BY w.execution_id
LIMIT $4;

-- name: begin
-- the leases in the order of their keys, as everybody locks them
WITH locked AS MATERIALIZED (
    SELECT execution_id
    FROM leases
    WHERE execution_id = ANY($1::bigint[]) AND state = 'waiting'
    ORDER BY execution_id
    FOR UPDATE
), done AS (
    DELETE FROM waiting_executions w
    USING (SELECT count(*) FROM locked) AS after
    WHERE w.execution_id = ANY($1::bigint[])
)
UPDATE leases
SET state = 'open'
FROM locked
WHERE leases.execution_id = locked.execution_id
RETURNING leases.execution_id, leases.cluster;
