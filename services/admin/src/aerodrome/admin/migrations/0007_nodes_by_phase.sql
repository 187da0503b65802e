-- Nodes of a phase, so that the few failed or running ones of a wide execution are found without a look at all of them, which
-- takes a second for 100,000 nodes that lie on as many pages.
--
-- `phase` in an index means that changes of it are not HOT: measured with tests/bench/journal.py, that is 7% more WAL and no
-- difference in the database's CPU time, since more than half of these updates had no room on their page before either.
-- Those that succeeded are in it too: otherwise the few of them among many that wait or were recovered would not be found.

-- step: nodes of a phase
CREATE INDEX CONCURRENTLY IF NOT EXISTS node_executions_by_phase
    ON node_executions (execution_id, phase, parent_node_id, created_at, id);
