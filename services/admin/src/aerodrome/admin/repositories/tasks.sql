-- Registered tasks.

-- name: insert
INSERT INTO tasks (project, domain, name, version, created_at, updated_at, closure, digest, type, short_description)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9)
ON CONFLICT (project, domain, name, version) DO NOTHING
RETURNING id;

-- name: get
SELECT id, project, domain, name, version, created_at, closure, digest, short_description
FROM tasks
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4;

-- name: closures
SELECT t.project, t.domain, t.name, t.version, t.closure
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS wanted (project, domain, name, version)
JOIN tasks t USING (project, domain, name, version);
