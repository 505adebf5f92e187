//! What mirrors lack, found by comparison: staged like the changes of a large transaction, since it may be as much.

use super::operations::Whose;
use super::tables::{self, Cursor};
use super::writes::{BYTES, ROWS, Writes, unsigned};
use super::{Pace, Staged};
use crate::advance::Advance;
use crate::advance::group::Group;
use crate::error::Result;
use crate::failpoint;
use crate::mirror::compare::Comparison;
use crate::mirror::held;
use crate::mirror::net::{Net, Part};
use crate::mirror::prepared::Prepared;

const SIZE: &str =
    "SELECT coalesce(max(octet_length(coalesce(image, held))), 0)::bigint FROM pg_temp.staged_differences";

/// In the order in which they were written.
const READ: &str = "SELECT * FROM pg_temp.staged_differences";

const DROP: &str = "DROP TABLE pg_temp.staged_differences";

impl Advance {
    /// Takes mirrors to where these comparisons' tables are, within the open transaction; what they lacked becomes the events
    /// of the transaction that `net` describes, behind its operations. Gives the number of rows.
    pub(in crate::advance) async fn make_up(
        &mut self,
        sql: &Prepared<'_>,
        comparisons: &[Comparison<'_>],
        mut net: Net,
        what: &'static str,
        group: &mut Group,
    ) -> Result<usize> {
        // Staged counts are added in the mirror: what is in memory has to be there first.
        self.counters.write(sql).await?;
        sql.settle().await?;
        tables::create(sql).await?;
        let mut pace = Pace::new(what);
        let mut writes = Writes::new(sql);
        let operations = std::mem::take(&mut net.operations);
        writes.add(&self.mirrors, Part { operations, ..Part::default() }).await?;
        // Operations stand at 0.
        writes.changes = 1;
        for comparison in comparisons {
            writes.add_differences(comparison, &mut pace).await?;
        }
        let found = writes.changes - 1;
        sql.run("read what is staged", "SET LOCAL enable_seqscan = off").await?;
        if found > 0 || writes.operations > 0 {
            self.take_staged(Staged::new(sql, writes, net, Whose::Anybody, pace), group).await?;
        }
        // More may be staged in the same transaction.
        sql.settle().await?;
        tables::remove(sql).await?;
        Ok(found)
    }
}

impl Writes<'_, '_> {
    /// Stages what one mirror lacks; nothing else writes its rows.
    async fn add_differences(&mut self, comparison: &Comparison<'_>, pace: &mut Pace) -> Result<()> {
        let sql = self.sql;
        sql.run("compare with a mirror", "SET LOCAL enable_seqscan = on").await?;
        held::prepare(sql).await?;
        let create = format!("CREATE TEMPORARY TABLE staged_differences ON COMMIT DROP AS {}", comparison.sql());
        sql.run(&format!("compare {} with its mirror", comparison.source), &create).await?;
        let sizes = sql.query("read what differs", SIZE, &[]).await?;
        let largest = sizes.first().map_or(1, |row| row.get::<_, i64>(0).max(1));
        let rows = (BYTES / unsigned(largest)?).clamp(1, failpoint::limit("page", ROWS));
        // Its FETCH is prepared once, for one set of columns.
        let by = if comparison.table.key.is_empty() { "row" } else { "key" };
        let cursor = Cursor::open(sql, format!("differences by {by}"), READ, rows).await?;
        loop {
            let found = cursor.next().await?;
            if found.is_empty() {
                break;
            }
            let mut writes = Vec::with_capacity(found.len());
            for row in &found {
                writes.push(comparison.read(row, self.changes)?);
                self.changes += 1;
            }
            drop(found);
            self.add_made_up(writes).await?;
            pace.say("rows that differ are read", self.changes, 0);
        }
        cursor.close().await?;
        sql.run("forget what differs", DROP).await
    }
}
