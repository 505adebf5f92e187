-- What the catalog said of the mirrored tables when they were copied, and says now. $1: a JSON array of {mirror, oid, schema, name,
-- columns}; $2: the publication. Only indexes are used, whatever else is in the database, and no lock on a table of the application.
SELECT w.mirror, k.seen::text, json_build_object(
    'oid', w.oid::bigint,
    'table', CASE WHEN c.oid IS NOT NULL THEN json_build_object(
        'schema', n.nspname,
        'name', c.relname,
        'named', EXISTS (SELECT FROM portalhook.mapped_tables AS m WHERE m.schema_name = n.nspname AND m.table_name = c.relname),
        'published', (SELECT r.oid::bigint FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                      WHERE p.pubname = $2 AND r.prrelid = c.oid),
        'made_full', coalesce((portalhook.mapped_table(c.oid)).made_full, false),
        'members', (SELECT json_agg(json_build_object('oid', m.member::bigint, 'name', m.member::regclass::text, 'storage', m.storage::bigint,
                                                      'identity', m.identity, 'key', m.key, 'refuses', m.refuses, 'generated', m.generated)
                                    ORDER BY m.member <> c.oid, m.member) FROM portalhook.members(c.oid) AS m),
        'columns', (SELECT coalesce(json_agg(json_build_object('number', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod))
                                             ORDER BY a.attnum), '[]')
                    FROM pg_attribute AS a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      AND (a.attname = ANY (w.columns) OR a.attnum IN (SELECT (one ->> 'number')::int2
                                                                       FROM jsonb_array_elements(k.seen -> 'table' -> 'columns') AS one))),
        'labels', (WITH RECURSIVE types (oid) AS (
                       SELECT a.atttypid FROM pg_attribute AS a
                       WHERE a.attrelid = c.oid AND a.attname = ANY (w.columns) AND a.attnum > 0 AND NOT a.attisdropped
                       UNION
                       SELECT inner_type FROM types AS y JOIN pg_type AS t ON t.oid = y.oid,
                              LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype WHEN t.typcategory = 'A' THEN t.typelem END AS inner_type) AS i
                       WHERE inner_type <> 0
                   )
                   SELECT coalesce(json_agg(json_build_object('oid', e.oid::bigint, 'type', format_type(e.enumtypid, NULL), 'label', e.enumlabel) ORDER BY e.enumtypid, e.enumsortorder), '[]')
                   FROM types AS y JOIN pg_enum AS e ON e.enumtypid = y.oid)
    ) END,
    -- Another table has the name by which the mapping knows this one.
    'namesake', (SELECT o.oid::bigint FROM portalhook.mapped_tables AS m
                 JOIN pg_namespace AS s ON s.nspname = m.schema_name JOIN pg_class AS o ON o.relnamespace = s.oid AND o.relname = m.table_name
                 WHERE m.schema_name = w.schema AND m.table_name = w.name AND o.relkind IN ('r', 'p') AND o.oid <> w.oid)
)::text
FROM json_to_recordset($1::text::json) AS w (mirror text, oid oid, schema text, name text, columns text[])
LEFT JOIN pg_class AS c ON c.oid = w.oid
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN portalhook.catalog AS k ON k.mirror = w.mirror
