-- Executions that began, by the clock of their engine, well before they were created: next to none.  All others that began
-- before an instant were created by ten minutes after it, which tells lists by creation where to start; clocks do not differ
-- by more.

-- step: executions that began before they were created
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_begun_before_creation
    ON executions (execution_project, execution_domain, created_at, execution_id)
    WHERE created_at - started_at > interval '10 minutes';
