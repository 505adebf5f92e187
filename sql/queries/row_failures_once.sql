-- Removes rows that cannot be evaluated and that this transaction has written down twice: it may have met one as before it and as
-- after it, and again when it counted.
DELETE FROM portalhook.row_failures AS f USING (
    SELECT ctid, row_number() OVER (PARTITION BY lsn, entity, table_name, key, sqlstate, message) AS nth
    FROM portalhook.row_failures WHERE at = now()
) AS again
WHERE f.ctid = again.ctid AND again.nth > 1
