//! The stream stands still where the mapping cannot be evaluated any more. Nothing is lost meanwhile: the slot is held, the
//! connection lives, deliveries go on.

use std::collections::HashMap;

use super::place::Piece;
use crate::advance::Advance;
use crate::error::{Context as _, Error, Result};
use crate::mapping::mirrors::Mirrors;
use crate::mapping::{read, stored};
use crate::mirror::prepared::Prepared;
use crate::session::Session;

const IS_PAUSED: &str = "SELECT EXISTS (SELECT FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done')";

const BEGIN: &str = "
    WITH there AS (
        UPDATE portalhook.switches SET why = $1, problem = $1, lsn = $2::text::pg_lsn WHERE kind = 'pause' AND state <> 'done' RETURNING 1
    )
    INSERT INTO portalhook.switches (kind, why, problem, lsn) SELECT 'pause', $1, $1, $2::text::pg_lsn WHERE NOT EXISTS (SELECT FROM there)";

/// The mapping has changed: `$1` is where the stream goes on.
pub(in crate::advance) const OVER: &str =
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

    /// A group failed. Where the mapping itself cannot be run any more (SQLSTATE class 42: a function or a type is gone), that is
    /// a pause, too: the daemon starts again and again, and takes the newest mapping as soon as it is another.
    pub(in crate::advance) async fn cannot_evaluate(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        error: Error,
    ) -> Error {
        if !error.sqlstate().is_some_and(|state| state.code().starts_with("42")) || session.is_closed() {
            return error;
        }
        let why = format!(
            "the mapping cannot be run any more: {error:?}. The stream is paused before that, deliveries go on. Change the mapping: \
             UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = '…';"
        );
        let noted = match sql.run("leave a group", "ROLLBACK").await {
            Ok(()) => self.pause(session, &why).await,
            failed => failed,
        };
        noted.err().unwrap_or(error)
    }

    /// At the start, after such a pause: the newest mapping, if it is another and can be run, takes effect where the stream stands.
    pub(in crate::advance) async fn resume(&mut self, sql: &Prepared<'_>, session: &Session) -> Result<()> {
        let is_paused: bool = session.query_one(IS_PAUSED, &[]).await.context("look for a pause")?.get(0);
        if !is_paused {
            return Ok(());
        }
        if let Err(error) = session.execute("SELECT portalhook.follow_mapping()", &[]).await {
            tracing::debug!(%error, "follow the mapping while paused");
        }
        let newest = stored::read(session).await?;
        let is_same = self.plan.entities.len() == newest.sources.len()
            && newest
                .sources
                .iter()
                .all(|source| self.plan.entity(source.entity).is_some_and(|entity| entity.query == source.query));
        if is_same {
            return Ok(());
        }
        let mirrors = Mirrors { before: Some(&self.plan), afresh: &[], by_daemon: true };
        let plan = match read::read_over(session, &newest.sources, &mirrors).await {
            Ok(plan) => plan,
            Err(error) if session.is_closed() => return Err(error),
            Err(error) => {
                tracing::warn!("the newest mapping cannot be run either: {error:?}");
                return Ok(());
            }
        };
        let turn = match self.rebuilds(&plan) {
            Ok(rebuilds) => {
                let why = "the mapping was changed while the stream was paused".to_owned();
                super::relation::in_place(plan, Some(newest.seen), why, rebuilds)
            }
            Err(error) => {
                tracing::warn!("{error}");
                return Ok(());
            }
        };
        let piece = Piece { turn: Some(turn), ..Piece::default() };
        self.group(sql, session, piece, &HashMap::new()).await.map(drop)
    }
}
