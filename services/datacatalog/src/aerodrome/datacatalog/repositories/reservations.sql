-- Reservations.  Each statement decides a race by itself.

-- name: acquire
INSERT INTO catalog_reservations AS held
    (scope, project, domain, name, version, org, tag, owner_id, heartbeat, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (scope, tag, name, project, domain, version, org) DO UPDATE
SET owner_id = excluded.owner_id, heartbeat = excluded.heartbeat, expires_at = excluded.expires_at
WHERE held.owner_id = excluded.owner_id OR held.expires_at <= $11
RETURNING owner_id, heartbeat, expires_at, xmax = 0 AS is_new;

-- name: get
SELECT owner_id, heartbeat, expires_at
FROM catalog_reservations
WHERE scope = $1 AND project = $2 AND domain = $3 AND name = $4 AND version = $5 AND org = $6 AND tag = $7;

-- name: release
DELETE FROM catalog_reservations
WHERE scope = $1 AND project = $2 AND domain = $3 AND name = $4 AND version = $5 AND org = $6 AND tag = $7
  AND owner_id = $8
RETURNING owner_id;

-- name: purge
DELETE FROM catalog_reservations WHERE expires_at < $1
RETURNING owner_id;
