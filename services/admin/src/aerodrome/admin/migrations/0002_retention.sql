-- Retention: how long executions and their blobs are kept, what is kept in spite of that, and what was deleted by whom.

-- '' in a key column means "any"; the most specific policy counts.  NULL days: kept for ever.
CREATE TABLE retention_policies (
    project text NOT NULL,
    domain text NOT NULL,
    keep_executions_days integer CHECK (keep_executions_days >= 1),
    keep_blobs_days integer CHECK (keep_blobs_days >= 1),
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL DEFAULT '',
    PRIMARY KEY (project, domain),
    CHECK (keep_executions_days IS NOT NULL OR keep_blobs_days IS NOT NULL),
    CHECK (domain = '' OR project <> '')
);

CREATE TABLE execution_pins (
    execution_id bigint PRIMARY KEY REFERENCES executions ON DELETE CASCADE,
    pinned_at timestamptz NOT NULL,
    pinned_by text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT ''
);

-- Deletions under way and, once finished, the record of who deleted what.  The row is written in the transaction in
-- which the execution's own row goes and holds what is needed to go on after a crash.
CREATE TABLE execution_deletions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('execution', 'blobs')),
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    raw_output_base text NOT NULL DEFAULT '',         -- '': given by the user, so what lies below it is not ours
    started_at timestamptz NOT NULL,                  -- of the execution
    ended_at timestamptz NOT NULL,                    -- of the execution
    requested_at timestamptz NOT NULL,
    requested_by text NOT NULL DEFAULT '',
    cause text NOT NULL CHECK (cause IN ('request', 'policy')),
    stage text NOT NULL CHECK (stage IN ('cache', 'blobs', 'rows', 'done')),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    last_error text NOT NULL DEFAULT '',
    blobs bigint NOT NULL DEFAULT 0,
    blob_bytes bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    finished_at timestamptz,
    UNIQUE (execution_id, kind),
    CHECK ((stage = 'done') = (finished_at IS NOT NULL))
);
CREATE INDEX execution_deletions_pending ON execution_deletions (next_attempt_at, id) WHERE finished_at IS NULL;
CREATE INDEX execution_deletions_by_place ON execution_deletions (project, domain, id);

-- Raw outputs are named after the execution without its project and domain (spec/data-plane.md, 2.1).  While another
-- execution has that name they stay; this tells the deletion of the last one what they are.
CREATE TABLE retained_prefixes (
    execution_name text NOT NULL,
    prefix text NOT NULL,
    PRIMARY KEY (execution_name, prefix)
);

-- Whose blobs an execution uses because the cache gave it outputs of another one.
CREATE TABLE execution_references (
    execution_id bigint NOT NULL,                     -- whose blobs they are
    used_by bigint NOT NULL REFERENCES executions (execution_id) ON DELETE CASCADE,
    PRIMARY KEY (execution_id, used_by)
);
CREATE INDEX execution_references_by_user ON execution_references (used_by);

-- Nodes whose outputs came from the cache, until somebody has read from their closures where from.
CREATE TABLE cache_hits (
    execution_id bigint NOT NULL,
    node_id text NOT NULL,
    PRIMARY KEY (execution_id, node_id)
);
CREATE FUNCTION remember_cache_hit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cache_hits (execution_id, node_id) VALUES (NEW.execution_id, NEW.node_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER node_executions_hit_inserted AFTER INSERT ON node_executions
    FOR EACH ROW WHEN (NEW.cache_status = 'CACHE_HIT') EXECUTE FUNCTION remember_cache_hit();
CREATE TRIGGER node_executions_hit_updated AFTER UPDATE OF cache_status ON node_executions
    FOR EACH ROW WHEN (NEW.cache_status = 'CACHE_HIT' AND OLD.cache_status IS DISTINCT FROM NEW.cache_status)
    EXECUTE FUNCTION remember_cache_hit();
INSERT INTO cache_hits (execution_id, node_id)
SELECT execution_id, node_id FROM node_executions WHERE cache_status = 'CACHE_HIT';

CREATE INDEX executions_by_recovered ON executions (recovered_execution_id) WHERE recovered_execution_id IS NOT NULL;
