//! `portalhook run`.

use tokio::sync::watch;

use crate::config::Config;
use crate::daemon;
use crate::error::Result;

/// Runs the daemon until `shutdown` resolves.
pub(crate) async fn run(config: &Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let (stop, stopping) = watch::channel(false);
    let told = async {
        shutdown.await;
        tracing::info!("stopping");
        stop.send_replace(true);
        // The daemon ends this select, not the signal.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = daemon::run(config, stopping) => ended,
        () = told => Ok(()),
    }
}
