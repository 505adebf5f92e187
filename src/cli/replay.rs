//! `portalhook replay`: everything that an endpoint was sent in a time goes again.

use clap::Args;
use tokio_postgres::error::SqlState;

use super::database::{self, NOT_RUNNING, say};
use crate::config::{Config, duration};
use crate::error::{Context as _, Error, Result};
use crate::session::Session;

/// Send an endpoint again what it was sent in a time, in its order, with the ids and sequences that everything had
///
/// For a receiver that lost what it had accepted. What is still to be sent is left as it is, so nothing is sent twice by
/// asking twice. The times are those at which changes were committed; events older than ledger.retention are gone.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portalhook replay 3 --since 1h
  portalhook replay crm.example.com --since '2026-11-24 08:00' --until '2026-11-24 09:30'
  portalhook replay 3 --since 2026-11-24T10:00:00+02:00

In SQL: SELECT portalhook.replay(3, since => now() - interval '1 hour');

Exit codes: 0 what there is goes again, 1 it cannot (the message says why), 64 wrong usage, 69 no database.")]
pub(crate) struct Options {
    /// The endpoint's id, or a part of its URL
    endpoint: String,
    /// From when on: how long ago (90s, 1h, 2d), or a time (UTC, unless it names its zone)
    #[arg(long, value_name = "WHEN")]
    since: String,
    /// Until when, written alike [default: now]
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
}

/// Makes everything in the time due.
pub(crate) async fn run(options: Options, config: &Config) -> Result<()> {
    let session = database::connect(config, "replay").await?;
    let endpoint = database::endpoint(&session, &options.endpoint).await?;
    let since = moment(&session, "--since", &options.since).await?;
    let until = moment(&session, "--until", options.until.as_deref().unwrap_or("0s")).await?;
    let made: i64 = session
        .query_one(
            "SELECT portalhook.replay($1, $2::text::timestamptz, $3::text::timestamptz)",
            &[&endpoint.id, &since, &until],
        )
        .await
        .map_err(|error| database::refused("replay", error))?
        .get(0);
    let span = format!("from {} to {}", short(&since), short(&until));
    say(&match made {
        0 => format!("nothing to send again: {endpoint} was sent nothing {span}, or all of it is about to be sent"),
        1 => format!("1 delivery goes again to {endpoint}, {span}"),
        _ => format!("{made} deliveries go again to {endpoint}, in their order, {span}"),
    });
    if made > 0 && !database::is_streaming(&session).await? {
        say(NOT_RUNNING);
    }
    Ok(())
}

/// A moment as PostgreSQL prints it; `1h` is so long ago. By the server's clock, which is the one that events have.
async fn moment(session: &Session, flag: &str, text: &str) -> Result<String> {
    let ago = duration(text).map(|ago| i64::try_from(ago.as_millis()).unwrap_or(i64::MAX));
    let sql = "SELECT CASE WHEN $1::bigint IS NULL THEN $2::text::timestamptz ELSE now() - $1::bigint * interval '1 ms' END::text";
    match session.query_one(sql, &[&ago, &text]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error)
            if error
                .code()
                .is_some_and(|code| code.code().starts_with("22") || *code == SqlState::INVALID_DATETIME_FORMAT) =>
        {
            Err(Error::usage(format!(
                "{flag} {text}: expected how long ago (90s, 1h, 2d) or a time such as '2026-11-24 08:00' (UTC)"
            )))
        }
        Err(error) => Err(error).context(format!("read {flag}")),
    }
}

/// `2026-11-24 08:00:00Z`.
fn short(moment: &str) -> String {
    let end = moment.find(['.', '+']).unwrap_or(moment.len());
    format!("{}Z", &moment[..end])
}
