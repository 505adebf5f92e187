//! portalhook against a real PostgreSQL and real HTTP receivers, as an operator runs it: the built binary, `setup` with the
//! owner's rights, `run` as the unprivileged role.

mod applications;
mod body;
mod command_line;
mod commands;
mod connections;
mod constructs;
mod copies;
#[cfg(feature = "failpoints")]
mod crashes;
mod demo;
mod endpoints;
mod failover;
mod gaps;
mod generated;
mod keys;
#[cfg(feature = "failpoints")]
mod large;
mod large_rows;
mod large_values;
mod long_way;
mod migrations;
mod operators;
mod oracle;
mod outages;
mod parts;
mod pauses;
mod rights;
mod service;
mod sessions;
mod shapes;
mod support;
mod surroundings;
mod switches;
mod throughput;
mod transactions;
#[cfg(feature = "failpoints")]
mod troubles;
mod types;
mod wide_tables;
