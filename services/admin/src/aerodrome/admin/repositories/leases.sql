-- name: open_session
INSERT INTO sessions (cluster, holder, expires_at)
VALUES ($1, $2, now() + $3::interval)
RETURNING session_id;

-- name: prolong_session
UPDATE sessions
SET expires_at = now() + $2::interval
WHERE session_id = $1 AND closed_at IS NULL AND expires_at > now()
RETURNING cluster;

-- name: find_session
SELECT cluster
FROM sessions
WHERE session_id = $1 AND closed_at IS NULL AND expires_at > now();

-- name: list_sessions_of
SELECT session_id
FROM sessions
WHERE cluster = $1 AND holder = $2 AND closed_at IS NULL
ORDER BY session_id;

-- name: close_session
UPDATE sessions
SET closed_at = now()
WHERE session_id = $1 AND closed_at IS NULL
RETURNING cluster;

-- name: close_expired_sessions
UPDATE sessions
SET closed_at = now()
WHERE session_id IN (
    SELECT session_id
    FROM sessions
    WHERE closed_at IS NULL AND expires_at <= now()
    ORDER BY session_id
    FOR UPDATE SKIP LOCKED
)
RETURNING session_id, cluster;

-- name: delete_old_sessions
DELETE FROM sessions WHERE closed_at < now() - interval '1 day';

-- name: free_leases
-- in the order of their keys, as everybody locks them
UPDATE leases
SET state = 'open', session_id = NULL
WHERE execution_id IN (
    SELECT execution_id
    FROM leases
    WHERE session_id = ANY($1::bigint[]) AND state = 'held'
    ORDER BY execution_id
    FOR UPDATE
);

-- name: hand_out
-- Projects take turns: of each project's executions the oldest is first, and of projects with equally many ahead the one
-- that was served longest ago.  More candidates are looked at than are wanted, since others may hold some of them at this
-- moment.  The session's row is locked, so that it cannot be closed without this transaction's leases being freed as well.
WITH RECURSIVE session AS MATERIALIZED (
    SELECT session_id, cluster
    FROM sessions
    WHERE session_id = $1 AND closed_at IS NULL AND expires_at > now()
    FOR SHARE
),
room AS MATERIALIZED (
    SELECT least(
        $3::bigint,
        greatest(0, $2::bigint - (SELECT count(*) FROM leases WHERE session_id = $1 AND state = 'held'))
    ) AS leases
),
projects (project) AS (  -- each costs one look into the index, however many of its executions wait
    (
        SELECT leases.project
        FROM leases
        WHERE leases.cluster = (SELECT cluster FROM session) AND leases.state = 'open'
        ORDER BY leases.project
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT leases.project
        FROM leases
        WHERE leases.cluster = (SELECT cluster FROM session) AND leases.state = 'open'
            AND leases.project > projects.project
        ORDER BY leases.project
        LIMIT 1
    )
    FROM projects
    WHERE projects.project IS NOT NULL
),
candidates AS MATERIALIZED (
    SELECT first.execution_id, first.place, coalesce(turn.served, 0) AS served
    FROM projects
    LEFT JOIN unnest($4::text[], $5::bigint[]) AS turn (project, served) USING (project)
    CROSS JOIN LATERAL (
        SELECT leases.execution_id, row_number() OVER (ORDER BY leases.execution_id) AS place
        FROM leases
        WHERE leases.cluster = (SELECT cluster FROM session)
            AND leases.project = projects.project
            AND leases.state = 'open'
            AND leases.writer IN ('', 'lease')
        ORDER BY leases.execution_id
        LIMIT 4 * (SELECT leases FROM room)
    ) AS first
    WHERE projects.project IS NOT NULL
    ORDER BY first.place, coalesce(turn.served, 0), first.execution_id
    LIMIT 4 * (SELECT leases FROM room)
),
chosen AS MATERIALIZED (
    SELECT leases.execution_id
    FROM candidates
    JOIN leases USING (execution_id)
    WHERE leases.state = 'open' AND leases.writer IN ('', 'lease')
    ORDER BY candidates.place, candidates.served, leases.execution_id
    LIMIT (SELECT leases FROM room)
    FOR UPDATE OF leases SKIP LOCKED
)
UPDATE leases
SET state = 'held', session_id = $1, epoch = leases.epoch + 1, writer = 'lease'
FROM chosen
WHERE leases.execution_id = chosen.execution_id
RETURNING leases.execution_id, leases.project, leases.cluster,
    (SELECT count(*) FROM candidates) > (SELECT count(*) FROM chosen)
        AND (SELECT count(*) FROM chosen) < (SELECT leases FROM room) AS contended;

-- name: list_held
SELECT execution_id
FROM leases
WHERE session_id = $1 AND state = 'held' AND execution_id > $2
ORDER BY execution_id
LIMIT $3;

-- name: lock_held
SELECT execution_id
FROM leases
WHERE execution_id = ANY($2::bigint[]) AND session_id = $1 AND state = 'held'
ORDER BY execution_id
FOR SHARE;

-- name: release
UPDATE leases
SET state = 'open', session_id = NULL
WHERE execution_id IN (
    SELECT leases.execution_id
    FROM leases
    JOIN unnest($2::bigint[], $3::bigint[]) AS given (execution_id, epoch) USING (execution_id, epoch)
    WHERE leases.session_id = $1 AND leases.state = 'held'
    ORDER BY leases.execution_id
    FOR UPDATE OF leases
)
RETURNING execution_id, cluster;

-- name: hand_over
WITH moved AS (
    UPDATE leases
    SET state = 'open', session_id = NULL, cluster = CASE WHEN $4 = '' THEN cluster ELSE $4 END
    WHERE execution_id IN (
        SELECT leases.execution_id
        FROM leases
        JOIN unnest($2::bigint[], $3::bigint[]) AS given (execution_id, epoch) USING (execution_id, epoch)
        WHERE leases.session_id = $1 AND leases.state = 'held'
        ORDER BY leases.execution_id
        FOR UPDATE OF leases
    )
    RETURNING execution_id, cluster
)
UPDATE executions
SET cluster = moved.cluster
FROM moved
WHERE executions.execution_id = moved.execution_id
RETURNING executions.execution_id, executions.cluster;

-- name: describe_assignments
SELECT lease.execution_id, lease.epoch, lease.last_sequence, lease.control_sequence, lease.workflow_state,
    execution.execution_project, execution.execution_domain, execution.execution_name, execution.phase,
    execution.spec, execution.closure, execution.inputs_uri, execution.abort_cause, execution.execution_created_at,
    execution.task_resources, execution.plugin_overrides, workflow.remote_closure_identifier,
    recovered.execution_project AS recovered_project, recovered.execution_domain AS recovered_domain,
    recovered.execution_name AS recovered_name
FROM leases AS lease
JOIN executions AS execution USING (execution_id)
LEFT JOIN workflows AS workflow ON workflow.id = execution.workflow_id
LEFT JOIN executions AS recovered ON recovered.execution_id = execution.recovered_execution_id
WHERE lease.execution_id = ANY($1::bigint[])
ORDER BY lease.execution_id;

-- name: snapshot_nodes
SELECT execution_id, node_id, phase, engine_state, CASE WHEN phase = 'FAILED' THEN closure END AS failed_closure
FROM node_executions
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id, created_at, id;

-- name: snapshot_items
-- of nodes that are not over (one whose time is up may still have to be ended), as ranges of neighbours in the same state; the first errors are all that anybody will name; items that wait for another attempt ($4, and $5 unless it is their first) have done so since the last one failed; those under way ($6) are in their phase since then, to the second, so that there are not as many ranges as items
SELECT execution_id, node_id, min(item_index) AS first, max(item_index) AS last, attempt, system_failures, phase, error,
    greatest(0, extract(epoch FROM clock_timestamp() - failed_at) * 1000)::bigint AS failed_ms_ago,
    greatest(0, extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint AS changed_ms_ago
FROM (
    SELECT execution_id, node_id, item_index, attempt, system_failures, phase, error, failed_at, changed_at,
        item_index - row_number() OVER (
            PARTITION BY execution_id, node_id, attempt, system_failures, phase, error, failed_at, changed_at
            ORDER BY item_index
        ) AS island
    FROM (
        SELECT item.execution_id, item.node_id, item.item_index, item.attempt, item.system_failures, item.phase,
            CASE
                WHEN item.phase = $2 AND row_number() OVER (
                    PARTITION BY item.execution_id, item.node_id, item.phase ORDER BY item.item_index
                ) <= $3 THEN item.error
            END AS error,
            CASE
                WHEN item.phase = $4 OR (item.phase = $5 AND item.attempt > 0) THEN item.updated_at
            END AS failed_at,
            CASE
                WHEN item.phase = ANY($6::smallint[]) THEN date_trunc('second', item.updated_at) + interval '1 second'
            END AS changed_at
        FROM node_executions AS node
        JOIN node_items AS item USING (execution_id, node_id)
        WHERE node.execution_id = ANY($1::bigint[]) AND node.phase IN ('QUEUED', 'RUNNING', 'TIMED_OUT')
    ) AS known
) AS numbered
GROUP BY execution_id, node_id, attempt, system_failures, phase, error, failed_at, changed_at, island
ORDER BY execution_id, node_id, first;

-- name: snapshot_attempts
SELECT DISTINCT ON (execution_id, node_id) execution_id, node_id, engine_state
FROM task_executions
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id, node_id, retry_attempt DESC;

-- name: list_set_signals
SELECT execution_id, signal_id, value
FROM signals
WHERE execution_id = ANY($1::bigint[]) AND value IS NOT NULL
ORDER BY execution_id, signal_id;

-- name: list_controls
SELECT journal.body
FROM leases AS lease
JOIN journal ON journal.execution_id = lease.execution_id AND journal.kind = 5
WHERE lease.session_id = $1 AND lease.state = 'held' AND lease.control_sequence > 0
ORDER BY journal.execution_id, journal.sequence;

-- name: list_controls_of
SELECT body
FROM journal
WHERE execution_id = ANY($1::bigint[]) AND kind = 5
ORDER BY execution_id, sequence;
