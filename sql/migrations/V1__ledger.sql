-- The durable state: where the stream stands, what was recorded, and what became of each delivery.
-- Setup gives the daemon's role the three partitioned parents (it makes and drops their day partitions, which stand in
-- schema portalhook_ledger); everything else in schema portalhook stays the administrator's.

CREATE TABLE portalhook.checkpoint (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    lsn               pg_lsn NOT NULL,
    xid               bigint NOT NULL,
    position          bigint NOT NULL CHECK (position >= 0),
    epoch             bigint NOT NULL,
    source            text   NOT NULL,
    system_identifier text   NOT NULL,
    database_oid      bigint NOT NULL,
    slot              text   NOT NULL,
    publication       text   NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10); -- updated in every group commit: leave room in the page for new versions
COMMENT ON TABLE portalhook.checkpoint IS 'How far the daemon has read the change stream: one row, written with every group of events. No row: setup did not finish.';
COMMENT ON COLUMN portalhook.checkpoint.lsn IS 'End of the last transaction that the mirror holds.';
COMMENT ON COLUMN portalhook.checkpoint.xid IS 'A 64-bit transaction id near that place: the 32-bit ids of the stream are widened by it.';
COMMENT ON COLUMN portalhook.checkpoint.position IS 'Position of the last recorded event.';
COMMENT ON COLUMN portalhook.checkpoint.epoch IS 'Whoever writes must know this number; a new owner of the capture raises it, and the old one stops.';
COMMENT ON COLUMN portalhook.checkpoint.source IS 'Random text from setup that goes into every event id.';

CREATE TABLE portalhook.plan (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    plan    jsonb NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portalhook.plan IS 'What portalhook.mapping came to: the mirrored tables and columns and the SQL over them. Written by portalhook, not by hand.';

CREATE TABLE portalhook.routes (
    endpoint bigint PRIMARY KEY,
    events   text[] NOT NULL,
    portal   text,
    sequence bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE portalhook.routes IS 'The endpoints as of the position of the stream. Change portalhook.endpoints instead; this follows in commit order.';
COMMENT ON COLUMN portalhook.routes.sequence IS 'The webhook-sequence that was allotted last.';

CREATE TABLE portalhook.events (
    position    bigint NOT NULL,
    recorded_on date   NOT NULL,
    id          text   COLLATE "C" NOT NULL, -- ids sort by time in this collation
    event       text   NOT NULL,
    occurred_at timestamptz NOT NULL,
    xid         bigint NOT NULL,
    lsn         pg_lsn NOT NULL,
    portal      text,
    post        text,
    entity      text NOT NULL,
    endpoints   bigint[] NOT NULL,
    sequences   bigint[] NOT NULL,
    body        text,
    PRIMARY KEY (position, recorded_on),
    CHECK (cardinality(endpoints) = cardinality(sequences))
) PARTITION BY RANGE (recorded_on);
-- Both grow with the table: an event is found by its id, and a span of time is replayed, without a costly index.
-- autosummarize: pages that no VACUUM has seen yet are summarised too.
CREATE INDEX events_by_id_and_time ON portalhook.events USING brin (id, occurred_at) WITH (pages_per_range = 32, autosummarize = on);
COMMENT ON TABLE portalhook.events IS 'Every event, in commit order, with the endpoints that it goes to. Partitioned by the UTC day of recording.';
COMMENT ON COLUMN portalhook.events.id IS 'The webhook-id: the same for every attempt, also after a crash.';
COMMENT ON COLUMN portalhook.events.occurred_at IS 'When the transaction committed.';
COMMENT ON COLUMN portalhook.events.lsn IS 'Where its commit record begins in the write-ahead log.';
COMMENT ON COLUMN portalhook.events.post IS 'Mapped id of the post that the event belongs to.';
COMMENT ON COLUMN portalhook.events.entity IS 'What it happened to: vote:500, post:99, comment:7, operation:12.';
COMMENT ON COLUMN portalhook.events.sequences IS 'The webhook-sequence at each of the endpoints.';
COMMENT ON COLUMN portalhook.events.body IS 'The body as sent, byte for byte; null where nobody wanted the event.';

CREATE TABLE portalhook.deliveries (
    endpoint         bigint NOT NULL,
    position         bigint NOT NULL,
    recorded_on      date   NOT NULL,
    sequence         bigint NOT NULL,
    event_id         text   NOT NULL,
    status           text   NOT NULL CHECK (status IN ('pending', 'delivered', 'failed', 'expired', 'cancelled')),
    attempts         int    NOT NULL CHECK (attempts >= 0),
    due_at           timestamptz,
    first_attempt_at timestamptz,
    last_attempt_at  timestamptz,
    http_status      int,
    error_class      text,
    error            text,
    duration_ms      int,
    response         text,
    PRIMARY KEY (endpoint, position, recorded_on),
    CHECK ((status = 'pending') = (due_at IS NOT NULL))
) PARTITION BY RANGE (recorded_on);
-- In the order in which they are taken up: a replay makes many due at one moment.
CREATE INDEX deliveries_due ON portalhook.deliveries (endpoint, due_at, position) WHERE status = 'pending';
CREATE INDEX deliveries_by_attempt ON portalhook.deliveries (endpoint, last_attempt_at);
CREATE INDEX deliveries_given_up ON portalhook.deliveries (endpoint, last_attempt_at) WHERE status IN ('failed', 'expired', 'cancelled');
COMMENT ON TABLE portalhook.deliveries IS 'Every delivery that was anything but a success at the first attempt. Read portalhook.recent_deliveries for all.';
COMMENT ON COLUMN portalhook.deliveries.due_at IS 'When the next attempt is due; null once the delivery is settled.';
COMMENT ON COLUMN portalhook.deliveries.error_class IS 'Why the last attempt failed, in one word: timeout, connect, status and so on.';
COMMENT ON COLUMN portalhook.deliveries.response IS 'The beginning of the last response''s body.';

CREATE TABLE portalhook.successes (
    endpoint      bigint NOT NULL,
    recorded_on   date   NOT NULL,
    last_position bigint NOT NULL,
    positions     bigint[] NOT NULL,
    attempted_at  timestamptz[] NOT NULL,
    http_statuses smallint[] NOT NULL,
    durations_ms  int[] NOT NULL,
    CHECK (cardinality(positions) = cardinality(attempted_at)
       AND cardinality(positions) = cardinality(http_statuses)
       AND cardinality(positions) = cardinality(durations_ms))
) PARTITION BY RANGE (recorded_on);
CREATE INDEX successes_by_endpoint ON portalhook.successes (endpoint, last_position);
COMMENT ON TABLE portalhook.successes IS 'Deliveries that succeeded at the first attempt: a row of arrays for each endpoint and flush. Read portalhook.recent_deliveries.';

CREATE TABLE portalhook.cursors (
    endpoint bigint PRIMARY KEY,
    position bigint NOT NULL,
    sequence bigint NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE portalhook.cursors IS 'Everything that went to the endpoint up to this position is settled or has a row in portalhook.deliveries.';

CREATE TABLE portalhook.settled_ranges (
    endpoint       bigint NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence  bigint NOT NULL,
    reason         text   NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (endpoint, first_sequence),
    CHECK (first_sequence <= last_sequence)
);
COMMENT ON TABLE portalhook.settled_ranges IS 'Deliveries that were given up without an attempt, as ranges of webhook-sequence, and why.';

CREATE TABLE portalhook.row_failures (
    at         timestamptz NOT NULL DEFAULT now(),
    lsn        pg_lsn NOT NULL,
    entity     text NOT NULL,
    table_name text NOT NULL,
    key        text NOT NULL,
    sqlstate   text NOT NULL,
    message    text NOT NULL
);
CREATE INDEX row_failures_at ON portalhook.row_failures (at);
COMMENT ON TABLE portalhook.row_failures IS 'Rows of the application that the mapping could not evaluate, with the server''s message. They count as not live.';

CREATE TABLE portalhook.operations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text   NOT NULL CHECK (kind IN ('endpoint', 'test', 'emit', 'disabled', 'mapping', 'mute')),
    payload    json   NOT NULL,
    xid        bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portalhook.operations IS 'What operators did, for the daemon to take in at its place in commit order. Written by our triggers and functions, not by hand.';
COMMENT ON COLUMN portalhook.operations.xid IS 'The transaction that wrote it: a message of the stream from another transaction is ignored.';

-- Writes an operation and announces it in the change stream of the same transaction.
CREATE FUNCTION portalhook.announce(kind text, payload json) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
BEGIN
    INSERT INTO portalhook.operations (kind, payload, xid)
    VALUES (announce.kind, announce.payload, pg_current_xact_id()::text::bigint)
    RETURNING id INTO number;
    PERFORM pg_logical_emit_message(true, 'portalhook', number::text);
    RETURN number;
END $$;
COMMENT ON FUNCTION portalhook.announce IS 'Internal: writes a row of portalhook.operations and a logical message with its number.';

-- Made by whoever calls it, who must own the parents: the daemon's role.
CREATE FUNCTION portalhook.prepare_partitions(first_day date, days int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    day    date;
    name   text;
    made   int := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['events', 'deliveries', 'successes'] LOOP
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            name := parent || '_' || to_char(day, 'YYYYMMDD');
            IF to_regclass('portalhook_ledger.' || name) IS NULL THEN
                EXECUTE format('CREATE TABLE portalhook_ledger.%I PARTITION OF portalhook.%I FOR VALUES FROM (%L) TO (%L)',
                               name, parent, day, day + 1);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION portalhook.prepare_partitions IS 'Makes the day partitions of the ledger that are missing, from a UTC day on; returns how many tables it made. The daemon calls it.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
