//! How many bytes of the mirror may be in memory at once: whoever reads more than there is room for has to take less
//! together.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Kind, Result};
use crate::failpoint;

/// Bytes of rows that are evaluated for a batch.
const BATCH: usize = 2 << 20;

/// The same for a page of a large transaction: what becomes of those takes many times the memory.
const PAGE: usize = 1 << 20;

/// Room for rows that are in memory at the same time.
#[derive(Debug)]
pub(crate) struct Room(Option<AtomicUsize>);

/// There are more rows, or larger ones, than there is room for.
#[derive(Debug, thiserror::Error)]
#[error("the rows are too much to be in memory together")]
struct TooMuch;

impl Room {
    /// For what a batch of so many written rows comes to.
    pub(crate) fn batch(rows: usize) -> Self {
        Self::of(rows, BATCH)
    }

    /// For so many rows, or events, of a large transaction.
    pub(crate) fn page(rows: usize) -> Self {
        Self::of(rows, PAGE)
    }

    /// One row alone does not wait for room: it has a limit of its own (`Select::new`).
    fn of(rows: usize, bytes: usize) -> Self {
        if rows <= 1 {
            return Self::unbounded();
        }
        Self(Some(AtomicUsize::new(failpoint::limit("room", bytes))))
    }

    pub(crate) const fn unbounded() -> Self {
        Self(None)
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.0.is_some()
    }

    /// # Errors
    /// Such of which `is_too_much` is true, where so many bytes have no room any more.
    pub(crate) fn take(&self, bytes: usize) -> Result<()> {
        let Some(left) = &self.0 else { return Ok(()) };
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::because(Kind::Failed, "read the mirror", TooMuch)),
        }
    }
}

/// Whether less has to be taken together.
pub(crate) fn is_too_much(error: &Error) -> bool {
    error.cause::<TooMuch>().is_some()
}

/// How many rows fit together, as experience has it.
#[derive(Debug)]
pub(crate) struct Fits(usize);

impl Default for Fits {
    fn default() -> Self {
        Self(usize::MAX)
    }
}

impl Fits {
    /// How many of so many to try.
    pub(crate) fn of(&self, rows: usize) -> usize {
        rows.min(self.0)
    }

    /// What came of so many; `None`: they did not fit.
    pub(crate) fn tried<T>(&mut self, rows: usize, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(result) => {
                self.0 = self.0.saturating_add(self.0 / 8).saturating_add(1);
                Ok(Some(result))
            }
            Err(error) if is_too_much(&error) => {
                self.0 = (rows / 2).max(1);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_by_whoever_has_more_than_a_few_rows() {
        let room = Room::batch(1000);
        room.take(BATCH - 1).expect("there is room");
        assert!(is_too_much(&room.take(2).expect_err("there is none")));
        room.take(1).expect("there is room for one byte");
        assert!(is_too_much(&room.take(1).expect_err("there is none")));
        assert!(!Room::batch(1).is_bounded());
        Room::batch(1).take(usize::MAX).expect("a row alone has room");
    }

    #[test]
    fn what_did_not_fit_is_tried_with_less_and_then_with_more_again() {
        let mut fits = Fits::default();
        assert_eq!(fits.of(1000), 1000);
        let room = Room::batch(1000);
        assert!(fits.tried(1000, room.take(BATCH + 1)).expect("no other error").is_none());
        assert_eq!(fits.of(1000), 500);
        fits.tried(500, Ok(())).expect("no error").expect("it fits");
        assert_eq!(fits.of(2000), 563);
        fits.tried(563, Err::<(), _>(Error::failed("another"))).expect_err("not about room");
        assert_eq!(fits.of(2000), 563);
    }
}
