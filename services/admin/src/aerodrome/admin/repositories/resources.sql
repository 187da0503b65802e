-- Matchable attributes.

-- name: matching
SELECT project, domain, workflow, launch_plan, resource_type, priority, attributes
FROM resources
WHERE project = $1 AND domain IN ('', $2) AND workflow IN ('', $3) AND launch_plan IN ('', $4);

-- name: situations
-- Everything of executions' places that can change between two launches, in one round trip: the project, and the
-- attributes of that project and of the one that the workflow is registered in.  The first row has the ids.
SELECT p.state, p.labels,
       ARRAY(
           SELECT ROW (r.project, r.domain, r.workflow, r.launch_plan, r.resource_type, r.priority, r.attributes)
           FROM resources r
           WHERE r.project = ANY (ARRAY[place.project, place.workflow_project])
             AND r.domain = ANY (ARRAY['', place.domain, place.workflow_domain])
             AND r.workflow = ANY (ARRAY['', place.workflow])
             AND r.launch_plan = ANY (ARRAY['', place.launch_plan])
       ) AS attributes,
       CASE WHEN place.number = 1 THEN ARRAY(SELECT next_execution_id() FROM generate_series(1, $7)) END
           AS execution_ids
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY
    AS place (project, workflow_project, domain, workflow_domain, workflow, launch_plan, number)
LEFT JOIN projects p ON p.identifier = place.project
ORDER BY place.number;

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
