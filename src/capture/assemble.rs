//! Messages → transactions: the relation cache, what a message means within its transaction, xids made wide. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::{Arrival, Change, Held, Relation, Row, Transaction, TupleData};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::lsn::Lsn;
use crate::pgoutput::Message;
use crate::xid;

/// The prefix of our own logical messages; their content is the number of a row of `portalhook.operations`.
const OPERATION_PREFIX: &str = "portalhook";

/// Bytes of changes from which on a transaction is handed on in parts, each about so large: small beside the memory that
/// its evaluation takes (a vote's body is many times the vote), large beside a round trip.
const PART: usize = 1 << 20;

/// A committed transaction, or a part of a large one, and about how much memory it holds.
pub(super) struct Assembled {
    pub(super) arrival: Arrival,
    pub(super) bytes: usize,
}

/// What has come of the stream so far.
pub(super) struct Assembler {
    /// Each table as its last Relation message described it.
    relations: HashMap<u32, Arc<Relation>>,
    open: Option<Open>,
    /// The most bytes of changes that are handed on together.
    part: usize,
    /// The last transaction id, 64 bits.
    xid: u64,
    /// What ends here or earlier is known already.
    start: Lsn,
    /// The end of the last transaction: commits only move forward.
    end: Lsn,
}

/// A transaction between Begin and Commit.
struct Open {
    final_lsn: Lsn,
    xid: u64,
    changes: Vec<Change>,
    bytes: usize,
    /// Known already: what it holds is left out.
    known: bool,
    /// Parts of it were handed on.
    large: bool,
}

impl Assembler {
    /// `xid_reference` is any 64-bit transaction id from shortly before the stream begins.
    pub(super) fn new(start: Lsn, xid_reference: u64) -> Self {
        let part = failpoint::limit("part", PART);
        Self { relations: HashMap::new(), open: None, part, xid: xid_reference, start, end: Lsn::ZERO }
    }

    /// Between Begin and Commit?
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What comes is part of a transaction that is known already.
    pub(super) fn is_known(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.known)
    }

    /// Takes the stream's next message; a Commit gives the transaction, which may be without changes (PostgreSQL 14
    /// sends such, and what ended before the start has none). Of a large transaction a change may give a part: protocol 1
    /// sends what has committed, so a part can be worked on before its end is here.
    ///
    /// # Errors
    /// `Kind::Failed` where the messages contradict each other: the stream must not be trusted any further.
    pub(super) fn take(&mut self, message: Message) -> Result<Option<Assembled>> {
        match message {
            Message::Begin { final_lsn, xid, .. } => {
                if self.open.is_some() {
                    return Err(contradiction("a transaction begins inside another"));
                }
                self.xid = xid::widen(xid, self.xid);
                // The server's own rule (SnapBuildXactNeedsSkip), by which it begins at the start that it was given; it may
                // begin earlier.
                let known = final_lsn < self.start;
                let xid = self.xid;
                self.open = Some(Open { final_lsn, xid, changes: Vec::new(), bytes: 0, known, large: false });
            }
            Message::Commit { commit_lsn, end_lsn, commit_micros } => {
                return self.commit(commit_lsn, end_lsn, commit_micros).map(Some);
            }
            Message::Relation(relation) => self.learn(relation),
            Message::Insert { relation, new } => {
                let relation = self.relation(relation, &[&new])?;
                self.push(Change::Insert { relation, new })?;
            }
            Message::Update { relation, old, new } => {
                let old = old.map(crate::pgoutput::OldRow::into_row);
                let relation = match &old {
                    Some(old) => self.relation(relation, &[old, &new])?,
                    None => self.relation(relation, &[&new])?,
                };
                self.push(Change::Update { relation, old, new })?;
            }
            Message::Delete { relation, old } => {
                let old = old.into_row();
                let relation = self.relation(relation, &[&old])?;
                self.push(Change::Delete { relation, old })?;
            }
            Message::Truncate { relations, .. } => {
                let relations = relations.into_iter().map(|oid| self.relation(oid, &[])).collect::<Result<_>>()?;
                self.push(Change::Truncate { relations })?;
            }
            Message::Logical { transactional: true, prefix, content, .. } if prefix == OPERATION_PREFIX => {
                match std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok()) {
                    Some(number) => self.push(Change::Operation { number })?,
                    None => tracing::debug!(?content, "a logical message of ours holds no number: ignored"),
                }
            }
            // Other programs' messages; where a change was first made; the names of types (we know them by oid).
            Message::Logical { .. } | Message::Origin { .. } | Message::Type { .. } => {}
        }
        Ok(self.part())
    }

    /// What has come of a large transaction, once that is enough.
    fn part(&mut self) -> Option<Assembled> {
        let open = self.open.as_mut().filter(|open| open.bytes > self.part)?;
        open.large = true;
        let bytes = std::mem::take(&mut open.bytes);
        Some(Assembled { arrival: Arrival::Part(open.xid, std::mem::take(&mut open.changes)), bytes })
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, commit_micros: i64) -> Result<Assembled> {
        let Some(open) = self.open.take() else { return Err(contradiction("a commit without a transaction")) };
        if open.final_lsn != commit_lsn {
            return Err(contradiction("a transaction ends elsewhere than its beginning said"));
        }
        if end_lsn <= self.end {
            return Err(contradiction("a transaction ends before the one that came earlier"));
        }
        self.end = end_lsn;
        let transaction = Transaction { xid: open.xid, commit_lsn, end_lsn, commit_micros, changes: open.changes };
        let arrival = if open.large { Arrival::Last(transaction) } else { Arrival::Whole(transaction) };
        Ok(Assembled { arrival, bytes: open.bytes + size_of::<Transaction>() })
    }

    /// The server repeats a table's description; equal ones stay one, so that pointers tell tables apart.
    fn learn(&mut self, relation: Relation) {
        match self.relations.get(&relation.oid) {
            Some(known) if **known == relation => {}
            _ => {
                self.relations.insert(relation.oid, Arc::new(relation));
            }
        }
    }

    /// A table as it was described last.
    pub(super) fn described(&self, oid: u32) -> Result<Arc<Relation>> {
        let relation = self.relations.get(&oid).map(Arc::clone);
        relation.ok_or_else(|| contradiction("a change of a table that was not described"))
    }

    /// The same, if these rows have as many columns as it.
    fn relation(&self, oid: u32, rows: &[&Row]) -> Result<Arc<Relation>> {
        let relation = self.described(oid)?;
        if rows.iter().any(|row| row.len() != relation.columns.len()) {
            return Err(contradiction("a row has not as many columns as its table"));
        }
        Ok(relation)
    }

    fn push(&mut self, change: Change) -> Result<()> {
        let Some(open) = &mut self.open else { return Err(contradiction("a change outside of a transaction")) };
        if open.known {
            return Ok(());
        }
        open.bytes += bytes(&change);
        open.changes.push(change);
        Ok(())
    }
}

/// About how much memory a change holds.
fn bytes(change: &Change) -> usize {
    let none = Row::new();
    let (rows, more) = match change {
        Change::Insert { new, .. } => ([new, &none], 0),
        Change::Update { old, new, .. } => ([new, old.as_ref().unwrap_or(&none)], 0),
        Change::Delete { old, .. } => ([old, &none], 0),
        Change::Truncate { relations } => ([&none; 2], relations.len() * size_of::<Arc<Relation>>()),
        Change::Operation { .. } => ([&none; 2], 0),
    };
    let value = |value: &TupleData| match value {
        TupleData::Text(text) => text.len(),
        TupleData::Held(_) => size_of::<Held>(),
        TupleData::Null | TupleData::UnchangedToast => 0,
    };
    let values = rows.into_iter().flatten().map(|one| size_of::<TupleData>() + value(one));
    size_of::<Change>() + more + values.sum::<usize>()
}

fn contradiction(what: &str) -> Error {
    Error::failed(format!("read the replication stream: {what}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::change::ReplicaIdentity;

    fn begin(lsn: u64, xid: u32) -> Message {
        Message::Begin { final_lsn: Lsn(lsn), commit_micros: 0, xid }
    }

    fn commit(lsn: u64) -> Message {
        Message::Commit { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
    }

    fn operation(transactional: bool, prefix: &str, content: &'static str) -> Message {
        let content = Bytes::from_static(content.as_bytes());
        Message::Logical { transactional, lsn: Lsn(1), prefix: prefix.to_owned(), content }
    }

    fn whole(assembled: Assembled) -> Transaction {
        match assembled.arrival {
            Arrival::Whole(transaction) => transaction,
            other => panic!("not whole: {other:?}"),
        }
    }

    fn assemble(messages: Vec<Message>) -> Result<Vec<Transaction>> {
        let mut assembler = Assembler::new(Lsn(5), 0x1_0000_0000);
        let mut transactions = Vec::new();
        for message in messages {
            transactions.extend(assembler.take(message)?.map(whole));
        }
        Ok(transactions)
    }

    #[test]
    fn only_our_transactional_numbers_are_operations() {
        let messages = vec![
            begin(10, 7),
            operation(true, "portalhook", "42"),
            operation(true, "portalhook", "-1"),
            operation(true, "portalhook", "no number"),
            operation(true, "another", "43"),
            operation(false, "portalhook", "44"),
            commit(10),
        ];
        let transactions = assemble(messages).expect("a transaction");
        assert_eq!(transactions[0].changes, [Change::Operation { number: 42 }, Change::Operation { number: -1 }]);
    }

    #[test]
    fn what_ends_at_the_start_or_earlier_is_left_out_and_the_next_is_not() {
        let transaction = |begin: Lsn, end: Lsn| {
            let mut assembler = Assembler::new(Lsn(100), 0);
            let messages = [
                Message::Begin { final_lsn: begin, commit_micros: 0, xid: 1 },
                operation(true, "portalhook", "1"),
                Message::Commit { commit_lsn: begin, end_lsn: end, commit_micros: 0 },
            ];
            let taken = messages.into_iter().map(|message| assembler.take(message).expect("in order"));
            taken.flatten().next().map(whole).expect("a transaction").changes.len()
        };
        assert_eq!((transaction(Lsn(90), Lsn(100)), transaction(Lsn(100), Lsn(101))), (0, 1));
    }

    #[test]
    fn transaction_ids_cross_the_wraparound_in_both_directions() {
        let messages =
            vec![begin(10, u32::MAX), commit(10), begin(20, 3), commit(20), begin(30, u32::MAX - 1), commit(30)];
        let xids: Vec<_> =
            assemble(messages).expect("transactions").iter().map(|transaction| transaction.xid).collect();
        assert_eq!(xids, [0xffff_ffff, 0x1_0000_0003, 0xffff_fffe]);
    }

    #[test]
    fn refuses_a_stream_that_contradicts_itself() {
        let row = vec![TupleData::Null];
        let table = Relation {
            oid: 5,
            schema: "public".to_owned(),
            name: "posts".to_owned(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        };
        for (messages, why) in [
            (vec![begin(1, 1), begin(2, 2)], "inside another"),
            (vec![commit(1)], "without a transaction"),
            (vec![begin(1, 1), commit(2)], "elsewhere"),
            (vec![begin(9, 1), commit(9), begin(1, 2), commit(1)], "before the one"),
            (vec![begin(1, 1), Message::Insert { relation: 5, new: row.clone() }], "not described"),
            (vec![begin(1, 1), Message::Relation(table), Message::Insert { relation: 5, new: row }], "columns"),
            (vec![operation(true, "portalhook", "1")], "outside"),
        ] {
            let error = assemble(messages).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    /// Its parts hold what the whole would, in order, and what follows is whole again.
    #[test]
    fn a_large_transaction_comes_in_parts() {
        let mut assembler = Assembler::new(Lsn(5), 0);
        assembler.part = 3 * size_of::<Change>();
        let numbers = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let mut messages = vec![begin(10, 7)];
        messages.extend(numbers.map(|number| operation(true, "portalhook", number)));
        messages.extend([commit(10), begin(30, 8), operation(true, "portalhook", "10"), commit(30)]);
        let (mut seen, mut parts) = (Vec::new(), Vec::new());
        for message in messages {
            let Some(assembled) = assembler.take(message).expect("in order") else { continue };
            let changes = match assembled.arrival {
                Arrival::Part(_, changes) => changes,
                Arrival::Last(transaction) => {
                    assert_eq!((transaction.xid, transaction.end_lsn), (7, Lsn(18)));
                    transaction.changes
                }
                Arrival::Whole(transaction) => {
                    assert_eq!(transaction.xid, 8);
                    transaction.changes
                }
                Arrival::ValueOf(..) | Arrival::Value(_) => panic!("a value"),
            };
            parts.push(changes.len());
            seen.extend(changes);
        }
        assert_eq!(parts, [4, 4, 1, 1]);
        assert_eq!(seen, (1..=10).map(|number| Change::Operation { number }).collect::<Vec<_>>());
    }
}
