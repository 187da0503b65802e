-- What CacheService keeps.

-- name: get
SELECT key, location, output, created_at, updated_at FROM catalog_outputs WHERE key = $1;

-- name: insert
INSERT INTO catalog_outputs (key, location, output, created_at, updated_at)
VALUES ($1, $2, $3, $4, $4)
ON CONFLICT (key) DO NOTHING
RETURNING key;

-- name: upsert
INSERT INTO catalog_outputs (key, location, output, created_at, updated_at)
VALUES ($1, $2, $3, $4, $4)
ON CONFLICT (key) DO UPDATE
SET location = excluded.location, output = excluded.output, updated_at = excluded.updated_at;

-- name: delete
DELETE FROM catalog_outputs WHERE key = $1
RETURNING location;
