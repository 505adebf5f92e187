//! Committed transactions, in commit order, from a logical replication slot.

mod assemble;
mod channel;
mod progress;
pub(crate) mod slot;
#[cfg(test)]
mod tests;
pub(crate) mod wal;

pub(crate) use channel::{Receiver, channel};
pub(crate) use progress::Positions;
