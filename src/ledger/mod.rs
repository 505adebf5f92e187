//! The durable state, in the same database: where capture and delivery meet.

pub(crate) mod checkpoint;
pub(crate) mod feed;
pub(crate) mod partitions;
pub(crate) mod record;
