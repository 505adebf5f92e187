-- The events of one group commit. $1 is the UTC day of recording; the rest are arrays, one element an event.
INSERT INTO portalhook.events (position, recorded_on, id, event, occurred_at, xid, lsn, portal, post, entity,
                               endpoints, sequences, body, part, tail)
SELECT e.position, $1::text::date, e.id, e.event, timestamptz 'epoch' + e.micros * interval '1 microsecond', e.xid,
       e.lsn::pg_lsn, e.portal, e.post, e.entity, e.endpoints::bigint[], e.sequences::bigint[], e.body, e.part, e.tail
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::text[])
     AS e (position, id, event, micros, xid, lsn, portal, post, entity, endpoints, sequences, body, part, tail)
