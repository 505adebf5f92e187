//! What the changes of a transaction come to, row by row.

use std::collections::HashMap;

use super::{Key, OperationAt, Part, Write, fill_unsent};
use crate::change::{Row, TupleData};
use crate::mirror::bag::Bag;

/// The rows of one transaction by key, in the order in which they were first touched.
#[derive(Default)]
pub(super) struct Rows {
    index: HashMap<(usize, Key), usize>,
    writes: Vec<Write>,
    /// Rows of tables without a key.
    pub(super) bag: Bag,
    pub(super) operations: Vec<OperationAt>,
}

impl Rows {
    fn entry(&mut self, table: usize, key: Key, existed: bool, place: usize) -> &mut Write {
        let at = *self.index.entry((table, key)).or_insert_with_key(|(_, key)| {
            self.writes.push(Write {
                table,
                key: key.clone(),
                existed,
                image: None,
                gone: None,
                moved_from: None,
                place,
                alters: true,
            });
            self.writes.len() - 1
        });
        let write = &mut self.writes[at];
        write.place = place;
        write
    }

    pub(super) fn put(&mut self, table: usize, key: Key, image: Row, place: usize) {
        let write = self.entry(table, key, false, place);
        write.image = Some(image);
        write.moved_from = None;
    }

    pub(super) fn update(&mut self, table: usize, key: Key, mut image: Row, place: usize) {
        let write = self.entry(table, key, true, place);
        fill_unsent(&mut image, write.image.as_ref());
        write.image = Some(image);
    }

    pub(super) fn rekey(&mut self, table: usize, old: Key, new: Key, mut image: Row, place: usize) {
        let source = self.entry(table, old.clone(), true, place);
        let earlier = source.image.take();
        let origin = source.moved_from.take();
        fill_unsent(&mut image, earlier.as_ref());
        // A row that this transaction made has every value; one that it moved before has its origin.
        let moved_from = origin.or_else(|| source.existed.then_some(old));
        let unsent = image.contains(&TupleData::UnchangedToast);
        let write = self.entry(table, new, false, place);
        write.image = Some(image);
        write.moved_from = moved_from.filter(|_| unsent);
    }

    pub(super) fn delete(&mut self, table: usize, key: Key, place: usize) {
        let write = self.entry(table, key, true, place);
        write.image = None;
        write.moved_from = None;
    }

    pub(super) fn truncate(&mut self, table: usize, place: usize) {
        self.bag.truncate(table);
        for write in self.writes.iter_mut().filter(|write| write.table == table && write.image.is_some()) {
            write.image = None;
            write.moved_from = None;
            write.place = place;
        }
    }

    pub(super) fn into_part(self) -> Part {
        Part { writes: self.writes, rows: self.bag.into_rows().collect(), operations: self.operations }
    }

    /// In the order of each row's last change; what came and went within the transaction is nothing.
    pub(super) fn into_writes(self) -> Vec<Write> {
        let mut writes = self.writes;
        writes.retain(|write| write.existed || write.image.is_some());
        writes.extend(self.bag.into_writes());
        writes.sort_by_key(|write| write.place);
        writes
    }
}
