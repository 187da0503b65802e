-- Datasets.

-- name: insert
INSERT INTO catalog_datasets (uuid, project, domain, name, version, org, metadata, partition_keys, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (name, project, domain, version, org) DO NOTHING
RETURNING id;

-- name: get
SELECT id, uuid, project, domain, name, version, org, metadata, partition_keys, created_at
FROM catalog_datasets
WHERE name = $1 AND project = $2 AND domain = $3 AND version = $4 AND org = $5;

-- name: page
SELECT d.id, d.uuid, d.project, d.domain, d.name, d.version, d.org, d.metadata, d.partition_keys, d.created_at
FROM catalog_datasets d;
