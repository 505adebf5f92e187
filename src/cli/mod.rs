//! The commands.

pub(crate) mod listen;
