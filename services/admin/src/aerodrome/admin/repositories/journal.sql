-- name: identify
SELECT execution_id
FROM executions
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;

-- name: describe
SELECT execution_id, execution_project, execution_domain, execution_name, phase, cluster
FROM executions
WHERE execution_id = ANY($1::bigint[]);

-- name: lock
SELECT execution_id, cluster, writer, state, session_id, epoch, last_sequence, applied_first, applied_results,
    control_sequence
FROM leases
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id
FOR UPDATE;

-- name: add_missing_leases
-- an execution that failed to launch never had a lease; it still has a journal to lock
INSERT INTO leases (execution_id, cluster, state)
SELECT execution_id, cluster, 'closed'
FROM executions
WHERE execution_id = ANY($1::bigint[])
ON CONFLICT (execution_id) DO NOTHING;

-- name: update_leases
UPDATE leases
SET writer = given.writer,
    state = given.state,
    session_id = given.session_id,
    epoch = given.epoch,
    last_sequence = given.last_sequence,
    applied_first = given.applied_first,
    applied_results = given.applied_results,
    control_sequence = given.control_sequence,
    workflow_state = coalesce(given.workflow_state, leases.workflow_state)
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[],
    $9::bigint[], $10::bytea[]
) AS given (
    execution_id, writer, state, session_id, epoch, last_sequence, applied_first, applied_results, control_sequence,
    workflow_state
)
WHERE leases.execution_id = given.execution_id;

-- name: add_outbox
INSERT INTO outbox (topic, key, payload)
SELECT topic, key, payload
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS given (topic, key, payload);

-- name: set_signal
UPDATE signals
SET value = $3, updated_at = now()
WHERE execution_id = $1 AND signal_id = $2
RETURNING signal_id;

-- name: entries
SELECT sequence, epoch, kind, body, recorded_at
FROM journal
WHERE execution_id = $1 AND sequence > $2
ORDER BY sequence
LIMIT $3;
