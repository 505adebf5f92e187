//! Which transactions a snapshot of PostgreSQL sees (manual, "pg_snapshot Components"). Pure.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A `pg_snapshot`: `xmin:xmax:xid,xid,…`, all of 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    min: u64,
    max: u64,
    /// Under way when it was taken, sorted.
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether the transaction, if it committed at all, had done so when the snapshot was taken.
    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.min || (xid < self.max && self.running.binary_search(&xid).is_err())
    }
}

impl FromStr for Snapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::failed(format!("`{text}` is no snapshot"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let mut parts = text.split(':');
        let (Some(min), Some(max), Some(running), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let mut running: Vec<u64> =
            running.split(',').filter(|part| !part.is_empty()).map(number).collect::<Result<_, _>>()?;
        running.sort_unstable();
        Ok(Self { min: number(min)?, max: number(max)?, running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_had_committed() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().expect("a snapshot");
        let seen: Vec<u64> = (8..22).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
        let quiet: Snapshot = "10:10:".parse().expect("a snapshot");
        assert!(quiet.sees(9) && !quiet.sees(10));
        for wrong in ["", "1", "1:2", "1:2:3:4", "a:2:", "1:2:x"] {
            assert!(wrong.parse::<Snapshot>().is_err(), "{wrong}");
        }
    }
}
