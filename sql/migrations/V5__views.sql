-- What operators look at: times, names and ages, and the ids that the functions take. Read-only: all of them are joins, unions or
-- aggregates, which PostgreSQL does not update. They are asked on ledgers of millions of rows: each goes by an index from the
-- endpoints, and never through a whole day.

CREATE VIEW portalhook.recent_deliveries AS
WITH settled AS (
    -- The last first-attempt successes of each endpoint: its newest flushes, and of those so much as is still needed.
    SELECT p.id AS endpoint, p.url, one.position, 'delivered' AS status, 1 AS attempts, one.http_status::int AS http_status,
           NULL::text AS error, one.attempted_at AS at, one.duration_ms, NULL::timestamptz AS due_at
    FROM portalhook.endpoints AS p
    CROSS JOIN LATERAL (
        SELECT f.*, coalesce(sum(f.size) OVER (ORDER BY f.last_position DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS newer
        FROM (SELECT s.*, cardinality(s.positions) AS size FROM portalhook.successes AS s
              WHERE s.endpoint = p.id ORDER BY s.last_position DESC LIMIT 50) AS f) AS flush
    CROSS JOIN LATERAL unnest(flush.positions[greatest(1, flush.size - 49):], flush.attempted_at[greatest(1, flush.size - 49):],
                              flush.http_statuses[greatest(1, flush.size - 49):], flush.durations_ms[greatest(1, flush.size - 49):])
               AS one (position, attempted_at, http_status, duration_ms)
    WHERE flush.newer < 50
    UNION ALL
    -- and its last deliveries that were anything else
    SELECT p.id, p.url, d.position, CASE WHEN d.status <> 'pending' THEN d.status WHEN d.attempts = 0 THEN 'waiting' ELSE 'retrying' END,
           d.attempts, d.http_status, CASE WHEN d.status <> 'delivered' THEN d.error END, d.last_attempt_at, d.duration_ms, d.due_at
    FROM portalhook.endpoints AS p
    CROSS JOIN LATERAL (
        SELECT * FROM portalhook.deliveries AS d
        WHERE d.endpoint = p.id AND d.last_attempt_at IS NOT NULL ORDER BY d.last_attempt_at DESC LIMIT 50) AS d
), newest AS (
    SELECT * FROM settled ORDER BY at DESC, position DESC LIMIT 500
)
SELECT d.at, e.event, d.status, d.url, d.attempts, d.http_status, d.duration_ms, d.error,
       date_trunc('second', CASE WHEN d.due_at > now() THEN d.due_at - now() WHEN d.due_at IS NOT NULL THEN interval '0' END) AS next_attempt_in,
       e.id AS event_id, d.endpoint, e.sequences[array_position(e.endpoints, d.endpoint)] AS sequence, e.portal, e.occurred_at
FROM newest AS d
LEFT JOIN LATERAL (SELECT * FROM portalhook.events AS e WHERE e.position = d.position LIMIT 1) AS e ON true
ORDER BY d.at DESC, d.position DESC;
COMMENT ON VIEW portalhook.recent_deliveries IS 'What was sent last, newest first, and what became of it: the last 50 deliveries of each endpoint or a few more, 500 in all. portalhook.redeliver(event_id) sends one again.';
COMMENT ON COLUMN portalhook.recent_deliveries.at IS 'When the last attempt began.';
COMMENT ON COLUMN portalhook.recent_deliveries.status IS 'delivered; retrying (failed, and will be tried again); waiting (is due again); failed (given up); expired; cancelled.';
COMMENT ON COLUMN portalhook.recent_deliveries.duration_ms IS 'How long the last attempt took, in milliseconds.';
COMMENT ON COLUMN portalhook.recent_deliveries.event_id IS 'The webhook-id, for portalhook.redeliver().';
COMMENT ON COLUMN portalhook.recent_deliveries.sequence IS 'The webhook-sequence at this endpoint.';
COMMENT ON COLUMN portalhook.recent_deliveries.occurred_at IS 'When the change was committed.';

CREATE VIEW portalhook.pending AS
WITH behind AS (
    -- only endpoints that have events past their cursor; the others cost nothing
    SELECT c.endpoint, c.position, c.sequence FROM portalhook.cursors AS c
    JOIN portalhook.routes AS r ON r.endpoint = c.endpoint AND r.sequence > c.sequence
), settled AS (
    SELECT b.endpoint, one AS position FROM behind AS b
    JOIN portalhook.successes AS s ON s.endpoint = b.endpoint AND s.last_position > b.position
    CROSS JOIN LATERAL unnest(s.positions) AS one WHERE one > b.position
    UNION ALL
    SELECT b.endpoint, d.position FROM behind AS b
    JOIN portalhook.deliveries AS d ON d.endpoint = b.endpoint AND d.position > b.position
), open AS (
    SELECT b.endpoint, e.position, e.sequences[array_position(e.endpoints, b.endpoint)] AS sequence, 0 AS attempts,
           NULL::timestamptz AS due_at, NULL::text AS error, e.id, e.event, e.portal, e.occurred_at
    FROM behind AS b
    JOIN portalhook.events AS e ON e.position > b.position AND e.endpoints @> ARRAY[b.endpoint]
    WHERE NOT EXISTS (SELECT FROM settled AS s WHERE s.endpoint = b.endpoint AND s.position = e.position)
      AND NOT EXISTS (SELECT FROM portalhook.settled_ranges AS r WHERE r.endpoint = b.endpoint
                      AND e.sequences[array_position(e.endpoints, b.endpoint)] BETWEEN r.first_sequence AND r.last_sequence)
    UNION ALL
    SELECT d.endpoint, d.position, d.sequence, d.attempts, d.due_at, d.error, d.event_id, e.event, e.portal, e.occurred_at
    FROM portalhook.deliveries AS d
    LEFT JOIN portalhook.events AS e ON e.position = d.position AND e.recorded_on = d.recorded_on
    WHERE d.status = 'pending'
)
SELECT o.event, p.url,
       CASE WHEN NOT p.enabled THEN 'waits until the endpoint is enabled' WHEN o.attempts > 0 THEN 'retrying' ELSE 'waiting' END AS status,
       o.attempts,
       date_trunc('second', CASE WHEN o.due_at > now() THEN o.due_at - now() WHEN o.due_at IS NOT NULL THEN interval '0' END) AS next_attempt_in,
       date_trunc('second', greatest(now() - o.occurred_at, interval '0')) AS age, o.error AS last_error,
       o.id AS event_id, o.endpoint, o.sequence, o.portal, o.occurred_at
FROM open AS o
LEFT JOIN portalhook.endpoints AS p ON p.id = o.endpoint
ORDER BY o.position, o.endpoint;
COMMENT ON VIEW portalhook.pending IS 'What is still to be sent, oldest first.';
COMMENT ON COLUMN portalhook.pending.status IS 'waiting (for its turn, or redelivered); retrying (failed before); waits until the endpoint is enabled.';
COMMENT ON COLUMN portalhook.pending.attempts IS 'Attempts so far.';
COMMENT ON COLUMN portalhook.pending.next_attempt_in IS 'Zero: as soon as it is its turn. Empty for what was not tried yet.';
COMMENT ON COLUMN portalhook.pending.age IS 'Since the change was committed.';
COMMENT ON COLUMN portalhook.pending.event_id IS 'The webhook-id.';
COMMENT ON COLUMN portalhook.pending.sequence IS 'The webhook-sequence at this endpoint.';

CREATE VIEW portalhook.failures AS
WITH gone_wrong AS (
    SELECT coalesce(d.last_attempt_at, e.occurred_at) AS at, d.endpoint, d.status, d.attempts, d.http_status, d.error_class, d.error, d.response,
           d.sequence AS first_sequence, d.sequence AS last_sequence, d.event_id, e.event, e.portal
    FROM portalhook.deliveries AS d
    LEFT JOIN portalhook.events AS e ON e.position = d.position AND e.recorded_on = d.recorded_on
    WHERE d.status IN ('failed', 'expired', 'cancelled')
    UNION ALL
    SELECT at, endpoint, 'not sent', 0, NULL, NULL, reason, NULL, first_sequence, last_sequence, NULL, NULL, NULL
    FROM portalhook.settled_ranges
    UNION ALL
    SELECT at, NULL, 'not evaluated', NULL, NULL, 'mapping', format('%s: row %s of %s: %s (%s)', entity, key, table_name, message, sqlstate),
           NULL, NULL, NULL, NULL, NULL, NULL
    FROM portalhook.row_failures
)
SELECT g.at, g.event, g.status, p.url, g.attempts, g.http_status, g.error_class, g.error, g.response, g.event_id, g.endpoint,
       g.first_sequence, g.last_sequence, g.portal
FROM gone_wrong AS g
LEFT JOIN portalhook.endpoints AS p ON p.id = g.endpoint
ORDER BY g.at DESC;
COMMENT ON VIEW portalhook.failures IS 'What was given up and why, newest first: deliveries after their last attempt, ranges that were never sent, rows that the mapping could not evaluate. portalhook.redeliver(event_id) tries one again.';
COMMENT ON COLUMN portalhook.failures.status IS 'failed (no attempt is left); expired; cancelled; not sent (a range of webhook-sequence); not evaluated (a row of the application that gave no event).';
COMMENT ON COLUMN portalhook.failures.error_class IS 'Why, in one word: timeout, connect, status and so on; mapping for a row that could not be evaluated.';
COMMENT ON COLUMN portalhook.failures.response IS 'The beginning of the last response''s body.';
COMMENT ON COLUMN portalhook.failures.event_id IS 'The webhook-id, for portalhook.redeliver().';
COMMENT ON COLUMN portalhook.failures.first_sequence IS 'The webhook-sequence at this endpoint; for a range, its first.';
COMMENT ON COLUMN portalhook.failures.last_sequence IS 'The same, or the last of a range.';

CREATE VIEW portalhook.endpoint_health AS
WITH behind AS (
    SELECT c.endpoint, c.position, r.sequence - c.sequence AS routed FROM portalhook.cursors AS c
    JOIN portalhook.routes AS r ON r.endpoint = c.endpoint AND r.sequence > c.sequence
), waiting AS (
    -- Sequences are gapless: what is past the cursor and has no outcome was not taken up yet.
    SELECT b.endpoint, greatest(0, b.routed
               - (SELECT count(*) FROM portalhook.successes AS s CROSS JOIN LATERAL unnest(s.positions) AS one
                  WHERE s.endpoint = b.endpoint AND s.last_position > b.position AND one > b.position)
               - (SELECT count(*) FROM portalhook.deliveries AS d WHERE d.endpoint = b.endpoint AND d.position > b.position)) AS events
    FROM behind AS b
), retrying AS (
    SELECT endpoint, count(*) AS deliveries, min(due_at) AS next_attempt_at
    FROM portalhook.deliveries WHERE status = 'pending' GROUP BY endpoint
), failed AS (
    SELECT endpoint, count(*) AS deliveries
    FROM portalhook.deliveries WHERE status IN ('failed', 'expired', 'cancelled') GROUP BY endpoint
), health AS (
    SELECT p.*, coalesce(w.events, 0) AS waiting, coalesce(r.deliveries, 0) AS retrying, r.next_attempt_at,
           coalesce(f.deliveries, 0) AS failed, greatest(s.at, again.at) AS last_success_at, wrong.at AS last_failure_at, wrong.error AS last_error
    FROM portalhook.endpoints AS p
    LEFT JOIN waiting AS w ON w.endpoint = p.id
    LEFT JOIN retrying AS r ON r.endpoint = p.id
    LEFT JOIN failed AS f ON f.endpoint = p.id
    LEFT JOIN LATERAL (
        SELECT (SELECT max(a) FROM unnest(s.attempted_at) AS a) AS at FROM portalhook.successes AS s
        WHERE s.endpoint = p.id ORDER BY s.last_position DESC LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (
        SELECT d.last_attempt_at AS at FROM portalhook.deliveries AS d
        WHERE d.endpoint = p.id AND d.status = 'delivered' AND d.last_attempt_at IS NOT NULL ORDER BY d.last_attempt_at DESC LIMIT 1) AS again ON true
    LEFT JOIN LATERAL (
        SELECT d.last_attempt_at AS at, d.error FROM portalhook.deliveries AS d
        WHERE d.endpoint = p.id AND d.status <> 'delivered' AND d.last_attempt_at IS NOT NULL ORDER BY d.last_attempt_at DESC LIMIT 1) AS wrong ON true
)
SELECT id AS endpoint, url,
       CASE WHEN NOT enabled THEN 'disabled'
            WHEN retrying > 0 AND last_failure_at > coalesce(last_success_at, '-infinity') THEN 'failing'
            WHEN retrying > 0 THEN 'retrying'
            WHEN waiting > 0 THEN 'sending'
            WHEN last_success_at IS NULL AND last_failure_at IS NULL THEN 'nothing sent yet'
            ELSE 'ok' END AS state,
       waiting, retrying,
       date_trunc('second', CASE WHEN next_attempt_at > now() THEN next_attempt_at - now() WHEN next_attempt_at IS NOT NULL THEN interval '0' END) AS next_attempt_in,
       failed, last_success_at, last_failure_at, last_error, disabled_reason, disabled_at, portal, description
FROM health
ORDER BY id;
COMMENT ON VIEW portalhook.endpoint_health IS 'How each endpoint does: what it waits for, what failed, and when it last took something.';
COMMENT ON COLUMN portalhook.endpoint_health.state IS 'ok; nothing sent yet; sending (more waits than is under way); retrying (something failed, newer events arrive); failing (the last attempt failed); disabled.';
COMMENT ON COLUMN portalhook.endpoint_health.waiting IS 'Events that were not tried yet.';
COMMENT ON COLUMN portalhook.endpoint_health.retrying IS 'Deliveries that failed and will be tried again, or were redelivered and wait for their turn.';
COMMENT ON COLUMN portalhook.endpoint_health.next_attempt_in IS 'When the first of those is due; zero: now.';
COMMENT ON COLUMN portalhook.endpoint_health.failed IS 'Deliveries that were given up and that the ledger still holds; portalhook.failures shows them.';
COMMENT ON COLUMN portalhook.endpoint_health.last_failure_at IS 'The last failed attempt of a delivery that is not delivered yet.';
COMMENT ON COLUMN portalhook.endpoint_health.last_error IS 'What went wrong then.';
