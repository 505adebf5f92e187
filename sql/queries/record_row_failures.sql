-- A row that the mapping cannot evaluate: $1 position, $2 entity, $3 table, $4 key, $5 SQLSTATE, $6 message.
INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
VALUES ($1::text::pg_lsn, $2, $3, $4, $5, $6)
