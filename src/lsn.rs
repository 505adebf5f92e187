//! A position in PostgreSQL's write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, printed as PostgreSQL's `pg_lsn` does (`16/B374D848`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// "Nothing": PostgreSQL's InvalidXLogRecPtr.
    pub(crate) const ZERO: Self = Self(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text was not two hexadecimal halves of at most 32 bits around a slash.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a WAL position such as 16/B374D848")]
pub(crate) struct NotAnLsn(String);

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| (part.len() <= 8).then(|| u64::from_str_radix(part, 16).ok()).flatten();
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| NotAnLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_postgresql_does() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse::<Lsn>().expect("valid"), lsn);
        for bad in ["", "16", "16/", "x/1", "1/123456789", "-1/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
