//! `capture.max_wal`: warnings before the write-ahead log that the slot keeps on the server's disk reaches that size, and the
//! end of the slot where it has and capture stands still.

use std::time::{Duration, Instant};

use crate::failpoint;
use crate::figures::{Seen, bytes};
use crate::lsn::Lsn;

/// Shares of `capture.max_wal`, in percent, at which a line is written.
const STEPS: [u64; 3] = [50, 80, 100];

/// Where nothing is confirmed or worked on for so many seconds, the slot stands still. One that moves is worth its disk: it is let
/// go of by nobody but the server (`max_slot_wal_keep_size`).
const STILL: usize = 60;

/// The longest that work counts of which nothing comes: it may be done in vain again and again.
const WORK: Duration = Duration::from_secs(3600);

/// Remembers what was said, so that each step is told once on the way up, and since when nothing moves.
pub(super) struct Guard {
    max_wal: u64,
    /// The highest step that was told.
    told: u64,
    place: Option<Place>,
    still: Duration,
}

/// Where a slot stands.
struct Place {
    restart: Lsn,
    confirmed: Lsn,
    since: Instant,
    worked: Instant,
}

/// What the guard makes of a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Well,
    /// A line for people.
    Warn(String),
    /// Why.
    GiveUp(String),
}

impl Guard {
    pub(super) fn new(max_wal: u64) -> Self {
        let still = Duration::from_secs(failpoint::limit("still", STILL) as u64);
        Self { max_wal, told: 0, place: None, still }
    }

    /// Warns where what the slot keeps has reached another step. `received`: how much of the stream we have; `is_working`:
    /// something of it is being worked on.
    pub(super) fn judge(&mut self, seen: &Seen, received: Lsn, is_working: bool, now: Instant) -> Judgement {
        let is_there = |place: &Place| (place.restart, place.confirmed) == (seen.restart, seen.confirmed);
        let mut place = self.place.take().filter(is_there).unwrap_or(Place {
            restart: seen.restart,
            confirmed: seen.confirmed,
            since: now,
            worked: now,
        });
        if is_working && now.duration_since(place.since) < WORK {
            place.worked = now;
        }
        let stands = now.duration_since(place.worked);
        self.place = Some(place);
        let share =
            u64::try_from(u128::from(seen.retained()) * 100 / u128::from(self.max_wal.max(1))).unwrap_or(u64::MAX);
        let step = STEPS.into_iter().rev().find(|step| share >= *step).unwrap_or(0);
        let before = std::mem::replace(&mut self.told, step);
        let what = || {
            let kept = bytes(seen.retained());
            format!("{kept} on the server's disk, {share} % of capture.max_wal: {}", reason(seen, received))
        };
        if share >= 100 && stands >= self.still {
            self.place = None;
            return Judgement::GiveUp(format!("it kept {}", what()));
        }
        if step > before { Judgement::Warn(format!("the replication slot keeps {}", what())) } else { Judgement::Well }
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
    fn a_slot_at_the_limit_is_given_up_where_it_stands_still_and_not_where_it_moves() {
        let mut guard = Guard::new(500);
        let begin = Instant::now();
        let mut judge = |seconds, restart| {
            guard.judge(&seen(restart, restart), Lsn(restart), false, begin + Duration::from_secs(seconds))
        };
        assert!(matches!(judge(0, 600), Judgement::Warn(_)));
        assert_eq!(judge(120, 600), Judgement::Well, "below the limit, however long");
        assert!(matches!(judge(121, 100), Judgement::Warn(_)));
        assert_eq!(judge(180, 101), Judgement::Well, "it moves");
        assert_eq!(judge(239, 101), Judgement::Well, "not long enough");
        let Judgement::GiveUp(why) = judge(240, 101) else { panic!("it is kept") };
        assert!(why.starts_with("it kept 899 B on the server's disk, 179 % of capture.max_wal"), "{why}");
        assert_eq!(judge(241, 101), Judgement::Well, "the next slot has its time, too");
    }

    /// Somebody's open transaction, or a large one of which nothing is confirmed before its end.
    #[test]
    fn a_slot_that_keeps_the_log_from_one_place_is_kept_while_anything_goes_on() {
        let mut guard = Guard::new(500);
        let begin = Instant::now();
        let mut judge = |seconds, confirmed, is_working| {
            let now = begin + Duration::from_secs(seconds);
            matches!(guard.judge(&seen(confirmed, 100), Lsn(1000), is_working, now), Judgement::GiveUp(_))
        };
        assert!(!judge(0, 100, false));
        assert!(!judge(60, 200, false), "it is confirmed");
        assert!(!judge(119, 200, true), "it is worked on");
        assert!(!judge(178, 200, false), "not long enough");
        assert!(judge(179, 200, false));
        assert!(!(200..3800).any(|seconds| judge(seconds, 200, true)), "an hour's work");
        assert!((3800..3900).any(|seconds| judge(seconds, 200, true)), "nothing comes of it");
    }

    #[test]
    fn each_step_is_told_once_on_the_way_up_and_again_after_it_was_left() {
        let mut guard = Guard::new(1000);
        let told: Vec<bool> = [900, 500, 450, 200, 190, 900, 490]
            .map(|restart| guard.judge(&seen(restart, restart), Lsn(restart), false, Instant::now()) != Judgement::Well)
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
            let Judgement::Warn(warning) =
                Guard::new(1000).judge(&seen(confirmed, restart), Lsn(received), false, Instant::now())
            else {
                panic!("no warning")
            };
            assert!(warning.contains("90 % of capture.max_wal"), "{warning}");
            assert!(warning.contains(who), "{warning}");
        }
    }
}
