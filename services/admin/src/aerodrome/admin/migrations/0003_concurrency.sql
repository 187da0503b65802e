-- Launches that wait for room under their launch plan's limit, and leases that are handed out by projects in turn.

-- An execution that waits has a lease in the state 'waiting', which is handed out to nobody.
ALTER TABLE leases
    ADD COLUMN project text NOT NULL DEFAULT '',      -- '' for those that an older release made
    DROP CONSTRAINT leases_state_check,
    ADD CONSTRAINT leases_state_check CHECK (state IN ('open', 'held', 'closed', 'waiting')) NOT VALID;

UPDATE leases
SET project = executions.execution_project
FROM executions
WHERE leases.execution_id = executions.execution_id AND leases.state = 'open';

CREATE INDEX leases_open_by_project ON leases (cluster, project, execution_id) WHERE state = 'open';

-- What is not over of a launch plan: few rows, whatever its history.
CREATE INDEX executions_live_by_launch_plan ON executions (launch_plan_id, execution_id)
    WHERE launch_plan_id IS NOT NULL AND phase NOT IN ('SUCCEEDED', 'FAILED', 'ABORTED', 'TIMED_OUT');

-- Executions that wait until fewer than `most` of their launch plan (any version of it) are in progress.
CREATE TABLE waiting_executions (
    execution_id bigint PRIMARY KEY REFERENCES executions ON DELETE CASCADE,
    project text NOT NULL,                            -- of the launch plan, as domain and name
    domain text NOT NULL,
    name text NOT NULL,
    most integer NOT NULL CHECK (most > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- flyteidl.admin.ExecutionSpec with nothing but an annotation that says what it waits for; readers append it to `spec`
    shown bytea NOT NULL DEFAULT ''
);
CREATE INDEX waiting_executions_in_order ON waiting_executions (project, domain, name, execution_id);
