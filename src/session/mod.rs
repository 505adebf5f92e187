//! Connections to PostgreSQL: SQL by tokio-postgres, replication on our own (tokio-postgres does not speak it).
//!
//! Both pin the settings that decide how values are printed: text in the stream, text that a SELECT returns and text that
//! we compare follow the database's own settings otherwise.
//!
//! Both are opened in one way: `database` (what the URL says) → `dial` (which server, with TLS or without) → `handshake` →
//! a `Channel`, over which each says what it has to say.

mod authenticate;
mod binding;
mod certificates;
mod channel;
mod database;
mod dial;
mod handshake;
pub(crate) mod home;
mod parameters;
mod protection;
mod replication;
mod server;
mod settings;
mod sql;
mod stream;
mod surroundings;
#[cfg(test)]
mod tests;
mod tls;
mod verify;
mod wire;

pub(crate) use database::Database;
pub(crate) use protection::Protection;
pub(crate) use replication::{ExportedSlot, Replication, literal};
pub(crate) use sql::{Session, connect};
pub(crate) use stream::WalStream;
#[cfg(test)]
pub(crate) use tests::until;
