-- What `portalhook run` needs, for the daemon's role ({role}, spliced as a quoted identifier), and why. SELECT on the mapped columns of the
-- application comes on top, column by column. Idempotent; setup runs it whenever it runs.

-- Its own schemas: mirrors, and the ledger's day partitions.
GRANT USAGE ON SCHEMA portalhook TO {role};

-- Where the stream stands, and what it takes in: written in every group commit.
GRANT SELECT, INSERT, UPDATE ON portalhook.checkpoint, portalhook.plan TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON portalhook.routes, portalhook.cursors TO {role};

-- What was given up, what could not be evaluated: written, and pruned by retention.
GRANT SELECT, INSERT, UPDATE, DELETE ON portalhook.settled_ranges, portalhook.row_failures TO {role};

-- What operators did: read at its place in the stream, pruned afterwards. Only our triggers and functions write it.
GRANT SELECT, DELETE, UPDATE (taken) ON portalhook.operations TO {role};

-- Settings: read for each attempt. An endpoint that is gone (410, too many failures) is disabled with a reason.
GRANT SELECT ON portalhook.endpoints, portalhook.secrets, portalhook.custom_events, portalhook.mapping TO {role};
GRANT UPDATE (enabled, disabled_reason, disabled_at) ON portalhook.endpoints TO {role};

-- A portal's secret is made when the first event is signed; `portalhook status`, `check`, `test`, `redeliver` and `replay` work as the
-- daemon's role.
GRANT EXECUTE ON FUNCTION portalhook.secret(text), portalhook.prepare_partitions(date, int), portalhook.body(portalhook.events),
    portalhook.body(text), portalhook.test(bigint),
    portalhook.redeliver(text, bigint), portalhook.replay(bigint, timestamptz, timestamptz) TO {role};
GRANT SELECT ON portalhook.recent_deliveries, portalhook.pending, portalhook.failures, portalhook.endpoint_health TO {role};

-- Changes of the mapping and fresh copies: what is under way, and what needs the owner for it.
GRANT SELECT, INSERT, UPDATE, DELETE ON portalhook.switches TO {role};
GRANT EXECUTE ON FUNCTION portalhook.request_copy(oid[], text), portalhook.announce_switch(text), portalhook.follow_mapping(),
    portalhook.show_entity(text, text[]), portalhook.castable(text, text) TO {role};

-- What it remembers of the application's tables, and what it may have mended there: by functions that touch no others.
GRANT SELECT, INSERT, UPDATE, DELETE ON portalhook.catalog TO {role};
GRANT SELECT, UPDATE (key) ON portalhook.mapped_tables TO {role};
GRANT EXECUTE ON FUNCTION portalhook.members(oid), portalhook.mapped_table(oid), portalhook.mend_identity(regclass),
    portalhook.mend_publication(regclass), portalhook.mend_attached(regclass), portalhook.forget_tables() TO {role};

-- Its version of the schema: a daemon refuses to run on one that it does not know.
GRANT SELECT ON portalhook.migrations TO {role};

-- refinery makes this table and does not say what it is.
COMMENT ON TABLE portalhook.migrations IS 'Which versions of our schema were applied, and when.';
