//! A table that the stream cannot be followed in for a while: its changes do not fit the mirror, or the mirror lacks rows of
//! it. They are left out from here on, and a fresh copy is compared with the mirror where it takes over: what differs gives
//! events. So nothing stands still, and nothing is lost but the order in which it happened.

use std::collections::HashSet;

use crate::advance::Advance;
use crate::change::Change;
use crate::error::{Context as _, Error, Kind, Result};
use crate::mirror::apply::Lacking;
use crate::mirror::prepared::Prepared;
use crate::session::Session;

const SKIPPED: &str = "SELECT DISTINCT unnest(skipped) FROM portalhook.switches WHERE state <> 'done'";
const SKIP: &str = "
    WITH asked AS (
        INSERT INTO portalhook.switches (kind, tables, compared, skipped, why)
        SELECT 'copy', ARRAY[$1::oid], ARRAY[$1::oid], ARRAY[$1::oid], $2
        WHERE NOT EXISTS (SELECT FROM portalhook.switches AS s WHERE s.kind = 'copy' AND s.state <> 'done' AND $1 = ANY (s.skipped))
        RETURNING id
    ) SELECT pg_notify('portalhook_switch', id::text) FROM asked";

/// The tables that are left out, by oid.
pub(in crate::advance) async fn skipped(session: &Session) -> Result<HashSet<u32>> {
    let rows = session.query(SKIPPED, &[]).await.context("look for tables that are left out")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The same for a table of which the mirror lacks some rows; what is in the stream of the others is followed.
const COMPLETE: &str = "
    WITH asked AS (
        INSERT INTO portalhook.switches (kind, tables, why) SELECT 'copy', ARRAY[$1::oid], $2
        WHERE NOT EXISTS (SELECT FROM portalhook.switches AS s WHERE s.kind = 'copy' AND s.state <> 'done' AND $1 = ANY (s.tables))
        RETURNING id
    ) SELECT count(pg_notify('portalhook_switch', id::text)) FROM asked";

impl Advance {
    /// Within a group: its mirror lacks rows that the stream updates, which a fresh copy has.
    pub(in crate::advance) async fn complete(&self, sql: &Prepared<'_>, table: usize) -> Result<()> {
        let table = &self.plan.tables[table];
        let why = format!("rows of {} came without a word in the stream", table.called());
        let asked = sql.query("ask for a fresh copy", COMPLETE, &[&table.oid, &why]).await?;
        if asked.first().is_some_and(|row| row.get::<_, i64>(0) > 0) {
            tracing::info!("{why}; copied afresh");
        }
        Ok(())
    }

    /// From here on the table's changes are left out until its copy is there.
    pub(in crate::advance) async fn resync(&mut self, session: &Session, table: u32, why: &str) -> Result<()> {
        tracing::warn!(
            "{why}: its changes are left out from {} on until it is copied afresh, and what differs then gives events",
            self.checkpoint.lsn
        );
        session.execute(SKIP, &[&table, &why]).await.context("leave a table out")?;
        self.skipped.insert(table);
        // What differs must be compared from here on.
        let is_its = |recording: &mut super::job::Recording| recording.job.copies(table);
        if let Some(recording) = self.recording.take_if(is_its) {
            recording.give_up("its table is left out of the stream from now on");
        }
        Ok(())
    }

    /// Whether a transaction's changes of a table are not for the mirror.
    pub(super) fn leaves_out(&self, table: u32, xid: u64) -> bool {
        self.skipped.contains(&table) || self.ahead.has_seen(table, xid)
    }

    /// Removes those from its changes.
    pub(in crate::advance) fn leave_out(&self, changes: &mut Vec<Change>, xid: u64) {
        if self.skipped.is_empty() && !self.ahead.has_copies() {
            return;
        }
        changes.retain_mut(|change| match change {
            Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                !self.leaves_out(relation.oid, xid)
            }
            Change::Truncate { relations } => {
                relations.retain(|relation| !self.leaves_out(relation.oid, xid));
                !relations.is_empty()
            }
            Change::Operation { .. } => true,
        });
    }

    /// A group failed. Where the mirror lacked rows that the stream changes, their table is left out from where the group
    /// began, and everything goes on from there.
    pub(super) async fn lacking(&mut self, sql: &Prepared<'_>, session: &Session, error: Error) -> Error {
        let Some(Lacking { table }) = error.cause() else { return error };
        let table = *table;
        let why = format!("{error}");
        let noted = match sql.run("leave a group", "ROLLBACK").await {
            Ok(()) => self.resync(session, table, &why).await,
            failed => failed,
        };
        noted.err().unwrap_or_else(|| Error::new(Kind::Again, "a table is left out"))
    }
}
