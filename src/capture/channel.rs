//! A queue of transactions, and parts of large ones, that is bounded by the memory they hold, not by their number.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::change::Arrival;

/// Bytes in the queue from which on its receiver is behind: some hundred small transactions.
const BEHIND: u32 = 64 << 10;

/// A queue for at most about `budget` bytes. What is larger passes alone, when the queue is empty.
pub(crate) fn channel(budget: usize) -> (Sender, Receiver) {
    let budget = u32::try_from(budget.max(1)).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(usize::try_from(budget).unwrap_or(Semaphore::MAX_PERMITS)));
    let (sender, receiver) = mpsc::unbounded_channel();
    (Sender { queue: sender, room: Arc::clone(&room), budget }, Receiver { queue: receiver, room })
}

/// What arrived, and the bytes that it takes from the budget.
struct Queued {
    arrival: Arrival,
    cost: u32,
}

/// The end at which capture puts transactions in.
pub(crate) struct Sender {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    budget: u32,
}

/// The end at which the writer takes them out; what it has taken counts no longer.
pub(crate) struct Receiver {
    queue: mpsc::UnboundedReceiver<Queued>,
    room: Arc<Semaphore>,
}

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Closed;

impl Sender {
    /// Puts it in if there is room, gives it back if not.
    pub(crate) fn try_send(&self, arrival: Arrival, bytes: usize) -> Result<Option<Arrival>, Closed> {
        let cost = self.cost(bytes);
        match self.room.try_acquire_many(cost) {
            Ok(permit) => {
                permit.forget();
                self.queue.send(Queued { arrival, cost }).map(|()| None).map_err(|_| Closed)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Ok(Some(arrival)),
            Err(tokio::sync::TryAcquireError::Closed) => Err(Closed),
        }
    }

    /// Waits until there is room for so many bytes. Cancel-safe: takes nothing.
    pub(super) async fn room(&self, bytes: usize) -> Result<(), Closed> {
        // This is the only sender, so the room is still there at the next `try_send`.
        self.room.acquire_many(self.cost(bytes)).await.map(drop).map_err(|_| Closed)
    }

    /// The receiver has more than it takes at once: what comes now does not wait for us.
    pub(super) fn is_behind(&self) -> bool {
        let free = u32::try_from(self.room.available_permits()).unwrap_or(u32::MAX);
        self.budget.saturating_sub(free) >= BEHIND
    }

    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.budget)
    }
}

impl Receiver {
    /// Waits for what comes next, with the bytes that it holds; `None` when capture has ended and nothing is queued.
    /// Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<(Arrival, usize)> {
        let queued = self.queue.recv().await?;
        Some(self.take(queued))
    }

    /// What comes next if it has arrived: what makes a batch is `recv`, then this until `None`.
    pub(crate) fn try_recv(&mut self) -> Option<(Arrival, usize)> {
        let queued = self.queue.try_recv().ok()?;
        Some(self.take(queued))
    }

    /// How many transactions, and parts of large ones, wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn take(&self, queued: Queued) -> (Arrival, usize) {
        let cost = usize::try_from(queued.cost).unwrap_or(usize::MAX);
        self.room.add_permits(cost);
        (queued.arrival, cost)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Transaction;
    use crate::lsn::Lsn;

    fn transaction(xid: u64) -> Arrival {
        Arrival::Whole(Transaction {
            xid,
            commit_lsn: Lsn(xid),
            end_lsn: Lsn(xid),
            commit_micros: 0,
            changes: Vec::new(),
        })
    }

    fn fits(sender: &Sender, xid: u64, bytes: usize) -> bool {
        sender.try_send(transaction(xid), bytes).expect("open").is_none()
    }

    #[tokio::test]
    async fn is_bounded_by_bytes_and_lets_a_larger_one_pass_alone() {
        let (sender, mut receiver) = channel(100);
        assert!(fits(&sender, 1, 60));
        assert!(fits(&sender, 2, 40));
        assert!(!fits(&sender, 3, 1));
        assert_eq!(receiver.queued(), 2);
        assert_eq!(receiver.recv().await, Some((transaction(1), 60)));
        assert!(!fits(&sender, 3, 1000), "only when the queue is empty");
        assert_eq!(receiver.try_recv(), Some((transaction(2), 40)));
        assert!(receiver.try_recv().is_none());
        sender.room(1000).await.expect("open");
        assert!(fits(&sender, 3, 1000));
        assert!(!fits(&sender, 4, 1));
        assert_eq!(receiver.recv().await, Some((transaction(3), 100)));
        drop(sender);
        assert!(receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_receiver_is_behind_until_it_has_taken_what_waits() {
        let (sender, mut receiver) = channel(1 << 20);
        assert!(fits(&sender, 1, 64 << 10));
        assert!(sender.is_behind());
        assert!(receiver.recv().await.is_some());
        assert!(!sender.is_behind());
        assert!(fits(&sender, 2, 1000));
        assert!(!sender.is_behind());
    }

    #[tokio::test]
    async fn a_sender_that_waits_learns_that_the_receiver_is_gone() {
        let (sender, receiver) = channel(10);
        assert!(fits(&sender, 1, 10));
        let (room, ()) = tokio::join!(sender.room(1), async { drop(receiver) });
        assert!(room.is_err());
        assert!(sender.try_send(transaction(2), 1).is_err());
    }
}
