-- name: holders
-- those of the executions that a node launched, with the session that drives that node's execution now
SELECT child.execution_id, child.execution_name, child.phase, child.parent_execution_id, child.parent_node_id,
    lease.session_id
FROM executions AS child
JOIN leases AS lease ON lease.execution_id = child.parent_execution_id AND lease.state = 'held'
WHERE child.execution_id = ANY($1::bigint[]);

-- name: orphans_of
-- what nodes launched and goes on although the execution of the node is over.  Mode 4 is CHILD_WORKFLOW; 5 is RECOVERED,
-- which a person may also have begun long after the parent's end.
SELECT child.execution_project, child.execution_domain, child.execution_name, parent.execution_name AS parent_name,
    parent.phase AS parent_phase
FROM executions AS parent
JOIN executions AS child ON child.parent_execution_id = parent.execution_id
WHERE parent.execution_id = ANY($1::bigint[])
    AND parent.phase = ANY($2::text[])
    AND (child.mode = 4 OR child.mode = 5 AND child.execution_created_at <= parent.execution_updated_at)
    AND child.phase <> ALL($3::text[]);

-- name: launched_by_tasks_of
-- what the SDK's eager tasks of the executions launched and goes on although they are over: it says so by a label, of
-- which only the serialized text can be looked for here
SELECT child.execution_project, child.execution_domain, child.execution_name, child.spec,
    parent.execution_name AS parent_name, parent.phase AS parent_phase
FROM executions AS parent
JOIN executions AS child ON child.execution_project = parent.execution_project
    AND child.execution_domain = parent.execution_domain AND child.execution_id > parent.execution_id
JOIN leases AS lease ON lease.execution_id = child.execution_id AND lease.state IN ('open', 'held')
WHERE parent.execution_id = ANY($1::bigint[])
    AND parent.phase IN ('ABORTED', 'FAILED')
    AND child.phase <> ALL($2::text[])
    AND position(convert_to($3, 'UTF8') IN child.spec) > 0
    AND position(convert_to(parent.execution_name, 'UTF8') IN child.spec) > 0;

-- name: parents_of_open
-- the executions that launched what an engine has still to do with
SELECT DISTINCT child.parent_execution_id
FROM leases AS lease
JOIN executions AS child USING (execution_id)
JOIN executions AS parent ON parent.execution_id = child.parent_execution_id
WHERE lease.state IN ('open', 'held') AND parent.phase = ANY($1::text[]);

-- name: recall
SELECT node_id, phase, closure, input_uri, engine_state, dynamic_workflow_remote_closure_reference
FROM node_executions
WHERE execution_id = $1 AND phase <> '' AND node_id > $2
ORDER BY node_id
LIMIT $3;
