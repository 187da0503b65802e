-- Signals: what gates of executions wait for.

-- name: find_execution
SELECT execution_id, phase
FROM executions
WHERE execution_project = $1 AND execution_domain = $2 AND execution_name = $3;

-- name: insert
-- nothing if there is one already, or no such execution any more
INSERT INTO signals (execution_id, signal_id, type)
SELECT execution_id, $2, $3
FROM executions
WHERE execution_id = $1
ON CONFLICT (execution_id, signal_id) DO NOTHING;

-- name: find
SELECT signal_id, type, value
FROM signals
WHERE execution_id = $1 AND signal_id = $2;
