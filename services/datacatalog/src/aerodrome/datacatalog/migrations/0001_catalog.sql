-- The data catalog's tables, prefixed so that they can share a database with the control plane's.
--
-- A lookup is one statement from a tag to its artifact and the data of it.  Messages of metadata are stored serialized;
-- what entries are found, evicted and explained by is promoted to columns.

CREATE TABLE catalog_datasets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid text NOT NULL UNIQUE,
    project text NOT NULL CHECK (project <> ''),
    domain text NOT NULL CHECK (domain <> ''),
    name text NOT NULL CHECK (name <> ''),
    version text NOT NULL CHECK (version <> ''),
    org text NOT NULL DEFAULT '',
    metadata bytea NOT NULL,                          -- datacatalog.Metadata
    partition_keys text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    UNIQUE (name, project, domain, version, org)
);

CREATE INDEX catalog_datasets_by_creation ON catalog_datasets (created_at, id);

CREATE TABLE catalog_artifacts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id bigint NOT NULL REFERENCES catalog_datasets (id) ON DELETE CASCADE,
    artifact_id text NOT NULL CHECK (artifact_id <> ''),
    metadata bytea NOT NULL,                          -- datacatalog.Metadata
    source_project text NOT NULL DEFAULT '',
    source_domain text NOT NULL DEFAULT '',
    source_execution text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (dataset_id, artifact_id)
);

CREATE INDEX catalog_artifacts_by_artifact_id ON catalog_artifacts (artifact_id);
CREATE INDEX catalog_artifacts_by_creation ON catalog_artifacts (dataset_id, created_at, id);
CREATE INDEX catalog_artifacts_by_source ON catalog_artifacts (source_execution, source_project, source_domain)
    WHERE source_execution <> '';

-- A literal is either here or, if it is large, in the store.
CREATE TABLE catalog_artifact_data (
    artifact bigint NOT NULL REFERENCES catalog_artifacts (id) ON DELETE CASCADE,
    name text NOT NULL,
    location text NOT NULL DEFAULT '',
    value bytea,                                      -- flyteidl.core.Literal
    PRIMARY KEY (artifact, name),
    CHECK ((value IS NULL) = (location <> ''))
);

CREATE INDEX catalog_artifact_data_by_location ON catalog_artifact_data (location) WHERE location <> '';

CREATE TABLE catalog_partitions (
    artifact bigint NOT NULL REFERENCES catalog_artifacts (id) ON DELETE CASCADE,
    position integer NOT NULL,
    dataset_id bigint NOT NULL,
    key text NOT NULL CHECK (key <> ''),
    value text NOT NULL CHECK (value <> ''),
    PRIMARY KEY (artifact, position)
);

CREATE INDEX catalog_partitions_by_value ON catalog_partitions (dataset_id, key, value);

CREATE TABLE catalog_tags (
    dataset_id bigint NOT NULL REFERENCES catalog_datasets (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (name <> ''),
    artifact bigint NOT NULL REFERENCES catalog_artifacts (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (dataset_id, name)
);

CREATE INDEX catalog_tags_by_artifact ON catalog_tags (artifact);

-- Blobs to be removed after `due` unless an artifact refers to them by then: noted before a blob is written, so that one
-- whose artifact never came to be is not left for ever, and with the removal of an artifact.
CREATE TABLE catalog_garbage (
    location text PRIMARY KEY,
    due timestamptz NOT NULL
);

CREATE INDEX catalog_garbage_by_due ON catalog_garbage (due);

-- `scope` tells the reservations of the two services apart; the other columns name what is reserved.
CREATE TABLE catalog_reservations (
    scope text NOT NULL CHECK (scope IN ('dataset', 'cache')),
    project text NOT NULL,
    domain text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    org text NOT NULL,
    tag text NOT NULL CHECK (tag <> ''),
    owner_id text NOT NULL CHECK (owner_id <> ''),
    heartbeat interval NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (scope, tag, name, project, domain, version, org)
);

CREATE INDEX catalog_reservations_by_expiry ON catalog_reservations (expires_at);

-- What CacheService keeps; its keys mean nothing here.
CREATE TABLE catalog_outputs (
    key text PRIMARY KEY CHECK (key <> ''),
    location text NOT NULL DEFAULT '',
    output bytea,                                     -- flyteidl.cacheservice.CachedOutput without its times
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK ((output IS NULL) = (location <> ''))
);

CREATE INDEX catalog_outputs_by_location ON catalog_outputs (location) WHERE location <> '';
