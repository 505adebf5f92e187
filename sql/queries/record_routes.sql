-- The endpoints as of the stream: $1 ids, $2 events as JSON arrays, $3 portals, $4 last sequences, $5 the position.
-- An endpoint that is new has its cursor here: it gets what comes after. One that is gone takes its cursor along;
-- what was pending becomes a cancelled range.
WITH wanted AS (
    SELECT w.endpoint, ARRAY(SELECT jsonb_array_elements_text(w.events::jsonb)) AS events, w.portal, w.sequence
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS w (endpoint, events, portal, sequence)
), gone AS (
    DELETE FROM portalhook.routes r
    WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.endpoint = r.endpoint)
    RETURNING r.endpoint, r.sequence
), cursors_gone AS (
    DELETE FROM portalhook.cursors c USING gone g WHERE c.endpoint = g.endpoint
    RETURNING c.endpoint, c.sequence AS settled, g.sequence AS allotted
), cancelled AS (
    INSERT INTO portalhook.settled_ranges (endpoint, first_sequence, last_sequence, reason)
    SELECT endpoint, settled + 1, allotted, 'cancelled' FROM cursors_gone WHERE allotted > settled
), cursors_new AS (
    INSERT INTO portalhook.cursors (endpoint, position, sequence)
    SELECT w.endpoint, $5::bigint, 0 FROM wanted w
    ON CONFLICT (endpoint) DO NOTHING
)
INSERT INTO portalhook.routes AS r (endpoint, events, portal, sequence)
SELECT endpoint, events, portal, sequence FROM wanted
ON CONFLICT (endpoint) DO UPDATE SET events = excluded.events, portal = excluded.portal, sequence = excluded.sequence
WHERE (r.events, r.portal, r.sequence) IS DISTINCT FROM (excluded.events, excluded.portal, excluded.sequence)
