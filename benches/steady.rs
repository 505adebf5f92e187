//! A portal on an ordinary busy day: how long from the row's own clock until the receiver has it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::NoTls;

use crate::Result;
use crate::receiver::Receiver;

const CHANGES_PER_SECOND: u32 = 200;
const CHANGES: u32 = CHANGES_PER_SECOND * 15;

/// Times from row to arrival.
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

pub(crate) async fn measure(database: &str, receiver: &Receiver) -> Result<Latency> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
    let driver = tokio::spawn(connection);
    // A slot gives what is flushed: an asynchronous commit would wait for the WAL writer's round.
    client.batch_execute("SET synchronous_commit = on").await?;
    let insert = client
        .prepare("INSERT INTO votes (id, post_id, user_id, created_at) VALUES ($1, $2, $3, clock_timestamp())")
        .await?;
    let count = usize::try_from(CHANGES)?;
    receiver.expect_and_keep(count);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    for number in 0..i32::try_from(CHANGES)? {
        tick.tick().await;
        client
            .execute(&insert, &[&(1_000_000_000 + number), &(1001 + number % 2000), &(1001 + number % 10_000)])
            .await?;
    }
    receiver.all_arrived().await;
    drop(client);
    driver.await??;
    let mut times = receiver.kept().iter().map(|(at, body)| since_row(*at, body)).collect::<Result<Vec<_>>>()?;
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    Ok(Latency { p50: at(50), p99: at(99), longest: at(100) })
}

/// From the vote's `created_at` to its arrival.
fn since_row(arrived: SystemTime, body: &[u8]) -> Result<Duration> {
    let body: serde_json::Value = serde_json::from_slice(body)?;
    let created: jiff::Timestamp =
        body["data"]["vote"]["created_at"].as_str().ok_or("a body without created_at")?.parse()?;
    let arrived = arrived.duration_since(UNIX_EPOCH)?;
    let created = Duration::from_micros(u64::try_from(created.as_microsecond())?);
    Ok(arrived.saturating_sub(created))
}
