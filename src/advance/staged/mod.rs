//! A transaction too large for memory: staged in temporary tables, evaluated before and after page by page, and committed
//! once. What it comes to is what `batch` would make of it.

mod differences;
mod events;
mod operations;
mod packed;
mod states;
mod tables;
mod tell;
mod whole;
mod writes;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use self::operations::Whose;
use self::states::{Ids, Sides};
use self::writes::{ROWS, Which, Writes};
use super::batch::tell_time;
use super::group::Group;
use super::operations::Operation;
use super::rivals::{Rivals, rows_by_id};
use super::surroundings::Surroundings;
use super::switch::job;
use super::switch::place::Announced;
use super::switch::turn::Turn;
use super::{Advance, Advanced};
use crate::capture;
use crate::change::{Arrival, Change, Transaction};
use crate::error::{Error, Result};
use crate::event::diff::{self};
use crate::event::shape::Entry;
use crate::failpoint;
use crate::ledger::partitions;
use crate::mapping::plan::Plan;
use crate::mirror::apply::apply;
use crate::mirror::net::{Net, Step, Write};
use crate::mirror::prepared::Prepared;
use crate::mirror::room::{Fits, Room};
use crate::mirror::select::{RowFailure, Select};
use crate::session::Session;

/// How often a large transaction says how far it is.
const NEWS: Duration = Duration::from_secs(5);

/// How far a large transaction is, said now and then.
struct Pace {
    what: &'static str,
    began: Instant,
    said: Instant,
}

impl Pace {
    fn new(what: &'static str) -> Self {
        Self { what, began: Instant::now(), said: Instant::now() }
    }

    fn say(&mut self, what: &str, done: usize, of: usize) {
        if self.said.elapsed() >= NEWS {
            self.said = Instant::now();
            let seconds = self.began.elapsed().as_secs();
            let of = if of > 0 { format!(" of {of}") } else { String::new() };
            let of_what = self.what;
            tracing::info!("{of_what}: {what}, {done}{of} so far, {seconds} s");
        }
    }
}

/// A transaction that is staged, and what of the mapping it reaches.
struct Staged<'s, 'a> {
    sql: &'s Prepared<'a>,
    writes: Writes<'s, 'a>,
    /// The transaction itself, without its writes.
    net: Net,
    whose: Whose,
    /// Tables that it writes.
    written: HashSet<usize>,
    /// What cannot be evaluated and was said: what bodies name is asked for more than once.
    failed: HashSet<RowFailure>,
    announced: Announced,
    /// How many rows, or events, are in memory together.
    fits: Fits,
    pace: Pace,
}

/// The most failures of surroundings that are remembered, to be said once.
const FAILED: usize = 10_000;

impl Advance {
    /// Takes a large transaction, of which these are the first changes, from its parts; one group commit. `None`: capture
    /// ended before the transaction did.
    pub(super) async fn large(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        xid: u64,
        first: Vec<Change>,
        transactions: &mut capture::Receiver,
    ) -> Result<Option<Advanced>> {
        if partitions::is_another_day(&self.day) {
            self.day = partitions::prepare(session, 1).await?;
            self.parts.forget();
        }
        tables::begin(sql).await?;
        let mut pace = Pace::new("a large transaction");
        let mut writes = Writes::new(sql);
        let Some(last) = self.stage(session, &mut writes, Arrival::Part(xid, first), transactions, &mut pace).await?
        else {
            return Ok(None);
        };
        let started_at = self.checkpoint.position;
        let mut checkpoint = self.checkpoint.clone();
        (checkpoint.lsn, checkpoint.xid) = (last.end_lsn, last.xid);
        let mut group = Group::new(checkpoint);
        (group.transactions, group.batches) = (1, 1);
        group.parts = std::mem::take(&mut self.parts);
        let net = Net {
            xid: last.xid,
            commit_lsn: last.commit_lsn,
            end_lsn: last.end_lsn,
            commit_micros: last.commit_micros,
            ..writes::net(Vec::new())
        };
        for table in std::mem::take(&mut writes.lacking) {
            self.complete(sql, table).await?;
        }
        let staged = Staged::new(sql, writes, net, Whose::Transaction(last.xid), pace);
        let Staged { writes, pace, announced, .. } = self.take_staged(staged, &mut group).await?;
        sql.settle().await?;
        group.turn = self.turn_after(session, last.xid, announced, true).await?;
        if matches!(group.turn, Some(Turn::Copied(_))) {
            // What is compared with the copy is staged anew.
            tables::remove(sql).await?;
            self.catch_up(sql, last.commit_micros, &mut group).await?;
        }
        if pace.began.elapsed() >= NEWS {
            tracing::info!(
                xid = last.xid,
                changes = writes.changes,
                events = group.checkpoint.position - started_at,
                "a large transaction took {:.1} s",
                pace.began.elapsed().as_secs_f64()
            );
        }
        self.commit(sql, session, group, started_at).await.map(Some)
    }

    /// All is staged: takes the mirror there, and adds the events to the group.
    async fn take_staged<'s, 'a>(&mut self, mut staged: Staged<'s, 'a>, group: &mut Group) -> Result<Staged<'s, 'a>> {
        if self.plan.reads_clock() {
            tell_time(staged.sql, &staged.net).await?;
        }
        let altered = staged.finish(&self.plan).await?;
        self.move_mirror(&mut staged, group).await?;
        self.forget_written(&altered, &staged.written);
        self.compare_staged(&mut staged, group).await?;
        events::add_up(staged.sql).await?;
        self.counters.forget(true);
        self.tell_staged(&mut staged, group).await?;
        Ok(staged)
    }

    /// Stages all parts; gives the transaction as its end describes it.
    async fn stage(
        &mut self,
        session: &Session,
        writes: &mut Writes<'_, '_>,
        first: Arrival,
        transactions: &mut capture::Receiver,
        pace: &mut Pace,
    ) -> Result<Option<Transaction>> {
        let mut next = Some(first);
        while let Some(arrival) = next {
            let (xid, mut changes, last) = match arrival {
                Arrival::ValueOf(..) | Arrival::Value(_) => {
                    self.hold(writes.sql, session, arrival).await?;
                    next = transactions.recv().await.map(|(arrival, _)| arrival);
                    continue;
                }
                Arrival::Part(xid, changes) => (xid, changes, None),
                Arrival::Last(mut transaction) => {
                    (transaction.xid, std::mem::take(&mut transaction.changes), Some(transaction))
                }
                Arrival::Whole(_) => return Err(Error::failed("a transaction came inside another")),
            };
            let kept = self.check_part(session, &mut changes, xid).await?;
            job::keep(writes.sql, kept.into_iter().collect()).await?;
            let place = writes.changes;
            writes.changes += changes.len();
            for step in self.netting.part(changes, place)? {
                match step {
                    Step::Part(part) => writes.add(&self.mirrors, part).await?,
                    Step::Truncate { table, place } => writes.truncate(&self.mirrors, table, place).await?,
                }
            }
            failpoint::hit("staged");
            if last.is_some() {
                return Ok(last);
            }
            pace.say("changes are read", writes.changes, 0);
            next = transactions.recv().await.map(|(arrival, _)| arrival);
        }
        Ok(None)
    }

    /// Evaluates what is written before and after, with the mirror moved on in between.
    async fn move_mirror(&mut self, staged: &mut Staged<'_, '_>, group: &mut Group) -> Result<()> {
        staged.writes.fill_moved(&self.mirrors).await?;
        self.evaluate_staged(staged, true, group).await?;
        for which in [Which::Gone, Which::Put] {
            self.apply_staged(staged, which).await?;
        }
        self.evaluate_staged(staged, false, group).await?;
        states::finish(staged.sql).await
    }

    async fn evaluate_staged(&self, staged: &mut Staged<'_, '_>, is_before: bool, group: &mut Group) -> Result<()> {
        let pages = staged.writes.pages();
        for page in 0..pages {
            let mut failures = Vec::new();
            let fits = &mut staged.fits;
            states::evaluate(&staged.writes, &self.selects, is_before, fits, &mut failures, page).await?;
            self.fail(staged, failures, group).await?;
            let what =
                if is_before { "rows are evaluated before it, page" } else { "rows are evaluated after it, page" };
            staged.pace.say(what, count(page), count(pages));
        }
        Ok(())
    }

    /// Writes to the mirror what is gone, or what is put: what is gone comes first (keys may swap).
    async fn apply_staged(&self, staged: &mut Staged<'_, '_>, which: Which) -> Result<()> {
        let pages = staged.writes.pages();
        for page in 0..pages {
            let mut some: Vec<Write> = Vec::new();
            for (write, number) in staged.writes.read(page, which).await? {
                for _ in 0..number {
                    some.push(write.clone());
                    if some.len() >= ROWS {
                        self.apply_some(staged.sql, &mut some).await?;
                    }
                }
            }
            self.apply_some(staged.sql, &mut some).await?;
            staged.pace.say("the mirror follows, page", count(page), count(pages));
        }
        Ok(())
    }

    async fn apply_some(&self, sql: &Prepared<'_>, writes: &mut Vec<Write>) -> Result<()> {
        sql.settle().await?;
        let all = &mut writes.iter_mut().collect::<Vec<_>>();
        apply(sql, &self.plan, &self.mirrors, all, &Room::unbounded()).await?;
        writes.clear();
        Ok(())
    }

    /// Forgets in the cache what may be another now.
    fn forget_written(&mut self, altered: &HashSet<usize>, written: &HashSet<usize>) {
        for select in &self.selects {
            let is_written = select.base().is_some_and(|base| written.contains(&base));
            if is_written || select.reads_clock() || select.reads().iter().any(|table| altered.contains(table)) {
                self.cache.drop_all(select.entity());
            }
        }
    }

    /// The rows before and after, id by id: what happened, and what users gained and lost.
    async fn compare_staged(&self, staged: &mut Staged<'_, '_>, group: &mut Group) -> Result<()> {
        for select in &self.selects {
            if !staged.writes(select) || select.is_keyless() {
                continue;
            }
            let entity = select.entity();
            let mut ids = Ids::new(staged.sql, entity);
            let mut done = 0;
            while let Some(Sides { mut before, mut after }) = ids.next().await? {
                if select.may_have_rivals() {
                    let mut failures = Vec::new();
                    let wanted = before.iter().chain(&after).map(|located| located.entry.id.clone()).collect();
                    let others = staged.others(select, &wanted, &Room::unbounded(), &mut failures).await?;
                    Rivals::of(entity, others).join(entity, 0, &mut before, &mut after);
                    self.fail_once(staged, failures, group).await?;
                }
                done += before.len().max(after.len());
                let difference = diff::difference(&select.shape, before, after);
                events::put(staged.sql, &difference.events).await?;
                events::count(staged.sql, entity, &difference.counts).await?;
                group.doubles(staged.net.commit_lsn, entity, &difference.doubles);
                self.fail(staged, Vec::new(), group).await?;
                staged.pace.say("rows are compared", done, 0);
            }
        }
        Ok(())
    }

    /// Keeps failures for the ledger; many are written at once.
    async fn fail(&self, staged: &Staged<'_, '_>, failures: Vec<RowFailure>, group: &mut Group) -> Result<()> {
        group.failures.extend(failures.into_iter().map(|failure| (staged.net.commit_lsn, failure)));
        if group.failures.len() >= ROWS {
            group.flush(staged.sql, &self.plan, &self.day).await?;
        }
        Ok(())
    }

    /// The same for rows that are asked for again and again.
    async fn fail_once(
        &self,
        staged: &mut Staged<'_, '_>,
        mut failures: Vec<RowFailure>,
        group: &mut Group,
    ) -> Result<()> {
        failures.retain(|failure| staged.failed.insert(failure.clone()));
        if staged.failed.len() > FAILED {
            staged.failed.clear();
        }
        self.fail(staged, failures, group).await
    }
}

impl<'s, 'a> Staged<'s, 'a> {
    fn new(sql: &'s Prepared<'a>, writes: Writes<'s, 'a>, net: Net, whose: Whose, pace: Pace) -> Self {
        let (written, failed, announced) = (HashSet::new(), HashSet::new(), Announced::default());
        Self { sql, writes, net, whose, written, failed, announced, fits: Fits::default(), pace }
    }

    /// Leaves what counts of what is staged; gives the tables that are altered.
    async fn finish(&mut self, plan: &Plan) -> Result<HashSet<usize>> {
        let (altered, written) = self.writes.finish(plan).await?;
        self.written = written;
        Ok(altered)
    }

    /// The transaction writes rows of this entity.
    fn writes(&self, select: &Select) -> bool {
        select.base().is_some_and(|base| self.written.contains(&base))
    }

    async fn operations(&self, why: &str) -> Result<operations::InOrder<'s, 'a>> {
        operations::InOrder::new(self.sql, self.whose, why).await
    }

    /// Whether, and why, the transaction was muted, wherever in it that was.
    async fn muted(&self) -> Result<Option<Option<String>>> {
        let mut operations = self.operations("looked at").await?;
        while let Some((_, operation)) = operations.next_before(usize::MAX).await? {
            if let Operation::Mute { reason } = operation {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// The mirror's rows with these ids that the transaction does not write, with whether they are live.
    async fn others(
        &self,
        select: &Select,
        ids: &HashSet<Box<str>>,
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<Vec<(Entry, bool)>> {
        let mut rows = rows_by_id(self.sql, select, ids, room, failures).await?;
        let Some(base) = select.base() else { return Ok(rows) };
        let written = self.writes.find_keys(base, rows.iter().map(|(entry, _)| &entry.key)).await?;
        rows.retain(|(entry, _)| !written.contains(&writes::at_key(base, &entry.key)));
        Ok(rows)
    }

    /// Adds written rows with these ids to what is seen.
    async fn see(
        &self,
        select: &Select,
        ids: &HashSet<Box<str>>,
        surroundings: &mut Surroundings,
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<()> {
        let entity = select.entity();
        let rows = states::by_id(self.sql, entity, ids, room).await?;
        if select.is_keyless() {
            // As one evaluation of all would have it: a live row hides those that are not.
            let live: HashSet<Box<str>> =
                rows.iter().filter(|(row, _)| row.live).map(|(row, _)| row.entry.id.clone()).collect();
            let gone = rows.iter().map(|(row, _)| row).filter(|row| row.live || !live.contains(&row.entry.id));
            surroundings.add_gone(entity, gone.map(|row| &row.entry));
            return Ok(());
        }
        let found: HashSet<Box<str>> = rows.iter().map(|(row, _)| row.entry.id.clone()).collect();
        for (row, is_before) in rows {
            surroundings.add_side(entity, row, is_before);
        }
        if select.may_have_rivals() && !found.is_empty() {
            let others = self.others(select, &found, room, failures).await?;
            surroundings.add_others(Rivals::of(entity, others).into_others());
        }
        Ok(())
    }
}

fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or_default()
}
