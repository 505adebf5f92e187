//! Looks at the database every few seconds, with a session of its own: how far behind we are, what waits, and how much
//! the server keeps for us.

use std::time::Duration;

use tokio_postgres::Row;

use super::retained::Guard;
use crate::error::{Context as _, Error, Result};
use crate::figures::{Figures, Seen, State};
use crate::lsn::Lsn;
use crate::session::{self, Database, Session};

const EVERY: Duration = Duration::from_secs(5);
/// So many looks make a minute: how often the guard judges.
const LOOKS: u32 = 12;

/// Pending is what was routed past the endpoints' cursors, and the retries before them.
const LOOK: &str = "
    SELECT pg_current_wal_lsn()::text, s.confirmed_flush_lsn::text, s.restart_lsn::text,
           (SELECT coalesce(sum(greatest(r.sequence - c.sequence, 0)), 0)::bigint
            FROM portalhook.routes r JOIN portalhook.cursors c USING (endpoint))
           + (SELECT count(*) FROM portalhook.deliveries d JOIN portalhook.cursors c USING (endpoint)
              WHERE d.status = 'pending' AND d.position <= c.position),
           (SELECT count(*) FROM portalhook.endpoints WHERE NOT enabled),
           (SELECT problem FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done' LIMIT 1)
    FROM portalhook.checkpoint k LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = k.slot";

/// Keeps the figures new, and warns before the slot holds more than `max_wal` bytes. Never ends.
pub(super) async fn watch(database: &Database, figures: &Figures, max_wal: u64) {
    // Before there was a stream, whoever started us hears of every fault.
    drop(figures.follow().wait_for(|state| *state == State::Streaming).await);
    let mut guard = Guard::new(max_wal);
    let mut session = None;
    let mut looks = 0;
    loop {
        let seen = look(database, &mut session, figures).await;
        if let Ok(seen) = &seen {
            if looks % LOOKS == 0
                && let Some(warning) = guard.judge(seen, figures.positions.received())
            {
                tracing::warn!("{warning}");
            }
            looks = looks.wrapping_add(1);
        }
        figures.set_seen(seen.as_ref().ok().copied());
        if let Err(error) = seen {
            // The parts that work meet the same fault, and tell it.
            tracing::debug!("{error:?}");
            session = None;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Through the session that is there, or, where it is broken or missing, through a new one.
async fn look(database: &Database, session: &mut Option<Session>, figures: &Figures) -> Result<Seen> {
    if let Some(session) = session
        && let Ok(seen) = ask(session, figures).await
    {
        return Ok(seen);
    }
    ask(session.insert(session::connect(database, "portalhook observe").await?), figures).await
}

async fn ask(session: &Session, figures: &Figures) -> Result<Seen> {
    let row = session.query_one(LOOK, &[]).await.context("look at the slot")?;
    figures.set_paused(row.try_get(5).context("look at the slot")?);
    let lsn = |index| lsn(&row, index);
    Ok(Seen {
        end: lsn(0)?,
        confirmed: lsn(1)?,
        restart: lsn(2)?,
        pending: row.try_get(3).context("look at the slot")?,
        disabled: row.try_get(4).context("look at the slot")?,
    })
}

fn lsn(row: &Row, index: usize) -> Result<Lsn> {
    let text: Option<&str> = row.try_get(index).context("look at the slot")?;
    let text = text.ok_or_else(|| Error::failed("the replication slot holds nothing"))?;
    text.parse().map_err(|error| Error::failed(format!("look at the slot: {error}")))
}
