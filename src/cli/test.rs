//! `portalhook test`: a `webhook.test` event to an endpoint, and what became of it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::database::{self, Named, say};
use crate::config::{Config, duration};
use crate::error::{Context as _, Error, Result};
use crate::session::Session;

/// How often the ledger is asked for an outcome.
const LOOK: Duration = Duration::from_millis(50);

/// Send a webhook.test event to an endpoint and show what its receiver answers
///
/// The event takes the way that every event takes: through the change stream, the ledger and the daemon, signed like the
/// others. It goes to that endpoint alone, whatever events the endpoint wants.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portalhook test 3                  the endpoint with id 3
  portalhook test crm.example.com    every endpoint with that in its URL
  portalhook test '%/hooks'          every endpoint whose URL is LIKE that

Exit codes: 0 all were delivered, 1 one was not (in time), 64 wrong usage, 69 no database.")]
pub(crate) struct Options {
    /// An endpoint's id, or a part of its URL
    endpoint: String,
    /// How long to wait for the outcome; 0s only queues the test
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_of)]
    wait: Duration,
}

pub(crate) fn duration_of(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "expected a duration such as 500ms, 15s, 5m, 2h or 7d".to_owned())
}

/// Tests every endpoint that fits.
pub(crate) async fn run(options: Options, config: &Config) -> Result<ExitCode> {
    let session = database::connect(config, "test").await?;
    let endpoints = database::endpoints(&session, &options.endpoint).await?;
    if !options.wait.is_zero() && !database::is_streaming(&session).await? {
        return Err(Error::failed(
            "the daemon is not running, so nothing would be sent: start portalhook run (or queue the test with --wait 0s)",
        ));
    }
    let mut all_delivered = true;
    for endpoint in endpoints {
        all_delivered &= test(&session, &endpoint, options.wait).await?;
    }
    Ok(if all_delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn test(session: &Session, endpoint: &Named, wait: Duration) -> Result<bool> {
    let began = Instant::now();
    let before: i64 = session
        .query_one("SELECT position FROM portalhook.checkpoint", &[])
        .await
        .context("read the position of the stream")?
        .get(0);
    let number: i64 = session
        .query_one("SELECT portalhook.test($1)", &[&endpoint.id])
        .await
        .map_err(|error| database::refused("send a test", error))?
        .get(0);
    if wait.is_zero() {
        say(&format!("{endpoint}: queued"));
        return Ok(true);
    }
    while began.elapsed() < wait {
        if let Some(outcome) = outcome(session, endpoint.id, before, number).await? {
            say(&format!("{endpoint}: {}", outcome.words));
            return Ok(outcome.delivered);
        }
        tokio::time::sleep(LOOK).await;
    }
    say(&format!("{endpoint}: no outcome after {wait:?}; portalhook status shows what the daemon is at"));
    Ok(false)
}

struct Outcome {
    delivered: bool,
    words: String,
}

/// What became of the event of an operation; the ledger is asked for what was recorded after `before` alone.
async fn outcome(session: &Session, endpoint: i64, before: i64, number: i64) -> Result<Option<Outcome>> {
    const OUTCOME: &str = include_str!("../../sql/queries/outcome_of_operation.sql");
    let entity = format!("operation:{number}");
    let row = session.query_opt(OUTCOME, &[&endpoint, &before, &entity]).await.context("look for the outcome")?;
    let Some(row) = row else { return Ok(None) };
    let (id, sequence, status): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
    let (http, ms, error): (Option<i32>, Option<i32>, Option<String>) = (row.get(3), row.get(4), row.get(5));
    let took = format!("in {} ms", ms.unwrap_or_default());
    let delivered = status == "delivered";
    let words = match (delivered, error) {
        (true, _) => {
            format!("delivered, answered {} {took} (webhook-id {id}, sequence {sequence})", http.unwrap_or_default())
        }
        (false, error) => {
            let again = if status == "pending" { "; it will be tried again" } else { "" };
            format!("FAILED {took}: {}{again} (webhook-id {id}, sequence {sequence})", error.unwrap_or(status))
        }
    };
    Ok(Some(Outcome { delivered, words }))
}
