//! When a failed delivery is tried again, and when an endpoint is given up. A pure function of time and attempt.

use std::time::Duration;

use super::outcome::Failure;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
/// No answer of an endpoint postpones an attempt further than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * HOUR);

/// The schedule and the limits (DESIGN §4); every one a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Pauses between attempts; one attempt more than there are pauses.
    pub(crate) pauses: Vec<Duration>,
    /// This many deliveries in a row that used up their attempts disable the endpoint.
    pub(crate) disable_after: u32,
    /// So does this long without one success, while attempts fail.
    pub(crate) patience: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let seconds = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self {
            pauses: seconds.map(Duration::from_secs).to_vec(),
            disable_after: 5,
            patience: Duration::from_secs(5 * 24 * HOUR),
        }
    }
}

/// What follows a failed attempt for its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after this pause.
    Retry(Duration),
    /// All attempts are used up, or another could not help: `failed`.
    GiveUp,
}

impl Policy {
    /// What follows attempt number `attempt` (from 1). `pauses` is the endpoint's own schedule, if it has one; `seed`
    /// decides the jitter, which moves a pause by at most a tenth.
    pub(crate) fn next(&self, pauses: Option<&[Duration]>, attempt: u32, failure: &Failure, seed: u64) -> Next {
        if failure.class.is_final() {
            return Next::GiveUp;
        }
        let pauses = pauses.unwrap_or(&self.pauses);
        let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(pause) = pauses.get(index) else { return Next::GiveUp };
        let pause = jittered(*pause, seed);
        let asked = failure.retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Next::Retry(pause.max(asked))
    }

    /// Why the endpoint is given up after this failure, if it is. `exhausted` counts the deliveries in a row that used
    /// up their attempts, this one included; `failing_for` is the time since the first failure after the last success.
    pub(crate) fn verdict(&self, failure: &Failure, exhausted: u32, failing_for: Duration) -> Option<String> {
        if failure.status == Some(410) {
            Some("the endpoint answered 410 Gone".to_owned())
        } else if exhausted >= self.disable_after {
            Some(format!("{exhausted} deliveries in a row used up their attempts; the last error: {}", failure.error))
        } else if failing_for >= self.patience {
            let days = failing_for.as_secs() / (24 * HOUR);
            Some(format!("no success in {days} days; the last error: {}", failure.error))
        } else {
            None
        }
    }
}

/// The pause times a factor between 0.9 and 1.1 that depends on the seed alone.
fn jittered(pause: Duration, seed: u64) -> Duration {
    // SplitMix64's finaliser: neighbouring seeds give unrelated numbers.
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let thousandths = u32::try_from((x ^ (x >> 31)) % 201).expect("below 201");
    pause * (900 + thousandths) / 1000
}

/// The seed of an attempt's jitter: the same for the same attempt, whoever makes it.
pub(crate) fn seed(endpoint: i64, position: i64, attempt: u32) -> u64 {
    (endpoint.cast_unsigned().rotate_left(40)) ^ position.cast_unsigned().rotate_left(8) ^ u64::from(attempt)
}

/// `Retry-After` as seconds or as an HTTP date (RFC 9110 §10.2.3); `now` in seconds since 1970-01-01 UTC.
pub(crate) fn retry_after(value: &str, now: i64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::from_secs(u64::try_from(at.as_second() - now).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Class;
    use super::*;

    fn failure(status: u16) -> Failure {
        Failure {
            status: Some(status),
            ..Failure::without_answer(Class::Status, format!("status {status}"), Duration::ZERO)
        }
    }

    #[test]
    fn the_schedule_is_ten_attempts_over_three_days() {
        let policy = Policy::default();
        let expected = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
        for (attempt, seconds) in (1..).zip(expected) {
            for seed in 0..50 {
                let Next::Retry(pause) = policy.next(None, attempt, &failure(500), seed) else {
                    panic!("attempt {attempt} was given up")
                };
                let (low, high) = (seconds as f64 * 0.899, seconds as f64 * 1.101);
                assert!((low..=high).contains(&pause.as_secs_f64()), "attempt {attempt}: {pause:?}");
            }
        }
        assert_eq!(policy.next(None, 10, &failure(500), 0), Next::GiveUp);
    }

    #[test]
    fn jitter_differs_between_attempts_and_not_between_runs() {
        let pause = |seed| jittered(Duration::from_secs(1000), seed);
        assert_eq!(pause(seed(1, 2, 3)), pause(seed(1, 2, 3)));
        let distinct: std::collections::BTreeSet<_> = (0..100).map(|position| pause(seed(1, position, 1))).collect();
        assert!(distinct.len() > 50);
    }

    #[test]
    fn an_endpoint_s_own_schedule_replaces_the_default() {
        let own = [Duration::from_secs(1)];
        let policy = Policy::default();
        assert!(
            matches!(policy.next(Some(&own), 1, &failure(500), 0), Next::Retry(pause) if pause < Duration::from_secs(2))
        );
        assert_eq!(policy.next(Some(&own), 2, &failure(500), 0), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_honoured_and_capped_at_a_day() {
        let policy = Policy::default();
        let asked = |seconds| Failure { retry_after: Some(Duration::from_secs(seconds)), ..failure(503) };
        assert_eq!(policy.next(None, 1, &asked(120), 0), Next::Retry(Duration::from_secs(120)));
        assert_eq!(policy.next(None, 1, &asked(10 * 86_400), 0), Next::Retry(Duration::from_secs(86_400)));
        assert!(matches!(policy.next(None, 1, &asked(0), 0), Next::Retry(pause) if pause > Duration::from_secs(4)));
    }

    #[test]
    fn retry_after_is_read_in_both_spellings() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(date, 784_111_767), Some(Duration::from_secs(10)));
        assert_eq!(retry_after(date, 784_111_877), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
        assert_eq!(retry_after("-1", 0), None);
    }

    #[test]
    fn an_endpoint_is_given_up_for_one_of_three_reasons() {
        let policy = Policy::default();
        let day = Duration::from_secs(86_400);
        assert_eq!(policy.verdict(&failure(500), 4, 4 * day), None);
        for (failure, exhausted, failing_for, reason) in [
            (failure(410), 0, Duration::ZERO, "the endpoint answered 410 Gone"),
            (failure(500), 5, day, "5 deliveries in a row used up their attempts; the last error: status 500"),
            (failure(500), 0, 5 * day, "no success in 5 days; the last error: status 500"),
        ] {
            assert_eq!(policy.verdict(&failure, exhausted, failing_for).as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_body_that_cannot_be_sent_is_not_tried_again() {
        let missing = Failure::without_answer(Class::BodyMissing, "no body", Duration::ZERO);
        assert_eq!(Policy::default().next(None, 1, &missing, 0), Next::GiveUp);
    }
}
