//! What may be confirmed to the slot: transactions whose group commit PostgreSQL has flushed.
//!
//! Group commits are asynchronous; a crash of PostgreSQL takes back those that were not flushed, mirror, events and
//! checkpoint together, and the slot must still have them.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::mirror::prepared::Prepared;

const WRITTEN: &str = "SELECT pg_current_wal_insert_lsn()::text";
const FLUSHED: &str = "SELECT pg_current_wal_flush_lsn()::text";

/// Group commits that wait for their flush.
#[derive(Default)]
pub(super) struct Durable {
    /// End of the stream's last transaction in the group, and the end of our commit in the write-ahead log.
    waiting: VecDeque<(Lsn, Lsn)>,
}

/// Where the write-ahead log ends just after a commit.
pub(super) async fn written(sql: &Prepared<'_>) -> Result<Lsn> {
    position(sql, WRITTEN).await
}

impl Durable {
    /// A group up to `end` was committed at `written`, or had nothing to write.
    pub(super) fn add(&mut self, end: Lsn, written: Option<Lsn>) {
        let written = written.or_else(|| self.waiting.back().map(|(_, written)| *written)).unwrap_or(Lsn::ZERO);
        self.waiting.push_back((end, written));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Confirms what is flushed by now.
    pub(super) async fn look(&mut self, sql: &Prepared<'_>, confirmed: &watch::Sender<Lsn>) -> Result<()> {
        let flushed = match self.waiting.front() {
            None => return Ok(()),
            Some((_, written)) if *written == Lsn::ZERO => Lsn::ZERO,
            Some(_) => position(sql, FLUSHED).await?,
        };
        let mut end = None;
        while let Some((reached, _)) = self.waiting.pop_front_if(|(_, written)| *written <= flushed) {
            end = Some(reached);
        }
        if let Some(end) = end {
            confirmed.send_replace(end);
        }
        Ok(())
    }
}

async fn position(sql: &Prepared<'_>, query: &str) -> Result<Lsn> {
    let rows = sql.query("read the WAL position", query, &[]).await?;
    let text: &str = rows.first().map(|row| row.get(0)).unwrap_or_default();
    text.parse().map_err(|error| Error::failed(format!("the WAL position cannot be read: {error}")))
}
