-- A day is far more than clocks differ by, and lists that start a day too late pass over a day's executions.
CREATE INDEX executions_begun_before_creation
    ON executions (execution_project, execution_domain, created_at, execution_id)
    WHERE created_at - started_at > interval '10 minutes';
DROP INDEX executions_begun_early;
