-- The executions of a name in the order in which they began, as the console lists them.
CREATE INDEX executions_by_workflow_name_and_start ON executions (workflow_name_id, started_at, execution_id);
CREATE INDEX executions_by_launch_plan_name_and_start ON executions (launch_plan_name_id, started_at, execution_id)
    WHERE launch_plan_name_id IS NOT NULL;
CREATE INDEX executions_by_task_name_and_start ON executions (task_name_id, started_at, execution_id)
    WHERE task_name_id IS NOT NULL;

-- Executions that began, by the clock of their engine, more than a day before they were created: next to none.  All
-- others that began before an instant were created by a day after it, which tells lists by creation where to start.
CREATE INDEX executions_begun_early ON executions (execution_project, execution_domain, created_at, execution_id)
    WHERE created_at - started_at > interval '1 day';
