-- The sequence numbers that a group commit allotted last: $1 endpoints, $2 sequences.
UPDATE portalhook.routes AS r SET sequence = u.sequence
FROM unnest($1::bigint[], $2::bigint[]) AS u (endpoint, sequence)
WHERE r.endpoint = u.endpoint
