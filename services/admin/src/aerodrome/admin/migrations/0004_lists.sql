-- Lists that stay fast: names as numbers, so that the executions of a workflow, launch plan or task under any of its
-- versions are one range of an index.  Executions of before get theirs in the next migration; the names are all there when
-- the first execution is given one by the database, which locks `executions` only then.

-- One row for each name, whatever the number of its versions.
CREATE TABLE registered_names (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resource_type smallint NOT NULL CHECK (resource_type BETWEEN 1 AND 3),
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    UNIQUE (resource_type, project, domain, name)
);

CREATE FUNCTION remember_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM registered_names
        WHERE resource_type = TG_ARGV[0]::smallint AND project = NEW.project AND domain = NEW.domain AND name = NEW.name
    ) THEN
        INSERT INTO registered_names (resource_type, project, domain, name)
        VALUES (TG_ARGV[0]::smallint, NEW.project, NEW.domain, NEW.name)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER tasks_name AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION remember_name(1);
CREATE TRIGGER workflows_name AFTER INSERT ON workflows FOR EACH ROW EXECUTE FUNCTION remember_name(2);
CREATE TRIGGER launch_plans_name AFTER INSERT ON launch_plans FOR EACH ROW EXECUTE FUNCTION remember_name(3);

INSERT INTO registered_names (resource_type, project, domain, name)
SELECT DISTINCT 1, project, domain, name FROM tasks
UNION ALL SELECT DISTINCT 2, project, domain, name FROM workflows
UNION ALL SELECT DISTINCT 3, project, domain, name FROM launch_plans;

-- Set by the database, also for what the previous release launches.
ALTER TABLE executions
    ADD COLUMN launch_plan_name_id bigint,
    ADD COLUMN workflow_name_id bigint,
    ADD COLUMN task_name_id bigint;
CREATE FUNCTION name_what_is_launched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT n.id INTO NEW.workflow_name_id
    FROM workflows w JOIN registered_names n USING (project, domain, name)
    WHERE w.id = NEW.workflow_id AND n.resource_type = 2;
    IF NEW.launch_plan_id IS NOT NULL THEN
        SELECT n.id INTO NEW.launch_plan_name_id
        FROM launch_plans l JOIN registered_names n USING (project, domain, name)
        WHERE l.id = NEW.launch_plan_id AND n.resource_type = 3;
    END IF;
    IF NEW.task_id IS NOT NULL THEN
        SELECT n.id INTO NEW.task_name_id
        FROM tasks t JOIN registered_names n USING (project, domain, name)
        WHERE t.id = NEW.task_id AND n.resource_type = 1;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER executions_names BEFORE INSERT ON executions FOR EACH ROW EXECUTE FUNCTION name_what_is_launched();
