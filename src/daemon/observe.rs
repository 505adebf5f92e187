//! Looks at the database every few seconds, with a session of its own: how far behind we are, what waits, and how much
//! the server keeps for us.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::Row;

use super::met::{Follower, Following};
use super::retained::{Guard, Judgement};
use crate::error::{Context as _, Error, Result};
use crate::figures::{Figures, Seen};
use crate::lsn::Lsn;
use crate::session::Session;

const EVERY: Duration = Duration::from_secs(5);

/// The catalog alone: nobody's lock on our tables is in the way. A slot that is gone keeps nothing.
const SLOT: &str = "
    SELECT pg_current_wal_lsn()::text, coalesce(s.confirmed_flush_lsn, pg_current_wal_lsn())::text,
           coalesce(s.restart_lsn, pg_current_wal_lsn())::text,
           -- Within a large transaction nothing is confirmed for minutes. Who waits for a lock does not work.
           EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                   WHERE a.application_name = 'portalhook advance' AND a.datname = current_database() AND a.usename = current_user
                     AND a.state IN ('active', 'idle in transaction') AND a.wait_event_type IS DISTINCT FROM 'Lock')
    FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = $1::text::name";

/// Pending is what was routed past the endpoints' cursors, and the retries before them.
const LEDGER: &str = "
    SELECT (SELECT coalesce(sum(greatest(r.sequence - c.sequence, 0)), 0)::bigint
            FROM portalhook.routes r JOIN portalhook.cursors c USING (endpoint))
           + (SELECT count(*) FROM portalhook.deliveries d JOIN portalhook.cursors c USING (endpoint)
              WHERE d.status = 'pending' AND d.position <= c.position),
           (SELECT count(*) FROM portalhook.endpoints WHERE NOT enabled),
           (SELECT problem FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done' LIMIT 1)";

/// A lock on our tables must not stop the look at the slot that comes next.
const SETTINGS: &str = "SET lock_timeout = '2s'";

/// Keeps the figures new, warns before the slot holds more than `max_wal` bytes, and says why it has to be given up. Never
/// ends.
pub(super) async fn watch(server: &Follower, figures: &Figures, max_wal: u64, limit: &mpsc::Sender<String>) {
    figures.work().await;
    let mut guard = Guard::new(max_wal);
    let mut session = None;
    loop {
        let seen = look(server, &mut session, figures, &mut guard, limit).await;
        figures.set_seen(seen.as_ref().ok().copied());
        if let Err(error) = seen {
            // The parts that work meet the same fault, and tell it.
            tracing::debug!("{error:?}");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Through the session that is there, or, where it is broken or missing, through a new one.
async fn look(
    server: &Follower,
    session: &mut Option<Following>,
    figures: &Figures,
    guard: &mut Guard,
    limit: &mpsc::Sender<String>,
) -> Result<Seen> {
    *session = server.keep(session.take());
    let session = match session {
        Some(session) => session,
        None => {
            let new = server.connect("portalhook observe").await?;
            new.batch_execute(SETTINGS).await.context("prepare the session")?;
            session.insert(new)
        }
    };
    let (seen, is_working) = slot(session).await?;
    match guard.judge(&seen, figures.positions.received(), is_working, Instant::now()) {
        Judgement::Well => {}
        Judgement::Warn(warning) => tracing::warn!("{warning}"),
        // A full channel: it is being given up.
        Judgement::GiveUp(why) => drop(limit.try_send(why)),
    }
    ledger(session, figures, seen).await
}

/// What the slot keeps, and whether what it has sent is being worked on at this moment.
async fn slot(session: &Following) -> Result<(Seen, bool)> {
    let row = session.query_one(SLOT, &[&session.slot]).await.context("look at the slot")?;
    let lsn = |index| lsn(&row, index);
    let seen = Seen { end: lsn(0)?, confirmed: lsn(1)?, restart: lsn(2)?, pending: 0, disabled: 0 };
    Ok((seen, row.try_get(3).context("look at the slot")?))
}

async fn ledger(session: &Session, figures: &Figures, seen: Seen) -> Result<Seen> {
    let doing = "look at the ledger";
    let row = session.query_one(LEDGER, &[]).await.context(doing)?;
    figures.set_paused(row.try_get(2).context(doing)?);
    Ok(Seen { pending: row.try_get(0).context(doing)?, disabled: row.try_get(1).context(doing)?, ..seen })
}

fn lsn(row: &Row, index: usize) -> Result<Lsn> {
    let text: &str = row.try_get(index).context("look at the slot")?;
    text.parse().map_err(|error| Error::failed(format!("look at the slot: {error}")))
}
