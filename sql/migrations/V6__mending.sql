-- What operators do when something went wrong, or must not be told: send again what was sent, and change the portal in silence.
-- What is due stands in portalhook.deliveries, so sending again is a row there, with the sequence and the bytes that it always had.

-- The endpoint of this id where something can be sent again; raises what stands in the way.
CREATE FUNCTION portalhook.open_endpoint(endpoint bigint, what text) RETURNS portalhook.endpoints
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_endpoint portalhook.endpoints;
BEGIN
    SELECT * INTO found_endpoint FROM portalhook.endpoints WHERE id = open_endpoint.endpoint;
    IF found_endpoint.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('there is no endpoint %s', coalesce(open_endpoint.endpoint::text, 'null')),
            HINT = 'SELECT id, url FROM portalhook.endpoints shows those that are there.';
    ELSIF NOT found_endpoint.enabled THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('endpoint %s (%s) is disabled%s', found_endpoint.id, found_endpoint.url, coalesce(': ' || found_endpoint.disabled_reason, '')),
            HINT = format('UPDATE portalhook.endpoints SET enabled = true WHERE id = %s; then %s.', found_endpoint.id, what);
    END IF;
    RETURN found_endpoint;
END $$;
COMMENT ON FUNCTION portalhook.open_endpoint IS 'Internal: an endpoint that is there and enabled.';

-- $event_ids null: whatever was routed to the endpoint and committed in the span. One statement sees the cursor and the outcomes as
-- of one moment: what is past the cursor without an outcome is about to be sent anyway, and has no row.
CREATE FUNCTION portalhook.make_due(endpoint bigint, events bigint[], since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made bigint;
BEGIN
    WITH cursor AS (
        SELECT c.position FROM portalhook.cursors AS c WHERE c.endpoint = make_due.endpoint
    ), settled AS (
        SELECT one AS position FROM cursor AS c, portalhook.successes AS s, unnest(s.positions) AS one
        WHERE s.endpoint = make_due.endpoint AND s.last_position > c.position AND one > c.position
        UNION
        SELECT d.position FROM cursor AS c, portalhook.deliveries AS d WHERE d.endpoint = make_due.endpoint AND d.position > c.position
    ), chosen AS (
        SELECT e.position, e.recorded_on, e.sequences[array_position(e.endpoints, make_due.endpoint)] AS sequence, e.id
        FROM portalhook.events AS e
        WHERE make_due.events IS NULL AND e.endpoints @> ARRAY[make_due.endpoint] AND e.body IS NOT NULL
          AND e.occurred_at >= since AND e.occurred_at <= make_due.until
          -- Recorded after it occurred; a day of grace for clocks that differ.
          AND e.recorded_on >= (since AT TIME ZONE 'UTC')::date - 1
        UNION ALL
        SELECT e.position, e.recorded_on, e.sequences[array_position(e.endpoints, make_due.endpoint)], e.id
        FROM portalhook.events AS e WHERE e.position = ANY (make_due.events) AND e.endpoints @> ARRAY[make_due.endpoint]
    )
    INSERT INTO portalhook.deliveries AS d (endpoint, position, recorded_on, sequence, event_id, status, attempts, due_at)
    SELECT make_due.endpoint, e.position, e.recorded_on, e.sequence, e.id, 'pending', 0, now()
    FROM chosen AS e, cursor AS c
    WHERE e.position <= c.position OR e.position IN (SELECT s.position FROM settled AS s)
    ORDER BY e.position
    -- The last outcome stays readable until the next one.
    ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE
    SET status = 'pending', attempts = 0, due_at = excluded.due_at, first_attempt_at = NULL
    WHERE d.status <> 'pending';
    GET DIAGNOSTICS made = ROW_COUNT;
    RETURN made;
END $$;
COMMENT ON FUNCTION portalhook.make_due IS 'Internal: makes settled deliveries due again, in their order; returns how many.';

CREATE FUNCTION portalhook.redeliver(event_id text, endpoint bigint DEFAULT NULL) RETURNS int
-- Never through whole days: the index on ids is one that the planner underrates.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    event  portalhook.events;
    target bigint;
    oldest date;
    one    portalhook.endpoints;
    due    int := 0;
    closed text[] := '{}';
BEGIN
    SELECT * INTO event FROM portalhook.events AS e WHERE e.id = redeliver.event_id;
    IF event.id IS NULL THEN
        SELECT e.recorded_on INTO oldest FROM portalhook.events AS e ORDER BY e.position LIMIT 1;
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('there is no event %s in the ledger', coalesce(quote_literal(left(redeliver.event_id, 100)), 'null')),
            HINT = CASE WHEN oldest IS NULL THEN 'No event was recorded yet.'
                        ELSE format('Events are kept for ledger.retention (7 days unless set otherwise); the oldest that is there is of %s. portalhook.recent_deliveries shows the ids of the last ones.', oldest) END;
    ELSIF event.endpoints = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('event %s (%s) was wanted by no endpoint when it happened', event.id, event.event),
            HINT = 'An endpoint gets the events that were committed after it was added, and its body was not kept.';
    ELSIF event.body IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('the body of event %s (%s) was not kept: it was over deliver.max_body', event.id, event.event),
            HINT = 'Raise deliver.max_body for events to come; this one cannot be sent.';
    ELSIF redeliver.endpoint IS NOT NULL THEN
        one := portalhook.open_endpoint(redeliver.endpoint, 'redeliver');
        IF redeliver.endpoint <> ALL (event.endpoints) THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('event %s (%s) was not for endpoint %s', event.id, event.event, redeliver.endpoint),
                HINT = format('It went to %s. An event can only go again where it has a sequence number.', array_to_string(event.endpoints, ', '));
        END IF;
    END IF;
    FOREACH target IN ARRAY CASE WHEN redeliver.endpoint IS NULL THEN event.endpoints ELSE ARRAY[redeliver.endpoint] END LOOP
        SELECT * INTO one FROM portalhook.endpoints AS p WHERE p.id = target;
        IF one.id IS NULL THEN
            closed := closed || format('endpoint %s was deleted', target);
        ELSIF NOT one.enabled THEN
            closed := closed || format('endpoint %s (%s) is disabled', target, one.url);
        ELSE
            PERFORM portalhook.make_due(target, ARRAY[event.position], NULL, NULL);
            -- What waits for a retry need not wait any longer.
            UPDATE portalhook.deliveries AS d SET due_at = now()
            WHERE d.endpoint = target AND d.position = event.position AND d.recorded_on = event.recorded_on
              AND d.status = 'pending' AND d.due_at > now();
            due := due + 1;
        END IF;
    END LOOP;
    IF due = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('event %s (%s) can go nowhere: %s', event.id, event.event, array_to_string(closed, ', ')),
            HINT = 'UPDATE portalhook.endpoints SET enabled = true WHERE id = …; then redeliver.';
    ELSIF closed <> '{}' THEN
        RAISE NOTICE 'not sent everywhere: %', array_to_string(closed, ', ');
    END IF;
    PERFORM pg_notify('portalhook', 'deliveries');
    RETURN due;
END $$;
COMMENT ON FUNCTION portalhook.redeliver IS 'Sends an event again, byte for byte and with the same sequence, to every endpoint that it went to, or to one of them: redeliver(''vg3EGg2wcHgd8nMl''), redeliver(''vg3EGg2wcHgd8nMl'', 3). Returns the number of endpoints. Calling it twice before it is sent sends it once.';

CREATE FUNCTION portalhook.replay(endpoint bigint, since timestamptz, until timestamptz DEFAULT now()) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    one  portalhook.endpoints;
    made bigint;
BEGIN
    one := portalhook.open_endpoint(replay.endpoint, 'replay');
    IF replay.since IS NULL OR replay.until IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a replay needs a time to begin at',
            HINT = 'portalhook.replay(3, since => now() - interval ''1 hour''); until is now unless given.';
    ELSIF replay.since > replay.until THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('since (%s) is after until (%s)', replay.since, replay.until),
            HINT = 'portalhook.replay(3, since => now() - interval ''1 hour''); until is now unless given.';
    END IF;
    made := portalhook.make_due(replay.endpoint, NULL, replay.since, replay.until);
    IF made > 0 THEN
        PERFORM pg_notify('portalhook', 'deliveries');
    END IF;
    RETURN made;
END $$;
COMMENT ON FUNCTION portalhook.replay IS 'Sends again what an endpoint was sent, in its order: everything committed in that time, byte for byte and with the same sequences. replay(3, since => now() - interval ''1 hour''). Returns how many; what is still to be sent is not counted, and not sent twice.';

CREATE FUNCTION portalhook.mute(reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM portalhook.announce('mute', json_build_object('reason', left(reason, 500)));
END $$;
COMMENT ON FUNCTION portalhook.mute IS 'Makes the calling transaction silent, whatever it changed before the call or changes after it: its changes of posts, votes and comments give no events. Later events and counters build on them all the same. For imports and repairs: BEGIN; SELECT portalhook.mute(''import of the old portal''); …; COMMIT. What emit() and test() announce is sent even so. The application''s role needs GRANT EXECUTE ON FUNCTION portalhook.mute.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
GRANT EXECUTE ON FUNCTION portalhook.mapping_columns(text), portalhook.mapping_search_path(), portalhook.select_columns(text, text) TO PUBLIC;
