//! `portalhook setup`: prepares a database, with the owner's rights, for a daemon that has hardly any.

pub(crate) mod migrations;

#[cfg(test)]
mod surface_tests;
