-- Everything that `portalhook status` shows, as one JSON document whose keys are promised to scripts.
WITH health AS (
    SELECT * FROM portalhook.endpoint_health
), slot AS (
    -- to_jsonb: what older servers do not have is null.
    SELECT s.slot_name::text AS name, s.active, s.active_pid, s.wal_status, to_jsonb(s) ->> 'invalidation_reason' AS invalid,
           (pg_current_wal_lsn() - s.restart_lsn)::bigint AS held, (pg_current_wal_lsn() - s.confirmed_flush_lsn)::bigint AS behind
    FROM pg_replication_slots AS s JOIN portalhook.checkpoint AS c ON c.slot = s.slot_name
), walsender AS (
    SELECT r.backend_start, r.flush_lag FROM pg_stat_replication AS r JOIN slot AS s ON s.active_pid = r.pid
), mirror AS (
    -- Under the application's names: a fresh copy has a name of its own. One that is not in force yet is not shown.
    SELECT format('%s.%s', t ->> 'schema', t ->> 'name') AS name,
           coalesce(nullif(pg_stat_get_live_tuples(m.oid), 0), greatest(m.reltuples, 0)::bigint) AS rows
    FROM portalhook.plan AS p, jsonb_array_elements(p.plan -> 'tables') AS t
    JOIN pg_class AS m ON m.relnamespace = to_regnamespace('portalhook_mirror') AND m.relname = t ->> 'mirror'
), failures AS (
    SELECT * FROM portalhook.failures LIMIT 5
), recent AS (
    SELECT * FROM portalhook.recent_deliveries LIMIT 10
)
SELECT json_build_object(
    'time', {now()},
    'daemon', json_build_object(
        'streaming', coalesce((SELECT active FROM slot), false),
        'streaming_since', (SELECT {backend_start} FROM walsender),
        'last_written_at', {c.updated_at}),
    'slot', json_build_object(
        'name', c.slot,
        'state', coalesce((SELECT CASE WHEN invalid IS NOT NULL THEN 'lost' ELSE wal_status END FROM slot), 'missing'),
        'lag_bytes', (SELECT behind FROM slot),
        'lag_seconds', (SELECT extract(epoch FROM flush_lag)::float8 FROM walsender),
        'held_bytes', (SELECT held FROM slot)),
    'position', json_build_object('lsn', c.lsn, 'events', c.position),
    'gap', c.gap,
    'mirror', json_build_object(
        'rows', coalesce((SELECT sum(rows) FROM mirror), 0),
        'tables', coalesce((SELECT json_agg(json_build_object('table', name, 'rows', rows) ORDER BY name) FROM mirror), '[]')),
    'switches', coalesce((SELECT json_agg(json_build_object(
        'id', id, 'kind', kind, 'state', state, 'why', why, 'problem', problem, 'requested_at', {requested_at}) ORDER BY id)
        FROM portalhook.switches WHERE state <> 'done'), '[]'),
    'pending', coalesce((SELECT sum(waiting + retrying) FROM health), 0),
    'failed', coalesce((SELECT sum(failed) FROM health), 0) ,
    'rows_not_evaluated', (SELECT count(*) FROM portalhook.row_failures),
    'endpoints', coalesce((SELECT json_agg(json_build_object(
        'id', endpoint, 'url', url, 'state', state, 'waiting', waiting, 'retrying', retrying, 'failed', failed,
        'next_attempt_seconds', extract(epoch FROM next_attempt_in)::bigint,
        'last_success_at', {last_success_at}, 'last_failure_at', {last_failure_at}, 'last_error', last_error,
        'disabled_reason', disabled_reason, 'portal', portal, 'description', description) ORDER BY endpoint) FROM health), '[]'),
    'failures', coalesce((SELECT json_agg(json_build_object(
        'at', {at}, 'event', event, 'status', status, 'endpoint', endpoint, 'url', url, 'attempts', attempts, 'http_status', http_status,
        'error', error, 'event_id', event_id, 'first_sequence', first_sequence, 'last_sequence', last_sequence) ORDER BY at DESC) FROM failures), '[]'),
    'recent_deliveries', coalesce((SELECT json_agg(json_build_object(
        'at', {at}, 'event', event, 'status', status, 'endpoint', endpoint, 'url', url, 'attempts', attempts, 'http_status', http_status,
        'duration_ms', duration_ms, 'error', error, 'event_id', event_id, 'sequence', sequence) ORDER BY at DESC) FROM recent), '[]'))::text
FROM portalhook.checkpoint AS c
