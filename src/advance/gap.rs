//! The stream was interrupted: what it has not brought is what the mirror lacks (DESIGN §2, Gap).
//!
//! A new slot's snapshot shows the tables as of where its stream begins. The mirror is taken there in one transaction that
//! stands for all that was missed. Until that is committed, `checkpoint.gap` says that the slot does not count; so a crash
//! in between begins anew, and nothing was told before.

use std::collections::{HashMap, HashSet};

use super::group::Group;
use super::operations::{self, Operation};
use super::switch::place::Piece;
use super::switch::rebuild::Unfit;
use super::switch::relation::Fit;
use super::switch::{pause, relation};
use super::{Advance, durable, switch};
use crate::capture::slot;
use crate::error::{Context as _, Result};
use crate::failpoint;
use crate::ledger::checkpoint;
use crate::ledger::record;
use crate::lsn::Lsn;
use crate::mapping::layout::literal;
use crate::mapping::plan::{Entity, Plan};
use crate::mirror::catalog::{self, Follow, differences};
use crate::mirror::compare::{self, Comparison};
use crate::mirror::copy::{self, patiently};
use crate::mirror::counters::CounterRows;
use crate::mirror::courtesy::giving_way;
use crate::mirror::held;
use crate::mirror::net::{Net, OperationAt};
use crate::mirror::prepared::Prepared;
use crate::session::{Database, ExportedSlot, Session};

const OPEN: &str = "UPDATE portalhook.checkpoint SET gap = $1, updated_at = now() WHERE epoch = $2";
const CLOSE: &str = "UPDATE portalhook.checkpoint SET gap = NULL, timeline = $1, source = $2, home = $3, fork = NULL, \
                     source_after_fork = NULL, system_identifier = $5 WHERE epoch = $4";
const NEW_SOURCE: &str =
    "SELECT encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 8), 'hex')";
/// The first transaction id that the snapshot does not know, and the time in microseconds since 1970.
const MOMENT: &str =
    "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (extract(epoch FROM now()) * 1000000)::bigint";

/// Why the stream has to begin anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// "replication slot x is gone".
    pub(crate) why: String,
    /// The server's, which an upgrade changes.
    pub(crate) system_identifier: String,
    /// The server's timeline, and where it is found (`Database::home`).
    pub(crate) timeline: i32,
    pub(crate) home: String,
    /// Transaction ids may be given a second time: event ids need another source.
    pub(crate) new_source: bool,
}

impl Advance {
    /// Whether the mapping fits its tables as they are now; where it does not, the newest mapping is tried, and one line says
    /// what to type. To be called before `close_gap`, again and again until it is true.
    ///
    /// # Errors
    /// Where the database cannot be asked.
    pub(crate) async fn gap_can_be_closed(&mut self, session: &Session) -> Result<bool> {
        let sql = Prepared::new(session);
        let why = match self.take_newest(&sql, session).await? {
            // Nothing is copied while the gap is open: a table that was missed has to be compared with something.
            Some(Unfit::NotMirrored(title)) => Some(format!(
                "the mapping newly names {title}, which is not mirrored: until the gap is closed it can name only what was \
                 mirrored before it"
            )),
            // What its copy is compared with is the mirror as it is.
            Some(Unfit::Apart(table, why)) => {
                self.resync(session, table, &why).await?;
                self.follow_tables(&sql, session).await?
            }
            None => self.follow_tables(&sql, session).await?,
        };
        let Some(why) = why else { return Ok(true) };
        self.pause(session, &why).await?;
        Ok(false)
    }

    /// Brings the plan to the tables as they are now; says why, where that needs another mapping.
    async fn follow_tables(&mut self, sql: &Prepared<'_>, session: &Session) -> Result<Option<String>> {
        let oids: Vec<u32> = self.plan.tables.iter().map(|table| table.oid).collect();
        for relation in relation::of_now(session, &oids).await? {
            loop {
                match self.fit_now(session, &relation).await? {
                    Fit::Fits | Fit::Earlier => break,
                    Fit::Pause(why) => return Ok(Some(why)),
                    Fit::Resync(why) => {
                        self.resync(session, relation.oid, &why).await?;
                        break;
                    }
                    Fit::Turn(turn) => {
                        let piece = Piece { turn: Some(turn), ..Piece::default() };
                        self.group(sql, session, piece, &HashMap::new()).await?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes a new slot and takes the mirror to where that begins; everything that was missed becomes the events of one
    /// transaction. The session is the write session.
    ///
    /// # Errors
    /// Whatever it was, the gap stays open, and the next call begins anew.
    pub(crate) async fn close_gap(&mut self, database: &Database, session: &Session, gap: &Gap) -> Result<()> {
        let (slot, from) = (self.checkpoint.slot.clone(), self.checkpoint.lsn);
        tracing::error!(
            "{}: what was committed after {from} cannot be read from the write-ahead log any more; making slot {slot} anew \
             and closing the gap by comparing the mirror with the tables",
            gap.why
        );
        session.batch_execute("SET synchronous_commit = on").await.context("open the gap")?;
        let opened = session.execute(OPEN, &[&gap.why, &self.checkpoint.epoch]).await.context("open the gap")?;
        session.batch_execute("SET synchronous_commit = off").await.context("open the gap")?;
        if opened == 0 {
            return Err(checkpoint::taken_over());
        }
        failpoint::hit("opened");
        slot::drop(session, &slot).await?;
        failpoint::hit("dropped");
        let mut progress = |line: String| tracing::info!("{line}");
        let waiting = "creating the replication slot: waits for every transaction of the server that is writing";
        let exported = patiently(slot::create(database, &slot), &mut progress, waiting).await?;
        failpoint::hit("recreated");
        let bridging = Box::pin(self.bridge(session, &exported, gap, &mut progress));
        match giving_way(database, "portalhook gap", session, bridging).await {
            Ok(events) => {
                let to = exported.consistent_point;
                tracing::warn!("the gap from {from} to {to} is closed: {events} events, in one transaction");
                Ok(())
            }
            Err(error) => {
                let error = self.cannot_close(&Prepared::new(session), session, error).await;
                // It would keep write-ahead log for nobody.
                match exported.discard().await {
                    Ok(()) => Err(error),
                    Err(also) => Err(error).context(format!("and the new slot stays ({also:?})")),
                }
            }
        }
    }

    /// All in one transaction, in the new slot's snapshot; gives the number of events.
    async fn bridge(
        &mut self,
        session: &Session,
        slot: &ExportedSlot,
        gap: &Gap,
        progress: &mut (dyn FnMut(String) + Send),
    ) -> Result<usize> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {}; SET LOCAL synchronous_commit = on",
            literal(&slot.snapshot)
        );
        session.batch_execute(&begin).await.context("begin in the slot's snapshot")?;
        let sql = Prepared::new(session);
        let moment = session.query_one(MOMENT, &[]).await.context("read the snapshot")?;
        let (xid, micros): (i64, i64) = (moment.get(0), moment.get(1));
        let mut target = self.checkpoint.clone();
        // Past a fork, its source is the source.
        if let Some((_, source)) = target.fork.take() {
            target.source = source;
        }
        if gap.new_source {
            target.source = session.query_one(NEW_SOURCE, &[]).await.context("make a source")?.get(0);
        }
        (target.lsn, target.xid, target.timeline) = (slot.consistent_point, xid.unsigned_abs(), Some(gap.timeline));
        (target.gap, target.home) = (None, Some(gap.home.clone()));
        target.system_identifier.clone_from(&gap.system_identifier);
        let mut net = Net {
            xid: target.xid,
            commit_lsn: target.lsn,
            end_lsn: target.lsn,
            commit_micros: micros,
            writes: Vec::new(),
            operations: Vec::new(),
            truncated: Vec::new(),
        };
        let plan = self.plan.clone();
        let comparisons = comparisons(&plan, session, &self.skipped).await?;
        let started_at = self.checkpoint.position;
        let mut group = Group::of_gap(target);
        let missed = operations::read_missed(&sql).await?;
        let numbers: Vec<i64> = missed.iter().map(|(number, _)| *number).collect();
        let remapped = self.take_in(missed, &mut net, &mut group);
        let made_up = self.make_up(&sql, &comparisons, net, "the gap", &mut group);
        patiently(made_up, progress, "comparing the tables with their mirrors, and telling what differs").await?;
        sql.settle().await?;
        // After the comparison: it has locked the tables, so what was rewritten before that is seen now.
        self.remember_tables(session).await?;
        if remapped {
            switch::turn::request(&sql, "the mapping was changed in the gap").await?;
        }
        record::failures(&sql, &self.plan, &group.failures).await?;
        sql.settle().await?;
        self.recount(session, group.checkpoint.lsn, progress).await?;
        failpoint::hit("bridged");

        record::events(&sql, &self.day, &group.events).await?;
        record::routes(&sql, &self.routes, started_at).await?;
        operations::take(&sql, numbers).await?;
        sql.query("end a pause", pause::OVER, &[&group.checkpoint.lsn.to_string()]).await?;
        let closing: Vec<crate::mirror::prepared::Owned> = vec![
            Box::new(gap.timeline),
            Box::new(group.checkpoint.source.clone()),
            Box::new(gap.home.clone()),
            Box::new(self.checkpoint.epoch),
            Box::new(gap.system_identifier.clone()),
        ];
        sql.post("close the gap", CLOSE, closing).await?;
        group.checkpoint.advance(&sql).await?;
        sql.post_plain("commit what the gap held", "COMMIT").await?;
        durable::written(&sql).await.map_err(checkpoint::fenced)?;
        sql.settle().await.map_err(checkpoint::fenced)?;
        held::forget(&sql).await?;
        failpoint::hit("closed");
        self.checkpoint = group.checkpoint;
        self.counters = CounterRows::default();
        Ok(usize::try_from(self.checkpoint.position - started_at).unwrap_or_default())
    }

    /// What was compared is as good as copied: what a migration did to rows in the gap was found.
    async fn remember_tables(&self, session: &Session) -> Result<()> {
        let oids: Vec<u32> = self.plan.tables.iter().map(|table| table.oid).collect();
        catalog::check_files(session, &oids).await?;
        for look in catalog::look(session, &self.plan, &self.checkpoint.publication).await? {
            let table = &self.plan.tables[look.table];
            let found = differences(table, &look);
            if !found.iter().any(|one| matches!(one.follow(), Follow::Operator | Follow::Stream)) {
                catalog::remember(session, &table.mirror, &look.now).await?;
            }
        }
        Ok(())
    }

    /// Endpoints first, so that one which was added in the gap gets what the gap held. The others become events of the gap's
    /// transaction; true: the mapping was changed, too.
    fn take_in(&mut self, missed: Vec<(i64, Operation)>, net: &mut Net, group: &mut Group) -> bool {
        let mut remapped = false;
        for (number, operation) in missed {
            match operation {
                Operation::PutEndpoint { .. } | Operation::DeleteEndpoint { .. } => {
                    self.change_routes(&operation, group);
                }
                Operation::Mute { .. } => tracing::warn!(
                    "a transaction in the gap called portalhook.mute(): its changes cannot be told from the others there, \
                     and are not muted"
                ),
                Operation::Mapping { .. } => remapped = true,
                Operation::Test { .. }
                | Operation::Emit { .. }
                | Operation::Disabled { .. }
                | Operation::Switch { .. } => net.operations.push(OperationAt { number, place: 0 }),
            }
        }
        remapped
    }

    /// Counters follow the events, and may have drifted from the rows; after a gap they are counted.
    async fn recount(&self, session: &Session, lsn: Lsn, progress: &mut (dyn FnMut(String) + Send)) -> Result<()> {
        let clear = "SET LOCAL enable_seqscan = on; DELETE FROM portalhook_mirror.counters";
        session.batch_execute(clear).await.context("clear the counters")?;
        copy::count(session, &self.plan, lsn, progress).await?;
        session.batch_execute("SET LOCAL enable_seqscan = off").await.context("clear the counters")
    }
}

/// What shows what the mirrors lack: posts before votes before comments, then the rest.
/// Tables that are left out are compared with their copies, later, and so are those that were made anew.
async fn comparisons<'p>(plan: &'p Plan, session: &Session, skipped: &HashSet<u32>) -> Result<Vec<Comparison<'p>>> {
    let rank = |table: usize| {
        let of = plan.entities.iter().filter(|entity| entity.base == Some(table));
        of.map(|entity| entity.entity).min().unwrap_or(Entity::Portals)
    };
    let mut order: Vec<usize> = (0..plan.tables.len()).collect();
    order.sort_by_key(|&table| rank(table));
    let mut comparisons = Vec::new();
    for index in order.into_iter().filter(|&index| !skipped.contains(&plan.tables[index].oid)) {
        let table = &plan.tables[index];
        match compare::source(session, table).await? {
            Some(source) => comparisons.push(Comparison { index, table, source }),
            // Whoever watches the catalog finds it, too, and what came in its place.
            None => tracing::warn!("{} is not there any more: its mirror stays as it is for now", table.called()),
        }
    }
    Ok(comparisons)
}
