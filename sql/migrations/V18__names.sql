-- "$user" in a search_path is whoever writes the SELECT. The daemon reads it later as a role of its own, and where that one is
-- called as our schema is, posts would mean the view that shows the mirror.
CREATE OR REPLACE FUNCTION portalhook.mapping_search_path() RETURNS text STABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN session_user IN ('portalhook', 'portalhook_mirror', 'portalhook_ledger')
                -- The writer's own, too: of what is in our schemas no SELECT of the mapping can be made.
                THEN regexp_replace(regexp_replace(path, '(, *)?"\$user"', '', 'g'), '^ *, *', '')
                ELSE replace(path, '"$user"', quote_ident(session_user)) END
    FROM coalesce((SELECT substr(setting, length('search_path=') + 1)
                   FROM pg_db_role_setting, unnest(setconfig) AS setting
                   WHERE setting LIKE 'search\_path=%'
                     AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                     AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
                   ORDER BY setrole = 0, setdatabase = 0 LIMIT 1),
                  (SELECT boot_val FROM pg_settings WHERE name = 'search_path')) AS path
$$;

-- What was written before stays as it is but for that: nothing of it is announced.
ALTER TABLE portalhook.mapping DISABLE TRIGGER USER;
UPDATE portalhook.mapping SET search_path = portalhook.mapping_search_path() WHERE search_path LIKE '%"$user"%';
ALTER TABLE portalhook.mapping ENABLE TRIGGER USER;

-- A table under a new name stays what it was: an identity that we made full is still ours to take back.
CREATE OR REPLACE FUNCTION portalhook.forget_tables() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named oid[];
    names text[];
BEGIN
    -- A table that is swapped by renaming just then must not be forgotten: see V16.
    LOOP
        named := ARRAY(SELECT DISTINCT u.relation FROM portalhook.mapped_columns() AS u ORDER BY 1);
        names := ARRAY(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                       WHERE c.oid = ANY (named));
        EXIT WHEN named = ARRAY(SELECT DISTINCT u.relation FROM portalhook.mapped_columns() AS u ORDER BY 1);
    END LOOP;
    UPDATE portalhook.mapped_tables AS m SET made_full = true
    WHERE NOT m.made_full AND EXISTS (SELECT FROM portalhook.mapped_tables AS was WHERE was.oid = m.oid AND was.made_full);
    DELETE FROM portalhook.mapped_tables AS m WHERE format('%I.%I', m.schema_name, m.table_name) <> ALL (names);
END $$;

-- A migration may have a thousand statements, and few of them are about our tables: the others cost a look at what they were about.
CREATE OR REPLACE FUNCTION portalhook.mend_after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped  record; -- no type of ours: a function that does not compile guards nothing
    target  oid;
    changed oid[];
BEGIN
    -- A partition's change is its table's: who makes one anew says the partition.
    changed := ARRAY(SELECT DISTINCT coalesce(a.relid, d.objid)
                     FROM pg_event_trigger_ddl_commands() AS d LEFT JOIN LATERAL pg_partition_ancestors(d.objid) AS a ON true
                     WHERE d.classid = 'pg_class'::regclass AND d.schema_name IS DISTINCT FROM 'pg_temp');
    -- Which index was dropped nobody says here: it may have been an identity.
    IF tg_tag <> 'DROP INDEX' AND NOT EXISTS (
        SELECT FROM portalhook.mapped_tables AS m
        WHERE m.oid = ANY (changed)
           OR EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                      WHERE c.oid = ANY (changed) AND n.nspname = m.schema_name AND c.relname = m.table_name)) THEN
        RETURN;
    END IF;
    FOR mapped IN SELECT * FROM portalhook.mapped_tables LOOP
        target := coalesce((SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                            WHERE n.nspname = mapped.schema_name AND c.relname = mapped.table_name AND c.relkind IN ('r', 'p')),
                           (SELECT c.oid FROM pg_class AS c WHERE c.oid = mapped.oid));
        CONTINUE WHEN target IS NULL OR target <> ALL (changed) AND mapped.oid <> ALL (changed)
            AND NOT (tg_tag = 'DROP INDEX'
                     AND EXISTS (SELECT FROM pg_class AS c WHERE c.relreplident = 'i'
                                   AND (c.oid = target OR c.oid IN (SELECT t.relid FROM pg_partition_tree(target) AS t))));
        BEGIN
            IF target <> mapped.oid OR NOT EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                                                   WHERE p.pubname = mapped.publication AND r.prrelid = target) THEN
                PERFORM portalhook.mend_publication(target);
            ELSE
                PERFORM portalhook.mend_identity(target);
            END IF;
            IF tg_tag = 'ALTER TABLE' AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = target AND c.relkind = 'p') THEN
                PERFORM portalhook.mend_attached(target);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'portalhook does not follow %.%: %', mapped.schema_name, mapped.table_name, sqlerrm;
        END;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'portalhook does not follow a migration: %', sqlerrm;
END $$;

-- They read the mapping, which takes weak locks on all its tables: of two who wait for each other it is we who let go, before
-- deadlock_timeout (1s) is over. The daemon tries again.
ALTER FUNCTION portalhook.follow_mapping() SET lock_timeout = '300ms';
ALTER FUNCTION portalhook.follow_tables() SET lock_timeout = '300ms';
ALTER FUNCTION portalhook.forget_tables() SET lock_timeout = '300ms';

-- As V12 does it: what was replaced here has lost it.
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'portalhook'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s SET standard_conforming_strings = on', one);
        EXECUTE format('ALTER FUNCTION %s SET quote_all_identifiers = off', one);
    END LOOP;
END $$;
