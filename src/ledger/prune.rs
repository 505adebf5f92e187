//! Retention: days of the ledger that are older than `ledger.retention` are dropped whole, and what went undelivered
//! with them stays visible as `expired` ranges.
//!
//! It runs beside writers and readers. What it gives up it gives up first, in transactions that hold up nobody; then a
//! day's partitions, which nobody writes any more, go one by one, each behind a lock that is not waited for: a long reader
//! (a dump) puts it off until the next time, it never makes others queue behind us.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::partitions;
use crate::error::{Context as _, Error, Result};

/// How long a lock may be waited for; everybody else waits behind us meanwhile. Below `deadlock_timeout`'s second, so
/// that it is always us who give way.
const LOCK: &str = "SET lock_timeout = '300ms'";

/// What a call did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// Days that are gone, `2026-11-24`.
    pub(crate) days: Vec<String>,
    /// Deliveries that were never made and are given up.
    pub(crate) expired: i64,
    /// A lock could not be had at once: some of the work is left for the next time.
    pub(crate) put_off: bool,
}

/// Makes the partitions of today and tomorrow, drops those of days that ended longer ago than `retention`, and deletes
/// what is older than that of operations, failed rows and given-up ranges.
pub(crate) async fn prune(client: &mut Client, retention: Duration) -> Result<Pruned> {
    client.batch_execute(LOCK).await.context("prepare to prune the ledger")?;
    let mut pruned = Pruned::default();
    pruned.put_off |= not_at_once(partitions::prepare(client, 2).await)?.is_none();
    let retention = format!("{} seconds", retention.as_secs());
    for day in days_before(client, &retention).await? {
        pruned.expired += expire(client, &day, &retention).await?;
        if drop_day(client, &day).await? {
            pruned.days.push(day);
        } else {
            pruned.put_off = true;
            break;
        }
    }
    for (statement, doing) in ROWS {
        client.execute(statement, &[&retention]).await.context(doing)?;
    }
    Ok(pruned)
}

/// Days with partitions whose end is older than `$1`, oldest first.
const DAYS: &str = r"
    SELECT DISTINCT to_char(day, 'YYYY-MM-DD') FROM (
        SELECT to_date(substring(c.relname FROM '_(\d{8})$'), 'YYYYMMDD') AS day
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('portalhook.events'::regclass, 'portalhook.parts'::regclass, 'portalhook.deliveries'::regclass,
                               'portalhook.successes'::regclass)
          AND c.relnamespace = 'portalhook_ledger'::regnamespace AND c.relname ~ '^[a-z]+_\d{8}$') d
    WHERE (day + 1)::timestamp <= (now() - $1::text::interval) AT TIME ZONE 'UTC'
    ORDER BY 1";

async fn days_before(client: &Client, retention: &str) -> Result<Vec<String>> {
    let rows = client.query(DAYS, &[&retention]).await.context("look for old partitions")?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().context("look for old partitions")
}

/// Deliveries of the day that wait for another attempt. Their rows first, then cursors: the order in which outcomes are
/// recorded, too.
const RETRIES: &str = "
    WITH gone AS (
        UPDATE portalhook.deliveries SET status = 'expired', due_at = NULL
        WHERE recorded_on = $1::text::date AND status = 'pending' RETURNING endpoint, sequence),
    runs AS (
        SELECT endpoint, sequence, sequence - row_number() OVER (PARTITION BY endpoint ORDER BY sequence) AS run FROM gone),
    ranges AS (
        INSERT INTO portalhook.settled_ranges AS r (endpoint, first_sequence, last_sequence, reason)
        SELECT endpoint, min(sequence), max(sequence), 'expired: not delivered within ledger.retention'
        FROM runs GROUP BY endpoint, run
        ON CONFLICT (endpoint, first_sequence)
        DO UPDATE SET last_sequence = greatest(r.last_sequence, excluded.last_sequence), reason = excluded.reason, at = now())
    SELECT count(*) FROM gone";

/// Events past an endpoint's cursor without an outcome, up to the day's last position. Positions follow the days unless
/// the clock was set back; then this gives up a few too many rather than let one go unseen.
const NEVER_TRIED: &str = "
    WITH last AS (SELECT max(position) AS position FROM portalhook.events WHERE recorded_on = $1::text::date),
    routed AS (
        SELECT c.endpoint, e.position, e.sequences[array_position(e.endpoints, c.endpoint)] AS sequence
        FROM last, portalhook.cursors c JOIN portalhook.events e ON e.position > c.position AND c.endpoint = ANY (e.endpoints)
        WHERE e.position <= last.position),
    settled AS (
        SELECT s.endpoint, p AS position
        FROM portalhook.cursors c JOIN portalhook.successes s ON s.endpoint = c.endpoint AND s.last_position > c.position,
             unnest(s.positions) p
        UNION SELECT d.endpoint, d.position
        FROM portalhook.cursors c JOIN portalhook.deliveries d ON d.endpoint = c.endpoint AND d.position > c.position),
    gone AS (
        SELECT endpoint, sequence FROM routed r
        WHERE NOT EXISTS (SELECT FROM settled s WHERE s.endpoint = r.endpoint AND s.position = r.position)),
    runs AS (
        SELECT endpoint, sequence, sequence - row_number() OVER (PARTITION BY endpoint ORDER BY sequence) AS run FROM gone),
    ranges AS (
        INSERT INTO portalhook.settled_ranges AS r (endpoint, first_sequence, last_sequence, reason)
        SELECT endpoint, min(sequence), max(sequence), 'expired: not delivered within ledger.retention'
        FROM runs GROUP BY endpoint, run
        ON CONFLICT (endpoint, first_sequence)
        DO UPDATE SET last_sequence = greatest(r.last_sequence, excluded.last_sequence), reason = excluded.reason, at = now()),
    moved AS (
        UPDATE portalhook.cursors c SET position = r.position, sequence = r.sequence
        FROM (SELECT endpoint, max(position) AS position, max(sequence) AS sequence FROM routed GROUP BY endpoint) r
        WHERE c.endpoint = r.endpoint AND c.position < r.position)
    SELECT count(*) FROM gone";

/// Gives up what is undelivered of a day; returns how many deliveries that were.
async fn expire(client: &mut Client, day: &str, retention: &str) -> Result<i64> {
    let doing = format!("give up what is undelivered of {day}, older than {retention}");
    let transaction = client.transaction().await.context(&doing)?;
    let mut expired = 0;
    for statement in [RETRIES, NEVER_TRIED] {
        let row = transaction.query_one(statement, &[&day]).await.context(&doing)?;
        expired += row.try_get::<_, i64>(0).context(&doing)?;
    }
    transaction.commit().await.context(&doing)?;
    Ok(expired)
}

/// False where another session is in the way.
async fn drop_day(client: &Client, day: &str) -> Result<bool> {
    let suffix = day.replace('-', "");
    // Events after what became of them: what is left of a day half dropped still says what it was; and parts after events,
    // whose bodies would have a hole without them.
    for parent in ["successes", "deliveries", "events", "parts"] {
        let statement = format!("DROP TABLE IF EXISTS portalhook_ledger.{parent}_{suffix}");
        let dropped = client.batch_execute(&statement).await.context(format!("drop the ledger's {parent} of {day}"));
        if not_at_once(dropped)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None` for a lock that could not be had at once.
fn not_at_once<T>(result: Result<T>) -> Result<Option<T>> {
    let busy = |error: &Error| error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE);
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if busy(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What has no partitions. An operation must stay until the stream has brought it, however long ago it was written.
const ROWS: [(&str, &str); 3] = [
    ("DELETE FROM portalhook.operations WHERE created_at < now() - $1::text::interval AND taken", "prune operations"),
    (
        "DELETE FROM portalhook.row_failures WHERE at < now() - $1::text::interval",
        "prune rows that could not be evaluated",
    ),
    ("DELETE FROM portalhook.settled_ranges WHERE at < now() - $1::text::interval", "prune ranges that were given up"),
];

#[cfg(test)]
mod tests;
