//! Signals as values that others wait for.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::systemd;

/// Turns true when the process is asked to end: SIGTERM, Ctrl-C, or the terminal is gone. The signals are caught from this
/// call on, so that none that comes before anybody looks is lost.
pub(super) fn shutdown() -> Result<watch::Receiver<bool>> {
    let mut signals = Signals::catch()?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        signals.any().await;
        stop.send_replace(true);
    });
    Ok(stopping)
}

/// What a service hears.
pub(super) struct Service {
    pub(super) shutdown: watch::Receiver<bool>,
    /// Changes when the configuration is to be read again.
    pub(super) reload: watch::Receiver<()>,
}

/// The same for a service: SIGHUP asks to read the configuration again, unless it comes from a terminal that is gone. A
/// second request to end is granted at once.
pub(super) fn service() -> Result<Service> {
    let mut signals = Signals::catch()?;
    let reloads = !is_interactive();
    let (stop, shutdown) = watch::channel(false);
    let (again, reload) = watch::channel(());
    tokio::spawn(async move {
        while matches!(signals.any().await, Caught::Hangup) && reloads {
            again.send_replace(());
        }
        stop.send_replace(true);
        // A hangup on the way out asks for nothing more.
        while matches!(signals.any().await, Caught::Hangup) {}
        // What was under way counts as never made: it is in the ledger and comes again.
        tracing::warn!("asked to end twice: ended at once");
        std::process::exit(1);
    });
    Ok(Service { shutdown, reload })
}

/// Somebody started us by hand. A service manager gives no terminal, and `nohup` takes it away.
fn is_interactive() -> bool {
    let terminal = std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal();
    terminal && !systemd::is_there()
}

enum Caught {
    End,
    Hangup,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::failed(format!("catch signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) -> Caught {
        tokio::select! {
            _ = self.terminate.recv() => Caught::End,
            _ = self.interrupt.recv() => Caught::End,
            _ = self.hangup.recv() => Caught::Hangup,
        }
    }
}
