-- Blobs that are to be removed unless something refers to them when they are due.

-- name: note
INSERT INTO catalog_garbage (location, due)
SELECT DISTINCT location, $2::timestamptz FROM unnest($1::text[]) AS given (location)
ON CONFLICT (location) DO UPDATE SET due = greatest(catalog_garbage.due, excluded.due);

-- name: claim
INSERT INTO catalog_garbage (location, due)
SELECT DISTINCT location, $3::timestamptz FROM unnest($1::text[]) AS given (location)
ON CONFLICT (location) DO UPDATE SET due = excluded.due WHERE catalog_garbage.due <= $2
RETURNING location;

-- name: forget
DELETE FROM catalog_garbage WHERE location = ANY($1::text[])
RETURNING location;

-- name: release
UPDATE catalog_garbage SET due = $2 WHERE location = ANY($1::text[]);

-- name: due
UPDATE catalog_garbage SET due = $2
WHERE location IN (
    SELECT location FROM catalog_garbage WHERE due <= $1 ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING location;

-- name: referred
SELECT location FROM unnest($1::text[]) AS given (location)
WHERE EXISTS (SELECT FROM catalog_artifact_data x WHERE x.location = given.location AND x.location <> '')
   OR EXISTS (SELECT FROM catalog_outputs o WHERE o.location = given.location AND o.location <> '');
