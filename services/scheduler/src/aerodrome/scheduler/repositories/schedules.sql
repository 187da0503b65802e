-- Schedules, what became of their slots, pauses, and orders to backfill.

-- name: learn
INSERT INTO scheduler_schedules AS s (
    project, domain, name, version, active, activated_at, expression, period, kickoff_arg, annotations, problem,
    decided_until
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $6)
ON CONFLICT (project, domain, name, version) DO UPDATE
SET active = excluded.active, activated_at = excluded.activated_at, expression = excluded.expression,
    period = excluded.period, kickoff_arg = excluded.kickoff_arg, annotations = excluded.annotations,
    problem = excluded.problem,
    -- What was due before an activation is not made up for.
    decided_until = CASE WHEN excluded.active THEN GREATEST(s.decided_until, excluded.activated_at)
                         ELSE s.decided_until END
WHERE (s.active, s.activated_at, s.expression, s.period, s.kickoff_arg, s.annotations, s.problem)
      IS DISTINCT FROM (excluded.active, excluded.activated_at, excluded.expression, excluded.period,
                        excluded.kickoff_arg, excluded.annotations, excluded.problem)
  AND s.activated_at <= excluded.activated_at
RETURNING id, project, domain, name, version;

-- name: announce
SELECT pg_notify('aerodrome_scheduler', id) FROM unnest($1::text[]) AS changed (id);

-- name: get
SELECT id, project, domain, name, version, active, activated_at, expression, period, kickoff_arg, annotations, problem,
       decided_until, last_slot, last_fired_at, last_execution, last_error
FROM scheduler_schedules
WHERE id = ANY ($1::bigint[]);

-- name: all_active
SELECT id, project, domain, name, version, active, activated_at, expression, period, kickoff_arg, annotations, problem,
       decided_until, last_slot, last_fired_at, last_execution, last_error
FROM scheduler_schedules
WHERE active;

-- name: page
SELECT id, project, domain, name, version, active, activated_at, expression, period, kickoff_arg, annotations, problem,
       decided_until, last_slot, last_fired_at, last_execution, last_error
FROM scheduler_schedules
WHERE ($1 = '' OR project = $1) AND ($2 = '' OR domain = $2) AND ($3 = '' OR name = $3) AND ($4 = '' OR version = $4)
  AND (active OR NOT $5)
  AND (project, domain, name, version) > ($6, $7, $8, $9)
ORDER BY project, domain, name, version
LIMIT $10;

-- name: find
SELECT id, project, domain, name, version, active, activated_at, expression, period, kickoff_arg, annotations, problem,
       decided_until, last_slot, last_fired_at, last_execution, last_error
FROM scheduler_schedules
WHERE project = $1 AND domain = $2 AND name = $3 AND (version = $4 OR $4 = '' AND active);

-- name: fence
SELECT true FROM scheduler_leader WHERE id = 1 AND holder = $1 AND epoch = $2 FOR SHARE;

-- name: decide
UPDATE scheduler_schedules s
SET decided_until = GREATEST(s.decided_until, r.decided_until),
    last_slot = COALESCE(GREATEST(s.last_slot, r.last_slot), s.last_slot),
    last_fired_at = COALESCE(r.fired_at, s.last_fired_at),
    last_execution = COALESCE(r.execution, s.last_execution),
    last_error = COALESCE(r.error, s.last_error)
FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[])
     AS r (id, decided_until, last_slot, fired_at, execution, error)
WHERE s.id = r.id;

-- name: add_decisions
INSERT INTO scheduler_decisions (
    schedule_id, outcome, origin, slot, last_slot, slots, execution_name, reason, decided_at
)
SELECT schedule_id, outcome, origin, slot, last_slot, slots, execution_name, reason, decided_at
FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::text[],
            $8::text[], $9::timestamptz[])
     AS r (schedule_id, outcome, origin, slot, last_slot, slots, execution_name, reason, decided_at);

-- name: advance_backfills
UPDATE scheduler_backfills b
SET decided_until = GREATEST(b.decided_until, r.decided_until),
    fired = b.fired + r.fired, existed = b.existed + r.existed, failed = b.failed + r.failed,
    finished_at = COALESCE(b.finished_at, r.finished_at)
FROM unnest($1::bigint[], $2::timestamptz[], $3::int[], $4::int[], $5::int[], $6::timestamptz[])
     AS r (id, decided_until, fired, existed, failed, finished_at)
WHERE b.id = r.id;

-- name: prune
DELETE FROM scheduler_decisions d
USING (
    SELECT s.id AS schedule_id,
           (SELECT k.id FROM scheduler_decisions k WHERE k.schedule_id = s.id ORDER BY k.id DESC OFFSET $1 LIMIT 1) AS cut
    FROM scheduler_schedules s
    WHERE s.id > $2 AND s.id <= $3
) o
WHERE d.schedule_id = o.schedule_id AND d.id <= o.cut;

-- name: last_id
SELECT COALESCE(max(id), 0) FROM scheduler_schedules;

-- name: decisions
SELECT d.id, s.project, s.domain, s.name, s.version, d.outcome, d.origin, d.slot, d.last_slot, d.slots,
       d.execution_name, d.reason, d.decided_at
FROM scheduler_decisions d
JOIN scheduler_schedules s ON s.id = d.schedule_id
WHERE ($1 = '' OR s.project = $1) AND ($2 = '' OR s.domain = $2) AND ($3 = '' OR s.name = $3)
  AND ($4 = '' OR s.version = $4)
  AND (cardinality($5::smallint[]) = 0 OR d.outcome = ANY ($5::smallint[]))
  AND d.id < $6
ORDER BY d.id DESC
LIMIT $7;

-- name: last_decisions
SELECT d.id, s.project, s.domain, s.name, s.version, d.outcome, d.origin, d.slot, d.last_slot, d.slots,
       d.execution_name, d.reason, d.decided_at, s.id AS schedule_id
FROM unnest($1::bigint[]) AS wanted (id)
JOIN scheduler_schedules s ON s.id = wanted.id
CROSS JOIN LATERAL (
    SELECT id, outcome, origin, slot, last_slot, slots, execution_name, reason, decided_at
    FROM scheduler_decisions
    WHERE schedule_id = s.id
    ORDER BY id DESC
    LIMIT $2
) d
ORDER BY s.id, d.id DESC;

-- name: pauses
SELECT project, domain, name, reason, paused_at FROM scheduler_pauses ORDER BY project, domain, name;

-- name: pause
INSERT INTO scheduler_pauses AS p (project, domain, name, reason, paused_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (project, domain, name) DO UPDATE SET reason = excluded.reason
RETURNING project, domain, name, reason, paused_at;

-- name: resume
DELETE FROM scheduler_pauses WHERE project = $1 AND domain = $2 AND name = $3 RETURNING true;

-- name: decided_meanwhile
UPDATE scheduler_schedules s
SET decided_until = GREATEST(s.decided_until, $4)
WHERE s.project = $1 AND ($2 = '' OR s.domain = $2) AND ($3 = '' OR s.name = $3) AND s.active
RETURNING s.id;

-- name: add_backfill
INSERT INTO scheduler_backfills (schedule_id, range_start, range_end, decided_until, slots, created_at, finished_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id, schedule_id, range_start, range_end, decided_until, slots, fired, existed, failed, created_at, finished_at;

-- name: count_open_backfills
SELECT count(*) FROM scheduler_backfills WHERE finished_at IS NULL;

-- name: prune_backfills
DELETE FROM scheduler_backfills WHERE finished_at < $1;

-- name: open_backfills
SELECT id, schedule_id, range_start, range_end, decided_until, slots, fired, existed, failed, created_at, finished_at
FROM scheduler_backfills
WHERE finished_at IS NULL
ORDER BY id;

-- name: backfills
SELECT b.id, b.schedule_id, b.range_start, b.range_end, b.decided_until, b.slots, b.fired, b.existed, b.failed,
       b.created_at, b.finished_at, s.project, s.domain, s.name, s.version
FROM scheduler_backfills b
JOIN scheduler_schedules s ON s.id = b.schedule_id
WHERE ($1 = '' OR s.project = $1) AND ($2 = '' OR s.domain = $2) AND ($3 = '' OR s.name = $3)
  AND ($4 = '' OR s.version = $4)
  AND b.id < $5
ORDER BY b.id DESC
LIMIT $6;
