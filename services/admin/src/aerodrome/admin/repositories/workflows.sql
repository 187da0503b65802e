-- Registered workflows; their closures are in the blob store.

-- name: insert
INSERT INTO workflows (
    project, domain, name, version, created_at, updated_at,
    typed_interface, remote_closure_identifier, digest, short_description
)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9)
ON CONFLICT (project, domain, name, version) DO NOTHING
RETURNING id;

-- name: get
SELECT id, project, domain, name, version, created_at, typed_interface, remote_closure_identifier, digest,
       short_description
FROM workflows
WHERE project = $1 AND domain = $2 AND name = $3 AND version = $4;
