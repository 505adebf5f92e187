//! Outcomes into the ledger, many at once: one transaction, one round trip.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{try_join, try_join3};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::session::Session;

use super::backlog::Cursor;
use crate::error::{Context as _, Result};

/// A first attempt that succeeded.
#[derive(Clone, Debug)]
pub(crate) struct Success {
    pub(crate) endpoint: i64,
    pub(crate) position: i64,
    pub(crate) attempted_at: SystemTime,
    pub(crate) http_status: u16,
    pub(crate) duration: Duration,
}

/// Where a delivery stands after an attempt that was not a success at once (`deliveries.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Due again after this pause, counted from when the outcome is recorded.
    Pending(Duration),
    Delivered,
    Failed,
}

/// Every other outcome: a row of `deliveries`.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) endpoint: i64,
    pub(crate) position: i64,
    pub(crate) recorded_on: Arc<str>,
    pub(crate) sequence: i64,
    pub(crate) event_id: Arc<str>,
    pub(crate) status: Status,
    /// This attempt included.
    pub(crate) attempts: u32,
    pub(crate) attempted_at: SystemTime,
    pub(crate) http_status: Option<u16>,
    pub(crate) error_class: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) response: Option<String>,
}

/// What one transaction records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) successes: Vec<Success>,
    pub(crate) finished: Vec<Finished>,
    pub(crate) cursors: BTreeMap<i64, Cursor>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.successes.len() + self.finished.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.cursors.is_empty()
    }
}

const SUCCESSES: &str = "
    INSERT INTO portalhook.successes
        (endpoint, recorded_on, last_position, positions, attempted_at, http_statuses, durations_ms)
    SELECT endpoint, (now() AT TIME ZONE 'UTC')::date, max(position), array_agg(position ORDER BY position),
           array_agg(at ORDER BY position), array_agg(status ORDER BY position), array_agg(ms ORDER BY position)
    FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::smallint[], $5::int[])
         AS s(endpoint, position, at, status, ms)
    GROUP BY endpoint";

// A row of a day that retention has dropped meanwhile has no place any more; what was pending then is an expired range.
// A transition needs the state that the attempt started from: what an operator cancelled meanwhile stays cancelled.
const DELIVERIES: &str = "
    INSERT INTO portalhook.deliveries AS d
        (endpoint, position, recorded_on, sequence, event_id, status, attempts, due_at, first_attempt_at, last_attempt_at,
         http_status, error_class, error, duration_ms, response)
    SELECT endpoint, position, day::date, sequence, event_id, status, attempts, now() + due_ms * interval '1 millisecond',
           at, at, http_status, error_class, error, duration_ms, response
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::int[], $8::bigint[],
                $9::timestamptz[], $10::int[], $11::text[], $12::text[], $13::int[], $14::text[])
         AS o(endpoint, position, day, sequence, event_id, status, attempts, due_ms, at, http_status, error_class, error,
              duration_ms, response)
    WHERE to_regclass('portalhook_ledger.deliveries_' || replace(day, '-', '')) IS NOT NULL
    ON CONFLICT (endpoint, position, recorded_on) DO UPDATE SET
        status = excluded.status, attempts = excluded.attempts, due_at = excluded.due_at,
        first_attempt_at = coalesce(d.first_attempt_at, excluded.first_attempt_at),
        last_attempt_at = excluded.last_attempt_at, http_status = excluded.http_status,
        error_class = excluded.error_class, error = excluded.error, duration_ms = excluded.duration_ms,
        response = excluded.response
    WHERE d.status = 'pending' AND d.attempts = excluded.attempts - 1";

const CURSORS: &str = "
    INSERT INTO portalhook.cursors AS c (endpoint, position, sequence)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
    ON CONFLICT (endpoint) DO UPDATE SET position = excluded.position, sequence = excluded.sequence
    WHERE c.position < excluded.position";

/// Writes outcomes through a session of its own; the statements are prepared once.
pub(crate) struct Recorder {
    client: Session,
    successes: Statement,
    deliveries: Statement,
    cursors: Statement,
}

impl Recorder {
    pub(crate) async fn new(client: Session) -> Result<Self> {
        let successes = client.prepare(SUCCESSES).await.context("prepare to record successes")?;
        let deliveries = client.prepare(DELIVERIES).await.context("prepare to record deliveries")?;
        let cursors = client.prepare(CURSORS).await.context("prepare to move cursors")?;
        Ok(Self { client, successes, deliveries, cursors })
    }

    /// Records a batch, all or nothing.
    pub(crate) async fn record(&self, batch: &Batch) -> Result<()> {
        // Everything is sent at once; after an error PostgreSQL ignores the rest, and COMMIT rolls back.
        let begin = async { self.client.batch_execute("BEGIN").await.context("begin") };
        let rows =
            try_join3(self.successes(&batch.successes), self.deliveries(&batch.finished), self.cursors(&batch.cursors));
        let commit = async { self.client.batch_execute("COMMIT").await.context("commit outcomes") };
        try_join(begin, try_join(rows, commit)).await.context("record outcomes")?;
        Ok(())
    }

    async fn successes(&self, rows: &[Success]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let endpoints = column(rows, |row| row.endpoint);
        let positions = column(rows, |row| row.position);
        let times = column(rows, |row| row.attempted_at);
        let statuses = column(rows, |row| i16::try_from(row.http_status).unwrap_or(i16::MAX));
        let durations = column(rows, |row| milliseconds(row.duration));
        let parameters: [&(dyn ToSql + Sync); 5] = [&endpoints, &positions, &times, &statuses, &durations];
        self.client.execute(&self.successes, &parameters).await.context("record successes")?;
        Ok(())
    }

    async fn deliveries(&self, rows: &[Finished]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let status = |row: &Finished| match row.status {
            Status::Pending(pause) => ("pending", Some(i64::from(milliseconds(pause)))),
            Status::Delivered => ("delivered", None),
            Status::Failed => ("failed", None),
        };
        let parameters: [&(dyn ToSql + Sync); 14] = [
            &column(rows, |row| row.endpoint),
            &column(rows, |row| row.position),
            &column(rows, |row| &*row.recorded_on),
            &column(rows, |row| row.sequence),
            &column(rows, |row| &*row.event_id),
            &column(rows, |row| status(row).0),
            &column(rows, |row| i32::try_from(row.attempts).unwrap_or(i32::MAX)),
            &column(rows, |row| status(row).1),
            &column(rows, |row| row.attempted_at),
            &column(rows, |row| row.http_status.map(i32::from)),
            &column(rows, |row| row.error_class),
            &column(rows, |row| row.error.as_deref()),
            &column(rows, |row| milliseconds(row.duration)),
            &column(rows, |row| row.response.as_deref()),
        ];
        self.client.execute(&self.deliveries, &parameters).await.context("record deliveries")?;
        Ok(())
    }

    async fn cursors(&self, cursors: &BTreeMap<i64, Cursor>) -> Result<()> {
        if cursors.is_empty() {
            return Ok(());
        }
        let endpoints: Vec<i64> = cursors.keys().copied().collect();
        let positions: Vec<i64> = cursors.values().map(|cursor| cursor.position).collect();
        let sequences: Vec<i64> = cursors.values().map(|cursor| cursor.sequence).collect();
        let parameters: [&(dyn ToSql + Sync); 3] = [&endpoints, &positions, &sequences];
        self.client.execute(&self.cursors, &parameters).await.context("move cursors")?;
        Ok(())
    }
}

fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Whole milliseconds in the range of PostgreSQL's integer (24 days).
fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
