-- Projects.

-- name: insert
INSERT INTO projects (identifier, name, description, labels, state)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (identifier) DO NOTHING
RETURNING identifier;

-- name: get
SELECT identifier, name, description, labels, state FROM projects WHERE identifier = $1;

-- name: facts
SELECT state, labels FROM projects WHERE identifier = $1;

-- name: update
UPDATE projects
SET name = CASE WHEN $2 = '' THEN name ELSE $2 END,
    description = CASE WHEN $3 = '' THEN description ELSE $3 END,
    labels = COALESCE($4::bytea, labels),
    state = $5,
    updated_at = now()
WHERE identifier = $1
RETURNING identifier;
