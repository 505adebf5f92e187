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

-- A publication of a table takes in the tables that inherit from it, unless it says ONLY. They are not mapped, and often have no
-- key: then the application could not update them any more. (ONLY means nothing for a partitioned table.)
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT p.oid FROM pg_proc AS p
               WHERE p.pronamespace = 'portalhook'::regnamespace AND p.proname IN ('follow_mapping', 'mend_identity', 'mend_publication') LOOP
        EXECUTE regexp_replace(pg_get_functiondef(one), '(ADD|DROP) TABLE %s', '\1 TABLE ONLY %s', 'g');
    END LOOP;
END $$;
