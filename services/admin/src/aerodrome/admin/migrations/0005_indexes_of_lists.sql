-- The numbers of the names of what was there before, and an index in the order of each list for every filter that stock
-- clients send.  Everybody goes on reading and writing meanwhile.

-- step: the numbers in the executions, some at a time
-- Rows that others hold are left for the next round instead of waited for, so that nobody meets a deadlock.
DO $$
DECLARE
    done bigint;
    batch bigint[];
    reached bigint;
BEGIN
    LOOP
        done := 0;
        LOOP
            SELECT array_agg(execution_id), max(execution_id) INTO batch, reached
            FROM (SELECT execution_id FROM executions WHERE execution_id > done ORDER BY execution_id LIMIT 1000) AS next;
            EXIT WHEN reached IS NULL;
            WITH free AS MATERIALIZED (
                SELECT execution_id
                FROM executions
                WHERE execution_id = ANY(batch) AND workflow_name_id IS NULL
                FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE executions AS e
            SET workflow_name_id = (
                    SELECT n.id FROM workflows w JOIN registered_names n USING (project, domain, name)
                    WHERE w.id = e.workflow_id AND n.resource_type = 2
                ),
                launch_plan_name_id = (
                    SELECT n.id FROM launch_plans l JOIN registered_names n USING (project, domain, name)
                    WHERE l.id = e.launch_plan_id AND n.resource_type = 3
                ),
                task_name_id = (
                    SELECT n.id FROM tasks t JOIN registered_names n USING (project, domain, name)
                    WHERE t.id = e.task_id AND n.resource_type = 1
                )
            FROM free
            WHERE e.execution_id = free.execution_id;
            COMMIT;
            done := reached;
        END LOOP;
        EXIT WHEN NOT EXISTS (
            SELECT FROM executions e
            JOIN workflows w ON w.id = e.workflow_id
            JOIN registered_names n ON n.resource_type = 2
                AND n.project = w.project AND n.domain = w.domain AND n.name = w.name
            WHERE e.workflow_name_id IS NULL
        );
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END
$$;

-- step: the executions of a launch plan
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_launch_plan_name
    ON executions (launch_plan_name_id, created_at, execution_id) WHERE launch_plan_name_id IS NOT NULL;

-- step: the executions of a workflow
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_workflow_name
    ON executions (workflow_name_id, created_at, execution_id);

-- step: the executions of a task
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_task_name
    ON executions (task_name_id, created_at, execution_id) WHERE task_name_id IS NOT NULL;

-- step: the executions of a launch plan, by start
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_launch_plan_name_and_start
    ON executions (launch_plan_name_id, started_at, execution_id) WHERE launch_plan_name_id IS NOT NULL;

-- step: the executions of a workflow, by start
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_workflow_name_and_start
    ON executions (workflow_name_id, started_at, execution_id);

-- step: the executions of a task, by start
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_task_name_and_start
    ON executions (task_name_id, started_at, execution_id) WHERE task_name_id IS NOT NULL;

-- step: the executions of a user
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_user
    ON executions (execution_project, execution_domain, "user", created_at, execution_id);

-- step: the executions of a mode
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_mode
    ON executions (execution_project, execution_domain, mode, created_at, execution_id);

-- step: the executions of a duration
CREATE INDEX CONCURRENTLY IF NOT EXISTS executions_by_duration
    ON executions (execution_project, execution_domain, duration) WHERE duration IS NOT NULL;

-- step: tasks by their last change
CREATE INDEX CONCURRENTLY IF NOT EXISTS tasks_by_update
    ON tasks (project, domain, updated_at, id);

-- step: workflows by their last change
CREATE INDEX CONCURRENTLY IF NOT EXISTS workflows_by_update
    ON workflows (project, domain, updated_at, id);

-- step: launch plans by their last change
CREATE INDEX CONCURRENTLY IF NOT EXISTS launch_plans_by_update
    ON launch_plans (project, domain, updated_at, id);
