-- position of the stream: one row. fillfactor low: it is updated in every group commit
CREATE TABLE portalhook.checkpoint (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    lsn               pg_lsn NOT NULL,   -- end of the last transaction that the mirror holds
    xid               bigint NOT NULL,   -- its 64-bit transaction id (reference for widening)
    position          bigint NOT NULL,   -- of the last event
    epoch             bigint NOT NULL,   -- fence: whoever writes must know it
    source            text   NOT NULL,   -- goes into every event id
    system_identifier text   NOT NULL,
    database_oid      bigint NOT NULL,
    slot              text   NOT NULL,
    publication       text   NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);

CREATE TABLE portalhook.plan (  -- one row: the active plan (mapping::plan::Plan as json)
    one boolean PRIMARY KEY DEFAULT true CHECK (one), plan jsonb NOT NULL, made_at timestamptz NOT NULL DEFAULT now());

-- endpoints as of the stream's position
CREATE TABLE portalhook.routes (endpoint bigint PRIMARY KEY, events text[] NOT NULL, portal text, sequence bigint NOT NULL DEFAULT 0);

CREATE TABLE portalhook.events (
    position    bigint NOT NULL,
    recorded_on date   NOT NULL,
    id          text   NOT NULL,
    event       text   NOT NULL,
    occurred_at timestamptz NOT NULL,       -- commit time
    xid         bigint NOT NULL,
    lsn         pg_lsn NOT NULL,            -- commit lsn
    portal      text,
    post        text,                       -- mapped id of the post it belongs to (order)
    entity      text NOT NULL,              -- 'vote:500', 'post:99', 'comment:7', 'operation:12' (order)
    endpoints   bigint[] NOT NULL,
    sequences   bigint[] NOT NULL,          -- same length as endpoints
    body        text,                       -- null where nobody wants it
    PRIMARY KEY (position, recorded_on)
) PARTITION BY RANGE (recorded_on);

-- every outcome but a success at the first attempt
CREATE TABLE portalhook.deliveries (
    endpoint bigint NOT NULL, position bigint NOT NULL, recorded_on date NOT NULL, sequence bigint NOT NULL, event_id text NOT NULL,
    status text NOT NULL CHECK (status IN ('pending','delivered','failed','expired','cancelled')),
    attempts int NOT NULL, due_at timestamptz, first_attempt_at timestamptz, last_attempt_at timestamptz,
    http_status int, error_class text, error text, duration_ms int, response text,
    PRIMARY KEY (endpoint, position, recorded_on),
    CHECK ((status = 'pending') = (due_at IS NOT NULL))
) PARTITION BY RANGE (recorded_on);

-- successes at the first attempt: a row per endpoint and flush; arrays of one length
CREATE TABLE portalhook.successes (
    endpoint bigint NOT NULL, recorded_on date NOT NULL, last_position bigint NOT NULL,
    positions bigint[] NOT NULL, attempted_at timestamptz[] NOT NULL, http_statuses smallint[] NOT NULL, durations_ms int[] NOT NULL
) PARTITION BY RANGE (recorded_on);

-- everything routed to the endpoint up to here has an outcome or a row in deliveries
CREATE TABLE portalhook.cursors (endpoint bigint PRIMARY KEY, position bigint NOT NULL, sequence bigint NOT NULL) WITH (fillfactor = 50);

-- given up without an attempt
CREATE TABLE portalhook.settled_ranges (endpoint bigint NOT NULL, first_sequence bigint NOT NULL, last_sequence bigint NOT NULL,
    reason text NOT NULL, at timestamptz NOT NULL DEFAULT now());

-- rows that the mapping could not evaluate
CREATE TABLE portalhook.row_failures (at timestamptz NOT NULL DEFAULT now(), lsn pg_lsn NOT NULL, entity text NOT NULL, table_name text NOT NULL, key text NOT NULL, sqlstate text NOT NULL, message text NOT NULL);

CREATE TABLE portalhook.operations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,       -- 'endpoint' | 'test' | 'emit' | 'mapping'
    payload jsonb NOT NULL,
    xid bigint NOT NULL,      -- pg_current_xact_id() as bigint: a message whose transaction differs is a forgery and is ignored
    created_at timestamptz NOT NULL DEFAULT now());
