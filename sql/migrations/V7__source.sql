-- Which database the stream is from, beyond its identifier and oid, and what is done when the stream is interrupted.

ALTER TABLE portalhook.checkpoint
    ADD COLUMN timeline          int,
    ADD COLUMN home              text,
    ADD COLUMN fork              pg_lsn,
    ADD COLUMN source_after_fork text,
    ADD COLUMN gap               text,
    ADD CHECK ((fork IS NULL) = (source_after_fork IS NULL));
COMMENT ON COLUMN portalhook.checkpoint.timeline IS 'The server''s timeline: another one is a failover or a restore. Null: not known yet.';
COMMENT ON COLUMN portalhook.checkpoint.home IS 'Where database.url finds the server; another place may be a copy, from which nothing is delivered. Null: not known yet.';
COMMENT ON COLUMN portalhook.checkpoint.fork IS 'Where that timeline began: transactions that commit from there on have source_after_fork in their event ids.';
COMMENT ON COLUMN portalhook.checkpoint.gap IS 'Why the stream is interrupted, until what was missed is taken from the mirror: the replication slot does not count meanwhile.';

-- The stream brings an operation; where the stream was interrupted, those that it has not brought are taken from the table.
ALTER TABLE portalhook.operations ADD COLUMN taken boolean NOT NULL DEFAULT false;
UPDATE portalhook.operations SET taken = true WHERE xid <= (SELECT xid FROM portalhook.checkpoint);
CREATE INDEX operations_not_taken ON portalhook.operations (id) WHERE NOT taken;
COMMENT ON COLUMN portalhook.operations.taken IS 'The daemon has taken it in.';
