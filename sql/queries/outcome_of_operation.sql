-- The outcome so far of the event that operation $3 (operation:12) is, at endpoint $1; the event lies past position $2.
WITH event AS (
    SELECT position, id, sequences[array_position(endpoints, $1::bigint)] AS sequence
    FROM portalhook.events WHERE position > $2 AND entity = $3 AND endpoints @> ARRAY[$1::bigint]
)
SELECT e.id, e.sequence, 'delivered', one.status::int, one.ms, NULL::text
FROM event AS e
JOIN portalhook.successes AS s ON s.endpoint = $1 AND s.last_position >= e.position
CROSS JOIN LATERAL unnest(s.positions, s.http_statuses, s.durations_ms) AS one (position, status, ms)
WHERE one.position = e.position
UNION ALL
SELECT e.id, e.sequence, d.status, d.http_status, d.duration_ms, d.error
FROM event AS e
JOIN portalhook.deliveries AS d ON d.endpoint = $1 AND d.position = e.position
WHERE d.attempts > 0
