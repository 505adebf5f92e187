//! A circuit breaker: an endpoint that only fails is probed now and then instead of being given every event.
//!
//! It holds back first attempts only. Retries follow their schedule, which is sparse; without the breaker a dead endpoint
//! would turn its whole backlog into rows that are due later.

use std::time::{Duration, Instant};

/// Opens after this many failures without a success in between.
const FAILURES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Closed until `failures` reach the limit.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    /// While open: the next first attempt may start then.
    probe_at: Option<Instant>,
    pause: Duration,
}

impl Breaker {
    /// True if a first attempt may start.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.probe_at.is_none_or(|at| at <= now)
    }

    /// A first attempt starts; while open, the next one has to wait longer than this one had.
    pub(crate) fn probe(&mut self, now: Instant) {
        if self.probe_at.is_some() {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.probe_at = Some(now + self.pause);
        }
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == FAILURES {
            self.pause = FIRST_PAUSE;
            self.probe_at = Some(now + self.pause);
        }
    }

    /// When a first attempt may start, if that has to wait.
    pub(crate) fn waits_until(&self) -> Option<Instant> {
        self.probe_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_in_a_row_leave_a_probe_now_and_then() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.allows(start));
            breaker.probe(start);
            breaker.failed(start);
        }
        assert!(!breaker.allows(start));
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let at = breaker.waits_until().expect("open");
            pauses.push((at - now).as_secs());
            now = at;
            assert!(breaker.allows(now));
            breaker.probe(now);
            assert!(!breaker.allows(now), "one probe at a time");
            breaker.failed(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        breaker.succeeded();
        assert!(breaker.allows(now));
    }
}
