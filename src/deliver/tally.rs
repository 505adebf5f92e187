//! What delivery has done and holds, for others to look at.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts since the process started, and the newest look at what waits.
#[derive(Debug)]
pub(crate) struct Tally {
    delivered: AtomicU64,
    failed_attempts: AtomicU64,
    given_up: AtomicU64,
    load: Mutex<(Load, Instant)>,
}

/// What the dispatcher holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Enabled endpoints.
    pub(crate) endpoints: usize,
    /// Those whose last attempt failed.
    pub(crate) failing: usize,
    /// Deliveries in memory that are not settled, in flight or not.
    pub(crate) queued: usize,
    /// Requests under way.
    pub(crate) in_flight: usize,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            delivered: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            load: Mutex::new((Load::default(), Instant::now())),
        }
    }
}

impl Tally {
    /// Deliveries that an endpoint accepted.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Attempts that failed, whatever became of their deliveries.
    pub(crate) fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Deliveries that used up their attempts, or could not be sent at all.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The newest look, and how old it is: the dispatcher takes one every few seconds at least, so an old one means that
    /// it does not run.
    pub(crate) fn load(&self) -> (Load, Duration) {
        let (load, at) = *self.load.lock().unwrap_or_else(PoisonError::into_inner);
        (load, at.elapsed())
    }

    pub(super) fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failed_attempt(&self) {
        self.failed_attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_load(&self, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = (load, Instant::now());
    }
}
