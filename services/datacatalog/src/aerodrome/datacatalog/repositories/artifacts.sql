-- Artifacts, what they consist of, and the tags that point at them.

-- name: insert
INSERT INTO catalog_artifacts
    (dataset_id, artifact_id, metadata, source_project, source_domain, source_execution, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
ON CONFLICT (dataset_id, artifact_id) DO NOTHING
RETURNING id;

-- name: exists
SELECT id FROM catalog_artifacts WHERE dataset_id = $1 AND artifact_id = $2;

-- name: lock
SELECT id FROM catalog_artifacts WHERE id = $1 FOR UPDATE;

-- name: update
UPDATE catalog_artifacts
SET metadata = $2, source_project = $3, source_domain = $4, source_execution = $5, updated_at = $6
WHERE id = $1;

-- name: add_data
INSERT INTO catalog_artifact_data (artifact, name, location, value)
SELECT $1, name, location, value FROM unnest($2::text[], $3::text[], $4::bytea[]) AS given (name, location, value)
ON CONFLICT (artifact, name) DO UPDATE SET location = excluded.location, value = excluded.value;

-- name: remove_data_but
DELETE FROM catalog_artifact_data WHERE artifact = $1 AND NOT name = ANY($2::text[])
RETURNING location;

-- name: locations
SELECT location FROM catalog_artifact_data WHERE artifact = ANY($1::bigint[]) AND location <> '';

-- name: add_partitions
INSERT INTO catalog_partitions (artifact, position, dataset_id, key, value)
SELECT $1, position, $2, key, value
FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS given (key, value, position);

-- name: add_tags
INSERT INTO catalog_tags (dataset_id, name, artifact, created_at)
SELECT $1, name, $2, $4 FROM unnest($3::text[]) AS given (name)
ON CONFLICT (dataset_id, name) DO NOTHING
RETURNING name;

-- name: select
SELECT a.id, a.artifact_id, a.metadata, a.created_at, a.updated_at,
       a.source_project, a.source_domain, a.source_execution,
       d.uuid, d.project, d.domain, d.name, d.version, d.org,
       ARRAY(SELECT x.name FROM catalog_artifact_data x WHERE x.artifact = a.id ORDER BY x.name) AS data_names,
       ARRAY(SELECT x.location FROM catalog_artifact_data x WHERE x.artifact = a.id ORDER BY x.name) AS data_locations,
       ARRAY(SELECT x.value FROM catalog_artifact_data x WHERE x.artifact = a.id ORDER BY x.name) AS data_values,
       ARRAY(SELECT p.key FROM catalog_partitions p WHERE p.artifact = a.id ORDER BY p.position) AS partition_keys,
       ARRAY(SELECT p.value FROM catalog_partitions p WHERE p.artifact = a.id ORDER BY p.position) AS partition_values,
       ARRAY(SELECT t.name FROM catalog_tags t WHERE t.artifact = a.id ORDER BY t.created_at, t.name) AS tags
FROM catalog_artifacts a
JOIN catalog_datasets d ON d.id = a.dataset_id;

-- name: by_tag
JOIN catalog_tags t0 ON t0.artifact = a.id AND t0.dataset_id = d.id;


-- name: delete
DELETE FROM catalog_artifacts WHERE id = ANY($1::bigint[]);

-- name: count
SELECT count(*) FROM catalog_artifacts;
