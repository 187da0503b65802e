-- Statements of the bus on PostgreSQL.
-- `relaxed`: what a crash of the machine would undo here only repeats a delivery, so the commit need not wait for the disk.

-- name: declare
SELECT pubsub_declare($1, $2);

-- name: publish
SELECT pubsub_publish($1, $2, $3, $4, $5::jsonb);

-- name: take
WITH buried AS (
    UPDATE pubsub_deliveries SET dead_at = clock_timestamp()
     WHERE topic = $1 AND name = $2 AND dead_at IS NULL AND due_at <= clock_timestamp() AND attempts >= $4
),
chosen AS (
    SELECT d.topic, d.name, d.seq
      FROM pubsub_deliveries d
     WHERE d.topic = $1 AND d.name = $2 AND d.dead_at IS NULL AND d.due_at <= clock_timestamp() AND d.attempts < $4
       AND (d.key = '' OR NOT EXISTS (
               SELECT FROM pubsub_deliveries earlier
                WHERE earlier.topic = d.topic AND earlier.name = d.name AND earlier.key = d.key
                  AND earlier.seq < d.seq AND earlier.dead_at IS NULL AND earlier.key <> ''))
     ORDER BY d.seq
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE pubsub_deliveries d
   SET due_at = clock_timestamp() + $3::interval, attempts = d.attempts + 1
  FROM chosen JOIN pubsub_messages m ON m.seq = chosen.seq
       CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
 WHERE d.topic = chosen.topic AND d.name = chosen.name AND d.seq = chosen.seq
RETURNING m.seq, m.id, m.topic, m.key, m.body, m.headers, m.published_at, d.attempts;

-- name: ack
WITH handled AS (
    DELETE FROM pubsub_deliveries d
     USING pubsub_messages m CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed
     WHERE m.topic = $1 AND m.id = $3 AND d.topic = $1 AND d.name = $2 AND d.seq = m.seq
    RETURNING d.seq
)
DELETE FROM pubsub_messages m USING handled
 WHERE m.seq = handled.seq
   AND NOT EXISTS (SELECT FROM pubsub_deliveries other WHERE other.seq = handled.seq AND other.name <> $2);

-- name: nack
UPDATE pubsub_deliveries d
   SET due_at = clock_timestamp() + $4::interval,
       dead_at = CASE WHEN d.attempts >= $5 THEN clock_timestamp() END
  FROM pubsub_messages m
 WHERE m.topic = $1 AND m.id = $3 AND d.topic = $1 AND d.name = $2 AND d.seq = m.seq
   AND d.attempts = $6 AND d.dead_at IS NULL
RETURNING d.dead_at IS NOT NULL;

-- name: extend
UPDATE pubsub_deliveries d SET due_at = clock_timestamp() + $4::interval
  FROM pubsub_messages m
 WHERE m.topic = $1 AND m.id = $3 AND d.topic = $1 AND d.name = $2 AND d.seq = m.seq
   AND d.dead_at IS NULL AND d.due_at > clock_timestamp();

-- name: release
UPDATE pubsub_deliveries d
   SET due_at = clock_timestamp(),
       dead_at = CASE WHEN d.attempts >= $4 THEN clock_timestamp() END
  FROM pubsub_messages m
 WHERE m.topic = $1 AND m.id = ANY ($3::text[]) AND d.topic = $1 AND d.name = $2 AND d.seq = m.seq AND d.dead_at IS NULL;

-- name: dead_letters
SELECT m.id, m.topic, m.key, m.body, m.headers, m.published_at, d.attempts
  FROM pubsub_deliveries d JOIN pubsub_messages m ON m.seq = d.seq
 WHERE d.topic = $1 AND d.name = $2 AND d.dead_at IS NOT NULL
 ORDER BY d.seq
 LIMIT $3;

-- name: revive
UPDATE pubsub_deliveries d SET dead_at = NULL, attempts = 0, due_at = clock_timestamp()
  FROM pubsub_messages m
 WHERE m.topic = $1 AND m.id = $3 AND d.topic = $1 AND d.name = $2 AND d.seq = m.seq AND d.dead_at IS NOT NULL
RETURNING d.seq;

-- name: count_waiting
SELECT count(*) FROM (SELECT FROM pubsub_messages WHERE topic = $1 LIMIT $2) AS waiting;

-- name: sweep_handled
DELETE FROM pubsub_messages m
 WHERE m.published_at < clock_timestamp() - interval '1 minute'
   AND EXISTS (SELECT FROM pubsub_groups g WHERE g.topic = m.topic)
   AND NOT EXISTS (SELECT FROM pubsub_deliveries d WHERE d.seq = m.seq);

-- name: sweep_unclaimed
DELETE FROM pubsub_messages
 WHERE seq IN (
    SELECT seq FROM (
        SELECT m.seq, row_number() OVER (PARTITION BY m.topic ORDER BY m.seq DESC) AS age
          FROM pubsub_messages m
         WHERE NOT EXISTS (SELECT FROM pubsub_groups g WHERE g.topic = m.topic)
    ) AS unclaimed
    WHERE age > $1
);
