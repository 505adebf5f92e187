//! What the tester answers: as a good receiver does, or as it is told to misbehave.

use std::time::Duration;

use axum::http::StatusCode;
use clap::Args;

/// How to misbehave.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Answers {
    /// Answer with this status; with --fail-rate, only what is to fail [default there: 500]
    #[arg(long, value_name = "CODE", value_parser = code)]
    status: Option<StatusCode>,
    /// Wait so long before each answer
    #[arg(long, value_name = "DURATION", value_parser = super::super::test::duration_of)]
    pub(super) delay: Option<Duration>,
    /// Let this share of the requests fail, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    fail_rate: Option<f64>,
    /// Which requests fail: the same seed, the same ones
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

fn code(text: &str) -> Result<StatusCode, String> {
    let code = text.parse().ok().filter(|code: &u16| (200..600).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| "expected an HTTP status from 200 to 599".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

impl Answers {
    /// The answer to the request that came as number `number` (from 0).
    pub(crate) fn status(&self, number: u64, verified: bool) -> StatusCode {
        let usual = if verified { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        match (self.fail_rate, self.status) {
            (Some(rate), status) if self.draw(number) < rate => status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            (Some(_), _) | (None, None) => usual,
            (None, Some(status)) => status,
        }
    }

    pub(crate) fn delay(&self) -> Duration {
        self.delay.unwrap_or_default()
    }

    /// A number from 0 up to 1 that seed and request alone decide (SplitMix64).
    fn draw(&self, number: u64) -> f64 {
        let mut bits = self.seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits fit a double exactly.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(status: Option<u16>, fail_rate: Option<f64>, seed: u64) -> Vec<u16> {
        let status = status.map(|code| StatusCode::from_u16(code).expect("a status"));
        let answers = Answers { status, delay: None, fail_rate, seed };
        (0..1000).map(|number| answers.status(number, true).as_u16()).collect()
    }

    #[test]
    fn a_share_fails_and_always_the_same_one() {
        let some = answers(None, Some(0.3), 7);
        let failed = some.iter().filter(|status| **status == 500).count();
        assert!((250..350).contains(&failed), "{failed} of 1000");
        assert_eq!(some, answers(None, Some(0.3), 7));
        assert_ne!(some, answers(None, Some(0.3), 8));
        assert!(answers(Some(503), Some(1.0), 7).iter().all(|status| *status == 503));
        assert!(answers(Some(503), Some(0.0), 7).iter().all(|status| *status == 200));
    }

    #[test]
    fn without_a_share_a_status_is_for_all() {
        assert!(answers(Some(410), None, 1).iter().all(|status| *status == 410));
        let good = Answers::default();
        assert_eq!((good.status(0, true).as_u16(), good.status(0, false).as_u16()), (200, 401));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(code("99").is_err() && code("abc").is_err() && code("600").is_err());
        assert!(share("1.1").is_err() && share("-0.1").is_err() && share("NaN").is_err() && share("0.5").is_ok());
    }
}
