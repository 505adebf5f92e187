-- Rows that the mapping cannot evaluate: arrays, one element a row: $1 positions, $2 entities, $3 tables, $4 keys, $5 SQLSTATEs,
-- $6 messages.
INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
SELECT f.lsn::pg_lsn, f.entity, f.table_name, f.key, f.sqlstate, f.message
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
     AS f (lsn, entity, table_name, key, sqlstate, message)
