-- The endpoints as of the snapshot of the first copy, and so all operations until then. After a copy afresh, sequences and cursors go on where they were.
UPDATE portalhook.operations SET taken = true WHERE NOT taken;
DELETE FROM portalhook.routes WHERE endpoint NOT IN (SELECT id FROM portalhook.endpoints);
INSERT INTO portalhook.routes (endpoint, events, portal)
    SELECT id, events, portal FROM portalhook.endpoints
    ON CONFLICT (endpoint) DO UPDATE SET events = excluded.events, portal = excluded.portal;
DELETE FROM portalhook.cursors WHERE endpoint NOT IN (SELECT id FROM portalhook.endpoints);
INSERT INTO portalhook.cursors (endpoint, position, sequence)
    SELECT id, coalesce((SELECT position FROM portalhook.checkpoint), 0), 0 FROM portalhook.endpoints
    ON CONFLICT (endpoint) DO NOTHING
