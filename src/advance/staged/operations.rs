//! The operations of a large transaction, in their order.

use std::collections::VecDeque;

use super::tables::Cursor;
use super::writes::{ROWS, unsigned};
use crate::advance::operations::{self, Operation};
use crate::error::Result;
use crate::failpoint;
use crate::mirror::prepared::Prepared;

const TAKE: &str =
    "UPDATE portalhook.operations SET taken = true WHERE id IN (SELECT number FROM pg_temp.staged_operations)";
const IN_ORDER: &str = "SELECT place, number FROM pg_temp.staged_operations ORDER BY place, number";

/// Notes that they are taken in.
pub(super) async fn take(sql: &Prepared<'_>) -> Result<()> {
    sql.execute("take in operations", TAKE, &[]).await.map(drop)
}

/// Whose operations count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    /// Those of this transaction: anyone may write a message that names one.
    Transaction(u64),
    /// Those that no stream brought.
    Anybody,
}

/// Reads them, some at a time.
pub(super) struct InOrder<'s, 'a> {
    sql: &'s Prepared<'a>,
    whose: Whose,
    /// `None` at the end.
    cursor: Option<Cursor<'s, 'a>>,
    read: VecDeque<(usize, i64, Operation)>,
}

impl<'s, 'a> InOrder<'s, 'a> {
    /// `why` is a word for each time that they are read.
    pub(super) async fn new(sql: &'s Prepared<'a>, whose: Whose, why: &str) -> Result<Self> {
        let rows = failpoint::limit("page", ROWS);
        let cursor = Cursor::open(sql, format!("operations {why}"), IN_ORDER, rows).await?;
        Ok(Self { sql, whose, cursor: Some(cursor), read: VecDeque::new() })
    }

    /// The next one, if it stands before this place.
    pub(super) async fn next_before(&mut self, place: usize) -> Result<Option<(i64, Operation)>> {
        while self.read.is_empty() {
            let Some(cursor) = &self.cursor else { return Ok(None) };
            let rows = cursor.next().await?;
            if rows.is_empty() {
                self.cursor = None;
                return Ok(None);
            }
            let numbers = rows.iter().map(|row| row.get(1));
            let found = match self.whose {
                Whose::Transaction(xid) => {
                    operations::read(self.sql, &numbers.map(|number| (number, xid)).collect::<Vec<_>>()).await?
                }
                Whose::Anybody => operations::read_these(self.sql, &numbers.collect::<Vec<i64>>()).await?,
            };
            for row in &rows {
                let number: i64 = row.get(1);
                if let Some(operation) = found.get(&number) {
                    self.read.push_back((unsigned(row.get(0))?, number, operation.clone()));
                }
            }
        }
        Ok(self.read.pop_front_if(|(at, ..)| *at < place).map(|(_, number, operation)| (number, operation)))
    }
}
