//! The durable state, in the same database, where capture and delivery meet: how far the stream was taken, events, what
//! became of them, and how far each endpoint is.

pub(crate) mod backlog;
pub(crate) mod cancel;
pub(crate) mod checkpoint;
pub(crate) mod content;
pub(crate) mod feed;
pub(crate) mod finish;
pub(crate) mod partitions;
pub(crate) mod prune;
pub(crate) mod record;
