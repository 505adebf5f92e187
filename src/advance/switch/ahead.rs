//! Where the plan knows more than the stream has brought: it was changed for what stands further on, in the middle of a
//! transaction or behind a pause. It is kept with the plan, so that a crash in between makes no difference.

use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use crate::lsn::Lsn;
use crate::mapping::plan::Plan;

/// How far the plan is ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ahead {
    /// What follows this position was written before the plan's tables were as they are, up to the first description that fits.
    at: u64,
    /// The tables that it is ahead in (`pg_class.oid`).
    #[serde(default)]
    tables: Vec<u32>,
    /// Columns under the names that they have there.
    former: Vec<Former>,
    /// Copies that were put in force before the stream came to what they have seen.
    copied: Vec<Copied>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    table: u32,
    column: String,
    was: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copied {
    /// `pg_class.oid`
    pub(crate) table: u32,
    pub(crate) seen: Snapshot,
}

impl Ahead {
    /// A plan that takes the place of another one at `lsn`, with tables copied meanwhile.
    pub(super) fn of(lsn: Lsn, before: &Plan, plan: &Plan, tables: &[u32], copied: Vec<Copied>) -> Self {
        let (mut tables, mut former) = (tables.to_vec(), Vec::new());
        for table in &plan.tables {
            let Some(old) = before.tables.iter().find(|old| old.oid == table.oid) else { continue };
            if old != table {
                tables.push(table.oid);
            }
            for column in table.columns.iter().filter(|column| column.is_stored() && column.number != 0) {
                let is_it =
                    |old: &&crate::mapping::plan::Column| old.number == column.number && old.name != column.name;
                former.extend(old.columns.iter().find(is_it).map(|old| Former {
                    table: table.oid,
                    column: column.name.clone(),
                    was: old.name.clone(),
                }));
            }
        }
        Self { at: lsn.0, tables, former, copied }
    }

    /// What copies have seen stays so when the plan changes again.
    pub(super) fn copies_alone(&self) -> Self {
        Self { copied: self.copied.clone(), ..Self::default() }
    }

    /// What went ahead before stays so: at the same position all of it, later what copies have seen.
    pub(super) fn after(mut self, earlier: &Self) -> Self {
        if earlier.at == self.at {
            self.tables.extend(&earlier.tables);
            self.former.extend(earlier.former.iter().cloned());
        }
        let is_new = |one: &&Copied| self.copied.iter().all(|copied| copied.table != one.table);
        let kept: Vec<Copied> = earlier.copied.iter().filter(is_new).cloned().collect();
        self.copied.extend(kept);
        self
    }

    pub(super) fn is_at(&self, lsn: Lsn) -> bool {
        self.at == lsn.0
    }

    pub(super) fn is_of(&self, table: u32) -> bool {
        self.tables.contains(&table)
    }

    /// The name that a column had.
    pub(super) fn was(&self, table: u32, column: &str) -> Option<&str> {
        self.former.iter().find(|one| one.table == table && one.column == column).map(|one| one.was.as_str())
    }

    pub(super) fn has_copies(&self) -> bool {
        !self.copied.is_empty()
    }

    /// Whether a table's copy has what this transaction did.
    pub(super) fn has_seen(&self, table: u32, xid: u64) -> bool {
        self.copied.iter().any(|one| one.table == table && one.seen.sees(xid))
    }
}
