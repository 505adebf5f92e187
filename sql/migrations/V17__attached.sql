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
