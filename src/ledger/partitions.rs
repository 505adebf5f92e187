//! The ledger's day partitions: made ahead, so that midnight is no event.

use tokio_postgres::Client;

use crate::error::{Context as _, Result};

/// Makes the partitions of today and tomorrow (UTC) where they are missing; returns today, `2026-11-24`.
pub(crate) async fn prepare(client: &Client) -> Result<String> {
    let day = today();
    client
        .execute("SELECT portalhook.prepare_partitions($1::text::date, 2)", &[&day])
        .await
        .context("prepare the ledger's partitions")?;
    Ok(day)
}

/// Whether a day that was today is not today any more.
pub(crate) fn is_another_day(day: &str) -> bool {
    day != today()
}

fn today() -> String {
    jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date().to_string()
}
