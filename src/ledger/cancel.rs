//! Deliveries to endpoints that are no more: cancelled, visibly.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::backlog::Cursor;
use crate::error::{Context as _, Result};

/// Cancels what is pending for deleted endpoints, apart from those in `busy`, which still have attempts in flight.
///
/// `strays` are endpoints that events were routed to and that are not there; the cursor before the first such event.
/// A cursor goes once the stream has seen its endpoint's deletion: until then, events may still be routed to it.
pub(crate) async fn deleted(client: &Client, busy: &[i64], strays: &BTreeMap<i64, Cursor>) -> Result<()> {
    for (endpoint, cursor) in strays {
        client
            .execute(
                "INSERT INTO portalhook.cursors (endpoint, position, sequence) SELECT $1, $2, $3
                 WHERE NOT EXISTS (SELECT FROM portalhook.endpoints WHERE id = $1) ON CONFLICT DO NOTHING",
                &[endpoint, &cursor.position, &cursor.sequence],
            )
            .await
            .context("note events of a deleted endpoint")?;
    }
    let gone = client
        .query(
            "SELECT c.endpoint, NOT EXISTS (SELECT FROM portalhook.routes r WHERE r.endpoint = c.endpoint)
             FROM portalhook.cursors c
             WHERE NOT EXISTS (SELECT FROM portalhook.endpoints e WHERE e.id = c.endpoint) AND c.endpoint <> ALL ($1)",
            &[&busy],
        )
        .await
        .context("find deleted endpoints")?;
    for row in gone {
        let endpoint: i64 = row.try_get(0).context("find deleted endpoints")?;
        let passed: bool = row.try_get(1).context("find deleted endpoints")?;
        client
            .execute(CANCEL, &[&endpoint, &passed, &"cancelled: the endpoint was deleted"])
            .await
            .context("cancel deliveries of a deleted endpoint")?;
    }
    Ok(())
}

/// Cancels what is pending for every endpoint; gives how much that was.
pub(crate) async fn all(client: &Client, reason: &str) -> Result<i64> {
    let pending = "SELECT endpoint, (waiting + retrying)::bigint FROM portalhook.endpoint_health";
    let mut cancelled = 0;
    for row in client.query(pending, &[]).await.context("find what is pending")? {
        let endpoint: i64 = row.try_get(0).context("find what is pending")?;
        cancelled += row.try_get::<_, i64>(1).context("find what is pending")?;
        client.execute(CANCEL, &[&endpoint, &false, &reason]).await.context("cancel what is pending")?;
    }
    Ok(cancelled)
}

/// One statement, so all or nothing. Ranges are runs of sequences without an outcome.
const CANCEL: &str = "
    WITH cursor AS (SELECT position FROM portalhook.cursors WHERE endpoint = $1 FOR UPDATE),
    retries AS (
        UPDATE portalhook.deliveries SET status = 'cancelled', due_at = NULL
        WHERE endpoint = $1 AND status = 'pending'),
    routed AS (
        SELECT e.position, e.sequences[array_position(e.endpoints, $1)] AS sequence
        FROM portalhook.events e, cursor c
        WHERE e.position > c.position AND e.endpoints @> ARRAY[$1::bigint]),
    settled AS (
        SELECT p AS position FROM cursor c, portalhook.successes s, unnest(s.positions) p
        WHERE s.endpoint = $1 AND s.last_position > c.position
        UNION SELECT d.position FROM cursor c, portalhook.deliveries d WHERE d.endpoint = $1 AND d.position > c.position),
    runs AS (
        SELECT sequence, sequence - row_number() OVER (ORDER BY sequence) AS run
        FROM routed WHERE position NOT IN (SELECT position FROM settled)),
    ranges AS (
        INSERT INTO portalhook.settled_ranges (endpoint, first_sequence, last_sequence, reason)
        SELECT $1, min(sequence), max(sequence), $3 FROM runs GROUP BY run),
    moved AS (
        UPDATE portalhook.cursors c SET position = r.position, sequence = r.sequence
        FROM (SELECT max(position) AS position, max(sequence) AS sequence FROM routed) r
        WHERE c.endpoint = $1 AND r.position IS NOT NULL AND NOT $2)
    DELETE FROM portalhook.cursors WHERE endpoint = $1 AND $2";
