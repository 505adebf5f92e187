//! What the daemon is asked while it runs: to end, or to take another configuration.

use tokio::sync::watch;

use crate::config::Config;
use crate::deliver;
use crate::error::Result;
use crate::{log, systemd};

/// How the outside reaches the daemon.
pub(crate) struct Control {
    /// Turns true to end it.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Changes to have the configuration read again.
    pub(crate) reload: watch::Receiver<()>,
    /// Reads the configuration as it is now.
    pub(crate) read: Box<dyn Fn() -> Result<Config> + Send + Sync>,
}

/// What was asked.
pub(super) enum Request {
    Stop,
    /// Go on with this configuration.
    Change(Box<Config>),
}

impl Control {
    /// The next request that stands. A configuration that is wrong is told, and nothing changes. Safe to cancel.
    pub(super) async fn next(&mut self, config: &Config) -> Request {
        loop {
            tokio::select! {
                biased;
                // A sender that is gone wants us gone.
                _ = self.shutdown.wait_for(|now| *now) => {
                    tracing::info!("stopping: requests under way have {:?}", deliver::DRAIN);
                    systemd::stopping();
                    return Request::Stop;
                }
                Ok(()) = self.reload.changed() => {}
            }
            systemd::reloading();
            match self.changed(config) {
                Ok(new) => return Request::Change(Box::new(new)),
                Err(error) => {
                    tracing::error!("the new configuration is not taken, the old one stays: {error:?}");
                    systemd::ready();
                }
            }
        }
    }

    /// The configuration as it is now, but for what only a start can change.
    fn changed(&self, old: &Config) -> Result<Config> {
        let mut new = (self.read)()?;
        let mut later = Vec::new();
        if new.database.url()? != old.database.url()? {
            new.database = old.database.clone();
            later.push("database.url");
        }
        if new.log.format != old.log.format {
            new.log.format = old.log.format;
            later.push("log.format");
        }
        log::set_level(new.log.level)?;
        tracing::info!("the configuration was read again");
        if !later.is_empty() {
            tracing::warn!("{} takes effect when the daemon is started again", later.join(", "));
        }
        Ok(new)
    }
}
