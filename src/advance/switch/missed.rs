//! What the stream did not carry of a table: it was created anew, swapped by renaming, out of the publication, or a partition
//! of it was truncated. Where the copy takes over, the mirror against the copy says what was missed, as after a gap.

use super::job::{self, Recording};
use super::turn::Turn;
use crate::advance::Advance;
use crate::advance::group::Group;
use crate::error::Result;
use crate::failpoint;
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Plan, Table};
use crate::mirror::compare::Comparison;
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;

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
        if recording.useless.is_some() || recording.job.compared.is_empty() {
            return Ok(());
        }
        let net = Net {
            xid: group.checkpoint.xid,
            commit_lsn: group.checkpoint.lsn,
            end_lsn: group.checkpoint.lsn,
            commit_micros: micros,
            writes: Vec::new(),
            operations: Vec::new(),
            truncated: Vec::new(),
        };
        let plan = self.plan.clone();
        let comparisons = comparisons(sql, &plan, recording).await?;
        self.make_up(sql, &comparisons, net, "what the stream did not bring", group).await.map(drop)
    }
}

/// The copies against the mirrors that were before them.
async fn comparisons<'p>(sql: &Prepared<'_>, plan: &'p Plan, recording: &Recording) -> Result<Vec<Comparison<'p>>> {
    let job = &recording.job;
    let mut comparisons = Vec::new();
    for copy in job.copied.iter().map(|&place| &job.plan.tables[place]) {
        if !job.compared.contains(&copy.oid) {
            continue;
        }
        let is_its = |old: &&Table| old.oid == copy.oid || old.called() == copy.called();
        let Some(index) = plan.tables.iter().position(|old| is_its(&old)) else { continue };
        let table = &plan.tables[index];
        let stays = |name: &str| copy.columns.iter().any(|column| column.is_stored() && column.name == name);
        if !table.columns.iter().filter(|column| column.is_stored()).all(|column| stays(&column.name)) {
            tracing::warn!("{} has lost columns that were mirrored: what it missed gives no events", copy.called());
            continue;
        }
        let Some(source) = as_before(sql, table, copy).await? else {
            tracing::warn!(
                "{} has values of another kind than its mirror: what it missed gives no events",
                copy.called()
            );
            continue;
        };
        comparisons.push(Comparison { index, table, source });
    }
    Ok(comparisons)
}

/// The copy with the types of the mirror that was there; `None`: not all of its values can be of those.
async fn as_before(sql: &Prepared<'_>, table: &Table, copy: &Table) -> Result<Option<String>> {
    let stored = || table.columns.iter().filter(|column| column.is_stored());
    let is_other =
        |name: &str, of: &str| copy.columns.iter().any(|column| column.name == name && column.mirror_type != of);
    let (mut columns, mut castable) = (Vec::new(), Vec::new());
    for column in stored() {
        let (name, of) = (quote(&column.name), &column.mirror_type);
        if is_other(&column.name, of) {
            let text = format!("CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END");
            castable.push(format!("({name} IS NULL OR portalhook.castable({text}, {}) IS NOT NULL)", literal(of)));
            columns.push(format!("({text})::{of} AS {name}"));
        } else {
            columns.push(name);
        }
    }
    if castable.is_empty() {
        return Ok(Some(copy.mirror_name()));
    }
    let query = format!("SELECT coalesce(bool_and({}), true) FROM {}", castable.join(" AND "), copy.mirror_name());
    let rows = sql.query("read a copy as what its mirror was", &query, &[]).await?;
    let can = rows.first().is_some_and(|row| row.get(0));
    Ok(can.then(|| format!("(SELECT {} FROM {}) AS copied", columns.join(", "), copy.mirror_name())))
}
