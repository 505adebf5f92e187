-- What operators look at. Read-only: all of them are joins, unions or aggregates, which PostgreSQL does not update.

CREATE VIEW portalhook.recent_deliveries AS
WITH settled AS (
    SELECT s.endpoint, one.position, 'delivered' AS status, 1 AS attempts, one.http_status::int AS http_status,
           NULL::text AS error, one.attempted_at AS at, one.duration_ms
    FROM portalhook.successes AS s,
         unnest(s.positions, s.attempted_at, s.http_statuses, s.durations_ms) AS one (position, attempted_at, http_status, duration_ms)
    WHERE s.recorded_on >= (now() AT TIME ZONE 'UTC')::date - 1
    UNION ALL
    SELECT endpoint, position, status, attempts, http_status, error, coalesce(last_attempt_at, first_attempt_at), duration_ms
    FROM portalhook.deliveries
    WHERE recorded_on >= (now() AT TIME ZONE 'UTC')::date - 1
)
SELECT d.at, d.endpoint, p.url, e.event, d.status, d.attempts, d.http_status, d.duration_ms, d.error,
       e.sequences[array_position(e.endpoints, d.endpoint)] AS sequence, e.id AS event_id, e.portal, e.occurred_at, d.position
FROM settled AS d
LEFT JOIN portalhook.events AS e ON e.position = d.position
LEFT JOIN portalhook.endpoints AS p ON p.id = d.endpoint
ORDER BY d.at DESC NULLS LAST, d.position DESC;
COMMENT ON VIEW portalhook.recent_deliveries IS 'What was sent since yesterday (UTC), newest first: to whom, what, with which outcome, after how many attempts, in how many milliseconds.';

CREATE VIEW portalhook.pending AS
WITH open AS (
    -- not taken up yet: past the endpoint's cursor, without an outcome
    SELECT c.endpoint, e.position, 0 AS attempts, NULL::timestamptz AS due_at, NULL::text AS error
    FROM portalhook.cursors AS c
    JOIN portalhook.events AS e ON e.position > c.position AND c.endpoint = ANY (e.endpoints)
    WHERE NOT EXISTS (SELECT FROM portalhook.deliveries AS d WHERE d.endpoint = c.endpoint AND d.position = e.position)
      AND NOT EXISTS (SELECT FROM portalhook.successes AS s WHERE s.endpoint = c.endpoint AND s.last_position >= e.position AND e.position = ANY (s.positions))
      AND NOT EXISTS (SELECT FROM portalhook.settled_ranges AS r WHERE r.endpoint = c.endpoint
                      AND e.sequences[array_position(e.endpoints, c.endpoint)] BETWEEN r.first_sequence AND r.last_sequence)
    UNION ALL
    SELECT endpoint, position, attempts, due_at, error FROM portalhook.deliveries WHERE status = 'pending'
)
SELECT o.endpoint, p.url, e.event, o.attempts, o.due_at, o.error, NOT p.enabled AS waits_for_enabling,
       e.sequences[array_position(e.endpoints, o.endpoint)] AS sequence, e.id AS event_id, e.portal, e.occurred_at, o.position
FROM open AS o
JOIN portalhook.events AS e ON e.position = o.position
LEFT JOIN portalhook.endpoints AS p ON p.id = o.endpoint
ORDER BY o.position, o.endpoint;
COMMENT ON VIEW portalhook.pending IS 'What is still to be sent, oldest first. due_at is empty for what was not tried yet.';

CREATE VIEW portalhook.failures AS
WITH gone_wrong AS (
    SELECT d.last_attempt_at AS at, d.endpoint, d.status, d.attempts, d.http_status, d.error_class, d.error, d.response,
           d.sequence AS first_sequence, d.sequence AS last_sequence, d.event_id, e.event
    FROM portalhook.deliveries AS d
    LEFT JOIN portalhook.events AS e ON e.position = d.position
    WHERE d.status IN ('failed', 'expired', 'cancelled')
    UNION ALL
    SELECT at, endpoint, 'given up', 0, NULL, NULL, reason, NULL, first_sequence, last_sequence, NULL, NULL
    FROM portalhook.settled_ranges
    UNION ALL
    SELECT at, NULL, 'not evaluated', NULL, NULL, sqlstate, format('%s, row %s of %s: %s', entity, key, table_name, message), NULL, NULL, NULL, NULL, NULL
    FROM portalhook.row_failures
)
SELECT g.at, g.endpoint, p.url, g.event, g.status, g.attempts, g.http_status, g.error_class, g.error, g.response, g.first_sequence, g.last_sequence, g.event_id
FROM gone_wrong AS g
LEFT JOIN portalhook.endpoints AS p ON p.id = g.endpoint
ORDER BY g.at DESC NULLS LAST;
COMMENT ON VIEW portalhook.failures IS 'What was given up and why, newest first: deliveries after their last attempt, ranges that were never tried, rows that the mapping could not evaluate.';

CREATE VIEW portalhook.endpoint_health AS
SELECT p.id AS endpoint, p.url, p.enabled, p.disabled_reason, p.disabled_at,
       greatest(r.sequence - c.sequence, 0) AS waiting,
       d.retrying, d.next_attempt_at,
       coalesce(s.delivered, 0) + d.delivered AS delivered, d.failed,
       greatest(s.last_success_at, d.last_success_at) AS last_success_at,
       d.last_failure_at, d.last_error
FROM portalhook.endpoints AS p
LEFT JOIN portalhook.routes AS r ON r.endpoint = p.id
LEFT JOIN portalhook.cursors AS c ON c.endpoint = p.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status = 'pending') AS retrying,
           min(due_at) AS next_attempt_at,
           count(*) FILTER (WHERE status = 'delivered') AS delivered,
           count(*) FILTER (WHERE status IN ('failed', 'expired', 'cancelled')) AS failed,
           max(last_attempt_at) FILTER (WHERE status = 'delivered') AS last_success_at,
           max(last_attempt_at) FILTER (WHERE status <> 'delivered') AS last_failure_at,
           (array_agg(error ORDER BY last_attempt_at DESC) FILTER (WHERE status <> 'delivered' AND error IS NOT NULL))[1] AS last_error
    FROM portalhook.deliveries WHERE endpoint = p.id
      AND (recorded_on >= (now() AT TIME ZONE 'UTC')::date - 1 OR status = 'pending')) AS d
CROSS JOIN LATERAL (
    SELECT sum(cardinality(positions)) AS delivered, max(attempted_at[cardinality(attempted_at)]) AS last_success_at
    FROM portalhook.successes WHERE endpoint = p.id AND recorded_on >= (now() AT TIME ZONE 'UTC')::date - 1) AS s
ORDER BY p.id;
COMMENT ON VIEW portalhook.endpoint_health IS 'How each endpoint does since yesterday (UTC).';
COMMENT ON COLUMN portalhook.endpoint_health.waiting IS 'Events that it has not been sent yet.';
COMMENT ON COLUMN portalhook.endpoint_health.retrying IS 'Deliveries that failed and will be tried again.';
