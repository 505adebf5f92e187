//! The five SELECTs: read, checked, rewritten to read the mirror.

pub(crate) mod plan;
