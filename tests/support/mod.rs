//! What the tests stand on. Nothing here sleeps: every wait is for something that is announced, with a limit.

pub(crate) mod application;
pub(crate) mod cluster;
pub(crate) mod copies;
pub(crate) mod ids;
pub(crate) mod mirror;
pub(crate) mod portal;
pub(crate) mod process;
#[cfg(feature = "failpoints")]
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod receiver;
pub(crate) mod session;
pub(crate) mod verify;

use std::time::Duration;

/// How long anything may take before a test gives up. Generous: several tests and servers share few cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
