-- Matchable attributes.

-- name: matching
SELECT project, domain, workflow, launch_plan, resource_type, priority, attributes
FROM resources
WHERE project = $1 AND domain IN ('', $2) AND workflow IN ('', $3) AND launch_plan IN ('', $4);

-- name: situation
-- Everything of an execution's place that can change between two launches, in one round trip: the project, and the
-- attributes of that project and of the one that the workflow is registered in.
SELECT next_execution_id() AS execution_id, p.state, p.labels,
       ARRAY(
           SELECT ROW (r.project, r.domain, r.workflow, r.launch_plan, r.resource_type, r.priority, r.attributes)
           FROM resources r
           WHERE r.project = ANY (ARRAY[$1::text, $2::text])
             AND r.domain = ANY (ARRAY['', $3::text, $4::text])
             AND r.workflow = ANY (ARRAY['', $5::text])
             AND r.launch_plan = ANY (ARRAY['', $6::text])
       ) AS attributes
FROM (SELECT 1) AS one
LEFT JOIN projects p ON p.identifier = $1;

-- name: find
-- the most specific of the rows that match: a level's own, or that of a level above it
SELECT project, domain, workflow, launch_plan, resource_type, priority, attributes
FROM resources
WHERE project = $1 AND domain = ANY (ARRAY['', $2]) AND workflow = ANY (ARRAY['', $3]) AND launch_plan = ''
    AND resource_type = $4
ORDER BY priority DESC
LIMIT 1;

-- name: put
INSERT INTO resources (project, domain, workflow, resource_type, priority, attributes)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (project, domain, workflow, launch_plan, resource_type) DO UPDATE
SET attributes = excluded.attributes, priority = excluded.priority, updated_at = now();

-- name: put_and_lock
-- a row that is there is left as it is, but nobody else can change it until the transaction ends
INSERT INTO resources (project, domain, workflow, resource_type, priority, attributes)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (project, domain, workflow, launch_plan, resource_type) DO UPDATE
SET priority = excluded.priority
RETURNING attributes;

-- name: delete
DELETE FROM resources
WHERE project = $1 AND domain = $2 AND workflow = $3 AND launch_plan = '' AND resource_type = $4;

-- name: list_kind
SELECT project, domain, workflow, launch_plan, resource_type, priority, attributes
FROM resources
WHERE resource_type = $1
ORDER BY priority DESC, project, domain, workflow, launch_plan;
