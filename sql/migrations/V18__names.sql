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
