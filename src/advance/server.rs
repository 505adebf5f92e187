//! What the checkpoint remembers of the server that it is read from.

use super::Advance;
use crate::error::{Context as _, Result};
use crate::ledger::checkpoint;
use crate::lsn::Lsn;
use crate::session::Session;

/// A new source for what commits from `$3` on; where the stream has passed an earlier fork, that one's is the source.
const NOTE: &str = "
    UPDATE portalhook.checkpoint
    SET timeline = $1, home = $2, fork = $3::text::pg_lsn, source = coalesce(source_after_fork, source),
        source_after_fork = encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 8), 'hex')
    WHERE epoch = $4 RETURNING source, source_after_fork";
const NOTE_PLACE: &str = "UPDATE portalhook.checkpoint SET timeline = $1, home = $2 WHERE epoch = $3";

impl Advance {
    /// Notes the server's timeline and place; `fork`: the timeline is new, and began there. Durable when it returns.
    pub(crate) async fn note_server(
        &mut self,
        session: &Session,
        timeline: i32,
        fork: Option<Lsn>,
        home: &str,
    ) -> Result<()> {
        let checkpoint = &mut self.checkpoint;
        if fork.is_none() && checkpoint.timeline == Some(timeline) && checkpoint.home.as_deref() == Some(home) {
            return Ok(());
        }
        let doing = "note the server's timeline and place";
        session.batch_execute("SET synchronous_commit = on").await.context(doing)?;
        if let Some(fork) = fork {
            let row = session
                .query_opt(NOTE, &[&timeline, &home, &fork.to_string(), &checkpoint.epoch])
                .await
                .context(doing)?
                .ok_or_else(checkpoint::taken_over)?;
            checkpoint.source = row.get(0);
            checkpoint.fork = Some((fork, row.get(1)));
        } else {
            let noted = session.execute(NOTE_PLACE, &[&timeline, &home, &checkpoint.epoch]).await.context(doing)?;
            if noted == 0 {
                return Err(checkpoint::taken_over());
            }
        }
        session.batch_execute("SET synchronous_commit = off").await.context(doing)?;
        checkpoint.timeline = Some(timeline);
        checkpoint.home = Some(home.to_owned());
        Ok(())
    }
}
