-- A table that is swapped by renaming just then must not be forgotten: which tables the SELECTs name is known as of another moment
-- than what those are called. Only where both say the same twice does it count.
CREATE OR REPLACE FUNCTION portalhook.forget_tables() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named oid[];
    names text[];
BEGIN
    LOOP
        named := ARRAY(SELECT DISTINCT u.relation FROM portalhook.mapped_columns() AS u ORDER BY 1);
        names := ARRAY(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE c.oid = ANY (named));
        EXIT WHEN named = ARRAY(SELECT DISTINCT u.relation FROM portalhook.mapped_columns() AS u ORDER BY 1);
    END LOOP;
    DELETE FROM portalhook.mapped_tables AS m WHERE format('%I.%I', m.schema_name, m.table_name) <> ALL (names);
END $$;
