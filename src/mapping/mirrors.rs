//! Which mirror a table of a new plan has: the one that is there if it holds what is wanted, otherwise one of another name,
//! which can be filled beside it. Pure.

use super::plan::{Column, Plan, Table};

/// The mirrors that are there already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mirrors<'a> {
    /// The plan that they belong to.
    pub(crate) before: Option<&'a Plan>,
    /// Tables, by oid, whose mirrors are not to be used although they hold everything.
    pub(crate) afresh: &'a [u32],
    /// The plan is made by the daemon's role, which may create nothing outside of our schemas.
    pub(crate) by_daemon: bool,
}

impl Mirrors<'_> {
    /// Gives each table the name of its mirror.
    pub(super) fn name(&self, tables: &mut [Table]) {
        let before = self.before.map(|plan| plan.tables.as_slice()).unwrap_or_default();
        for table in tables {
            let there = before.iter().find(|old| old.oid == table.oid);
            table.mirror = match there {
                Some(old) if covers(old, table) && !self.afresh.contains(&table.oid) => old.mirror.clone(),
                _ => free_name(before, &table.mirror),
            };
        }
    }
}

/// Whether the mirror of `old` holds all that `new` wants of the same table, in the same form.
pub(crate) fn covers(old: &Table, new: &Table) -> bool {
    let key = |table: &Table| table.key.iter().map(|&index| table.columns[index].name.clone()).collect::<Vec<_>>();
    old.oid == new.oid
        && old.only == new.only
        && key(old) == key(new)
        && new.columns.iter().filter(|column| column.is_stored()).all(|column| {
            old.columns.iter().any(|there| there.is_stored() && there.name == column.name && is_alike(there, column))
        })
}

/// Two columns of one name hold the same values in the same form.
pub(crate) fn is_alike(old: &Column, new: &Column) -> bool {
    old.mirror_type == new.mirror_type
        && old.is_collated_in_mirror() == new.is_collated_in_mirror()
        && (!old.is_collated_in_mirror() || old.collation == new.collation)
        // A column that was dropped and added again has the name, not the values.
        && (old.number == new.number || old.number == 0 || new.number == 0)
}

/// A name that no mirror has yet.
pub(crate) fn free_name(before: &[Table], title: &str) -> String {
    let is_taken = |name: &str| before.iter().any(|table| table.mirror == name);
    let numbered = (2_u32..).map(|number| format!("{title} {number}"));
    let mut names = std::iter::once(title.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_else(|| title.to_owned())
}
