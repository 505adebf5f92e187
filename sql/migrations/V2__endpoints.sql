-- Endpoints, secrets and the operator's own event names, refused by the database itself where they are wrong.
-- Every refusal says what is wrong in its message and what is allowed in its hint.

-- A refusal is a value (message, hint) that the trigger raises itself: psql then shows one line of context, not ten.
CREATE FUNCTION portalhook.refusal(what text, allowed text) RETURNS text[] IMMUTABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS 'SELECT ARRAY[what, allowed]';
COMMENT ON FUNCTION portalhook.refusal IS 'Internal: what is wrong and what is allowed.';

CREATE FUNCTION portalhook.built_in_events() RETURNS text[] IMMUTABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY['post.created', 'post.deleted', 'post.status_changed', 'post.updated', 'vote.created', 'vote.deleted',
                 'comment.created', 'comment.deleted', 'comment.updated', 'webhook.test', 'endpoint.disabled']
$$;
COMMENT ON FUNCTION portalhook.built_in_events IS 'The events that portalhook itself knows.';

-- How many letters to insert, delete or replace to get from one word to the other (Levenshtein), for "did you mean".
CREATE FUNCTION portalhook.distance(a text, b text) RETURNS int IMMUTABLE STRICT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before int[] := ARRAY(SELECT generate_series(0, length(b)));
    after  int[];
BEGIN
    FOR i IN 1 .. length(a) LOOP
        after := ARRAY[i];
        FOR j IN 1 .. length(b) LOOP
            after := after || least(before[j + 1] + 1, after[j] + 1,
                                    before[j] + (substr(a, i, 1) <> substr(b, j, 1))::int);
        END LOOP;
        before := after;
    END LOOP;
    RETURN before[length(b) + 1];
END $$;
COMMENT ON FUNCTION portalhook.distance IS 'Internal: edit distance of two words.';

CREATE FUNCTION portalhook.did_you_mean(word text, known text[]) RETURNS text IMMUTABLE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT format('Did you mean %s? ', name)
                     FROM unnest(known) AS name, portalhook.distance(left(lower(word), 64), name) AS distance
                     WHERE distance <= greatest(2, length(name) / 4)
                     ORDER BY distance, name LIMIT 1), '')
$$;
COMMENT ON FUNCTION portalhook.did_you_mean IS 'Internal: "Did you mean x? " where a known word is close.';

-- The operator's own events -------------------------------------------------------------------------------------------

CREATE TABLE portalhook.custom_events (
    name        text PRIMARY KEY,
    description text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portalhook.custom_events IS 'Names of events of your own, for portalhook.emit() and for the events of an endpoint.';
COMMENT ON COLUMN portalhook.custom_events.name IS 'Lower-case words with dots between them, such as roadmap.published.';

CREATE FUNCTION portalhook.check_custom_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_word text := split_part(new.name, '.', 1);
BEGIN
    IF new.name IS NULL OR new.name !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' OR length(new.name) > 100 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s cannot be the name of an event', coalesce(quote_literal(left(new.name, 100)), 'null')),
            HINT = 'Write lower-case words of letters, digits and underscores with dots between them, at most 100 characters: roadmap.published.';
    ELSIF first_word IN ('post', 'vote', 'comment', 'webhook', 'endpoint', 'portalhook') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('the name %L is taken: events that begin with %s. are portalhook''s own', new.name, first_word),
            HINT = 'Begin the name with a word of your own, such as roadmap.published.';
    END IF;
    RETURN new;
END $$;
COMMENT ON FUNCTION portalhook.check_custom_event IS 'Internal: trigger function.';
CREATE TRIGGER check_custom_event BEFORE INSERT OR UPDATE ON portalhook.custom_events
    FOR EACH ROW EXECUTE FUNCTION portalhook.check_custom_event();

-- Secrets -------------------------------------------------------------------------------------------------------------

CREATE FUNCTION portalhook.new_secret() RETURNS text VOLATILE
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    -- 366 random bits of PostgreSQL's strong generator, condensed into 32 bytes; no extension needed.
    SELECT 'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
$$;
COMMENT ON FUNCTION portalhook.new_secret IS 'Internal: a fresh random signing secret, whsec_ and 32 bytes in base64.';

CREATE FUNCTION portalhook.check_secret(secret text) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The secret itself is never part of a message: messages end in logs.
    allowed constant text := 'A secret is whsec_ and the base64 of 24 to 64 random bytes. Leave it out: one is made for you.';
    bytes   bytea;
BEGIN
    IF secret !~ '^whsec_[A-Za-z0-9+/]+={0,2}$' THEN
        RETURN portalhook.refusal('the secret is not whsec_ followed by base64', allowed);
    END IF;
    BEGIN
        bytes := decode(substr(secret, 7), 'base64');
    EXCEPTION WHEN invalid_parameter_value THEN
        RETURN portalhook.refusal('the secret''s base64 is not valid', allowed);
    END;
    IF length(bytes) NOT BETWEEN 24 AND 64 THEN
        RETURN portalhook.refusal(format('the secret has %s bytes', length(bytes)), allowed);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_secret IS 'Internal: refuses what is not a signing secret.';

CREATE TABLE portalhook.secrets (
    portal         text PRIMARY KEY,
    secret         text NOT NULL,
    previous       text,
    previous_until timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    rotated_at     timestamptz,
    CHECK ((previous IS NULL) = (previous_until IS NULL))
);
COMMENT ON TABLE portalhook.secrets IS 'The signing secret of each portal (an empty portal: of events without one). Use portalhook.secret() and portalhook.rotate_secret().';
COMMENT ON COLUMN portalhook.secrets.previous IS 'The secret before the last rotation: signs too, beside the new one, until previous_until.';

CREATE FUNCTION portalhook.check_portal_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text[];
BEGIN
    wrong := coalesce(portalhook.check_secret(new.secret), portalhook.check_secret(new.previous));
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = wrong[1], HINT = wrong[2];
    END IF;
    RETURN new;
END $$;
COMMENT ON FUNCTION portalhook.check_portal_secret IS 'Internal: trigger function.';
CREATE TRIGGER check_portal_secret BEFORE INSERT OR UPDATE ON portalhook.secrets
    FOR EACH ROW EXECUTE FUNCTION portalhook.check_portal_secret();

CREATE FUNCTION portalhook.secret(portal text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_secret text;
BEGIN
    IF secret.portal IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'no portal was given',
            HINT = 'Name the portal by its id, as text: portalhook.secret(''4''). The secret of events without a portal is portalhook.secret('''').';
    END IF;
    SELECT s.secret INTO found_secret FROM portalhook.secrets AS s WHERE s.portal = secret.portal;
    IF found_secret IS NULL THEN
        -- Somebody else's row may appear in between: it waits for their commit, and theirs counts.
        INSERT INTO portalhook.secrets AS s (portal, secret) VALUES (secret.portal, portalhook.new_secret())
        ON CONFLICT DO NOTHING;
        SELECT s.secret INTO found_secret FROM portalhook.secrets AS s WHERE s.portal = secret.portal;
    END IF;
    RETURN found_secret;
END $$;
COMMENT ON FUNCTION portalhook.secret IS 'The signing secret of a portal; made at first use. secret('''') is for events without a portal.';

CREATE FUNCTION portalhook.rotate_secret(portal text, keep_old_for interval DEFAULT '24 hours') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fresh text := portalhook.new_secret();
BEGIN
    IF keep_old_for IS NULL OR keep_old_for < interval '0' OR keep_old_for > interval '90 days' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('keep_old_for is %s', coalesce(keep_old_for::text, 'null')),
            HINT = 'Give a time from 0 to 90 days, such as ''24 hours''.';
    END IF;
    PERFORM portalhook.secret(rotate_secret.portal);
    UPDATE portalhook.secrets AS s
    SET previous       = CASE WHEN keep_old_for > interval '0' THEN s.secret END,
        previous_until = CASE WHEN keep_old_for > interval '0' THEN now() + keep_old_for END,
        secret         = fresh,
        rotated_at     = now()
    WHERE s.portal = rotate_secret.portal;
    RETURN fresh;
END $$;
COMMENT ON FUNCTION portalhook.rotate_secret IS 'Gives a portal a new secret and returns it; the old one signs too for keep_old_for, so that receivers can change over.';

-- Endpoints -----------------------------------------------------------------------------------------------------------

CREATE TABLE portalhook.endpoints (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url                text    NOT NULL,
    events             text[]  NOT NULL DEFAULT '{*}',
    portal             text,
    enabled            boolean NOT NULL DEFAULT true,
    disabled_reason    text,
    disabled_at        timestamptz,
    secret             text,
    max_in_flight      int,
    timeout_ms         int,
    headers            jsonb   NOT NULL DEFAULT '{}',
    signature_header   text    NOT NULL DEFAULT 'Signature',
    signature_encoding text    NOT NULL DEFAULT 'hex',
    signature_prefix   text    NOT NULL DEFAULT '',
    ordering           text    NOT NULL DEFAULT 'causal',
    retries            text[],
    description        text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT signature_encoding_is_hex_or_base64 CHECK (signature_encoding IN ('hex', 'base64')),
    CONSTRAINT ordering_is_none_causal_or_strict CHECK (ordering IN ('none', 'causal', 'strict'))
);
COMMENT ON TABLE portalhook.endpoints IS 'Where webhooks go. INSERT INTO portalhook.endpoints (url) VALUES (''https://…'') is enough: all events of all portals.';
COMMENT ON COLUMN portalhook.endpoints.url IS 'https://host[:port]/path or http://…; no user or password in it, no fragment.';
COMMENT ON COLUMN portalhook.endpoints.events IS 'Names of events, {*} for all, or post.*, vote.*, comment.*. post.updated, comment.updated and endpoint.disabled come only where named (post.* and comment.* name them too).';
COMMENT ON COLUMN portalhook.endpoints.portal IS 'Only events of the portal with this id; null: of all portals.';
COMMENT ON COLUMN portalhook.endpoints.enabled IS 'False: nothing is sent. What happens meanwhile is kept, and sent in order once it is true again.';
COMMENT ON COLUMN portalhook.endpoints.disabled_reason IS 'Why portalhook gave the endpoint up; cleared when it is enabled again.';
COMMENT ON COLUMN portalhook.endpoints.secret IS 'The endpoint''s own signing secret; null: that of the event''s portal, portalhook.secret(portal).';
COMMENT ON COLUMN portalhook.endpoints.max_in_flight IS 'How many requests may be under way at once; null: deliver.max_in_flight.';
COMMENT ON COLUMN portalhook.endpoints.timeout_ms IS 'How long an attempt may take, in milliseconds; null: deliver.timeout.';
COMMENT ON COLUMN portalhook.endpoints.headers IS 'Further request headers, {"X-Name": "value"}.';
COMMENT ON COLUMN portalhook.endpoints.signature_header IS 'Name of the header with the HMAC-SHA256 of the body.';
COMMENT ON COLUMN portalhook.endpoints.signature_encoding IS 'hex or base64.';
COMMENT ON COLUMN portalhook.endpoints.signature_prefix IS 'Text before that signature, such as sha256=.';
COMMENT ON COLUMN portalhook.endpoints.ordering IS 'causal: an event waits for earlier ones of its post, at most 5 minutes; strict: without that limit; none: everything flies.';
COMMENT ON COLUMN portalhook.endpoints.retries IS 'Waits before each retry, such as {5s,5m,2h}; {}: no retry; null: deliver.retries.';

CREATE FUNCTION portalhook.check_url(url text) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed constant text := 'Write https://host/path, https://host:8443/path or the same with http.';
    authority text := substring(url FROM '^[A-Za-z]+://([^/?#]*)');
    host      text := regexp_replace(authority, ':[0-9]*$', '');
    port      text := substring(authority FROM ':([0-9]*)$');
BEGIN
    IF url IS NULL OR url = '' THEN
        RETURN portalhook.refusal('the url is empty', allowed);
    ELSIF length(url) > 2048 THEN
        RETURN portalhook.refusal(format('the url has %s characters', length(url)), 'At most 2048 are allowed.');
    ELSIF url ~ '[[:space:][:cntrl:]]' THEN
        RETURN portalhook.refusal('the url has a space, a line break or another control character in it', allowed || ' A space in a path is written %20.');
    ELSIF url ~ '[^!-~]' THEN
        RETURN portalhook.refusal(format('the url has the character %L in it', substring(url FROM '[^!-~]')),
            'Write other than ASCII characters percent-encoded (%C3%A4), and in the host in their xn-- form.');
    ELSIF url !~* '^https?://' THEN
        RETURN portalhook.refusal(format('the url %L does not begin with https:// or http://', left(url, 100)), allowed);
    ELSIF position('@' IN authority) > 0 THEN
        -- What stands before the @ may be a password: not repeated in the message.
        RETURN portalhook.refusal('the url has a user name or password in it', 'Put credentials into the headers of the endpoint: headers = ''{"Authorization": "…"}''.');
    ELSIF position('#' IN url) > 0 THEN
        RETURN portalhook.refusal('the url has a fragment (#…), which is never sent to a server', 'Leave out the # and what follows it.');
    ELSIF position('\' IN url) > 0 THEN
        RETURN portalhook.refusal('the url has a backslash in it', allowed);
    ELSIF host = '' THEN
        RETURN portalhook.refusal('the url names no host', allowed);
    ELSIF length(host) > 253 OR NOT (host ~ '^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$'
                                     OR host ~ '^\[[0-9A-Fa-f:.]+\]$' AND portalhook.is_ipv6(trim(host, '[]'))) THEN
        RETURN portalhook.refusal(format('%L is not the name or address of a host', left(host, 100)), allowed || ' An IPv6 address stands in brackets.');
    ELSIF port IS NOT NULL AND (port !~ '^[0-9]{1,5}$' OR port::int NOT BETWEEN 1 AND 65535) THEN
        RETURN portalhook.refusal(format('the port %L is not a number from 1 to 65535', left(port, 20)), allowed);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_url IS 'Internal: refuses a url that cannot be an endpoint''s.';

CREATE FUNCTION portalhook.is_ipv6(address text) RETURNS boolean IMMUTABLE
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN family(address::inet) = 6;
EXCEPTION WHEN invalid_text_representation THEN
    RETURN false;
END $$;
COMMENT ON FUNCTION portalhook.is_ipv6 IS 'Internal.';

CREATE FUNCTION portalhook.check_events(events text[]) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := portalhook.built_in_events() || ARRAY['*', 'post.*', 'vote.*', 'comment.*']
                    || ARRAY(SELECT name FROM portalhook.custom_events ORDER BY name);
    name  text;
BEGIN
    IF events IS NULL OR cardinality(events) = 0 THEN
        RETURN portalhook.refusal('the endpoint wants no events', 'Write {*} for all events, or name some. To stop an endpoint for a while, set enabled = false.');
    ELSIF array_ndims(events) > 1 OR cardinality(events) > 100 THEN
        RETURN portalhook.refusal('events is not a simple list', 'Write a list of at most 100 names, such as {vote.created,post.status_changed}.');
    END IF;
    FOREACH name IN ARRAY events LOOP
        IF name IS NULL OR name <> ALL (known) THEN
            RETURN portalhook.refusal(format('there is no event %s', coalesce(quote_literal(left(name, 100)), 'null')),
                portalhook.did_you_mean(name, known) || 'Known are ' || array_to_string(known, ', ')
                || '. Names of your own go into portalhook.custom_events first.');
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_events IS 'Internal: refuses names of events that nobody knows.';

CREATE FUNCTION portalhook.check_header_name(what text, name text) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$' THEN
        RETURN portalhook.refusal(format('%s %L is not the name of a header', what, left(name, 128)), 'Names have letters, digits and hyphens, such as X-Api-Key; at most 128 characters.');
    ELSIF lower(name) IN ('host', 'content-length', 'content-type', 'content-encoding', 'transfer-encoding', 'connection', 'keep-alive',
                          'te', 'trailer', 'upgrade', 'expect', 'user-agent') OR lower(name) ~ '^(webhook|proxy)-' THEN
        RETURN portalhook.refusal(format('the header %s cannot be set', name),
            'Host, Content-Length, Content-Type, Content-Encoding, Transfer-Encoding, Connection, Keep-Alive, TE, Trailer, Upgrade, Expect, User-Agent, Webhook-* and Proxy-* are portalhook''s to write. Others are free.');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_header_name IS 'Internal: refuses what cannot be an operator''s header.';

CREATE FUNCTION portalhook.check_headers(headers jsonb, signature_header text) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name  text;
    value jsonb;
    wrong text[];
    seen  text[] := '{}';
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RETURN portalhook.refusal(format('headers is a json %s', jsonb_typeof(headers)), 'Write an object of names and texts: {"X-Name": "value"}.');
    END IF;
    FOR name, value IN SELECT * FROM jsonb_each(headers) LOOP
        wrong := portalhook.check_header_name('headers:', name);
        IF wrong IS NOT NULL THEN
            RETURN wrong;
        ELSIF lower(name) = lower(signature_header) THEN
            RETURN portalhook.refusal(format('the header %s carries the signature', name), 'Leave it out of headers, or name another signature_header.');
        ELSIF lower(name) = ANY (seen) THEN
            RETURN portalhook.refusal(format('the header %s is there twice', name), 'Letters'' case does not tell headers apart: write each once.');
        ELSIF jsonb_typeof(value) <> 'string' THEN
            RETURN portalhook.refusal(format('the header %s has a json %s as its value', name, jsonb_typeof(value)), 'Write the value as a text in double quotes.');
        ELSIF value #>> '{}' !~ '^([!-~]([ -~]*[!-~])?)?$' OR length(value #>> '{}') > 4096 THEN
            -- The value may be a credential: not repeated in the message.
            RETURN portalhook.refusal(format('the value of the header %s cannot be sent', name), 'A value has visible ASCII characters and spaces between them, no line break, at most 4096.');
        END IF;
        seen := seen || lower(name);
    END LOOP;
    IF cardinality(seen) > 50 THEN
        RETURN portalhook.refusal(format('headers has %s entries', cardinality(seen)), 'At most 50 are allowed.');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_headers IS 'Internal: refuses headers that cannot be sent.';

CREATE FUNCTION portalhook.check_limits(max_in_flight int, timeout_ms int, retries text[]) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seconds constant jsonb := '{"s": 1, "m": 60, "h": 3600, "d": 86400}';
    wait    text;
BEGIN
    IF max_in_flight NOT BETWEEN 1 AND 1000 THEN
        RETURN portalhook.refusal(format('max_in_flight is %s', max_in_flight), 'Give a number from 1 to 1000, or null for the default.');
    ELSIF timeout_ms NOT BETWEEN 100 AND 300000 THEN
        RETURN portalhook.refusal(format('timeout_ms is %s', timeout_ms), 'Give milliseconds from 100 to 300000 (5 minutes), or null for the default.');
    ELSIF cardinality(retries) > 50 OR array_ndims(retries) > 1 THEN
        RETURN portalhook.refusal('retries is not a list of at most 50 waits', 'Write a list such as {5s,5m,2h}, {} for no retry, or null for the default.');
    END IF;
    FOREACH wait IN ARRAY coalesce(retries, '{}') LOOP
        IF wait IS NULL OR wait !~ '^[1-9][0-9]{0,8}[smhd]$'
           OR left(wait, -1)::bigint * (seconds ->> right(wait, 1))::bigint > 30 * 86400 THEN
            RETURN portalhook.refusal(format('%s is not a wait before a retry', coalesce(quote_literal(left(wait, 40)), 'null')),
                'Write a number and s, m, h or d, from 1s to 30d: {5s,5m,2h,1d}.');
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION portalhook.check_limits IS 'Internal: refuses absurd limits.';

CREATE FUNCTION portalhook.check_endpoint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added constant boolean := tg_op = 'INSERT';
    wrong text[];
BEGIN
    wrong := CASE
        WHEN tg_op = 'UPDATE' AND new.id <> old.id
            THEN portalhook.refusal('the id of an endpoint cannot change', 'Add a new endpoint and delete the old one.')
        WHEN new.portal = '' OR length(new.portal) > 256
            THEN portalhook.refusal('portal is empty or longer than 256 characters', 'Give the id of a portal as text, or null for all portals.')
        WHEN new.signature_prefix !~ '^([!-~][ -~]{0,63})?$'
            THEN portalhook.refusal('signature_prefix cannot be sent in a header', 'Use up to 64 visible ASCII characters, such as sha256=.')
        WHEN new.signature_encoding NOT IN ('hex', 'base64')
            THEN portalhook.refusal(format('signature_encoding is %L', left(new.signature_encoding, 40)), 'hex and base64 are allowed.') || '23514'::text
        WHEN new.ordering NOT IN ('none', 'causal', 'strict')
            THEN portalhook.refusal(format('ordering is %L', left(new.ordering, 40)), 'none, causal and strict are allowed.') || '23514'::text
        -- Only what changed: an endpoint must not be stuck because a rule or the list of own events changed after it was written.
        ELSE coalesce(
            CASE WHEN added OR new.url <> old.url THEN portalhook.check_url(new.url) END,
            CASE WHEN added OR new.events IS DISTINCT FROM old.events THEN portalhook.check_events(new.events) END,
            CASE WHEN added OR new.secret IS DISTINCT FROM old.secret THEN portalhook.check_secret(new.secret) END,
            CASE WHEN added OR (new.max_in_flight, new.timeout_ms, new.retries) IS DISTINCT FROM (old.max_in_flight, old.timeout_ms, old.retries)
                 THEN portalhook.check_limits(new.max_in_flight, new.timeout_ms, new.retries) END,
            CASE WHEN added OR (new.headers, new.signature_header) IS DISTINCT FROM (old.headers, old.signature_header)
                 THEN coalesce(portalhook.check_header_name('signature_header', new.signature_header),
                               portalhook.check_headers(new.headers, new.signature_header)) END)
    END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = coalesce(wrong[3], '22023'), MESSAGE = wrong[1], HINT = wrong[2];
    END IF;
    IF new.enabled THEN
        new.disabled_reason := NULL;
        new.disabled_at := NULL;
    ELSIF tg_op = 'INSERT' OR old.enabled THEN
        new.disabled_at := coalesce(new.disabled_at, now());
    END IF;
    RETURN new;
END $$;
COMMENT ON FUNCTION portalhook.check_endpoint IS 'Internal: trigger function.';
CREATE TRIGGER check_endpoint BEFORE INSERT OR UPDATE ON portalhook.endpoints
    FOR EACH ROW EXECUTE FUNCTION portalhook.check_endpoint();

REVOKE ALL ON ALL ROUTINES IN SCHEMA portalhook FROM PUBLIC;
