//! A copy of just the columns that the mapping uses: the database as of the stream's position.

pub(crate) mod copy;
pub(crate) mod counters;
