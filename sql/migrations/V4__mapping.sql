-- The mapping: a SELECT for each entity. PostgreSQL itself says whether a SELECT can run and what it returns: the trigger
-- makes a temporary view of it in a subtransaction that is always rolled back, so nothing stays that depends on a table of
-- the application. It runs with the rights of whoever writes the mapping, never with the owner's.

CREATE TABLE portalhook.mapping (
    entity     text PRIMARY KEY CHECK (entity IN ('posts', 'votes', 'comments', 'comment_votes', 'users', 'portals')),
    query      text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portalhook.mapping IS 'What a post, vote, comment, user and portal is in this application: a SELECT each. UPDATE it to change the mapping.';
COMMENT ON COLUMN portalhook.mapping.query IS 'Any SELECT over one base table (the first in FROM) with LEFT JOINs, CASE, casts, subqueries; its WHERE says when the row is live.';

CREATE FUNCTION portalhook.mapping_columns(entity text) RETURNS text[] IMMUTABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE entity
        WHEN 'posts'         THEN '{id,title,description,status,author,portal,created_at}'
        WHEN 'votes'         THEN '{id,post,voter,created_at}'
        WHEN 'comments'      THEN '{id,post,author,comment,created_at}'
        WHEN 'users'         THEN '{id,name,email,role}'
        WHEN 'portals'       THEN '{id,title}'
        WHEN 'comment_votes' THEN '{voter}'
    END::text[]
$$;
COMMENT ON FUNCTION portalhook.mapping_columns IS 'The columns that the SELECT of an entity must return; more may follow.';

-- Which schemas a name without one is looked up in, whoever's session writes the mapping (ours have an empty search_path).
CREATE FUNCTION portalhook.mapping_search_path() RETURNS text STABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT substr(setting, length('search_path=') + 1)
                     FROM pg_db_role_setting, unnest(setconfig) AS setting
                     WHERE setting LIKE 'search\_path=%'
                       AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                       AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
                     ORDER BY setrole = 0, setdatabase = 0 LIMIT 1),
                    (SELECT boot_val FROM pg_settings WHERE name = 'search_path'))
$$;
COMMENT ON FUNCTION portalhook.mapping_search_path IS 'Internal: the search_path that an operator''s session has in this database.';

-- The columns of a SELECT with their types, or an error that says why PostgreSQL cannot run it.
CREATE FUNCTION portalhook.select_columns(entity text, query text, OUT names text[], OUT types text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one     refcursor;
    problem text;
    hint    text;
    code    text;
BEGIN
    PERFORM set_config('search_path', portalhook.mapping_search_path(), true); -- until the function returns
    -- A cursor takes one SELECT only; it is not fetched from.
    OPEN one FOR EXECUTE query;
    CLOSE one;
    EXECUTE 'CREATE TEMPORARY VIEW portalhook_checked_mapping AS ' || query;
    SELECT array_agg(attname ORDER BY attnum), array_agg(format_type(atttypid, NULL) ORDER BY attnum)
    INTO names, types
    FROM pg_attribute WHERE attrelid = 'pg_temp.portalhook_checked_mapping'::regclass AND attnum > 0;
    RAISE EXCEPTION USING ERRCODE = 'PH000', MESSAGE = 'roll the view back';
EXCEPTION
    WHEN SQLSTATE 'PH000' THEN
        NULL;
    WHEN invalid_cursor_definition THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: the mapping is not one SELECT', entity),
            HINT = 'Write one SELECT, without a semicolon and another statement after it.';
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, code = RETURNED_SQLSTATE;
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = format('%s: PostgreSQL cannot run this SELECT: %s', entity, problem),
            HINT = CASE WHEN hint <> '' THEN hint WHEN code = '42P01' THEN 'Name tables with their schema, such as public.posts.'
                        ELSE 'A mapping is a SELECT that CREATE VIEW accepts.' END;
END $$;
COMMENT ON FUNCTION portalhook.select_columns IS 'Internal: what a SELECT returns; leaves nothing behind.';

CREATE FUNCTION portalhook.check_mapping() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted  text[];
    missing text[];
    names   text[];
    types   text[];
    at      int;
BEGIN
    wanted := portalhook.mapping_columns(new.entity);
    IF wanted IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '23514', MESSAGE = format('there is no entity %s', coalesce(quote_literal(left(new.entity, 100)), 'null')),
            HINT = 'Entities are posts, votes, comments, users, portals and, if there are votes for comments, comment_votes.';
    END IF;
    new.query := regexp_replace(new.query, '[\s;]+$', '');
    IF new.query IS NULL OR new.query = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: the mapping is empty', new.entity),
            HINT = 'Write a SELECT that returns ' || array_to_string(wanted, ', ') || '.';
    END IF;
    SELECT c.names, c.types INTO names, types FROM portalhook.select_columns(new.entity, new.query) AS c;
    missing := ARRAY(SELECT name FROM unnest(wanted) WITH ORDINALITY AS w (name, place) WHERE name <> ALL (coalesce(names, '{}')) ORDER BY place);
    IF missing <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: the SELECT has no column %s; it returns %s', new.entity, array_to_string(missing, ', '), coalesce(array_to_string(names, ', '), 'nothing')),
            HINT = format('%s needs the columns %s. Name a column with AS: user_id AS author. Where the application has no such thing, write null::text AS %s.',
                   new.entity, array_to_string(wanted, ', '), missing[1]);
    END IF;
    at := array_position(names, 'created_at');
    IF 'created_at' = ANY (wanted) AND types[at] NOT IN ('date', 'timestamp without time zone', 'timestamp with time zone') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: created_at is of type %s', new.entity, types[at]),
            HINT = 'It must be a date or a timestamp: cast it, such as to_timestamp(created) AS created_at.';
    END IF;
    new.updated_at := now();
    RETURN new;
END $$;
COMMENT ON FUNCTION portalhook.check_mapping IS 'Internal: trigger function; runs with the rights of whoever writes the mapping.';
CREATE TRIGGER check_mapping BEFORE INSERT OR UPDATE ON portalhook.mapping
    FOR EACH ROW EXECUTE FUNCTION portalhook.check_mapping();

CREATE FUNCTION portalhook.mapping_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op = 'TRUNCATE' OR tg_op = 'UPDATE' AND new.entity <> old.entity OR tg_op = 'DELETE' AND old.entity <> 'comment_votes' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the mapping needs posts, votes, comments, users and portals',
            HINT = 'UPDATE portalhook.mapping SET query = ''SELECT …'' WHERE entity = ''…'' changes one; only comment_votes can be deleted.';
    END IF;
    IF tg_op = 'DELETE' THEN
        PERFORM portalhook.announce('mapping', json_build_object('entity', old.entity));
    ELSIF tg_op = 'INSERT' OR new.query <> old.query THEN
        PERFORM portalhook.announce('mapping', json_build_object('entity', new.entity));
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.mapping_changed IS 'Internal: trigger function.';
CREATE TRIGGER mapping_changed AFTER INSERT OR UPDATE OR DELETE ON portalhook.mapping
    FOR EACH ROW EXECUTE FUNCTION portalhook.mapping_changed();
CREATE TRIGGER mapping_truncated BEFORE TRUNCATE ON portalhook.mapping
    FOR EACH STATEMENT EXECUTE FUNCTION portalhook.mapping_changed();

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
-- The trigger calls these with the rights of whoever may write the mapping; they show nothing that its SELECT could not.
GRANT EXECUTE ON FUNCTION portalhook.mapping_columns(text), portalhook.mapping_search_path(), portalhook.select_columns(text, text) TO PUBLIC;
