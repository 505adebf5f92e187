-- A body repeats the post that it is about. A large one that comes more than once stands in a table of its own, once.

CREATE TABLE portalhook.parts (
    number      bigint NOT NULL,
    recorded_on date   NOT NULL,
    part        text   NOT NULL,
    PRIMARY KEY (number, recorded_on)
) PARTITION BY RANGE (recorded_on);
COMMENT ON TABLE portalhook.parts IS 'Long pieces that several bodies of a day have in common: a post with its portal. portalhook.body() puts them in.';
COMMENT ON COLUMN portalhook.parts.number IS 'The position of the first event whose body refers to it.';

ALTER TABLE portalhook.events ADD COLUMN part bigint, ADD COLUMN tail text,
    ADD CHECK ((part IS NULL) = (tail IS NULL) AND (part IS NULL OR body IS NOT NULL));
COMMENT ON COLUMN portalhook.events.body IS 'The body as sent, byte for byte; null where nobody wanted the event or it was over deliver.max_body. Where part is not null, only what stands before that part: portalhook.body(e) gives the whole, SELECT portalhook.body(e) FROM portalhook.events AS e.';
COMMENT ON COLUMN portalhook.events.part IS 'Number of the row of portalhook.parts (of the same recorded_on) that follows in the body.';
COMMENT ON COLUMN portalhook.events.tail IS 'What stands in the body after that part.';

CREATE FUNCTION portalhook.body(event portalhook.events) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN ($1).part IS NULL THEN ($1).body
                ELSE ($1).body || (SELECT p.part FROM portalhook.parts AS p WHERE p.recorded_on = ($1).recorded_on AND p.number = ($1).part)
                     || ($1).tail END
$$;
COMMENT ON FUNCTION portalhook.body(portalhook.events) IS 'The whole body of an event, as sent, byte for byte: SELECT e.id, portalhook.body(e) FROM portalhook.events AS e.';

CREATE FUNCTION portalhook.body(event_id text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT portalhook.body(e) FROM portalhook.events AS e WHERE e.id = $1
$$;
COMMENT ON FUNCTION portalhook.body(text) IS 'The body of the event with this webhook-id, as sent, byte for byte: SELECT portalhook.body(''vg3EGg2wcHgd8nMl'').';

CREATE OR REPLACE FUNCTION portalhook.prepare_partitions(first_day date, days int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    day    date;
    name   text;
    made   int := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['events', 'parts', 'deliveries', 'successes'] LOOP
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            name := parent || '_' || to_char(day, 'YYYYMMDD');
            IF to_regclass('portalhook_ledger.' || name) IS NULL THEN
                EXECUTE format('CREATE TABLE portalhook_ledger.%I PARTITION OF portalhook.%I FOR VALUES FROM (%L) TO (%L)',
                               name, parent, day, day + 1);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- They read what their caller may read: events and parts.
REVOKE ALL ON FUNCTION portalhook.body(portalhook.events), portalhook.body(text) FROM PUBLIC;
