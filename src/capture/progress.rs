//! How far we are: what the server may be told, and what a status line shows.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::lsn::Lsn;

/// Decides what may be confirmed. Pure; it only moves forward.
///
/// Confirmed is what the consumer has made durable. Where it holds everything that was ever handed to it, and no
/// transaction is on its way, what the server has sent beyond that is nothing for us, and is confirmed too: so the slot
/// moves while only tables are written that we do not read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    received: Lsn,
    /// The end of the last transaction that the consumer gets; it may not have it yet.
    handed: Lsn,
    /// Up to here, nothing but what was handed is for us.
    passed: Lsn,
    durable: Lsn,
    confirmed: Lsn,
}

impl Progress {
    /// Everything up to `start` is durable.
    pub(super) fn new(start: Lsn) -> Self {
        Self { durable: start, confirmed: start, ..Self::default() }
    }

    /// A transaction for the consumer has come.
    pub(super) fn hand(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.handed = self.handed.max(end);
    }

    /// The server has sent everything up to here, and what is not handed is nothing for us. Must not be called between
    /// Begin and Commit.
    pub(super) fn pass(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.passed = self.passed.max(end);
    }

    /// The consumer has everything up to here, for good.
    pub(super) fn durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    pub(super) fn received(&self) -> Lsn {
        self.received.max(self.confirmed)
    }

    /// The consumer is done with all that it was handed.
    pub(super) fn is_settled(&self) -> bool {
        self.durable >= self.handed
    }

    /// What the slot may move to.
    pub(super) fn confirm(&mut self) -> Lsn {
        let idle = if self.is_settled() { self.passed } else { Lsn::ZERO };
        self.confirmed = self.confirmed.max(self.durable).max(idle);
        self.confirmed
    }
}

/// The same for others to look at: each moves forward on its own.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    received: AtomicU64,
    confirmed: AtomicU64,
    described: Notify,
}

impl Positions {
    /// Everything that the server sent up to here has arrived (not what is between Begin and Commit).
    pub(crate) fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Relaxed))
    }

    /// What the server was last told to forget.
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Relaxed))
    }

    /// Ends when the stream has described a table: at its first change, and whenever it was altered.
    pub(crate) async fn described(&self) {
        self.described.notified().await;
    }

    pub(super) fn set_described(&self) {
        self.described.notify_one();
    }

    pub(super) fn set_received(&self, lsn: Lsn) {
        self.received.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub(super) fn set_confirmed(&self, lsn: Lsn) {
        self.confirmed.fetch_max(lsn.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_confirms_what_the_server_has_sent() {
        let mut progress = Progress::new(Lsn(100));
        assert_eq!(progress.confirm(), Lsn(100));
        progress.pass(Lsn(150));
        assert_eq!((progress.received(), progress.confirm()), (Lsn(150), Lsn(150)));
    }

    #[test]
    fn never_confirms_past_what_is_received_and_not_durable() {
        let mut progress = Progress::new(Lsn(100));
        progress.hand(Lsn(120));
        progress.pass(Lsn(150));
        assert_eq!((progress.received(), progress.confirm()), (Lsn(150), Lsn(100)));
        progress.hand(Lsn(170));
        progress.durable(Lsn(120));
        assert_eq!(progress.confirm(), Lsn(120));
        progress.durable(Lsn(170));
        assert_eq!(progress.confirm(), Lsn(170));
        progress.pass(Lsn(200));
        assert_eq!(progress.confirm(), Lsn(200));
    }

    #[test]
    fn only_moves_forward() {
        let mut progress = Progress::new(Lsn(100));
        progress.pass(Lsn(200));
        assert_eq!(progress.confirm(), Lsn(200));
        progress.hand(Lsn(210));
        progress.durable(Lsn(90));
        progress.pass(Lsn(150));
        assert_eq!((progress.received(), progress.confirm()), (Lsn(210), Lsn(200)));
    }
}
