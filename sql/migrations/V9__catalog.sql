-- The application goes on with its migrations while we mirror its tables. What the mirror remembers of their catalog, and what the
-- daemon's role, which owns nothing of the application, may have mended by functions that run with the administrator's rights.

CREATE TABLE portalhook.catalog (
    mirror text PRIMARY KEY,
    seen   jsonb NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portalhook.catalog IS 'What the catalog said of each mirrored table when its mirror was copied: oid, files, partitions, columns, keys, labels of enums. Written by the daemon; the difference to now says what a migration did.';

-- Only the administrator writes it (setup): the functions below touch no other table, whoever calls them.
CREATE TABLE portalhook.mapped_tables (
    schema_name text   NOT NULL,
    table_name  text   NOT NULL,
    oid         oid    NOT NULL,
    columns     text[] NOT NULL,
    key         text[] NOT NULL,
    publication text   NOT NULL,
    made_full   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (schema_name, table_name)
);
COMMENT ON TABLE portalhook.mapped_tables IS 'The application''s tables that the mapping names. portalhook.mend_publication and mend_identity touch these and no others. Written by setup.';
COMMENT ON COLUMN portalhook.mapped_tables.oid IS 'The table that had this name when it was last set up or adopted.';
COMMENT ON COLUMN portalhook.mapped_tables.columns IS 'The mirrored columns: those that the daemon''s role may read.';
COMMENT ON COLUMN portalhook.mapped_tables.key IS 'The columns by which the mirror finds a row; empty: by the whole row.';
COMMENT ON COLUMN portalhook.mapped_tables.made_full IS 'REPLICA IDENTITY FULL was set by portalhook, and may be taken back.';

-- A table with its partitions, and how each stands with the publication. No lock is taken on any of them.
CREATE FUNCTION portalhook.members(of oid)
RETURNS TABLE (member oid, kind "char", storage oid, identity "char", key text[], indexed boolean, generated text, refuses boolean) STABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT members.of AS member
        UNION ALL
        SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.member JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE c.relispartition AND NOT i.inhdetachpending
    ), facts AS (
        SELECT c.oid, c.relkind, c.relfilenode, c.relreplident,
               -- Only an immediate key identifies rows in the stream.
               coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                         FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place), pg_attribute AS a
                         WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate AND k.place <= i.indnkeyatts
                           AND a.attrelid = c.oid AND a.attnum = k.attnum), '{}') AS key,
               EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid) AS indexed,
               -- From 18 on they do not go together with identity FULL.
               CASE WHEN current_setting('server_version_num')::int >= 180000 THEN
                   (SELECT a.attname::text FROM pg_attribute AS a
                    WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum LIMIT 1)
               END AS generated
        FROM tree AS t JOIN pg_class AS c ON c.oid = t.member
    )
    SELECT f.oid, f.relkind, f.relfilenode, f.relreplident, f.key, f.indexed, f.generated,
           f.relkind = 'r' AND CASE f.relreplident
               WHEN 'd' THEN f.key = '{}'
               WHEN 'i' THEN NOT f.indexed
               WHEN 'f' THEN f.generated IS NOT NULL
               ELSE true
           END
    FROM facts AS f
$$;
COMMENT ON FUNCTION portalhook.members IS 'Internal: a table and its partitions, their files, keys and replica identities, and whether PostgreSQL refuses their updates while they are published.';

-- The row of the table that has a mapped name, or else of the one that had it.
CREATE FUNCTION portalhook.mapped_table(of oid) RETURNS portalhook.mapped_tables STABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT m FROM portalhook.mapped_tables AS m, pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = mapped_table.of AND c.relkind IN ('r', 'p')
      AND (m.oid = c.oid OR m.schema_name = n.nspname AND m.table_name = c.relname)
    ORDER BY m.schema_name = n.nspname AND m.table_name = c.relname DESC LIMIT 1
$$;
COMMENT ON FUNCTION portalhook.mapped_table IS 'Internal: what portalhook.mapped_tables says of a table; null where the mapping does not name it.';

-- lock_timeout: who waits for a table's lock makes everybody wait who comes later. The daemon rather tries again.
CREATE FUNCTION portalhook.mend_identity(of regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    mapped portalhook.mapped_tables := portalhook.mapped_table(of);
    one    record;
    wanted text;
    sql    text;
    done   text[] := '{}';
BEGIN
    IF mapped.oid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('%s is not a table of the mapping', of),
            HINT = 'SELECT * FROM portalhook.mapped_tables shows which are.';
    END IF;
    FOR one IN SELECT * FROM portalhook.members(of) LOOP
        -- Where the mirror finds rows by other columns than the key, the stream has to carry all of them until it follows.
        wanted := CASE WHEN one.key <> '{}' AND (one.key = mapped.key OR one.generated IS NOT NULL) THEN 'DEFAULT'
                       WHEN one.generated IS NULL THEN 'FULL' END;
        -- What works is left alone, but for a FULL that is ours and not needed any more.
        IF one.identity = 'i' AND one.indexed OR one.identity = 'd' AND wanted = 'DEFAULT' OR one.identity = 'f' AND wanted = 'FULL'
           OR one.identity = 'f' AND wanted = 'DEFAULT' AND NOT mapped.made_full AND one.generated IS NULL THEN
            CONTINUE;
        END IF;
        IF wanted IS NOT NULL THEN
            sql := format('ALTER TABLE %s REPLICA IDENTITY %s', one.member::regclass, wanted);
            EXECUTE sql;
            done := done || sql;
        END IF;
    END LOOP;
    IF done <> '{}' THEN
        UPDATE portalhook.mapped_tables AS m
        SET made_full = EXISTS (SELECT FROM portalhook.members(of) AS s WHERE s.identity = 'f')
        WHERE m.schema_name = mapped.schema_name AND m.table_name = mapped.table_name;
    END IF;
    -- Nothing identifies its rows: the application's updates go first, ours follow once there is a key.
    IF EXISTS (SELECT FROM portalhook.members(of) AS s WHERE s.refuses)
       AND EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                   WHERE p.pubname = mapped.publication AND r.prrelid = of) THEN
        sql := format('ALTER PUBLICATION %I DROP TABLE %s', mapped.publication, of);
        EXECUTE sql;
        done := done || sql;
    END IF;
    RETURN array_to_string(done, '; ');
END $$;
COMMENT ON FUNCTION portalhook.mend_identity IS 'Gives a mapped table and its partitions a replica identity with which PostgreSQL takes their updates while they are published; returns the statements that it ran. The daemon calls it.';

CREATE FUNCTION portalhook.mend_publication(of regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    mapped  portalhook.mapped_tables := portalhook.mapped_table(of);
    role    name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'portalhook.events'::regclass);
    schema  name := (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = of);
    columns text;
    refused record;
    sql     text;
    done    text[] := '{}';
BEGIN
    -- Before it is published: it says which tables may be touched, too.
    sql := portalhook.mend_identity(of);
    IF sql <> '' THEN
        done := done || sql;
    END IF;
    SELECT s.* INTO refused FROM portalhook.members(of) AS s WHERE s.refuses LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('%s cannot be published: it has no primary key, and with its generated column %I PostgreSQL would refuse its updates',
                                                                  refused.member::regclass, refused.generated),
            HINT = format('ALTER TABLE %s ADD PRIMARY KEY (…)', of);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                   WHERE p.pubname = mapped.publication AND r.prrelid = of) THEN
        sql := format('ALTER PUBLICATION %I ADD TABLE %s', mapped.publication, of);
        EXECUTE sql;
        done := done || sql;
    END IF;
    -- The publication followed the table that had the name; nobody reads that one's changes any more.
    IF mapped.oid <> of AND EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                                    WHERE p.pubname = mapped.publication AND r.prrelid = mapped.oid)
       AND NOT EXISTS (SELECT FROM portalhook.mapped_tables AS m JOIN pg_class AS c ON c.oid = mapped.oid
                       WHERE m.table_name = c.relname AND m.schema_name::regnamespace = c.relnamespace) THEN
        sql := format('ALTER PUBLICATION %I DROP TABLE %s', mapped.publication, mapped.oid::regclass);
        EXECUTE sql;
        done := done || sql;
    END IF;
    columns := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = of AND a.attname = ANY (mapped.columns) AND a.attnum > 0 AND NOT a.attisdropped
                  AND NOT has_column_privilege(role, of, a.attnum, 'SELECT'));
    IF columns IS NOT NULL THEN
        sql := format('GRANT SELECT (%s) ON %s TO %I', columns, of, role);
        EXECUTE sql;
        done := done || sql;
    END IF;
    IF NOT has_schema_privilege(role, schema, 'USAGE') THEN
        sql := format('GRANT USAGE ON SCHEMA %I TO %I', schema, role);
        EXECUTE sql;
        done := done || sql;
    END IF;
    UPDATE portalhook.mapped_tables AS m SET oid = of
    WHERE m.schema_name = mapped.schema_name AND m.table_name = mapped.table_name AND m.oid <> of;
    RETURN array_to_string(done, '; ');
END $$;
COMMENT ON FUNCTION portalhook.mend_publication IS 'Publishes a table that the mapping names, also one that was created anew under that name, with an identity that takes updates, and lets the daemon''s role read the mapped columns; returns the statements that it ran. The daemon calls it.';

-- After a change of the mapping; portalhook.follow_mapping adds what it newly names. Its text decides, which the daemon cannot write.
CREATE FUNCTION portalhook.forget_tables() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM portalhook.mapped_tables AS m
    WHERE NOT EXISTS (SELECT FROM portalhook.mapped_columns() AS u JOIN pg_class AS c ON c.oid = u.relation
                      JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = m.schema_name AND c.relname = m.table_name);
END $$;
COMMENT ON FUNCTION portalhook.forget_tables IS 'Internal: takes tables that the mapping does not name any more out of portalhook.mapped_tables. The daemon calls it.';

-- Optional (portalhook setup --event-trigger): the same inside the application's own transaction. It never fails it.
CREATE FUNCTION portalhook.mend_after_ddl() RETURNS event_trigger
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
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'portalhook does not follow %.%: %', mapped.schema_name, mapped.table_name, sqlerrm;
        END;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'portalhook does not follow a migration: %', sqlerrm;
END $$;
COMMENT ON FUNCTION portalhook.mend_after_ddl IS 'Internal: event trigger function. portalhook setup --event-trigger makes the event trigger portalhook_mend; DROP EVENT TRIGGER portalhook_mend removes it.';

REVOKE ALL ON FUNCTION portalhook.members(oid), portalhook.mapped_table(oid), portalhook.mend_identity(regclass),
    portalhook.mend_publication(regclass), portalhook.forget_tables(), portalhook.mend_after_ddl() FROM PUBLIC;

ALTER TABLE portalhook.switches ADD COLUMN compared oid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN portalhook.switches.compared IS 'Those of the tables whose changes the stream did not carry for a while: what differs at the switch gives events.';
