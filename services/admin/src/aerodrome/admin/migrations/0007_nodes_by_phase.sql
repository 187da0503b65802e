-- Nodes of a phase, so that the few failed or running ones of a wide execution are found without a look at all of them.
--
-- Nearly all nodes have succeeded, so the index leaves those out: an entry comes with a node and goes with its success, and
-- what it held is used again, which keeps the index as small as what is under way and what went wrong.  `phase` in an
-- index means that changes of it are not HOT.  Measured with tests/bench/journal.py: 4% more WAL and no difference in the
-- database's CPU time, since more than half of these updates had no room on their page before either.

-- step: nodes of a phase
CREATE INDEX CONCURRENTLY IF NOT EXISTS node_executions_not_succeeded
    ON node_executions (execution_id, phase, parent_node_id, created_at, id) WHERE phase <> 'SUCCEEDED';
