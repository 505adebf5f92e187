//! What has arrived, taken together for one group commit.

use std::time::Duration;

use crate::capture;
use crate::change::{Arrival, Transaction};
use crate::failpoint;

/// The most transactions that one group commit takes.
const GROUP: usize = 1000;

/// The most bytes of changes that it takes, but for the last transaction: what becomes of them takes several times the
/// memory.
const BYTES: usize = 2 << 20;

/// While behind, how long a group waits for more: a batch of six where hundreds are possible costs ten times as much.
const FILL: Duration = Duration::from_millis(3);

/// Fewer than this in one look means that the reader keeps pace: nothing waits.
const BEHIND: usize = 8;

/// Transactions for one group commit.
struct Gulp {
    taken: Vec<Transaction>,
    bytes: usize,
}

/// What comes next: first what is left of the last look.
pub(super) async fn next(left: &mut Option<Arrival>, transactions: &mut capture::Receiver) -> Option<(Arrival, usize)> {
    match left.take() {
        Some(arrival) => Some((arrival, 0)),
        None => transactions.recv().await,
    }
}

/// What has arrived, up to a group; while behind it waits a moment for a full one. A part of a large transaction that
/// follows is left.
pub(super) async fn gulp(
    first: Transaction,
    bytes: usize,
    transactions: &mut capture::Receiver,
    left: &mut Option<Arrival>,
) -> Vec<Transaction> {
    let mut gulp = Gulp { taken: vec![first], bytes };
    while gulp.has_room() {
        let Some(next) = transactions.try_recv() else { break };
        if let Err(other) = gulp.take(next) {
            *left = Some(other);
            return gulp.taken;
        }
    }
    if gulp.taken.len() >= BEHIND {
        let full = tokio::time::sleep(FILL);
        tokio::pin!(full);
        while gulp.has_room() {
            let next = tokio::select! {
                biased;
                next = transactions.recv() => next,
                () = &mut full => break,
            };
            let Some(next) = next else { break };
            if let Err(other) = gulp.take(next) {
                *left = Some(other);
                break;
            }
        }
    }
    gulp.taken
}

impl Gulp {
    fn has_room(&self) -> bool {
        self.taken.len() < failpoint::limit("group", GROUP) && self.bytes < BYTES
    }

    /// Takes a whole transaction, gives back anything else.
    fn take(&mut self, (arrival, bytes): (Arrival, usize)) -> Result<(), Arrival> {
        match arrival {
            Arrival::Whole(transaction) => {
                self.taken.push(transaction);
                self.bytes += bytes;
                Ok(())
            }
            other => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    fn transaction(xid: u64) -> Transaction {
        Transaction { xid, commit_lsn: Lsn(xid), end_lsn: Lsn(xid), commit_micros: 0, changes: Vec::new() }
    }

    async fn sizes(of: &[usize]) -> Vec<usize> {
        let (sender, mut receiver) = capture::channel(usize::MAX);
        for (xid, bytes) in (0..).zip(of) {
            assert!(sender.try_send(Arrival::Whole(transaction(xid)), *bytes).expect("open").is_none());
        }
        drop(sender);
        let (mut left, mut groups) = (None, Vec::new());
        while let Some((Arrival::Whole(first), bytes)) = next(&mut left, &mut receiver).await {
            groups.push(gulp(first, bytes, &mut receiver, &mut left).await.len());
        }
        groups
    }

    #[tokio::test]
    async fn a_group_is_bounded_in_transactions_and_in_bytes() {
        assert_eq!(sizes(&[100; 2200]).await, [1000, 1000, 200]);
        assert_eq!(sizes(&[BYTES / 2; 5]).await, [2, 2, 1]);
        assert_eq!(sizes(&[1, BYTES * 2, BYTES * 2, 1]).await, [2, 1, 1]);
    }

    #[tokio::test]
    async fn a_large_transaction_is_no_part_of_a_group() {
        let (sender, mut receiver) = capture::channel(1000);
        for arrival in [Arrival::Whole(transaction(1)), Arrival::Whole(transaction(2)), Arrival::Part(3, Vec::new())] {
            assert!(sender.try_send(arrival, 1).expect("open").is_none());
        }
        let mut left = None;
        let Some((Arrival::Whole(first), bytes)) = next(&mut left, &mut receiver).await else { panic!("no first") };
        assert_eq!(gulp(first, bytes, &mut receiver, &mut left).await.len(), 2);
        assert_eq!(next(&mut left, &mut receiver).await, Some((Arrival::Part(3, Vec::new()), 0)));
    }
}
