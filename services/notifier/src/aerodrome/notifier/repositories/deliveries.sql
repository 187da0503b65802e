-- name: receive
-- The deliveries of a message that was not received before; one statement, so that both are kept or neither.
WITH received AS (
    INSERT INTO notifier_messages (message_id, received_at) VALUES ($14, $13)
    ON CONFLICT (message_id) DO NOTHING
    RETURNING message_id
)
INSERT INTO notifier_deliveries
       (idempotency_key, project, domain, execution, phase, rule, channel, kind, recipient, subject, content, once,
        status, counting_since, due_at, created_at)
SELECT planned.*, $12::boolean, 1, $13::timestamptz, $13::timestamptz, $13::timestamptz
  FROM received,
       unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
              $9::text[], $10::text[], $11::text[]) AS planned
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING id;

-- name: claim
-- Those that are due at $1, or those of $5; each gets an attempt, and is looked at again at $2.
WITH due AS (
    SELECT id FROM notifier_deliveries
     WHERE status = 1 AND due_at <= $1 AND channel <> ALL ($3::text[])
       AND ($5::bigint[] IS NULL OR id = ANY ($5::bigint[]))
     ORDER BY due_at, id
     LIMIT $4
       FOR UPDATE SKIP LOCKED
), left_open AS (
    UPDATE notifier_attempts AS attempt
       SET outcome = 5, finished_at = $1, error = 'its process ended before the outcome was recorded'
      FROM due
     WHERE attempt.delivery_id = due.id AND attempt.outcome = 1
    RETURNING attempt.delivery_id
), claimed AS (
    UPDATE notifier_deliveries AS delivery
       SET attempts = attempts + 1,
           interrupted = interrupted + (SELECT count(*) FROM left_open WHERE delivery_id = delivery.id),
           due_at = $2
      FROM due
     WHERE delivery.id = due.id
    RETURNING delivery.*
), opened AS (
    INSERT INTO notifier_attempts (delivery_id, number, outcome, started_at)
    SELECT id, attempts, 1, $1 FROM claimed
)
SELECT id, idempotency_key, project, domain, execution, phase, rule, channel, kind, recipient, subject, content, once,
       attempts, failures, interrupted, counting_since
  FROM claimed
 ORDER BY id;

-- name: next_due
SELECT min(due_at) FROM notifier_deliveries WHERE status = 1 AND channel <> ALL ($1::text[]);

-- name: record
-- How an attempt ended, and what that means for its delivery.  One that others have taken for dead since counts only if
-- it succeeded.
WITH finished AS (
    UPDATE notifier_attempts SET outcome = $8, finished_at = $5, answer = $9, error = $10
     WHERE delivery_id = $1 AND number = $2
)
UPDATE notifier_deliveries
   SET status = $3::smallint,
       due_at = $4,
       finished_at = CASE WHEN $3::smallint = 1 THEN NULL ELSE $5::timestamptz END,
       error = $6,
       failures = failures + $7
 WHERE id = $1 AND status <> 2 AND ((status = 1 AND attempts = $2) OR $3::smallint = 2);

-- name: retry
-- One that is being tried at this moment stays as it is.
UPDATE notifier_deliveries
   SET status = 1, failures = 0, interrupted = 0, counting_since = $2, due_at = $2, finished_at = NULL, error = '',
       once = false
 WHERE id = $1
   AND (status IN (3, 4)
        OR (status = 1 AND NOT EXISTS (
                SELECT FROM notifier_attempts WHERE delivery_id = $1 AND outcome = 1)));

-- name: page
SELECT id, idempotency_key, project, domain, execution, phase, rule, channel, kind, recipient, subject, content, status,
       attempts, created_at, finished_at, due_at, error
  FROM notifier_deliveries
 WHERE id < $1
   AND ($2::bigint = 0 OR id = $2::bigint)
   AND ($3 = '' OR project = $3)
   AND ($4 = '' OR domain = $4)
   AND ($5 = '' OR execution = $5)
   AND ($6 = '' OR rule = $6)
   AND ($7 = '' OR channel = $7)
   AND ($8::smallint[] = '{}' OR status = ANY ($8::smallint[]))
 ORDER BY id DESC
 LIMIT $9;

-- name: attempts
SELECT delivery_id, number, outcome, started_at, finished_at, answer, error
  FROM (SELECT *, row_number() OVER (PARTITION BY delivery_id ORDER BY number DESC) AS age
          FROM notifier_attempts
         WHERE delivery_id = ANY ($1::bigint[])) AS numbered
 WHERE age <= $2
 ORDER BY delivery_id, number;

-- name: prune
DELETE FROM notifier_deliveries
 WHERE id IN (SELECT id FROM notifier_deliveries WHERE status <> 1 AND finished_at < $1 LIMIT $2)
RETURNING true;

-- name: prune_messages
DELETE FROM notifier_messages
 WHERE message_id IN (SELECT message_id FROM notifier_messages WHERE received_at < $1 LIMIT $2)
RETURNING true;
