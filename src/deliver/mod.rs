//! From the ledger to the endpoints: signed requests, retries, order, isolation.

mod breaker;
mod dispatcher;
mod endpoint;
mod flight;
mod health;
mod lanes;
mod network;
mod outcome;
mod outlet;
mod recent;
mod retry;
mod secrets;
mod send;
pub(crate) mod sign;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub(crate) use dispatcher::run;
pub(crate) use retry::Policy;
pub(crate) use tally::{Load, Tally};

/// The settings below `deliver.`, valid.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// For a whole attempt, of endpoints without their own.
    pub(crate) timeout: Duration,
    pub(crate) retries: Policy,
    /// Networks that endpoints may live in although they are private.
    pub(crate) allow_networks: Vec<IpNet>,
    /// Attempts at once, of endpoints without their own.
    pub(crate) max_in_flight: usize,
    /// Bytes; a larger body is a visible failure.
    pub(crate) max_body: usize,
    /// How long a shutdown waits for attempts in flight.
    pub(crate) drain: Duration,
    /// Where it counts what it does; it outlives a run.
    pub(crate) tally: Arc<Tally>,
}

/// How long a shutdown waits for attempts in flight, unless set otherwise.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            retries: Policy::default(),
            allow_networks: Vec::new(),
            max_in_flight: 16,
            max_body: 1_000_000,
            drain: DRAIN,
            tally: Arc::default(),
        }
    }
}
