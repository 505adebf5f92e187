-- Where the plan knows more than the stream has brought, and tables that the stream cannot be followed in for a while.

ALTER TABLE portalhook.plan ADD COLUMN ahead jsonb;
COMMENT ON COLUMN portalhook.plan.ahead IS 'Internal: what of the stream was written before the plan''s tables were as they are: up to which position, under which names, and what copies have seen already.';

ALTER TABLE portalhook.switches ADD COLUMN skipped oid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN portalhook.switches.skipped IS 'Those of the tables whose changes are left out until the copy is in force: they do not fit the mirror any more. What differs then gives events.';

-- Gives the text back if it can be cast: then a cast of it cannot fail.
CREATE FUNCTION portalhook.castable(value text, wanted text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pg_catalog.format('SELECT %L::%s', value, wanted);
    RETURN value;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.castable IS 'Internal: a value, or null where it cannot be read as this type.';
REVOKE ALL ON FUNCTION portalhook.castable(text, text) FROM PUBLIC;
