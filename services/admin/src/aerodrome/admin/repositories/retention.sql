-- Retention: policies, pins, deletions.  $n::timestamptz named "now" is the manager's clock.

-- name: put_policy
INSERT INTO retention_policies (project, domain, keep_executions_days, keep_blobs_days, updated_at, updated_by)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (project, domain) DO UPDATE
SET keep_executions_days = excluded.keep_executions_days,
    keep_blobs_days = excluded.keep_blobs_days,
    updated_at = excluded.updated_at,
    updated_by = excluded.updated_by;

-- name: list_policies
SELECT project, domain, keep_executions_days, keep_blobs_days, updated_at, updated_by
FROM retention_policies
ORDER BY project, domain;

-- name: delete_policy
DELETE FROM retention_policies WHERE project = $1 AND domain = $2 RETURNING true;

-- name: list_places
-- where executions may be: a project that was archived still has them
SELECT identifier FROM projects ORDER BY identifier;

-- name: find
SELECT execution_id
FROM executions
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;

-- name: pin
INSERT INTO execution_pins (execution_id, pinned_at, pinned_by, reason)
SELECT execution_id, $4, $5, $6
FROM executions
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3
ON CONFLICT (execution_id) DO UPDATE
SET pinned_at = excluded.pinned_at, pinned_by = excluded.pinned_by, reason = excluded.reason
RETURNING execution_id;

-- name: unpin
DELETE FROM execution_pins WHERE execution_id = $1 RETURNING true;

-- name: due
-- Roots only: what an execution launched goes with it.  One phase at a time, so that an index gives the rows in order.
SELECT e.execution_id, e.created_at
FROM executions e
WHERE e.execution_project = $1 AND e.execution_domain = $2 AND e.phase = $3
  AND e.created_at < $4
  AND (e.created_at, e.execution_id) > ($5::timestamptz, $6::bigint)
  AND e.execution_updated_at < $4
  AND NOT EXISTS (SELECT FROM executions parent WHERE parent.execution_id = e.parent_execution_id)
  AND ($7::boolean OR NOT EXISTS (
      SELECT FROM execution_deletions done WHERE done.execution_id = e.execution_id AND done.kind = 'blobs'
  ))
ORDER BY e.created_at, e.execution_id
LIMIT $8;

-- name: family
-- An execution and all that it launched, it first.
WITH RECURSIVE family AS (
    SELECT execution_id, 0 AS depth FROM executions WHERE execution_id = $1
    UNION ALL
    SELECT child.execution_id, family.depth + 1
    FROM family JOIN executions child ON child.parent_execution_id = family.execution_id
)
SELECT execution_id FROM family ORDER BY depth, execution_id LIMIT $2;

-- name: lock_leases
-- Whoever writes an execution holds this lock; in the order of keys, as everybody takes them.
SELECT execution_id, state
FROM leases
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id
FOR UPDATE;

-- name: lock_executions
SELECT execution_id
FROM executions
WHERE execution_id = ANY($1::bigint[])
ORDER BY execution_id
FOR UPDATE;

-- name: describe
SELECT e.execution_id, e.execution_project, e.execution_domain, e.execution_name, e.phase, e.spec,
       e.created_at, e.execution_updated_at, e.parent_execution_id, lease.state AS lease_state,
       pin.reason AS pin_reason, pin.execution_id IS NOT NULL AS is_pinned,
       EXISTS (SELECT FROM executions parent WHERE parent.execution_id = e.parent_execution_id) AS has_parent
FROM executions e
LEFT JOIN leases lease USING (execution_id)
LEFT JOIN execution_pins pin USING (execution_id)
WHERE e.execution_id = ANY($1::bigint[])
ORDER BY e.execution_id;

-- name: outside_users
-- Executions outside of the given ones that use their data, or could still make use of it.
SELECT e.execution_id AS used_by, e.execution_project, e.execution_domain, e.execution_name,
       given.execution_id, 'recovered from it' AS how
FROM unnest($1::bigint[]) AS given (execution_id)
JOIN executions e ON e.recovered_execution_id = given.execution_id
WHERE e.execution_id <> ALL($1::bigint[])
UNION ALL
SELECT e.execution_id, e.execution_project, e.execution_domain, e.execution_name,
       given.execution_id, 'took outputs of it from the cache'
FROM unnest($1::bigint[]) AS given (execution_id)
JOIN execution_references used ON used.execution_id = given.execution_id
JOIN executions e ON e.execution_id = used.used_by
WHERE e.execution_id <> ALL($1::bigint[])
LIMIT 1;

-- name: name_of
SELECT execution_project, execution_domain, execution_name FROM executions WHERE execution_id = $1;

-- name: add_deletions
INSERT INTO execution_deletions (
    execution_id, kind, project, domain, name, raw_output_base, started_at, ended_at,
    requested_at, requested_by, cause, stage, next_attempt_at
)
SELECT e.execution_id, $3, e.execution_project, e.execution_domain, e.execution_name, base.text, e.created_at,
       e.execution_updated_at, $4, $5, $6, 'cache', $7
FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS base (execution_id, text, position)
JOIN executions e USING (execution_id)
ORDER BY base.position
ON CONFLICT (execution_id, kind) DO NOTHING;

-- name: bury
-- The executions' own rows, and with them tags, signals, pins, leases and references; their names stay taken.
WITH gone AS (
    DELETE FROM executions WHERE execution_id = ANY($1::bigint[])
    RETURNING execution_project, execution_domain, execution_name, execution_id
)
INSERT INTO execution_tombstones (execution_project, execution_domain, execution_name, execution_id, deleted_at)
SELECT execution_project, execution_domain, execution_name, execution_id, $2
FROM gone
ON CONFLICT DO NOTHING;

-- name: count_dependents
SELECT
    (SELECT count(*) FROM execution_tags WHERE execution_id = ANY($1::bigint[]))
    + (SELECT count(*) FROM signals WHERE execution_id = ANY($1::bigint[]))
    + (SELECT count(*) FROM leases WHERE execution_id = ANY($1::bigint[]))
    + (SELECT count(*) FROM execution_pins WHERE execution_id = ANY($1::bigint[]));

-- name: claim
-- Nobody else takes these for a while; if this process dies, somebody does then.
UPDATE execution_deletions
SET next_attempt_at = $2, attempts = attempts + 1
WHERE id IN (
    SELECT id FROM execution_deletions
    WHERE finished_at IS NULL AND next_attempt_at <= $1
    ORDER BY next_attempt_at, id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
RETURNING id, execution_id, kind, project, domain, name, raw_output_base, started_at, ended_at, stage, attempts;

-- name: claim_these
UPDATE execution_deletions
SET next_attempt_at = $2, attempts = attempts + 1
WHERE execution_id = ANY($1::bigint[]) AND kind = $3 AND finished_at IS NULL
RETURNING id, execution_id, kind, project, domain, name, raw_output_base, started_at, ended_at, stage, attempts;

-- name: advance
UPDATE execution_deletions
SET stage = $2, blobs = blobs + $3, blob_bytes = blob_bytes + $4, rows = rows + $5, next_attempt_at = $6,
    last_error = '', finished_at = CASE WHEN $2 = 'done' THEN $7::timestamptz END
WHERE id = $1 AND finished_at IS NULL;

-- name: postpone
UPDATE execution_deletions SET next_attempt_at = $2, last_error = $3 WHERE id = $1 AND finished_at IS NULL;

-- name: list_deletions
SELECT id, execution_id, kind, project, domain, name, requested_at, requested_by, cause, attempts, last_error, blobs,
       blob_bytes, rows, finished_at
FROM execution_deletions
WHERE ($1 = '' OR project = $1) AND ($2 = '' OR domain = $2) AND id < $3 AND (NOT $4 OR finished_at IS NULL)
ORDER BY id DESC
LIMIT $5;

-- name: deletions_of
SELECT id, execution_id, kind, project, domain, name, requested_at, requested_by, cause, attempts, last_error, blobs,
       blob_bytes, rows, finished_at
FROM execution_deletions
WHERE execution_id = ANY($1::bigint[]) AND kind = 'execution'
ORDER BY id;

-- name: deleted_id
SELECT execution_id
FROM execution_tombstones
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;

-- name: list_attempts
-- A page of nodes with how many attempts each has had.
SELECT node_id, max(retry_attempt) + 1 AS attempts
FROM task_executions
WHERE execution_id = $1 AND node_id > $2
GROUP BY node_id
ORDER BY node_id
LIMIT $3;

-- name: list_items
SELECT node_id, item_index, attempt
FROM node_items
WHERE execution_id = $1 AND (node_id, item_index) > ($2, $3::integer)
ORDER BY node_id, item_index
LIMIT $4;

-- name: exists_any
SELECT EXISTS (
    SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (project, domain, name)
    JOIN executions e
        ON e.execution_project = wanted.project AND e.execution_domain = wanted.domain
        AND e.execution_name = wanted.name
);

-- name: exists_name
-- Whether any other project or domain has an execution of this name; one look into the key for each.
SELECT EXISTS (
    SELECT FROM projects p
    CROSS JOIN unnest($4::text[]) AS d (domain)
    JOIN executions e
        ON e.execution_project = p.identifier AND e.execution_domain = d.domain AND e.execution_name = $3
    WHERE (e.execution_project, e.execution_domain) <> ($1, $2)
);

-- name: retain_prefixes
INSERT INTO retained_prefixes (execution_name, prefix)
SELECT $1, prefix FROM unnest($2::text[]) AS prefix
ON CONFLICT DO NOTHING;

-- name: retained_prefixes
SELECT prefix FROM retained_prefixes WHERE execution_name = $1 ORDER BY prefix LIMIT $2;

-- name: forget_prefixes
DELETE FROM retained_prefixes WHERE execution_name = $1 AND prefix = ANY($2::text[]);

-- name: workflow_closure
SELECT remote_closure_identifier
FROM workflows
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4;

-- name: delete_journal
DELETE FROM journal
WHERE execution_id = $1 AND sequence IN (
    SELECT sequence FROM journal WHERE execution_id = $1 ORDER BY sequence LIMIT $2
);

-- name: delete_items
DELETE FROM node_items
WHERE execution_id = $1 AND (node_id, item_index) IN (
    SELECT node_id, item_index FROM node_items WHERE execution_id = $1 ORDER BY node_id, item_index LIMIT $2
);

-- name: delete_tasks
DELETE FROM task_executions
WHERE execution_id = $1 AND (node_id, retry_attempt, name, version, project, domain) IN (
    SELECT node_id, retry_attempt, name, version, project, domain FROM task_executions
    WHERE execution_id = $1 ORDER BY node_id, retry_attempt LIMIT $2
);

-- name: delete_nodes
DELETE FROM node_executions
WHERE execution_id = $1 AND node_id IN (
    SELECT node_id FROM node_executions WHERE execution_id = $1 ORDER BY node_id LIMIT $2
);

-- name: delete_hits
DELETE FROM cache_hits WHERE execution_id = $1;

-- name: take_hits
SELECT hit.execution_id, hit.node_id, node.closure
FROM cache_hits hit
LEFT JOIN node_executions node USING (execution_id, node_id)
ORDER BY hit.execution_id, hit.node_id
LIMIT $1
FOR UPDATE OF hit SKIP LOCKED;

-- name: settle_hits
-- What was read from them.  A source may be on its way out, its own row gone and its blobs not, or never have been here.
WITH settled AS (
    DELETE FROM cache_hits hit
    USING unnest($1::bigint[], $2::text[]) AS given (execution_id, node_id)
    WHERE hit.execution_id = given.execution_id AND hit.node_id = given.node_id
)
INSERT INTO execution_references (execution_id, used_by)
SELECT DISTINCT source.execution_id, user_.execution_id
FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[]) AS used (used_by, project, domain, name)
CROSS JOIN LATERAL (
    SELECT e.execution_id FROM executions e
    WHERE e.execution_project = used.project AND e.execution_domain = used.domain AND e.execution_name = used.name
    UNION ALL
    SELECT going.execution_id
    FROM execution_tombstones dead
    JOIN execution_deletions going
        ON going.execution_id = dead.execution_id AND going.kind = 'execution' AND going.finished_at IS NULL
    WHERE dead.execution_project = used.project AND dead.execution_domain = used.domain
        AND dead.execution_name = used.name
) AS source
JOIN executions user_ ON user_.execution_id = used.used_by
WHERE source.execution_id <> user_.execution_id
ON CONFLICT DO NOTHING;

-- name: old_partitions
-- Partitions that end before the current quarter, with the range that they cover.
SELECT child.relname AS name, parent.relname AS parent,
       (regexp_match(pg_get_expr(child.relpartbound, child.oid), 'FROM \(''?(-?\d+)''?\) TO \(''?(-?\d+)''?\)'))[1]::bigint
           AS first,
       (regexp_match(pg_get_expr(child.relpartbound, child.oid), 'FROM \(''?(-?\d+)''?\) TO \(''?(-?\d+)''?\)'))[2]::bigint
           AS beyond,
       link.inhdetachpending AS detaching
FROM pg_inherits link
JOIN pg_class child ON child.oid = link.inhrelid
JOIN pg_class parent ON parent.oid = link.inhparent
JOIN pg_namespace space ON space.oid = parent.relnamespace
WHERE parent.relname IN ('journal', 'node_executions', 'task_executions', 'node_items') AND parent.relkind = 'p'
  AND space.nspname = current_schema()
ORDER BY child.relname;

-- name: range_in_use
SELECT EXISTS (SELECT FROM executions WHERE execution_id >= $1 AND execution_id < $2)
    OR EXISTS (
        SELECT FROM execution_deletions WHERE finished_at IS NULL AND execution_id >= $1 AND execution_id < $2
    );

-- name: orphaned_tables
-- Partitions that were detached by a process that died before it dropped them.
SELECT child.relname AS name
FROM pg_class child
JOIN pg_namespace space ON space.oid = child.relnamespace
WHERE child.relkind = 'r' AND NOT child.relispartition AND space.nspname = current_schema()
  AND child.relname ~ '^(journal|node_executions|task_executions|node_items)_[0-9]{4}q[1-4]$'
ORDER BY child.relname;

-- name: current_quarter
SELECT execution_id_at(date_trunc('quarter', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC');
