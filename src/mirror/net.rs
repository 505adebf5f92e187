//! What a transaction, or a part of a large one, comes to: one write for each key that it touched, whatever it did in
//! between.

mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use self::rows::Rows;
use super::bag::Tally;
use crate::change::{Change, Relation, ReplicaIdentity, Row, Transaction, TupleData};
use crate::error::{Error, Result};
use crate::mapping::plan::{Plan, Table};

/// The key columns' output texts, in the order of `Table::key`; empty where the table has no key.
pub(crate) type Key = Box<[Bytes]>;

/// What one transaction did to one row of a mirrored table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// Index into `Plan::tables`.
    pub(crate) table: usize,
    pub(crate) key: Key,
    /// A row with this key was there before the transaction.
    pub(crate) existed: bool,
    /// The stored columns (`stored_columns`) after the transaction; `None`: the row is gone.
    pub(crate) image: Option<Row>,
    /// In a table without a key: the whole row that is gone. One write stands for one row, and equal rows are several.
    pub(crate) gone: Option<Row>,
    /// The row had this key before: its unsent values are found there.
    pub(crate) moved_from: Option<Key>,
    /// Where its last change stands in the transaction.
    pub(crate) place: usize,
    /// Whether a mirrored value differs; the filter finds out.
    pub(crate) alters: bool,
}

impl Write {
    /// A value that the stream did not send has to be taken from the mirror.
    pub(crate) fn has_unsent(&self) -> bool {
        self.image.as_ref().is_some_and(|row| row.contains(&TupleData::UnchangedToast))
    }
}

/// A row of `portalhook.operations` and where it stands in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperationAt {
    pub(crate) number: i64,
    pub(crate) place: usize,
}

/// A transaction's net effect on the mirror.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) xid: u64,
    pub(crate) commit_lsn: crate::lsn::Lsn,
    pub(crate) end_lsn: crate::lsn::Lsn,
    pub(crate) commit_micros: i64,
    /// In the order of `place`.
    pub(crate) writes: Vec<Write>,
    pub(crate) operations: Vec<OperationAt>,
    /// Tables that were truncated, and where; rows written before that place are gone already.
    pub(crate) truncated: Vec<(usize, usize)>,
}

impl Net {
    /// Expands a TRUNCATE at `place` into what it removed: the mirrored rows, unless the transaction itself wrote them.
    pub(crate) fn truncate(&mut self, table: usize, place: usize, mirrored: Mirrored) {
        let keys = match mirrored {
            Mirrored::Keys(keys) => keys,
            Mirrored::Rows(rows) => {
                self.writes.extend(rows.into_iter().map(|row| Write::whole(table, row, false, place)));
                self.writes.sort_by_key(|write| write.place);
                return;
            }
        };
        let mut removed: std::collections::HashSet<Key> = keys.into_iter().collect();
        for write in self.writes.iter_mut().filter(|write| write.table == table) {
            // A row with the same key that was inserted afterwards.
            write.existed |= removed.remove(&write.key);
        }
        self.writes.extend(removed.into_iter().map(|key| Write {
            table,
            key,
            existed: true,
            image: None,
            gone: None,
            moved_from: None,
            place,
            alters: true,
        }));
        self.writes.sort_by(|a, b| (a.place, &a.key).cmp(&(b.place, &b.key)));
    }
}

/// What a mirror holds: its keys, or its rows where it has no key.
#[derive(Debug)]
pub(crate) enum Mirrored {
    Keys(Vec<Key>),
    Rows(Vec<Row>),
}

/// The columns that the mirror stores: all but generated ones, which are not in the stream.
pub(crate) fn stored_columns(table: &Table) -> impl Iterator<Item = (usize, &crate::mapping::plan::Column)> {
    table.columns.iter().enumerate().filter(|(_, column)| column.generated.is_none())
}

/// A part of a large transaction between two TRUNCATEs, netted on its own: what it does to the rows as they were just
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Also of rows that came and went within the part: what the transaction did to them before has another place now.
    pub(crate) writes: Vec<Write>,
    /// Rows of tables without a key: how many more (or less) there are of each.
    pub(crate) rows: Vec<(usize, Row, Tally)>,
    pub(crate) operations: Vec<OperationAt>,
}

/// What a large transaction does next.
#[derive(Debug)]
pub(crate) enum Step {
    Part(Part),
    /// The table is emptied at this place.
    Truncate {
        table: usize,
        place: usize,
    },
}

/// Nets transactions; remembers how each relation's columns map onto the mirror's.
pub(crate) struct Netting {
    tables: HashMap<u32, usize>,
    layouts: Vec<Layout>,
    projections: HashMap<u32, Projection>,
    /// Earlier descriptions, with where they have each stored column.
    accepted: Vec<(Arc<Relation>, Vec<Option<usize>>)>,
    /// Values of enums that were renamed: table, column and old name; what was committed up to `renamed_until` may have it.
    renamed: HashMap<RenamedValue, String>,
    renamed_until: crate::lsn::Lsn,
    /// Where the transaction at hand was committed.
    at: crate::lsn::Lsn,
}

/// `pg_class.oid`, column, old name.
pub(crate) type RenamedValue = (u32, String, String);

/// A mirror's columns, as netting needs them.
struct Layout {
    name: String,
    stored: Vec<String>,
    /// Positions of the key's columns among the stored ones.
    key: Vec<usize>,
}

struct Projection {
    relation: Arc<Relation>,
    table: usize,
    /// For each stored column its position in the relation; `None`: it was not there yet.
    columns: Vec<Option<usize>>,
}

impl Netting {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self::of(plan, &(0..plan.tables.len()).collect::<Vec<_>>())
    }

    /// Nets what happens to some of the plan's tables alone.
    pub(crate) fn of(plan: &Plan, followed: &[usize]) -> Self {
        let layouts = plan
            .tables
            .iter()
            .map(|table| {
                let stored: Vec<_> = stored_columns(table).map(|(index, column)| (index, column.clone())).collect();
                let key = table
                    .key
                    .iter()
                    .filter_map(|wanted| stored.iter().position(|(index, _)| index == wanted))
                    .collect();
                Layout {
                    name: format!("{}.{}", table.schema, table.name),
                    stored: stored.into_iter().map(|(_, column)| column.name).collect(),
                    key,
                }
            })
            .collect();
        let tables = followed.iter().map(|&index| (plan.tables[index].oid, index)).collect();
        Self {
            tables,
            layouts,
            projections: HashMap::new(),
            accepted: Vec::new(),
            renamed: HashMap::new(),
            renamed_until: crate::lsn::Lsn::ZERO,
            at: crate::lsn::Lsn::ZERO,
        }
    }

    /// Whether these write any of the tables.
    pub(crate) fn touches(&self, changes: &[Change]) -> bool {
        changes.iter().any(|change| match change {
            Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                self.tables.contains_key(&relation.oid)
            }
            Change::Truncate { relations } => relations.iter().any(|one| self.tables.contains_key(&one.oid)),
            Change::Operation { .. } => false,
        })
    }

    /// Nets one transaction. Changes of tables that the mapping does not read are left out.
    pub(crate) fn net(&mut self, transaction: Transaction) -> Result<Net> {
        let mut rows = Rows::default();
        let mut truncated: Vec<(usize, usize)> = Vec::new();
        self.at = transaction.commit_lsn;
        for (place, change) in transaction.changes.into_iter().enumerate() {
            for table in self.take(change, place, &mut rows)? {
                rows.truncate(table, place);
                // The second time only what the transaction itself wrote since the first can be there.
                if truncated.iter().all(|(other, _)| *other != table) {
                    truncated.push((table, place));
                }
            }
        }
        Ok(Net {
            xid: transaction.xid,
            commit_lsn: transaction.commit_lsn,
            end_lsn: transaction.end_lsn,
            commit_micros: transaction.commit_micros,
            operations: std::mem::take(&mut rows.operations),
            writes: rows.into_writes(),
            truncated,
        })
    }

    /// Nets a part of a large transaction, whose first change stands at `place` in it.
    pub(crate) fn part(&mut self, changes: Vec<Change>, place: usize) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut rows = Rows::default();
        for (index, change) in changes.into_iter().enumerate() {
            let place = place + index;
            let tables = self.take(change, place, &mut rows)?;
            if !tables.is_empty() {
                steps.push(Step::Part(std::mem::take(&mut rows).into_part()));
                steps.extend(tables.into_iter().map(|table| Step::Truncate { table, place }));
            }
        }
        steps.push(Step::Part(rows.into_part()));
        Ok(steps)
    }

    /// Adds a change to what the rows come to; of a TRUNCATE it gives the tables.
    fn take(&mut self, change: Change, place: usize, rows: &mut Rows) -> Result<Vec<usize>> {
        match change {
            Change::Insert { relation, new } => {
                let Some(table) = self.project(&relation)? else { return Ok(Vec::new()) };
                let mut image = self.image(table, &relation, new)?;
                fill_unsent_with_null(&mut image);
                if self.layouts[table].key.is_empty() {
                    rows.bag.add(table, image, 1, place);
                } else {
                    let key = self.key(table, &image)?;
                    rows.put(table, key, image, place);
                }
            }
            Change::Update { relation, old, new } => {
                let Some(table) = self.project(&relation)? else { return Ok(Vec::new()) };
                let mut image = self.image(table, &relation, new)?;
                if self.layouts[table].key.is_empty() {
                    let old = self.whole(table, &relation, old)?;
                    fill_unsent(&mut image, Some(&old));
                    rows.bag.add(table, old, -1, place);
                    rows.bag.add(table, image, 1, place);
                    return Ok(Vec::new());
                }
                let key = self.key(table, &image)?;
                let old_key = match old {
                    Some(old) => {
                        let old = self.image(table, &relation, old)?;
                        self.key(table, &old)?
                    }
                    None => key.clone(),
                };
                if old_key == key {
                    rows.update(table, key, image, place);
                } else {
                    rows.rekey(table, old_key, key, image, place);
                }
            }
            Change::Delete { relation, old } => {
                let Some(table) = self.project(&relation)? else { return Ok(Vec::new()) };
                if self.layouts[table].key.is_empty() {
                    let old = self.whole(table, &relation, Some(old))?;
                    rows.bag.add(table, old, -1, place);
                } else {
                    let old = self.image(table, &relation, old)?;
                    let key = self.key(table, &old)?;
                    rows.delete(table, key, place);
                }
            }
            Change::Truncate { relations } => {
                return Ok(relations.iter().filter_map(|relation| self.tables.get(&relation.oid).copied()).collect());
            }
            Change::Operation { number } => rows.operations.push(OperationAt { number, place }),
        }
        Ok(Vec::new())
    }

    /// The mirror's index for a relation, with its columns looked up when the relation is new or has changed.
    fn project(&mut self, relation: &Arc<Relation>) -> Result<Option<usize>> {
        let Some(table) = self.tables.get(&relation.oid).copied() else { return Ok(None) };
        if self.projections.get(&relation.oid).is_some_and(|known| Arc::ptr_eq(&known.relation, relation)) {
            return Ok(Some(table));
        }
        if let Some((_, columns)) = self.accepted.iter().find(|(accepted, _)| Arc::ptr_eq(accepted, relation)) {
            let projection = Projection { relation: Arc::clone(relation), table, columns: columns.clone() };
            self.projections.insert(relation.oid, projection);
            return Ok(Some(table));
        }
        let layout = &self.layouts[table];
        let columns = layout
            .stored
            .iter()
            .map(|name| {
                let found = relation.columns.iter().position(|column| column.name == *name).ok_or_else(|| {
                    Error::failed(format!(
                        "column {name} of {} is in the mapping but no longer in the table: change the mapping \
                         (portalhook setup --views FILE)",
                        layout.name
                    ))
                })?;
                Ok(Some(found))
            })
            .collect::<Result<Vec<_>>>()?;
        self.projections.insert(relation.oid, Projection { relation: Arc::clone(relation), table, columns });
        Ok(Some(table))
    }

    /// Reads rows of these earlier descriptions, too: for each stored column the place where they have it.
    pub(crate) fn accept(&mut self, earlier: Vec<(Arc<Relation>, Vec<Option<usize>>)>) {
        self.accepted = earlier;
    }

    /// From now on values in transactions up to a position have their new names.
    pub(crate) fn rename(&mut self, renamed: HashMap<RenamedValue, String>, until: crate::lsn::Lsn) {
        (self.renamed, self.renamed_until) = (renamed, until);
    }

    pub(crate) fn renames(&self, value: &RenamedValue) -> bool {
        self.renamed.contains_key(value)
    }

    /// For another plan: what was renamed stays so.
    pub(crate) fn over(&self, plan: &Plan) -> Self {
        Self { renamed: self.renamed.clone(), renamed_until: self.renamed_until, ..Self::new(plan) }
    }

    fn with_new_names(&self, table: usize, relation: &Relation, row: &mut Row) {
        for (value, column) in row.iter_mut().zip(&self.layouts[table].stored) {
            let TupleData::Text(text) = value else { continue };
            let old = String::from_utf8_lossy(text).into_owned();
            if let Some(new) = self.renamed.get(&(relation.oid, column.clone(), old)) {
                *text = Bytes::from(new.clone());
            }
        }
    }

    /// The stored columns of a row of the stream.
    fn image(&self, table: usize, relation: &Arc<Relation>, mut row: Row) -> Result<Row> {
        let projection = self
            .projections
            .get(&relation.oid)
            .filter(|projection| projection.table == table)
            .ok_or_else(|| Error::failed("a row came before its table's description"))?;
        let mut image: Row = projection
            .columns
            .iter()
            .map(|index| {
                // What the mirror has of it by now stays.
                let Some(index) = *index else { return Ok(TupleData::UnchangedToast) };
                row.get_mut(index)
                    .map(|value| std::mem::replace(value, TupleData::Null))
                    .ok_or_else(|| Error::failed(format!("a row of {} is too short", self.layouts[table].name)))
            })
            .collect::<Result<_>>()?;
        if !self.renamed.is_empty() && self.at <= self.renamed_until {
            self.with_new_names(table, relation, &mut image);
        }
        Ok(image)
    }

    /// The whole old row, which the stream carries under identity FULL.
    fn whole(&self, table: usize, relation: &Arc<Relation>, old: Option<Row>) -> Result<Row> {
        old.filter(|_| relation.identity == ReplicaIdentity::Full)
            .ok_or_else(|| {
                let name = &self.layouts[table].name;
                Error::failed(format!(
                    "a change of {name}, which has no key, came without its old row: ALTER TABLE {name} REPLICA IDENTITY \
                     FULL, then portalhook setup --afresh"
                ))
            })
            .and_then(|old| self.image(table, relation, old))
    }

    fn key(&self, table: usize, image: &Row) -> Result<Key> {
        let layout = &self.layouts[table];
        layout
            .key
            .iter()
            .map(|&index| match &image[index] {
                TupleData::Text(text) => Ok(text.clone()),
                _ => Err(Error::failed(format!(
                    "a change of {} came without its key: its REPLICA IDENTITY must be DEFAULT or FULL",
                    layout.name
                ))),
            })
            .collect()
    }
}

/// A new row has no value that was not sent.
fn fill_unsent_with_null(image: &mut Row) {
    for value in image.iter_mut().filter(|value| **value == TupleData::UnchangedToast) {
        *value = TupleData::Null;
    }
}

/// Values that an UPDATE did not send are those that the row had before it.
pub(crate) fn fill_unsent(image: &mut Row, earlier: Option<&Row>) {
    let Some(earlier) = earlier else { return };
    for (value, before) in image.iter_mut().zip(earlier) {
        if *value == TupleData::UnchangedToast {
            value.clone_from(before);
        }
    }
}

#[cfg(test)]
mod tests;
