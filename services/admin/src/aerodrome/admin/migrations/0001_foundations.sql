-- The control plane's tables.
--
-- Registered entities are keyed by (project, domain, name, version).  Executions get a time-ordered `execution_id`; every
-- table that grows with them leads its key with it and is range-partitioned by it, so that one execution's rows lie
-- together, retention can drop what became empty, and no index is wider than it has to be.  Protobuf messages are stored
-- serialized (unknown fields survive); what lists filter and sort by is promoted to columns.  Instants are UTC,
-- durations are nanoseconds.

CREATE SEQUENCE execution_serials;

-- Milliseconds since 1970 in the high bits, a serial in the low 20: ordered by time, unique for a million a millisecond.
CREATE FUNCTION next_execution_id() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20) | (nextval('execution_serials') & 1048575)
$$;

CREATE FUNCTION execution_id_at(instant timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT (extract(epoch FROM instant) * 1000)::bigint << 20
$$;

CREATE TABLE projects (
    identifier text PRIMARY KEY,
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    labels bytea NOT NULL DEFAULT '',                 -- flyteidl.admin.Labels
    state smallint NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3)
);

CREATE TABLE tasks (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    closure bytea NOT NULL,                           -- flyteidl.admin.TaskClosure
    digest bytea NOT NULL,
    type text NOT NULL,
    short_description text NOT NULL DEFAULT '',
    PRIMARY KEY (project, domain, name, version)
);
CREATE INDEX tasks_by_creation ON tasks (project, domain, created_at, id);
CREATE INDEX tasks_by_name_and_creation ON tasks (project, domain, name, created_at, id);

CREATE TABLE workflows (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    typed_interface bytea NOT NULL,                   -- flyteidl.core.TypedInterface
    remote_closure_identifier text NOT NULL,          -- where the flyteidl.admin.WorkflowClosure is stored
    digest bytea NOT NULL,
    short_description text NOT NULL DEFAULT '',
    PRIMARY KEY (project, domain, name, version)
);
CREATE INDEX workflows_by_creation ON workflows (project, domain, created_at, id);
CREATE INDEX workflows_by_name_and_creation ON workflows (project, domain, name, created_at, id);

CREATE TABLE launch_plans (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    spec bytea NOT NULL,                              -- flyteidl.admin.LaunchPlanSpec
    closure bytea NOT NULL,                           -- flyteidl.admin.LaunchPlanClosure
    workflow_id bigint NOT NULL REFERENCES workflows (id),
    state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 1)),
    digest bytea NOT NULL,
    schedule_type text NOT NULL DEFAULT 'NONE' CHECK (schedule_type IN ('NONE', 'CRON', 'RATE')),
    launch_condition_type text CHECK (launch_condition_type IN ('SCHED')),
    PRIMARY KEY (project, domain, name, version)
);
CREATE UNIQUE INDEX launch_plans_one_active ON launch_plans (project, domain, name) WHERE state = 1;
CREATE INDEX launch_plans_by_creation ON launch_plans (project, domain, created_at, id);
CREATE INDEX launch_plans_by_name_and_creation ON launch_plans (project, domain, name, created_at, id);
CREATE INDEX launch_plans_by_workflow ON launch_plans (workflow_id);

CREATE TABLE named_entity_metadata (
    resource_type smallint NOT NULL CHECK (resource_type BETWEEN 1 AND 3),
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    description text NOT NULL DEFAULT '',
    state smallint NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),
    PRIMARY KEY (resource_type, project, domain, name)
);

CREATE TABLE description_entities (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    resource_type smallint NOT NULL,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    short_description text NOT NULL DEFAULT '',
    long_description bytea NOT NULL DEFAULT '',       -- flyteidl.admin.Description
    link text NOT NULL DEFAULT '',
    PRIMARY KEY (resource_type, project, domain, name, version)
);

-- Matchable attributes; '' in a key column means "any".
CREATE TABLE resources (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project text NOT NULL,
    domain text NOT NULL DEFAULT '',
    workflow text NOT NULL DEFAULT '',
    launch_plan text NOT NULL DEFAULT '',
    resource_type text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    priority integer NOT NULL,
    attributes bytea NOT NULL,                        -- flyteidl.admin.MatchingAttributes
    UNIQUE (project, domain, workflow, launch_plan, resource_type)
);
CREATE INDEX resources_by_type ON resources (resource_type, priority DESC);

CREATE TABLE executions (
    execution_id bigint PRIMARY KEY DEFAULT next_execution_id(),
    execution_project text NOT NULL,
    execution_domain text NOT NULL,
    execution_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    phase text NOT NULL CHECK (phase IN (
        'UNDEFINED', 'QUEUED', 'RUNNING', 'SUCCEEDING', 'SUCCEEDED', 'FAILING', 'FAILED', 'ABORTED', 'TIMED_OUT', 'ABORTING')),
    spec bytea NOT NULL,                              -- flyteidl.admin.ExecutionSpec
    closure bytea NOT NULL,                           -- flyteidl.admin.ExecutionClosure
    launch_plan_id bigint,
    workflow_id bigint NOT NULL,
    task_id bigint,
    launch_entity text NOT NULL CHECK (launch_entity IN ('launch_plan', 'task')),
    started_at timestamptz,
    execution_created_at timestamptz NOT NULL,
    execution_updated_at timestamptz NOT NULL,
    duration bigint,
    abort_cause text NOT NULL DEFAULT '',
    mode smallint NOT NULL DEFAULT 0,
    source_execution_id bigint,
    parent_execution_id bigint,                       -- with parent_node_id: the node that launched this child
    parent_node_id text,
    cluster text NOT NULL DEFAULT '',
    inputs_uri text NOT NULL DEFAULT '',
    user_inputs_uri text NOT NULL DEFAULT '',
    task_resources bytea NOT NULL DEFAULT '',         -- aerodrome.journal.v1.ResolvedResources
    plugin_overrides bytea NOT NULL DEFAULT '',       -- flyteidl.admin.PluginOverrides
    recovered_execution_id bigint,                    -- whose successes the engine takes over
    error_kind text,
    error_code text,
    "user" text NOT NULL DEFAULT '',
    state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 1)),
    -- flyteidl.admin.ExecutionClosure with nothing but state_change_details; readers append it to `closure`, which never
    -- holds them, so that archiving and folding do not write the same value
    state_change bytea NOT NULL DEFAULT '',
    UNIQUE (execution_project, execution_domain, execution_name)
);
CREATE INDEX executions_by_creation ON executions (execution_project, execution_domain, state, created_at, execution_id);
CREATE INDEX executions_by_phase ON executions (execution_project, execution_domain, phase, created_at, execution_id);
CREATE INDEX executions_by_launch_plan ON executions (launch_plan_id, created_at, execution_id);
CREATE INDEX executions_by_workflow ON executions (workflow_id, created_at, execution_id);
CREATE INDEX executions_by_task ON executions (task_id, created_at, execution_id) WHERE task_id IS NOT NULL;
CREATE INDEX executions_by_parent ON executions (parent_execution_id, parent_node_id) WHERE parent_execution_id IS NOT NULL;
CREATE INDEX executions_by_start ON executions (execution_project, execution_domain, started_at, execution_id);

CREATE TABLE execution_tags (
    execution_id bigint NOT NULL REFERENCES executions ON DELETE CASCADE,
    key text NOT NULL,
    value text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_id, key, value)
);
CREATE INDEX execution_tags_by_key ON execution_tags (key, value, execution_id);

-- Names of executions that were deleted for good: they still answer ALREADY_EXISTS.
CREATE TABLE execution_tombstones (
    execution_project text NOT NULL,
    execution_domain text NOT NULL,
    execution_name text NOT NULL,
    execution_id bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_project, execution_domain, execution_name)
);

-- A process of a data plane.  A session is alive while now() < expires_at and closed_at is null.
CREATE TABLE sessions (
    session_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster text NOT NULL,
    holder text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    closed_at timestamptz
);

-- Who writes an execution, and how far its journal reaches.  This row is the lock of the execution: whoever appends takes
-- it first, groups in key order.  It is narrow and unindexed in what changes often, so that updates stay in the page.
CREATE TABLE leases (
    execution_id bigint PRIMARY KEY REFERENCES executions ON DELETE CASCADE,
    cluster text NOT NULL,
    writer text NOT NULL DEFAULT '' CHECK (writer IN ('', 'lease', 'events')),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'held', 'closed')),
    session_id bigint,
    epoch bigint NOT NULL DEFAULT 0,
    last_sequence bigint NOT NULL DEFAULT 0,
    applied_first bigint NOT NULL DEFAULT 0,          -- first_sequence of the last append that changed something, and
    applied_results bytea NOT NULL DEFAULT '',        -- how it was answered, one byte per transition: repeats get the same
    control_sequence bigint NOT NULL DEFAULT 0,       -- of the last decision of the control plane, 0 if there was none
    workflow_state bytea NOT NULL DEFAULT '',         -- the holder's own, opaque here
    CHECK ((state = 'held') = (session_id IS NOT NULL))
) WITH (fillfactor = 60);
CREATE INDEX leases_open ON leases (cluster, execution_id) WHERE state = 'open';
CREATE INDEX leases_held ON leases (session_id, execution_id) WHERE state = 'held';

CREATE TABLE signals (
    execution_id bigint NOT NULL REFERENCES executions ON DELETE CASCADE,
    signal_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    type bytea NOT NULL,                              -- flyteidl.core.LiteralType
    value bytea,                                      -- flyteidl.core.Literal
    PRIMARY KEY (execution_id, signal_id)
);

CREATE TABLE schedulable_entities (
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    cron_expression text NOT NULL DEFAULT '',
    fixed_rate_value bigint NOT NULL DEFAULT 0,
    unit smallint NOT NULL DEFAULT 0,
    kickoff_time_input_arg text NOT NULL DEFAULT '',
    active boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project, domain, name, version)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text NOT NULL DEFAULT '',
    payload bytea NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What happened, in order.  The rows of the tables below (and of `executions`) are its fold.
CREATE TABLE journal (
    execution_id bigint NOT NULL,
    sequence bigint NOT NULL,
    epoch bigint NOT NULL,
    kind smallint NOT NULL,                           -- 1 workflow, 2 node, 3 task, 4 items, 5 control, 6 event of an outside engine
    body bytea NOT NULL,                              -- aerodrome.journal.v1.Transition, or Control for kind 5
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_id, sequence)
) PARTITION BY RANGE (execution_id);
CREATE INDEX journal_controls ON journal (execution_id, sequence) WHERE kind = 5;

CREATE SEQUENCE node_execution_ids CACHE 64;
CREATE TABLE node_executions (
    execution_id bigint NOT NULL,
    node_id text NOT NULL,
    id bigint NOT NULL DEFAULT nextval('node_execution_ids'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    phase text NOT NULL,                              -- '' until an event of the node was folded
    closure bytea NOT NULL,                           -- flyteidl.admin.NodeExecutionClosure
    node_execution_metadata bytea NOT NULL,           -- flyteidl.admin.NodeExecutionMetaData
    input_uri text NOT NULL DEFAULT '',
    started_at timestamptz,
    node_execution_created_at timestamptz,
    node_execution_updated_at timestamptz,
    duration bigint,
    parent_node_id text,
    parent_task_execution_id bigint,
    error_kind text,
    error_code text,
    cache_status text,
    dynamic_workflow_remote_closure_reference text NOT NULL DEFAULT '',
    event_version smallint NOT NULL DEFAULT 0,
    engine_state bytea NOT NULL DEFAULT '',           -- the lease holder's own, opaque here
    PRIMARY KEY (execution_id, node_id)
) PARTITION BY RANGE (execution_id);
CREATE INDEX node_executions_by_parent ON node_executions (execution_id, parent_node_id, created_at, id);
CREATE INDEX node_executions_by_parent_task ON node_executions (execution_id, parent_task_execution_id, created_at, id)
    WHERE parent_task_execution_id IS NOT NULL;

CREATE SEQUENCE task_execution_ids CACHE 64;
CREATE TABLE task_executions (
    execution_id bigint NOT NULL,
    node_id text NOT NULL,
    retry_attempt integer NOT NULL,
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    id bigint NOT NULL DEFAULT nextval('task_execution_ids'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    phase text NOT NULL,
    phase_version integer NOT NULL DEFAULT 0,
    closure bytea NOT NULL,                           -- flyteidl.admin.TaskExecutionClosure
    input_uri text NOT NULL DEFAULT '',
    started_at timestamptz,
    task_execution_created_at timestamptz,
    task_execution_updated_at timestamptz,
    duration bigint,
    engine_state bytea NOT NULL DEFAULT '',           -- the lease holder's own, opaque here
    PRIMARY KEY (execution_id, node_id, retry_attempt, name, version, project, domain)
) PARTITION BY RANGE (execution_id);

-- What a group of changes writes, many rows in one parameter: one array of rows costs the writer a third less than an
-- array for each column.  A later release that writes more columns makes new types.
CREATE TYPE lease_write AS (
    execution_id bigint, changed boolean, old_writer text, old_state text, old_session_id bigint, old_epoch bigint,
    old_last_sequence bigint, writer text, state text, session_id bigint, epoch bigint, last_sequence bigint,
    applied_first bigint, applied_results bytea, control_sequence bigint, workflow_state bytea
);
CREATE TYPE journal_write AS (execution_id bigint, sequence bigint, epoch bigint, kind smallint, body bytea);
CREATE TYPE execution_write AS (
    execution_id bigint, phase text, closure bytea, cluster text, started_at timestamptz,
    execution_updated_at timestamptz, duration bigint, abort_cause text, error_kind text, error_code text
);
CREATE TYPE outbox_write AS (topic text, key text, payload bytea);
CREATE TYPE node_execution_write AS (
    execution_id bigint, node_id text, phase text, closure bytea, node_execution_metadata bytea, input_uri text,
    started_at timestamptz, node_execution_created_at timestamptz, node_execution_updated_at timestamptz,
    duration bigint, parent_node_id text, parent_task_execution_id bigint, error_kind text, error_code text,
    cache_status text, dynamic_workflow_remote_closure_reference text, event_version smallint, engine_state bytea
);
CREATE TYPE task_execution_write AS (
    execution_id bigint, node_id text, retry_attempt integer, name text, version text, project text, domain text,
    phase text, phase_version integer, closure bytea, input_uri text, started_at timestamptz,
    task_execution_created_at timestamptz, task_execution_updated_at timestamptz, duration bigint, engine_state bytea
);

-- Ends a statement in which executions turn out to have moved on since they were read; the writer reads them again.
CREATE FUNCTION refuse_moved(moved bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF moved <> 0 THEN
        RAISE EXCEPTION '% of the executions have moved on', moved USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END
$$;

-- One row per map item, so that a large map never rewrites one document.
CREATE TABLE node_items (
    execution_id bigint NOT NULL,
    node_id text NOT NULL,
    item_index integer NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    system_failures integer NOT NULL DEFAULT 0,
    phase smallint NOT NULL,
    cache_status smallint NOT NULL DEFAULT 0,
    error bytea,                                      -- flyteidl.core.ExecutionError
    log_uri text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_id, node_id, item_index)
) PARTITION BY RANGE (execution_id);

-- Makes the quarterly partitions that cover [from_instant, to_instant]; called at start and once a day.
CREATE FUNCTION ensure_execution_partitions(from_instant timestamptz, to_instant timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    quarter timestamptz := date_trunc('quarter', from_instant AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    following timestamptz;
    parent text;
    child text;
BEGIN
    WHILE quarter <= to_instant LOOP
        following := ((quarter AT TIME ZONE 'UTC') + interval '3 months') AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['journal', 'node_executions', 'task_executions', 'node_items'] LOOP
            child := parent || '_' || to_char(quarter AT TIME ZONE 'UTC', 'YYYY"q"Q');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',
                    child, parent, execution_id_at(quarter), execution_id_at(following));
                IF parent IN ('node_executions', 'task_executions') THEN
                    EXECUTE format('ALTER TABLE %I SET (fillfactor = 75)', child);
                END IF;
            END IF;
        END LOOP;
        quarter := following;
    END LOOP;
END
$$;

SELECT ensure_execution_partitions(now(), now() + interval '3 months');
