-- name: describe
SELECT execution_project, execution_domain, execution_name
FROM executions
WHERE execution_id = $1;

-- name: read
SELECT lease.execution_id, lease.cluster, lease.writer, lease.state, lease.session_id, lease.epoch,
    lease.last_sequence, lease.applied_first, lease.applied_results, lease.control_sequence,
    execution.execution_project, execution.execution_domain, execution.execution_name, execution.phase,
    execution.closure, execution.cluster AS execution_cluster, execution.started_at, execution.execution_updated_at,
    execution.duration, execution.abort_cause, execution.error_kind, execution.error_code
FROM leases AS lease
JOIN executions AS execution USING (execution_id)
WHERE lease.execution_id = ANY($1::bigint[]);

-- name: lock
SELECT execution_id
FROM leases
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id
FOR UPDATE;

-- name: add_missing_leases
-- an execution that failed to launch never had a lease; it still has a journal
INSERT INTO leases (execution_id, cluster, state)
SELECT execution_id, cluster, 'closed'
FROM executions
WHERE execution_id = ANY($1::bigint[])
ON CONFLICT (execution_id) DO NOTHING;

-- name: write
-- Everything that a group changes, in one statement and so in one round trip.  The leases are locked in the order of
-- their keys and must be as they were when the group was folded: the rest waits for that.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($2::lease_write[])
),
locked AS MATERIALIZED (
    SELECT execution_id, writer, state, session_id, epoch, last_sequence
    FROM leases
    WHERE execution_id = ANY($1::bigint[])
    ORDER BY execution_id
    FOR UPDATE
),
unchanged AS MATERIALIZED (
    SELECT refuse_moved(cardinality($1::bigint[]) - count(*)) AS yes
    FROM locked
    JOIN given USING (execution_id)
    WHERE locked.writer = given.old_writer
        AND locked.state = given.old_state
        AND locked.session_id IS NOT DISTINCT FROM given.old_session_id
        AND locked.epoch = given.old_epoch
        AND locked.last_sequence = given.old_last_sequence
),
journalled AS (
    INSERT INTO journal (execution_id, sequence, epoch, kind, body, recorded_at)
    SELECT entry.execution_id, entry.sequence, entry.epoch, entry.kind, entry.body, $4::timestamptz
    FROM unchanged, unnest($3::journal_write[]) AS entry
),
nodes AS (
    INSERT INTO node_executions (
        execution_id, node_id, phase, closure, node_execution_metadata, input_uri, started_at,
        node_execution_created_at, node_execution_updated_at, duration, parent_node_id, parent_task_execution_id,
        error_kind, error_code, cache_status, dynamic_workflow_remote_closure_reference, event_version, engine_state
    )
    SELECT node.*
    FROM unchanged, unnest($5::node_execution_write[]) AS node
    ON CONFLICT (execution_id, node_id) DO UPDATE
    SET phase = excluded.phase,
        closure = excluded.closure,
        node_execution_metadata = excluded.node_execution_metadata,
        input_uri = excluded.input_uri,
        started_at = excluded.started_at,
        node_execution_created_at = excluded.node_execution_created_at,
        node_execution_updated_at = excluded.node_execution_updated_at,
        duration = excluded.duration,
        parent_node_id = excluded.parent_node_id,
        parent_task_execution_id = excluded.parent_task_execution_id,
        error_kind = excluded.error_kind,
        error_code = excluded.error_code,
        cache_status = excluded.cache_status,
        dynamic_workflow_remote_closure_reference = excluded.dynamic_workflow_remote_closure_reference,
        event_version = excluded.event_version,
        engine_state = excluded.engine_state,
        updated_at = now()
),
tasks AS (
    INSERT INTO task_executions (
        execution_id, node_id, retry_attempt, name, version, project, domain, phase, phase_version, closure,
        input_uri, started_at, task_execution_created_at, task_execution_updated_at, duration, engine_state
    )
    SELECT task.*
    FROM unchanged, unnest($6::task_execution_write[]) AS task
    ON CONFLICT (execution_id, node_id, retry_attempt, name, version, project, domain) DO UPDATE
    SET phase = excluded.phase,
        phase_version = excluded.phase_version,
        closure = excluded.closure,
        input_uri = excluded.input_uri,
        started_at = excluded.started_at,
        task_execution_created_at = excluded.task_execution_created_at,
        task_execution_updated_at = excluded.task_execution_updated_at,
        duration = excluded.duration,
        engine_state = excluded.engine_state,
        updated_at = now()
),
executed AS (
    UPDATE executions
    SET phase = execution.phase,
        closure = execution.closure,
        cluster = execution.cluster,
        started_at = execution.started_at,
        execution_updated_at = execution.execution_updated_at,
        duration = execution.duration,
        abort_cause = execution.abort_cause,
        error_kind = execution.error_kind,
        error_code = execution.error_code,
        updated_at = now()
    FROM unchanged, unnest($7::execution_write[]) AS execution
    WHERE executions.execution_id = execution.execution_id
),
items AS (
    -- ranges in the order in which they were reported; as `put_items` in folded.sql
    INSERT INTO node_items (
        execution_id, node_id, item_index, attempt, system_failures, phase, cache_status, error, log_uri
    )
    SELECT DISTINCT ON (given.execution_id, given.node_id, item.index)
        given.execution_id, given.node_id, item.index, given.attempt, given.system_failures, given.phase,
        given.cache_status, given.error, given.log_uri
    FROM unchanged, unnest(
        $9::bigint[], $10::text[], $11::integer[], $12::integer[], $13::integer[], $14::integer[], $15::smallint[],
        $16::smallint[], $17::bytea[], $18::text[]
    ) WITH ORDINALITY AS given (
        execution_id, node_id, first, last, attempt, system_failures, phase, cache_status, error, log_uri, ordinal
    ),
    LATERAL generate_series(given.first, given.last) AS item (index)
    ORDER BY given.execution_id, given.node_id, item.index, given.ordinal DESC
    ON CONFLICT (execution_id, node_id, item_index) DO UPDATE
    SET attempt = excluded.attempt,
        system_failures = excluded.system_failures,
        phase = excluded.phase,
        cache_status = excluded.cache_status,
        error = CASE WHEN excluded.phase = 3 THEN NULL ELSE coalesce(excluded.error, node_items.error) END,
        log_uri = CASE
            WHEN excluded.attempt = node_items.attempt AND excluded.log_uri = '' THEN node_items.log_uri
            ELSE excluded.log_uri
        END,
        updated_at = now()
),
announced AS (
    INSERT INTO outbox (topic, key, payload)
    SELECT message.topic, message.key, message.payload
    FROM unchanged, unnest($8::outbox_write[]) AS message
)
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
FROM unchanged, given
WHERE leases.execution_id = given.execution_id AND given.changed;

-- name: find_signal
SELECT true FROM signals WHERE execution_id = $1 AND signal_id = $2;

-- name: set_signal
UPDATE signals
SET value = $3, updated_at = now()
WHERE execution_id = $1 AND signal_id = $2;

-- name: list_entries
SELECT sequence, epoch, kind, body, recorded_at
FROM journal
WHERE execution_id = $1 AND sequence > $2
ORDER BY sequence
LIMIT $3;
