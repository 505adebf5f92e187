//! `capture.max_wal`: a warning before the write-ahead log that the slot keeps on the server's disk reaches that size.

use crate::figures::{Seen, bytes};
use crate::lsn::Lsn;

/// Shares of `capture.max_wal`, in percent, at which a line is written.
const STEPS: [u64; 3] = [50, 80, 100];

/// Remembers what was said, so that each step is told once on the way up.
pub(super) struct Guard {
    max_wal: u64,
    /// The highest step that was told.
    told: u64,
}

impl Guard {
    pub(super) fn new(max_wal: u64) -> Self {
        Self { max_wal, told: 0 }
    }

    /// The warning, if what the slot keeps has reached another step. `received`: how much of the stream we have.
    pub(super) fn judge(&mut self, seen: &Seen, received: Lsn) -> Option<String> {
        let share =
            u64::try_from(u128::from(seen.retained()) * 100 / u128::from(self.max_wal.max(1))).unwrap_or(u64::MAX);
        let step = STEPS.into_iter().rev().find(|step| share >= *step).unwrap_or(0);
        let before = std::mem::replace(&mut self.told, step);
        (step > before).then(|| {
            format!(
                "the replication slot keeps {} on the server's disk, {share} % of capture.max_wal: {}",
                bytes(seen.retained()),
                reason(seen, received)
            )
        })
    }
}

/// Who is behind. Endpoints never are: what is recorded lets the slot go.
fn reason(seen: &Seen, received: Lsn) -> String {
    let unsent = seen.end.0.saturating_sub(received.0);
    let unrecorded = received.0.saturating_sub(seen.confirmed.0);
    let held = seen.confirmed.0.saturating_sub(seen.restart.0);
    if held >= unsent && held >= unrecorded {
        format!(
            "a transaction that began {} ago, counted in write-ahead log, is still open in some session (pg_stat_activity, \
             xact_start): until it ends, the server keeps the log from there",
            bytes(seen.retained())
        )
    } else if unsent >= unrecorded {
        format!("{} are still to be decoded by the server and sent to portalhook", bytes(unsent))
    } else {
        format!(
            "{} were received and are not recorded yet: events come faster than they are written",
            bytes(unrecorded)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server at 1000 with these positions.
    fn seen(confirmed: u64, restart: u64) -> Seen {
        Seen { end: Lsn(1000), confirmed: Lsn(confirmed), restart: Lsn(restart), pending: 0, disabled: 0 }
    }

    #[test]
    fn each_step_is_told_once_on_the_way_up_and_again_after_it_was_left() {
        let mut guard = Guard::new(1000);
        let told: Vec<bool> = [900, 500, 450, 200, 190, 900, 490]
            .map(|restart| guard.judge(&seen(restart, restart), Lsn(restart)).is_some())
            .to_vec();
        assert_eq!(told, [false, true, false, true, false, false, true]);
    }

    #[test]
    fn the_warning_says_who_is_behind() {
        for (confirmed, restart, received, who) in [
            (990, 100, 1000, "still open"),
            (100, 100, 100, "to be decoded by the server"),
            (100, 100, 990, "not recorded yet"),
        ] {
            let warning = Guard::new(1000).judge(&seen(confirmed, restart), Lsn(received)).expect("a warning");
            assert!(warning.contains("90 % of capture.max_wal"), "{warning}");
            assert!(warning.contains(who), "{warning}");
        }
    }
}
