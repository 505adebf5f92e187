-- PostgreSQL 14 decides once for each table that it meets in the stream whether it is published, and does not think again when the table
-- becomes a partition of one that is. It does when the publication is altered, also to what it was.
CREATE FUNCTION portalhook.mend_attached(of regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    mapped portalhook.mapped_tables := portalhook.mapped_table(of);
    sql    text;
BEGIN
    IF mapped.oid IS NULL OR current_setting('server_version_num')::int >= 150000 THEN
        RETURN '';
    END IF;
    sql := format('ALTER PUBLICATION %I SET (publish_via_partition_root = true)', mapped.publication);
    EXECUTE sql;
    RETURN sql;
END $$;
COMMENT ON FUNCTION portalhook.mend_attached IS 'Internal: makes PostgreSQL 14 see that the partitions of a mapped table are published; does nothing on later ones. The daemon calls it.';
REVOKE ALL ON FUNCTION portalhook.mend_attached(regclass) FROM PUBLIC;

CREATE OR REPLACE FUNCTION portalhook.mend_after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped record; -- no type of ours: a function that does not compile guards nothing
    target oid;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d WHERE d.schema_name IS DISTINCT FROM 'pg_temp') THEN
        RETURN;
    END IF;
    FOR mapped IN SELECT * FROM portalhook.mapped_tables LOOP
        target := coalesce((SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                            WHERE n.nspname = mapped.schema_name AND c.relname = mapped.table_name AND c.relkind IN ('r', 'p')),
                           (SELECT c.oid FROM pg_class AS c WHERE c.oid = mapped.oid));
        CONTINUE WHEN target IS NULL;
        BEGIN
            IF target <> mapped.oid OR NOT EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                                                   WHERE p.pubname = mapped.publication AND r.prrelid = target) THEN
                PERFORM portalhook.mend_publication(target);
            ELSE
                PERFORM portalhook.mend_identity(target);
            END IF;
            IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d JOIN portalhook.members(target) AS m ON m.member = d.objid
                       WHERE d.command_tag = 'ALTER TABLE' AND m.kind = 'p') THEN
                PERFORM portalhook.mend_attached(target);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'portalhook does not follow %.%: %', mapped.schema_name, mapped.table_name, sqlerrm;
        END;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'portalhook does not follow a migration: %', sqlerrm;
END $$;
