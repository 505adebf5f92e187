//! The mirror: just the columns that the mapping uses, of every table that it uses, as of the stream's position.

pub(crate) mod apply;
pub(crate) mod array;
mod bag;
pub(crate) mod cache;
pub(crate) mod catalog;
pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod count;
pub(crate) mod counters;
pub(crate) mod courtesy;
pub(crate) mod evaluate;
pub(crate) mod filter;
pub(crate) mod held;
pub(crate) mod net;
pub(crate) mod prepared;
pub(crate) mod room;
pub(crate) mod select;
pub(crate) mod show;
