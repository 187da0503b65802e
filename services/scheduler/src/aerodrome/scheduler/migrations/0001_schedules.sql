-- One version of a launch plan that was activated with a schedule at some time.  What it says comes from the control
-- plane; up to where its slots are decided is ours.
CREATE TABLE scheduler_schedules (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    active boolean NOT NULL,
    activated_at timestamptz NOT NULL,                    -- when its state changed last; fixed rates count from here
    expression text NOT NULL DEFAULT '',
    period interval,                                      -- of a fixed rate
    kickoff_arg text NOT NULL DEFAULT '',
    annotations jsonb NOT NULL DEFAULT '{}',              -- those that concern the schedule
    problem text NOT NULL DEFAULT '',                     -- why it cannot be run as it is written
    decided_until timestamptz NOT NULL,                   -- every slot up to here is decided; never goes back
    last_slot timestamptz,
    last_fired_at timestamptz,
    last_execution text NOT NULL DEFAULT '',
    last_error text NOT NULL DEFAULT '',
    PRIMARY KEY (project, domain, name, version),
    CHECK (expression <> '' OR period IS NOT NULL OR problem <> '')
);
CREATE INDEX scheduler_schedules_active ON scheduler_schedules (id) WHERE active;

-- What became of slots; the latest few of each schedule are kept.
CREATE TABLE scheduler_decisions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule_id bigint NOT NULL REFERENCES scheduler_schedules (id) ON DELETE CASCADE,
    outcome smallint NOT NULL CHECK (outcome BETWEEN 1 AND 5),    -- aerodrome.scheduler.v1.Outcome
    origin smallint NOT NULL CHECK (origin BETWEEN 1 AND 3),      -- aerodrome.scheduler.v1.Origin
    slot timestamptz,
    last_slot timestamptz,
    slots integer NOT NULL DEFAULT 1 CHECK (slots >= 0),
    execution_name text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    decided_at timestamptz NOT NULL
);
CREATE INDEX scheduler_decisions_by_schedule ON scheduler_decisions (schedule_id, id);

-- Which replica leads.  Everything that a leader writes, it writes while it holds its epoch.
CREATE TABLE scheduler_leader (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    holder text NOT NULL DEFAULT '',
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO scheduler_leader DEFAULT VALUES;

-- What is held back; an empty domain means all of the project, an empty name all of the domain.
CREATE TABLE scheduler_pauses (
    project text NOT NULL,
    domain text NOT NULL DEFAULT '',
    name text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    paused_at timestamptz NOT NULL,
    PRIMARY KEY (project, domain, name),
    CHECK (project <> '' AND (domain <> '' OR name = ''))
);

-- Orders to fire the slots of a past range.
CREATE TABLE scheduler_backfills (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule_id bigint NOT NULL REFERENCES scheduler_schedules (id) ON DELETE CASCADE,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL CHECK (range_end > range_start),
    decided_until timestamptz NOT NULL,
    slots integer NOT NULL,
    fired integer NOT NULL DEFAULT 0,
    existed integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX scheduler_backfills_open ON scheduler_backfills (id) WHERE finished_at IS NULL;
