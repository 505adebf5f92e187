-- What a SELECT of the mapping needs beside its tables: the schemas of types, functions and operators that it names, or that
-- the columns of its tables are made of.

CREATE FUNCTION portalhook.mapped_schemas() RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped portalhook.mapping;
    found  text[];
    every  text[] := '{}';
BEGIN
    FOR mapped IN SELECT * FROM portalhook.mapping LOOP
        found := '{}';
        BEGIN
            PERFORM set_config('search_path', coalesce(mapped.search_path, portalhook.mapping_search_path()), true);
            EXECUTE 'CREATE TEMPORARY VIEW portalhook_followed_mapping AS ' || mapped.query;
            PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
            WITH RECURSIVE used (class, object) AS (
                SELECT 'pg_class'::regclass::oid, 'pg_temp.portalhook_followed_mapping'::regclass::oid
                UNION
                SELECT n.class, n.object FROM used, LATERAL (
                    SELECT d.refclassid, d.refobjid FROM pg_rewrite AS r
                    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.deptype = 'n'
                    WHERE r.ev_class = used.object
                    UNION ALL
                    SELECT c.class, c.object FROM pg_attribute AS a,
                         LATERAL (VALUES ('pg_type'::regclass::oid, a.atttypid), ('pg_collation'::regclass::oid, a.attcollation)) AS c (class, object)
                    WHERE a.attrelid = used.object AND a.attnum > 0 AND NOT a.attisdropped AND c.object <> 0
                    UNION ALL
                    SELECT d.refclassid, d.refobjid FROM pg_attribute AS a
                    JOIN pg_attrdef AS g ON g.adrelid = a.attrelid AND g.adnum = a.attnum
                    JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = g.oid
                    WHERE a.attrelid = used.object AND a.attgenerated <> ''
                ) AS n (class, object) WHERE used.class = 'pg_class'::regclass
            )
            SELECT array_agg(DISTINCT (parse_ident(i.schema))[1]) INTO found
            FROM used, pg_identify_object(used.class, used.object, 0) AS i -- gives names in quotes where they need them
            WHERE i.schema NOT IN ('pg_catalog', 'information_schema', 'portalhook', 'portalhook_mirror') AND i.schema !~ '^pg_(temp|toast)';
            RAISE EXCEPTION USING ERRCODE = 'PH000', MESSAGE = 'roll the view back';
        EXCEPTION WHEN SQLSTATE 'PH000' THEN
            NULL;
        END;
        every := every || coalesce(found, '{}');
    END LOOP;
    RETURN ARRAY(SELECT DISTINCT name FROM unnest(every) AS name ORDER BY name);
END $$;
COMMENT ON FUNCTION portalhook.mapped_schemas IS 'Internal: the schemas of everything that the mapping names. The SELECTs are not run.';

-- Run by setup, and in place of the administrator by follow_mapping.
CREATE FUNCTION portalhook.grant_schemas(role name) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one  text;
    done text[] := '{}';
BEGIN
    FOREACH one IN ARRAY portalhook.mapped_schemas() LOOP
        IF NOT has_schema_privilege(role, one, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', one, role);
            done := done || format('may use schema %I', one);
        END IF;
    END LOOP;
    RETURN done;
END $$;
COMMENT ON FUNCTION portalhook.grant_schemas IS 'Internal: USAGE on the schemas of everything that the mapping names. Says what it did.';

ALTER FUNCTION portalhook.follow_mapping() RENAME TO follow_tables;
COMMENT ON FUNCTION portalhook.follow_tables IS 'Internal: gives the daemon''s role the tables that the mapping reads and nothing else. Says what it did.';
CREATE FUNCTION portalhook.follow_mapping() RETURNS text[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
    SELECT portalhook.follow_tables() || portalhook.grant_schemas(session_user)
$$;
COMMENT ON FUNCTION portalhook.follow_mapping IS 'Internal: gives the daemon''s role what the mapping reads and nothing else. Says what it did.';
REVOKE ALL ON FUNCTION portalhook.mapped_schemas(), portalhook.grant_schemas(name), portalhook.follow_tables(), portalhook.follow_mapping() FROM PUBLIC;

-- A publication of a table takes in the tables that inherit from it, unless it says ONLY. They are not mapped, and often have no
-- key: then the application could not update them any more. (ONLY means nothing for a partitioned table.)
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT p.oid FROM pg_proc AS p
               WHERE p.pronamespace = 'portalhook'::regnamespace AND p.proname IN ('follow_tables', 'mend_identity', 'mend_publication') LOOP
        EXECUTE regexp_replace(pg_get_functiondef(one), '(ADD|DROP) TABLE %s', '\1 TABLE ONLY %s', 'g');
    END LOOP;
END $$;

-- What our functions do must not depend on the settings of whoever calls them, or of a trigger's session: without
-- standard_conforming_strings the backslashes of their patterns mean something else, and with quote_all_identifiers the
-- names of types that they compare have quotes around them.
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'portalhook'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s SET standard_conforming_strings = on', one);
        EXECUTE format('ALTER FUNCTION %s SET quote_all_identifiers = off', one);
    END LOOP;
END $$;
