//! The ledger's day partitions: made ahead, so that midnight is no event.

use tokio_postgres::Client;

use crate::error::{Context as _, Result};

/// A new partition locks its table against everybody for a moment. One of us makes them at a time: two would collide.
const PREPARE: &str = "
    SELECT portalhook.prepare_partitions($1::text::date, $2) FROM pg_advisory_xact_lock('portalhook.events'::regclass::oid::bigint)";

/// Makes the partitions of today (UTC) and of the days after it, `days` in all, where they are missing; returns today,
/// `2026-11-24`.
pub(crate) async fn prepare(client: &Client, days: i32) -> Result<String> {
    let day = today();
    client.execute(PREPARE, &[&day, &days]).await.context("prepare the ledger's partitions")?;
    Ok(day)
}

/// Whether a day that was today is not today any more.
pub(crate) fn is_another_day(day: &str) -> bool {
    day != today()
}

fn today() -> String {
    jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date().to_string()
}
