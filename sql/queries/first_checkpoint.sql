-- Where the stream begins, in the transaction of the first copy: $1 the slot's consistent point, $2 system identifier, $3 database oid,
-- $4 slot, $5 publication, $6 timeline, $7 home, $8 whether this is another source from now on. A copy afresh keeps position and source,
-- unless transaction ids may come a second time, and fences whoever wrote before.
INSERT INTO portalhook.checkpoint AS there (lsn, xid, position, epoch, source, system_identifier, database_oid, slot, publication,
                                            timeline, home)
VALUES ($1::text::pg_lsn,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
        0,
        1,
        encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 8), 'hex'),
        $2, $3, $4, $5, $6, $7)
ON CONFLICT (one) DO UPDATE
SET lsn = excluded.lsn, xid = excluded.xid, epoch = there.epoch + 1, system_identifier = excluded.system_identifier,
    database_oid = excluded.database_oid, slot = excluded.slot, publication = excluded.publication, updated_at = now(),
    timeline = excluded.timeline, home = excluded.home, gap = NULL, fork = NULL, source_after_fork = NULL,
    source = CASE WHEN $8 OR there.timeline <> excluded.timeline THEN excluded.source
                  ELSE coalesce(there.source_after_fork, there.source) END
