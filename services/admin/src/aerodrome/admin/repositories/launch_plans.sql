-- Launch plans, and the rows that the scheduler fires.

-- name: insert
INSERT INTO launch_plans (
    project, domain, name, version, created_at, updated_at,
    spec, closure, workflow_id, state, digest, schedule_type, launch_condition_type
)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, 0, $9, $10, $11)
ON CONFLICT (project, domain, name, version) DO NOTHING
RETURNING id;

-- name: get
SELECT id, project, domain, name, version, created_at, updated_at, spec, closure, state, digest
FROM launch_plans
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4;

-- name: active
SELECT id, project, domain, name, version, created_at, updated_at, spec, closure, state, digest
FROM launch_plans
WHERE project = $1 AND domain = $2 AND name = $3 AND state = 1;

-- name: closures
SELECT l.project, l.domain, l.name, l.version, l.closure
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS wanted (project, domain, name, version)
JOIN launch_plans l USING (project, domain, name, version);

-- name: target
SELECT l.id AS launch_plan_id, l.spec, l.closure, w.id AS workflow_id, w.project, w.domain, w.name, w.version,
       w.remote_closure_identifier
FROM launch_plans l
JOIN workflows w ON w.id = l.workflow_id
WHERE l.project = $1 AND l.domain = $2 AND l.name = $3 AND l.version = $4;

-- name: lock_name
SELECT pg_advisory_xact_lock(hashtextextended('launch_plans' || chr(31) || $1 || chr(31) || $2 || chr(31) || $3, 0));

-- name: set_state
UPDATE launch_plans SET state = $5, updated_at = $6
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4 AND state <> $5;

-- name: enable_schedule
INSERT INTO schedulable_entities (
    project, domain, name, version, cron_expression, fixed_rate_value, unit, kickoff_time_input_arg, active
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true)
ON CONFLICT (project, domain, name, version) DO UPDATE SET active = true, updated_at = now();

-- name: disable_schedule
UPDATE schedulable_entities SET active = false, updated_at = now()
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4 AND active;
