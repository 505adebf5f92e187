//! The stream stands still where the mapping cannot be evaluated any more. Nothing is lost meanwhile: the slot is held, the
//! connection lives, deliveries go on.

use crate::advance::Advance;
use crate::error::{Context as _, Result};
use crate::session::Session;

const BEGIN: &str = "
    WITH there AS (
        UPDATE portalhook.switches SET why = $1, problem = $1, lsn = $2::text::pg_lsn WHERE kind = 'pause' AND state <> 'done' RETURNING 1
    )
    INSERT INTO portalhook.switches (kind, why, problem, lsn) SELECT 'pause', $1, $1, $2::text::pg_lsn WHERE NOT EXISTS (SELECT FROM there)";

/// The mapping has changed: `$1` is where the stream goes on.
pub(super) const OVER: &str =
    "UPDATE portalhook.switches SET state = 'done', problem = NULL, lsn = $1::text::pg_lsn, finished_at = now()
    WHERE kind = 'pause' AND state <> 'done'";

impl Advance {
    /// Says once why, in the log and in `portalhook.switches`.
    pub(in crate::advance) async fn pause(&mut self, session: &Session, why: &str) -> Result<()> {
        if self.paused.as_deref() == Some(why) {
            return Ok(());
        }
        let lsn = self.checkpoint.lsn;
        tracing::error!("at {lsn}: {why}");
        session.execute(BEGIN, &[&why, &lsn.to_string()]).await.context("note a pause")?;
        self.paused = Some(why.to_owned());
        Ok(())
    }
}
