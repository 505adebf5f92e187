//! The command line.

pub(crate) mod setup;
