-- What is kept about names of tasks, workflows and launch plans, whatever their version; and descriptions of versions.

-- name: exists_task
SELECT EXISTS (SELECT FROM tasks WHERE project = $1 AND domain = $2 AND name = $3);

-- name: exists_workflow
SELECT EXISTS (SELECT FROM workflows WHERE project = $1 AND domain = $2 AND name = $3);

-- name: exists_launch_plan
SELECT EXISTS (SELECT FROM launch_plans WHERE project = $1 AND domain = $2 AND name = $3);

-- name: get
SELECT description, state FROM named_entity_metadata
WHERE resource_type = $1 AND project = $2 AND domain = $3 AND name = $4;

-- name: put
INSERT INTO named_entity_metadata (resource_type, project, domain, name, description, state)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (resource_type, project, domain, name)
DO UPDATE SET description = EXCLUDED.description, state = EXCLUDED.state, updated_at = now();

-- name: put_if_absent
INSERT INTO named_entity_metadata (resource_type, project, domain, name, description, state)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (resource_type, project, domain, name) DO NOTHING;

-- name: describe
INSERT INTO description_entities (
    resource_type, project, domain, name, version, short_description, long_description, link
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (resource_type, project, domain, name, version) DO NOTHING;
