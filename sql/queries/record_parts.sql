-- The parts that bodies of one group commit are the first to refer to: $1 is the UTC day of recording, $2 numbers, $3 parts.
INSERT INTO portalhook.parts (recorded_on, number, part)
SELECT $1::text::date, p.number, p.part FROM unnest($2::bigint[], $3::text[]) AS p (number, part)
