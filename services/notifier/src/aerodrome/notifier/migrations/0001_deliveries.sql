-- Messages of the bus from which deliveries were made, so that a repeat makes none.
CREATE TABLE notifier_messages (
    message_id text PRIMARY KEY,
    received_at timestamptz NOT NULL
);
CREATE INDEX notifier_messages_by_age ON notifier_messages (received_at);

-- One message for one recipient.  While it waits, `due_at` is when it is looked at next: when to try it, or, while a
-- process tries it, when that process is taken for dead.
CREATE TABLE notifier_deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key text NOT NULL UNIQUE,
    project text NOT NULL,
    domain text NOT NULL,
    execution text NOT NULL,
    phase text NOT NULL,
    rule text NOT NULL,
    channel text NOT NULL,
    kind text NOT NULL,
    recipient text NOT NULL,
    subject text NOT NULL,
    content text NOT NULL,                                       -- JSON, without secrets
    once boolean NOT NULL DEFAULT false,                         -- a test: it is tried once
    status smallint NOT NULL CHECK (status BETWEEN 1 AND 4),     -- aerodrome.notifier.v1.DeliveryStatus
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),   -- begun
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),   -- since counting_since
    interrupted integer NOT NULL DEFAULT 0 CHECK (interrupted >= 0),
    counting_since timestamptz NOT NULL,                         -- when it was made, or retried by hand
    due_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    error text NOT NULL DEFAULT '',
    CHECK ((finished_at IS NULL) = (status = 1))
);
CREATE INDEX notifier_deliveries_due ON notifier_deliveries (due_at, id) WHERE status = 1;
CREATE INDEX notifier_deliveries_by_execution ON notifier_deliveries (project, domain, execution, id);
CREATE INDEX notifier_deliveries_finished ON notifier_deliveries (finished_at) WHERE status <> 1;

-- Each attempt, written before it is made and again when its outcome is known.
CREATE TABLE notifier_attempts (
    delivery_id bigint NOT NULL REFERENCES notifier_deliveries (id) ON DELETE CASCADE,
    number integer NOT NULL CHECK (number > 0),
    outcome smallint NOT NULL CHECK (outcome BETWEEN 1 AND 6),   -- aerodrome.notifier.v1.AttemptOutcome
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    answer text NOT NULL DEFAULT '',
    error text NOT NULL DEFAULT '',
    PRIMARY KEY (delivery_id, number)
);
