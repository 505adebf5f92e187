//! A transaction that came whole, whose rows are too much to be in memory together: staged within the open group.

use std::collections::HashMap;

use super::operations::Whose;
use super::tables;
use super::writes::{ROWS, Writes};
use super::{Pace, Staged};
use crate::advance::Advance;
use crate::advance::group::Group;
use crate::change::Row;
use crate::error::Result;
use crate::mirror::net::{Net, Part, Write};
use crate::mirror::prepared::Prepared;

impl Advance {
    /// Takes the mirror past the transaction and adds its events to the group. `truncated`: those of its TRUNCATEs, with where
    /// they stand in it, of which nobody has looked up what they remove.
    pub(in crate::advance) async fn stage_whole(
        &mut self,
        sql: &Prepared<'_>,
        mut net: Net,
        truncated: Vec<(usize, usize)>,
        group: &mut Group,
    ) -> Result<()> {
        group.batches += 1;
        // Staged counts are added in the mirror: what is in memory has to be there first.
        self.counters.write(sql).await?;
        sql.settle().await?;
        tables::create(sql).await?;
        let mut writes = Writes::new(sql);
        writes.changes = net.writes.len();
        writes.truncated.extend(net.truncated.iter().map(|(table, _)| *table));
        for (table, place) in truncated {
            writes.truncate(&self.mirrors, table, place).await?;
        }
        let operations = std::mem::take(&mut net.operations);
        writes.add(&self.mirrors, Part { operations, ..Part::default() }).await?;
        writes.add_netted(std::mem::take(&mut net.writes)).await?;
        let whose = Whose::Transaction(net.xid);
        let pace = Pace::new("a transaction with large rows");
        self.take_staged(Staged::new(sql, writes, net, whose, pace), group).await?;
        // More may be staged in the same group.
        sql.settle().await?;
        tables::remove(sql).await
    }
}

impl Writes<'_, '_> {
    /// Adds what a transaction comes to, netted and filtered.
    async fn add_netted(&mut self, writes: Vec<Write>) -> Result<()> {
        let (keyed, whole): (Vec<Write>, Vec<Write>) = writes.into_iter().partition(|write| !write.key.is_empty());
        for some in keyed.chunks(ROWS) {
            self.put(some).await?;
        }
        // Equal rows are one, with a number.
        let mut rows: HashMap<(usize, &Row), (i64, usize)> = HashMap::new();
        for write in &whole {
            for (row, by) in [(&write.image, 1), (&write.gone, -1)] {
                let Some(row) = row else { continue };
                let (more, place) = rows.entry((write.table, row)).or_default();
                *more += by;
                *place = write.place.max(*place);
            }
        }
        let rows: Vec<_> = rows.into_iter().map(|((table, row), (more, place))| (table, row, more, place)).collect();
        for some in rows.chunks(ROWS) {
            self.add_rows(some.iter().copied()).await?;
        }
        Ok(())
    }
}
