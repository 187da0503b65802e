-- Messages that wait, and who still has to handle them.

CREATE TABLE pubsub_groups (
    topic      text        NOT NULL,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, name)
);
CREATE TABLE pubsub_messages (
    seq          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic        text        NOT NULL,
    id           text        NOT NULL,
    key          text        NOT NULL,
    body         bytea       NOT NULL,
    headers      jsonb       NOT NULL,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (topic, id)
);
CREATE TABLE pubsub_deliveries (
    topic    text        NOT NULL,
    name     text        NOT NULL,
    seq      bigint      NOT NULL REFERENCES pubsub_messages ON DELETE CASCADE,
    key      text        NOT NULL,
    attempts integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    due_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    dead_at  timestamptz,
    PRIMARY KEY (topic, name, seq),
    FOREIGN KEY (topic, name) REFERENCES pubsub_groups ON DELETE CASCADE
);
CREATE INDEX pubsub_deliveries_by_message ON pubsub_deliveries (seq);
CREATE INDEX pubsub_deliveries_by_key ON pubsub_deliveries (topic, name, key, seq) WHERE dead_at IS NULL AND key <> '';
CREATE FUNCTION pubsub_publish(the_topic text, the_id text, the_key text, the_body bytea, the_headers jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(the_topic, 7077));
    WITH message AS (
        INSERT INTO pubsub_messages (topic, id, key, body, headers)
        VALUES (the_topic, the_id, the_key, the_body, the_headers)
        ON CONFLICT (topic, id) DO NOTHING
        RETURNING topic, seq, key
    )
    INSERT INTO pubsub_deliveries (topic, name, seq, key)
    SELECT message.topic, g.name, message.seq, message.key
      FROM message JOIN pubsub_groups g ON g.topic = message.topic;
END $$;
CREATE FUNCTION pubsub_declare(the_topic text, the_name text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pubsub_groups WHERE topic = the_topic AND name = the_name) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(the_topic, 7077));
    INSERT INTO pubsub_groups (topic, name) VALUES (the_topic, the_name) ON CONFLICT DO NOTHING;
    IF FOUND AND NOT EXISTS (SELECT FROM pubsub_groups WHERE topic = the_topic AND name <> the_name) THEN
        INSERT INTO pubsub_deliveries (topic, name, seq, key)
        SELECT topic, the_name, seq, key FROM pubsub_messages WHERE topic = the_topic;
    END IF;
END $$;
