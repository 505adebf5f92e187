//! The five SELECTs: read, checked, rewritten to read the mirror.

mod catalog;
mod chance;
mod check;
pub(crate) mod clock;
mod columns;
mod edits;
pub(crate) mod file;
mod ids;
pub(crate) mod layout;
pub(crate) mod mirrors;
mod path;
pub(crate) mod plan;
mod prove;
pub(crate) mod read;
pub(crate) mod record;
mod rewrite;
pub(crate) mod select;
pub(crate) mod stored;
mod syntax;
mod uses;
pub(crate) mod value;

#[cfg(test)]
mod tests;
