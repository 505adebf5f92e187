-- What operators do gets its place in commit order: a row of portalhook.operations and a logical message with its number.
-- The functions run with the owner's rights, so that whoever may write an endpoint needs no rights on anything else.

CREATE FUNCTION portalhook.endpoint_operation(op text, endpoint bigint, events text[], portal text) RETURNS json STABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE op
               WHEN 'delete' THEN format('{"op":"delete","endpoint":%s}', endpoint)
               ELSE format('{"op":"put","endpoint":%s,"events":%s,"portal":%s}',
                           endpoint, to_json(events), coalesce(to_json(portal)::text, 'null'))
           END::json
$$;
COMMENT ON FUNCTION portalhook.endpoint_operation IS 'Internal: the payload of an operation on an endpoint.';

-- Only what decides which events an endpoint gets follows the stream; url, secret, limits apply from the next attempt.
CREATE FUNCTION portalhook.endpoint_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op = 'DELETE' THEN
        PERFORM portalhook.announce('endpoint', portalhook.endpoint_operation('delete', old.id, NULL, NULL));
        RETURN NULL;
    END IF;
    IF tg_op = 'INSERT' OR (new.events, new.portal) IS DISTINCT FROM (old.events, old.portal) THEN
        PERFORM portalhook.announce('endpoint', portalhook.endpoint_operation('put', new.id, new.events, new.portal));
    END IF;
    IF tg_op = 'UPDATE' AND old.enabled AND NOT new.enabled AND new.disabled_reason IS NOT NULL THEN
        PERFORM portalhook.announce('disabled', format('{"endpoint":%s,"url":%s,"portal":%s,"reason":%s}', new.id, to_json(new.url),
            coalesce(to_json(new.portal)::text, 'null'), to_json(new.disabled_reason))::json);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.endpoint_changed IS 'Internal: trigger function.';
CREATE TRIGGER endpoint_changed AFTER INSERT OR UPDATE OR DELETE ON portalhook.endpoints
    FOR EACH ROW EXECUTE FUNCTION portalhook.endpoint_changed();

CREATE FUNCTION portalhook.endpoints_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM portalhook.announce('endpoint', portalhook.endpoint_operation('delete', id, NULL, NULL))
    FROM portalhook.endpoints ORDER BY id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.endpoints_truncated IS 'Internal: trigger function. TRUNCATE is DELETE of every endpoint.';
CREATE TRIGGER endpoints_truncated BEFORE TRUNCATE ON portalhook.endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION portalhook.endpoints_truncated();

-- A hint for the dispatcher to read the settings anew; it polls all the same.
CREATE FUNCTION portalhook.settings_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('portalhook', tg_table_name);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.settings_changed IS 'Internal: trigger function.';
CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON portalhook.endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION portalhook.settings_changed();
CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON portalhook.secrets
    FOR EACH STATEMENT EXECUTE FUNCTION portalhook.settings_changed();

CREATE FUNCTION portalhook.emit(event text, data json DEFAULT '{}', portal text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := ARRAY(SELECT name FROM portalhook.custom_events ORDER BY name);
BEGIN
    IF event IS NULL OR event <> ALL (known) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('there is no event %s of your own', coalesce(quote_literal(left(event, 100)), 'null')),
            HINT = portalhook.did_you_mean(event, known) || 'Register it first: INSERT INTO portalhook.custom_events (name) VALUES (''roadmap.published''). '
            || CASE WHEN known = '{}' THEN 'None is registered yet.' ELSE 'Registered are ' || array_to_string(known, ', ') || '.' END;
    ELSIF portal = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'portal is empty',
            HINT = 'Give the id of a portal as text, or null for an event of no portal.';
    END IF;
    RETURN portalhook.announce('emit', format('{"event":%s,"data":%s,"portal":%s}', to_json(event),
        coalesce(data::text, 'null'), coalesce(to_json(portal)::text, 'null'))::json);
END $$;
COMMENT ON FUNCTION portalhook.emit IS 'Sends an event of your own, part of the calling transaction: emit(''roadmap.published'', ''{"version": 2}''). Returns the operation''s number.';

CREATE FUNCTION portalhook.test(endpoint bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_endpoint portalhook.endpoints;
BEGIN
    SELECT * INTO found_endpoint FROM portalhook.endpoints WHERE id = test.endpoint;
    IF found_endpoint.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('there is no endpoint %s', coalesce(test.endpoint::text, 'null')),
            HINT = 'SELECT id, url FROM portalhook.endpoints shows those that are there.';
    ELSIF NOT found_endpoint.enabled THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('endpoint %s (%s) is disabled%s', found_endpoint.id, found_endpoint.url, coalesce(': ' || found_endpoint.disabled_reason, '')),
            HINT = format('UPDATE portalhook.endpoints SET enabled = true WHERE id = %s; then test it.', found_endpoint.id);
    END IF;
    RETURN portalhook.announce('test', format('{"endpoint":%s,"url":%s}', found_endpoint.id, to_json(found_endpoint.url))::json);
END $$;
COMMENT ON FUNCTION portalhook.test IS 'Sends a webhook.test event to one endpoint. Returns the operation''s number; portalhook.recent_deliveries shows what became of it.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
