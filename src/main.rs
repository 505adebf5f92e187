//! portalhook: committed changes of a feedback portal's PostgreSQL as signed webhooks, exact at any lag.

mod change;
mod error;
mod lsn;
mod mapping;

fn main() {}
