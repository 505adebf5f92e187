//! PostgreSQL's logical replication messages (plugin `pgoutput`, protocol version 1, text format): bytes → `Message`.
//!
//! Pure: no input or output, and hostile bytes are an error, never a panic. Source: the PostgreSQL manual, "Logical
//! Replication Message Formats" and, for what carries them, "Streaming Replication Protocol".

#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod decode;
#[cfg(test)]
mod encode;
mod frame;
mod message;
#[cfg(test)]
mod properties;
mod sieve;

pub(crate) use decode::Malformed;
pub(crate) use frame::{Frame, Status};
pub(crate) use message::{Message, OldRow};
pub(crate) use sieve::Sieve;
