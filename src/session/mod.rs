//! Connections to PostgreSQL: SQL by tokio-postgres, replication on our own (tokio-postgres does not speak it).
//!
//! Both pin the settings that decide how values are printed: text in the stream, text that a SELECT returns and text that
//! we compare follow the database's own settings otherwise.

mod authenticate;
mod database;
pub(crate) mod home;
mod password;
mod replication;
mod settings;
mod socket;
mod sql;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use database::Database;
pub(crate) use replication::{ExportedSlot, Replication, literal};
pub(crate) use sql::{Session, connect};
pub(crate) use stream::WalStream;
#[cfg(test)]
pub(crate) use tests::until;
