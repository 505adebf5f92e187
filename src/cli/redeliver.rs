//! `portalhook redeliver`: an event goes again.

use clap::Args;

use super::database::{self, NOT_RUNNING, say};
use crate::config::Config;
use crate::error::{Context as _, Result};

/// Send an event again, byte for byte, with the id and sequence that it always had
///
/// It goes to every endpoint that it went to, or to one of them. A delivery that waits for its next attempt is tried at once.
/// Asking twice before it is sent sends it once.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portalhook redeliver vg3EGg2wcHgd8nMl
  portalhook redeliver vg3EGg2wcHgd8nMl --endpoint 3

The id is the webhook-id: receivers log it, and portalhook status and SELECT * FROM portalhook.failures show it.
In SQL: SELECT portalhook.redeliver('vg3EGg2wcHgd8nMl');

Exit codes: 0 it is due, 1 it cannot be sent again (the message says why), 64 wrong usage, 69 no database.")]
pub(crate) struct Options {
    /// The event's id (webhook-id)
    event_id: String,
    /// Only to this endpoint: its id, or a part of its URL
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
}

/// Makes the event due.
pub(crate) async fn run(options: Options, config: &Config) -> Result<()> {
    let session = database::connect(config, "redeliver").await?;
    let only = match &options.endpoint {
        Some(wanted) => Some(database::endpoint(&session, wanted).await?.id),
        None => None,
    };
    let id = options.event_id.trim();
    session
        .query_one("SELECT portalhook.redeliver($1, $2)", &[&id, &only])
        .await
        .map_err(|error| database::refused("redeliver", error))?;
    let sql = "SELECT e.event, routed.endpoint, routed.sequence, p.url, p.enabled
               FROM portalhook.events AS e
               CROSS JOIN LATERAL unnest(e.endpoints, e.sequences) AS routed (endpoint, sequence)
               LEFT JOIN portalhook.endpoints AS p ON p.id = routed.endpoint
               WHERE e.id = $1 AND routed.endpoint = coalesce($2, routed.endpoint) ORDER BY routed.endpoint";
    for row in session.query(sql, &[&id, &only]).await.context("read where it goes")? {
        let (event, endpoint, sequence): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        say(&match (row.get::<_, Option<String>>(3), row.get::<_, Option<bool>>(4)) {
            (Some(url), Some(true)) => format!("{event} {id} goes to endpoint {endpoint} ({url}), sequence {sequence}"),
            (Some(url), _) => format!("{event} {id} does not go to endpoint {endpoint} ({url}): it is disabled"),
            _ => format!("{event} {id} does not go to endpoint {endpoint}: it was deleted"),
        });
    }
    if !database::is_streaming(&session).await? {
        say(NOT_RUNNING);
    }
    Ok(())
}
