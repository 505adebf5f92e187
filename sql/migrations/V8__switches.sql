-- How the mapping, and copies of tables, change while the daemon runs: what is under way, and what only the owner can do for it.

-- In which schemas the names of a SELECT were looked up: whoever reads it later looks there, too.
ALTER TABLE portalhook.mapping ADD COLUMN search_path text;
COMMENT ON COLUMN portalhook.mapping.search_path IS 'The search_path of whoever wrote the query. Filled in by itself.';

CREATE FUNCTION portalhook.mapping_names() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    new.search_path := portalhook.mapping_search_path();
    RETURN new;
END $$;
COMMENT ON FUNCTION portalhook.mapping_names IS 'Internal: trigger function; runs with the rights of whoever writes the mapping.';
CREATE TRIGGER mapping_names BEFORE INSERT OR UPDATE ON portalhook.mapping
    FOR EACH ROW EXECUTE FUNCTION portalhook.mapping_names();

-- The text goes with the operation: at its place in the stream it counts as it was then, not as it is by now.
CREATE OR REPLACE FUNCTION portalhook.mapping_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op = 'TRUNCATE' OR tg_op = 'UPDATE' AND new.entity <> old.entity OR tg_op = 'DELETE' AND old.entity <> 'comment_votes' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the mapping needs posts, votes, comments, users and portals',
            HINT = 'UPDATE portalhook.mapping SET query = ''SELECT …'' WHERE entity = ''…'' changes one; only comment_votes can be deleted.';
    END IF;
    IF tg_op = 'DELETE' THEN
        PERFORM portalhook.announce('mapping', json_build_object('entity', old.entity));
    ELSIF tg_op = 'INSERT' OR new.query <> old.query THEN
        PERFORM portalhook.announce('mapping', json_build_object('entity', new.entity, 'query', new.query, 'search_path', new.search_path));
    END IF;
    RETURN NULL;
END $$;

-- Operations of kind 'switch' come from the copy itself.
ALTER TABLE portalhook.operations DROP CONSTRAINT operations_kind_check;
ALTER TABLE portalhook.operations ADD CONSTRAINT operations_kind_check
    CHECK (kind IN ('endpoint', 'test', 'emit', 'disabled', 'mapping', 'mute', 'switch'));

ALTER TABLE portalhook.plan ADD COLUMN mapping_seen text;
COMMENT ON COLUMN portalhook.plan.mapping_seen IS 'The pg_snapshot in which portalhook.mapping was read: changes that it sees are in the plan, wherever they stand in the stream.';

CREATE TABLE portalhook.switches (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('mapping', 'copy', 'pause')),
    state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'copying', 'done')),
    tables       oid[] NOT NULL DEFAULT '{}',
    why          text NOT NULL,
    problem      text,
    snapshot     text,
    lsn          pg_lsn,
    requested_at timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CHECK ((state = 'done') = (finished_at IS NOT NULL))
);
CREATE INDEX switches_open ON portalhook.switches (id) WHERE state <> 'done';
COMMENT ON TABLE portalhook.switches IS 'Changes of the mapping and fresh copies of tables: what the daemon waits for, copies, and has switched to. A row of kind pause is why the stream stands still.';
COMMENT ON COLUMN portalhook.switches.problem IS 'Why it has not happened yet, and what to do.';
COMMENT ON COLUMN portalhook.switches.lsn IS 'From this position of the stream on it is in force.';

-- Asks for a fresh copy of tables, by oid. Called by the daemon's role, which may write the table.
CREATE FUNCTION portalhook.request_copy(tables oid[], why text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
BEGIN
    INSERT INTO portalhook.switches (kind, tables, why) VALUES ('copy', request_copy.tables, request_copy.why) RETURNING id INTO number;
    PERFORM pg_notify('portalhook_switch', number::text);
    RETURN number;
END $$;
COMMENT ON FUNCTION portalhook.request_copy IS 'Internal: has the daemon copy tables afresh, and switch to the copies at an exact position.';

-- The copy's own transaction says where in the stream it is complete.
CREATE FUNCTION portalhook.announce_switch(attempt text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN portalhook.announce('switch', json_build_object('attempt', attempt));
END $$;
COMMENT ON FUNCTION portalhook.announce_switch IS 'Internal: called by the daemon in the transaction of a copy.';

-- The tables and columns that the SELECTs of the mapping read, through the application's views; whole rows stand as column 0. Nothing stays.
CREATE FUNCTION portalhook.mapped_columns(OUT relation oid, OUT number int) RETURNS SETOF record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped portalhook.mapping;
    found_relations oid[];
    found_numbers   int[];
BEGIN
    FOR mapped IN SELECT * FROM portalhook.mapping LOOP
        found_relations := '{}';
        BEGIN
            PERFORM set_config('search_path', coalesce(mapped.search_path, portalhook.mapping_search_path()), true);
            EXECUTE 'CREATE TEMPORARY VIEW portalhook_followed_mapping AS ' || mapped.query;
            PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
            WITH RECURSIVE used AS (
                SELECT d.refobjid AS relation, d.refobjsubid AS number
                FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                WHERE r.ev_class = 'pg_temp.portalhook_followed_mapping'::regclass
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' AND d.refobjid <> r.ev_class
                UNION
                SELECT d.refobjid, d.refobjsubid
                FROM used JOIN pg_rewrite AS r ON r.ev_class = used.relation
                JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                WHERE d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' AND d.refobjid <> r.ev_class
            )
            SELECT array_agg(used.relation), array_agg(used.number) INTO found_relations, found_numbers
            FROM used JOIN pg_class AS c ON c.oid = used.relation AND c.relkind IN ('r', 'p');
            RAISE EXCEPTION USING ERRCODE = 'PH000', MESSAGE = 'roll the view back';
        EXCEPTION WHEN SQLSTATE 'PH000' THEN
            NULL;
        END;
        RETURN QUERY SELECT * FROM unnest(found_relations, found_numbers);
    END LOOP;
END $$;
COMMENT ON FUNCTION portalhook.mapped_columns IS 'Internal: what the mapping reads. The SELECTs are not run.';

-- What the daemon's role, the only one that may call it, needs for a mapping that names something new: SELECT on the mapped columns, and
-- the tables in the publication. It takes no argument: what the mapping names was readable for whoever wrote it.
CREATE FUNCTION portalhook.follow_mapping() RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    one         record;
    done        text[] := '{}';
    publication name := (SELECT c.publication FROM portalhook.checkpoint AS c);
BEGIN
    FOR one IN
        WITH named AS MATERIALIZED (
            SELECT DISTINCT relation, number FROM portalhook.mapped_columns()
        ), relations AS (
            SELECT c.oid AS relation, c.relname, n.nspname, c.relreplident, c.relkind,
                   coalesce((SELECT i.indkey::int2[] FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                               AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END LIMIT 1), '{}') AS key,
                   EXISTS (SELECT FROM named WHERE named.relation = c.oid AND named.number = 0)
                       AND NOT EXISTS (SELECT FROM named WHERE named.relation = c.oid AND named.number > 0) AS whole
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.oid IN (SELECT named.relation FROM named) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'portalhook', 'portalhook_mirror')
        ), columns AS (
            SELECT relation, number FROM named WHERE number > 0
            UNION SELECT relation, unnest(key) FROM relations
            UNION SELECT a.attrelid, a.attnum FROM pg_attribute AS a JOIN relations AS r ON r.relation = a.attrelid AND r.whole WHERE a.attnum > 0
            -- What a generated column is computed from; on which of its two objects it depends differs between versions.
            UNION SELECT d.refobjid, d.refobjsubid FROM named JOIN pg_attrdef AS g ON g.adrelid = named.relation AND g.adnum = named.number
                JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = named.relation AND d.refobjsubid > 0
                    AND (d.classid = 'pg_attrdef'::regclass AND d.objid = g.oid
                         OR d.classid = 'pg_class'::regclass AND d.objid = named.relation AND d.objsubid = named.number)
        )
        SELECT r.*, format('%I.%I', r.nspname, r.relname) AS title,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = r.relation AND NOT a.attisdropped AND a.attgenerated = '' AND a.attnum IN (SELECT c.number FROM columns AS c WHERE c.relation = r.relation)
                  AND NOT has_column_privilege(session_user, r.relation, a.attnum, 'SELECT')) AS missing,
               (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute AS a
                WHERE a.attrelid = r.relation AND NOT a.attisdropped AND a.attgenerated = ''
                  AND a.attnum IN (SELECT c.number FROM columns AS c WHERE c.relation = r.relation)) AS mapped,
               (SELECT coalesce(array_agg(a.attname::text ORDER BY k.place), '{}') FROM unnest(r.key) WITH ORDINALITY AS k (number, place)
                JOIN pg_attribute AS a ON a.attrelid = r.relation AND a.attnum = k.number) AS keys,
               has_schema_privilege(session_user, r.nspname, 'USAGE') AS reachable,
               EXISTS (SELECT FROM pg_publication_rel AS p JOIN pg_publication AS b ON b.oid = p.prpubid
                       WHERE b.pubname = publication AND p.prrelid = r.relation) AS published
        FROM relations AS r ORDER BY r.nspname, r.relname
    LOOP
        IF NOT one.reachable THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', one.nspname, session_user);
        END IF;
        IF one.missing IS NOT NULL THEN
            EXECUTE format('GRANT SELECT (%s) ON %s TO %I', one.missing, one.title, session_user);
            done := done || format('may read %s (%s)', one.title, one.missing);
        END IF;
        IF NOT one.published THEN
            -- Without a key, a row of the stream is known by its values alone.
            IF one.key = '{}' AND one.relreplident <> 'f' AND one.relkind = 'r' THEN
                EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one.title);
            END IF;
            EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', publication, one.title);
            done := done || format('added %s to the publication', one.title);
        END IF;
        -- What may be mended later: see portalhook.mapped_tables.
        INSERT INTO portalhook.mapped_tables AS m (schema_name, table_name, oid, columns, key, publication)
        VALUES (one.nspname, one.relname, one.relation, one.mapped, one.keys, publication)
        ON CONFLICT (schema_name, table_name) DO UPDATE SET oid = excluded.oid, columns = excluded.columns, publication = excluded.publication,
            key = CASE WHEN m.oid = excluded.oid THEN m.key ELSE excluded.key END, made_full = m.made_full AND m.oid = excluded.oid;
    END LOOP;
    RETURN done;
END $$;
COMMENT ON FUNCTION portalhook.follow_mapping IS 'Internal: gives the daemon''s role what the mapping reads and nothing else. Says what it did.';

-- The views portalhook.posts and so on belong to the owner, the functions below them to the daemon, which makes them anew at a switch.
CREATE FUNCTION portalhook.show_entity(entity text, columns text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
    IF portalhook.mapping_columns(entity) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('there is no entity %s', coalesce(quote_literal(entity), 'null'));
    END IF;
    EXECUTE format('DROP VIEW IF EXISTS portalhook.%I', entity);
    IF columns IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE VIEW portalhook.%I AS SELECT %s FROM portalhook_mirror.%I()', entity,
                   (SELECT string_agg(quote_ident(name), ', ' ORDER BY place) FROM unnest(columns) WITH ORDINALITY AS c (name, place)), 'show_' || entity);
    EXECUTE format('COMMENT ON VIEW portalhook.%I IS %L', entity, format('The live %s as webhooks show them, as of the position of the stream. The mapping is in portalhook.mapping.', replace(entity, '_', ' ')));
END $$;
COMMENT ON FUNCTION portalhook.show_entity IS 'Internal: makes a view over the daemon''s function anew; without columns only removes it.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
-- As before; and the trigger that runs with the rights of whoever may write the mapping.
GRANT EXECUTE ON FUNCTION portalhook.mapping_columns(text), portalhook.mapping_search_path(), portalhook.select_columns(text, text) TO PUBLIC;
