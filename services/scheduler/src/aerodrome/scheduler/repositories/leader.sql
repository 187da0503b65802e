-- Who leads.  The database's own clock decides, so that replicas need not agree on the time.

-- name: take
UPDATE scheduler_leader
SET epoch = CASE WHEN holder = $1 AND epoch = $2 THEN epoch ELSE epoch + 1 END,
    holder = $1,
    expires_at = clock_timestamp() + $3
WHERE id = 1 AND (holder = $1 AND epoch = $2 OR expires_at < clock_timestamp())
RETURNING epoch;

-- name: release
UPDATE scheduler_leader SET expires_at = '-infinity' WHERE id = 1 AND holder = $1 AND epoch = $2;
