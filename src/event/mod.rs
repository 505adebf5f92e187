//! States before and after a transaction → its events, their ids and their bodies. Pure.

pub(crate) mod body;
pub(crate) mod diff;
pub(crate) mod id;
pub(crate) mod shape;
