//! What the stream did not carry of a table: it was created anew, swapped by renaming, out of the publication, or a partition
//! of it was truncated. Where the copy takes over, the mirror against the copy says what was missed, as after a gap.

use super::job::{self, Job, Recording};
use super::pairs::Pairing;
use super::turn::{Adopted, Turn};
use crate::advance::Advance;
use crate::advance::group::Group;
use crate::error::Result;
use crate::failpoint;
use crate::ledger::record;
use crate::mapping::plan::{Plan, Table};
use crate::mirror::catalog::{self, Follow, Look, differences};
use crate::mirror::compare::Comparison;
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;
use crate::session::Session;

/// Rows of a copy that its mirror could not know: they enter once the copy is in force.
pub(in crate::advance) struct Apart {
    /// Index into the coming plan's tables.
    table: usize,
    /// The copy with them.
    complete: String,
}

impl Advance {
    /// Makes the copies what the tables are at this position, and gives the old mirrors what they lack, with its events: they
    /// belong to the transaction in which the copy was announced, at `micros` since 1970.
    pub(in crate::advance) async fn catch_up(
        &mut self,
        sql: &Prepared<'_>,
        micros: i64,
        group: &mut Group,
    ) -> Result<()> {
        let Some(Turn::Copied(recording)) = &mut group.turn else { return Ok(()) };
        failpoint::hit("copied");
        // What the group itself has for the copies is there with the rest.
        job::keep(sql, std::mem::take(&mut group.kept)).await?;
        sql.settle().await?;
        recording.useless = recording.catch_up(sql).await?;
        sql.settle().await?;
        let unsaid = unsaid(sql, &self.plan, &recording.job).await?;
        recording.job.compared.extend(unsaid);
        if recording.useless.is_some() || recording.job.compared.is_empty() {
            return Ok(());
        }
        recording.announced_at = micros;
        let net = net_of(group, micros);
        let Some(Turn::Copied(recording)) = &mut group.turn else { return Ok(()) };
        let plan = self.plan.clone();
        let comparisons = comparisons(sql, &plan, recording).await?;
        self.make_up(sql, &comparisons, net, "what the stream did not bring", group).await.map(drop)
    }

    /// The end of a group in which rows were kept apart: the copies take over, and those rows enter, with their events.
    /// Gives the plan that is in force once the group has committed; `None`: there are no such rows.
    pub(in crate::advance) async fn let_in(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        group: &mut Group,
    ) -> Result<Option<Adopted>> {
        let Some(Turn::Copied(recording)) = &mut group.turn else { return Ok(None) };
        let (apart, micros) = (std::mem::take(&mut recording.apart), recording.announced_at);
        if apart.is_empty() {
            return Ok(None);
        }
        self.counters.write(sql).await?;
        record::failures(sql, &self.plan, &std::mem::take(&mut group.failures)).await?;
        let adopted = match &group.turn {
            Some(turn) => self.turn(sql, session, turn, group.checkpoint.lsn).await?,
            None => None,
        };
        let Some(adopted) = adopted else { return Ok(None) };
        // Should the group fail after this, nothing in memory is used any more.
        self.adopt(adopted.clone())?;
        sql.forget()?;
        let plan = &adopted.plan;
        let comparison =
            |one: Apart| Comparison { index: one.table, table: &plan.tables[one.table], source: one.complete };
        let comparisons: Vec<Comparison<'_>> = apart.into_iter().map(comparison).collect();
        let net = net_of(group, micros);
        self.make_up(sql, &comparisons, net, "what came meanwhile", group).await?;
        Ok(Some(adopted))
    }
}

/// Copied tables whose catalog says that the stream has not brought everything of them by the time of the copy. Once that is in
/// force, whoever watches the catalog does not see it any more.
async fn unsaid(sql: &Prepared<'_>, plan: &Plan, job: &Job) -> Result<Vec<u32>> {
    let mut unsaid = Vec::new();
    for copy in job.copied.iter().map(|&place| &job.plan.tables[place]) {
        let Some(table) = plan.tables.iter().position(|old| old.oid == copy.oid) else { continue };
        let before = catalog::remembered(sql, &plan.tables[table].mirror).await?;
        let Some(now) = catalog::remembered(sql, &copy.mirror).await? else { continue };
        let found = differences(&plan.tables[table], &Look { table, before, now });
        if found.iter().any(|one| one.follow() == Follow::Compare) && !job.compared.contains(&copy.oid) {
            unsaid.push(copy.oid);
        }
    }
    Ok(unsaid)
}

/// What was missed belongs to the transaction in which the copy was announced.
fn net_of(group: &Group, micros: i64) -> Net {
    Net {
        xid: group.checkpoint.xid,
        commit_lsn: group.checkpoint.lsn,
        end_lsn: group.checkpoint.lsn,
        commit_micros: micros,
        writes: Vec::new(),
        operations: Vec::new(),
        truncated: Vec::new(),
    }
}

/// The copies against the mirrors that were before them. Where a copy has not all that its mirror had, only rows that were
/// there can be told in the old mapping's words; the others are kept apart.
async fn comparisons<'p>(sql: &Prepared<'_>, plan: &'p Plan, recording: &mut Recording) -> Result<Vec<Comparison<'p>>> {
    let Recording { job, apart, .. } = recording;
    let mut comparisons = Vec::new();
    for &place in &job.copied {
        let copy = &job.plan.tables[place];
        if !job.compared.contains(&copy.oid) {
            continue;
        }
        let is_its = |old: &&Table| old.oid == copy.oid || old.called() == copy.called();
        let Some(index) = plan.tables.iter().position(|old| is_its(&old)) else { continue };
        let table = &plan.tables[index];
        let pairing = Pairing::of(sql, table, copy, comparisons.len()).await?;
        let source = match pairing.whole() {
            Some(whole) => whole,
            None if pairing.is_possible() => {
                pairing.make(sql).await?;
                apart.push(Apart { table: place, complete: pairing.complete() });
                pairing.stayed()
            }
            None => {
                tracing::warn!(
                    "{} has nothing in common with its mirror: what it missed gives no events",
                    copy.called()
                );
                continue;
            }
        };
        comparisons.push(Comparison { index, table, source });
    }
    Ok(comparisons)
}
