//! The durable state: events, what became of them, and how far each endpoint is.

pub(crate) mod backlog;
pub(crate) mod cancel;
pub(crate) mod feed;
pub(crate) mod finish;
pub(crate) mod reader;
