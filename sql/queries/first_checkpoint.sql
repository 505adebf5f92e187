-- Where the stream begins, in the transaction of the first copy: $1 the slot's consistent point, $2 system identifier, $3 database oid,
-- $4 slot, $5 publication. A copy afresh keeps position and source, and fences whoever wrote before.
INSERT INTO portalhook.checkpoint AS there (lsn, xid, position, epoch, source, system_identifier, database_oid, slot, publication)
VALUES ($1::text::pg_lsn,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
        0,
        1,
        encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 8), 'hex'),
        $2, $3, $4, $5)
ON CONFLICT (one) DO UPDATE
SET lsn = excluded.lsn, xid = excluded.xid, epoch = there.epoch + 1, system_identifier = excluded.system_identifier,
    database_oid = excluded.database_oid, slot = excluded.slot, publication = excluded.publication, updated_at = now()
