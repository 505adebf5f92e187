-- Only the owner of a partitioned table can make and drop its partitions: the four parents of the ledger are the daemon's ({role}).
-- A new owner needs CREATE on the schema at that moment, and no longer.
GRANT CREATE ON SCHEMA portalhook TO {role};
ALTER TABLE portalhook.events OWNER TO {role};
ALTER TABLE portalhook.parts OWNER TO {role};
ALTER TABLE portalhook.deliveries OWNER TO {role};
ALTER TABLE portalhook.successes OWNER TO {role};
REVOKE CREATE ON SCHEMA portalhook FROM {role};
GRANT ALL ON portalhook.events, portalhook.parts, portalhook.deliveries, portalhook.successes TO CURRENT_USER;
