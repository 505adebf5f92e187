//! Large values as they arrive, before their transaction: which are held, and for how long.

use super::Advance;
use crate::change::Arrival;
use crate::error::{Error, Kind, Result};
use crate::mirror::held;
use crate::mirror::prepared::Prepared;
use crate::session::Session;

/// What became of the large values of what was taken from the stream.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The one that is arriving is of a column that is not mirrored.
    passes: bool,
    /// Some were not held.
    passed: bool,
    /// The plan is another one since, and may name them.
    may_lack: bool,
}

impl Values {
    pub(super) fn plan_is_another(&mut self) {
        self.may_lack = self.passed;
    }

    /// Fails where the plan may name values that were not held before it was in force: they come again.
    pub(super) fn are_there(&self) -> Result<()> {
        if self.may_lack {
            return Err(Error::new(Kind::Again, "the mapping may name large values now that were left out"));
        }
        Ok(())
    }
}

impl Advance {
    /// Holds what arrives of large values, but for those of columns that are not mirrored.
    pub(super) async fn hold(&mut self, sql: &Prepared<'_>, session: &Session, arrival: Arrival) -> Result<()> {
        match arrival {
            Arrival::ValueOf(relation, column) => {
                self.values.passes = !self.may_want(session, &relation, column).await?;
                self.values.passed |= self.values.passes;
                Ok(())
            }
            Arrival::Value(piece) if !self.values.passes => held::take(sql, piece).await,
            // Nobody wants it, or it is no value.
            _ => Ok(()),
        }
    }

    /// What was taken from the stream is done: only a copy may still need values of it.
    pub(super) async fn forget_held(&mut self, sql: &Prepared<'_>) -> Result<()> {
        self.values = Values::default();
        if self.recording.is_some() {
            return Ok(());
        }
        held::forget(sql).await
    }
}
