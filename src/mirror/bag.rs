//! Rows without a key: a table is a multiset of whole rows, and a transaction changes how many there are of each.

use std::collections::HashMap;

use super::net::Write;
use crate::change::Row;

/// How many rows of each kind a transaction adds to the tables without a key (or takes away), and where it last did.
#[derive(Default)]
pub(super) struct Bag {
    rows: HashMap<(usize, Row), Tally>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) more: i64,
    pub(crate) place: usize,
}

impl Bag {
    /// One row like this comes (+1) or goes (-1).
    pub(super) fn add(&mut self, table: usize, row: Row, more: i64, place: usize) {
        let tally = self.rows.entry((table, row)).or_default();
        tally.more += more;
        tally.place = place;
    }

    /// All rows of the table are gone: what the transaction did to it before is nothing.
    pub(super) fn truncate(&mut self, table: usize) {
        self.rows.retain(|(other, _), _| *other != table);
    }

    /// How many more there are of each row, also where that is nothing.
    pub(super) fn into_rows(self) -> impl Iterator<Item = (usize, Row, Tally)> {
        self.rows.into_iter().map(|((table, row), tally)| (table, row, tally))
    }

    /// One write for each row that is there more or less often than before.
    pub(super) fn into_writes(self) -> impl Iterator<Item = Write> {
        self.rows.into_iter().flat_map(|((table, row), tally)| {
            let count = usize::try_from(tally.more.unsigned_abs()).unwrap_or(usize::MAX);
            std::iter::repeat_n(Write::whole(table, row, tally.more > 0, tally.place), count)
        })
    }
}

impl Write {
    /// One row of a table without a key that comes, or is taken away.
    pub(crate) fn whole(table: usize, row: Row, comes: bool, place: usize) -> Self {
        let (image, gone) = if comes { (Some(row), None) } else { (None, Some(row)) };
        Self { table, key: Box::new([]), existed: !comes, image, gone, moved_from: None, place, alters: true }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::change::TupleData;

    fn row(text: &'static str) -> Row {
        vec![TupleData::Text(Bytes::from_static(text.as_bytes())), TupleData::Null]
    }

    #[test]
    fn equal_rows_are_counted() {
        let mut bag = Bag::default();
        for (text, more) in [("a", 1), ("a", 1), ("a", -1), ("b", 1), ("b", -1), ("c", -1), ("c", -1)] {
            bag.add(0, row(text), more, 7);
        }
        let mut seen: Vec<_> = bag
            .into_writes()
            .map(|write| (write.gone.clone().or(write.image), write.existed, write.gone.is_some()))
            .collect();
        seen.sort_by_key(|(_, existed, _)| *existed);
        assert_eq!(seen, [(Some(row("a")), false, false), (Some(row("c")), true, true), (Some(row("c")), true, true)]);
    }

    #[test]
    fn a_truncate_forgets_what_came_before_it() {
        let mut bag = Bag::default();
        bag.add(0, row("a"), 1, 1);
        bag.add(1, row("a"), 1, 1);
        bag.truncate(0);
        bag.add(0, row("b"), 1, 3);
        let mut seen: Vec<_> = bag.into_writes().map(|write| (write.table, write.image)).collect();
        seen.sort_by_key(|(table, _)| *table);
        assert_eq!(seen, [(0, Some(row("b"))), (1, Some(row("a")))]);
    }
}
