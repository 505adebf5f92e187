//! What the service manager hears of us (`sd_notify(3)`). Without one, that is without `NOTIFY_SOCKET`, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::figures::{Figures, State};

/// Between two status lines that nothing else asks for.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Delivery reads its settings every five seconds and tells what it holds; after so long without a word it is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// We were started by a service manager that listens.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Reading the configuration again. With `Type=notify-reload` the manager waits for `ready` from here on.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}

/// Doing what the configuration says: streaming, or after a reload that was refused.
pub(crate) fn ready() {
    say(&[NotifyState::Ready]);
}

/// On the way out.
pub(crate) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Keeps the status line new, and the watchdog quiet for as long as there is no reason for it to bark.
pub(crate) async fn keep_informed(figures: &Figures) {
    if !is_there() {
        return std::future::pending().await;
    }
    let mut state = figures.follow();
    loop {
        say(&[NotifyState::Status(&one_line(&figures.to_string()))]);
        if is_alive(figures) {
            say(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            _ = state.changed() => {}
            () = tokio::time::sleep(STATUS_EVERY) => {}
        }
    }
}

/// Not streaming is a state that the supervisor waits in; streaming without a look round is being stuck.
fn is_alive(figures: &Figures) -> bool {
    figures.state() != State::Streaming || figures.tally.load().1 < STUCK
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn say(states: &[NotifyState<'_>]) {
    // Nothing depends on it, and there is nobody to tell but the log.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("starting again after: a\nREADY=1"), "starting again after: a READY=1");
    }
}
