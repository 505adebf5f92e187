//! Takes the stream up again where it was interrupted. While the mapping does not fit its tables that has to wait for the
//! operator, and while migrations are under way for these; deliveries do not.

use std::time::Duration;

use tokio::sync::watch;

use super::settings;
use crate::advance::{Advance, Gap};
use crate::config::Config;
use crate::error::{Kind, Result};
use crate::figures::{Figures, State};
use crate::ledger::feed::feed;
use crate::session::{self, Session};
use crate::{deliver, systemd};

/// How often the mapping is looked at while it does not fit.
const LOOK: Duration = Duration::from_millis(500);

/// Pauses after the comparison gave way to a migration: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait before a gap is tried again, over all starts of the parts.
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Patience {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LAST_PAUSE);
        pause
    }
}

/// False: an end is wanted.
///
/// # Errors
/// As `Advance::close_gap`. Where the comparison gave way to a migration, it has waited before: application and daemon must not
/// take turns without end.
pub(super) async fn close(
    session: &Session,
    advance: &mut Advance,
    gap: &Gap,
    config: &Config,
    figures: &Figures,
    patience: &mut Patience,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<bool> {
    figures.set_state(State::Closing(gap.why.clone()));
    // It may take long, and the service does what it can.
    systemd::ready();
    let fits = tokio::select! {
        biased;
        // The session ends with us, and what it has not committed with it.
        _ = shutdown.wait_for(|now| *now) => return Ok(false),
        fits = Box::pin(advance.gap_can_be_closed(session)) => fits?,
    };
    let position = advance.checkpoint().position;
    if !fits && !deliver_until(session, position, config, figures, fitting(session, advance, shutdown)).await? {
        return Ok(false);
    }
    let closed = tokio::select! {
        biased;
        _ = shutdown.wait_for(|now| *now) => return Ok(false),
        closed = Box::pin(advance.close_gap(session.database(), session, gap)) => closed,
    };
    match closed {
        Err(error) if error.kind() == Kind::Again => {
            let pause = patience.next();
            tracing::warn!("{error:?}; the gap stays open and deliveries go on, trying again in {pause:?}");
            let paused = async {
                tokio::select! {
                    biased;
                    _ = shutdown.wait_for(|now| *now) => Ok(false),
                    () = tokio::time::sleep(pause) => Ok(true),
                }
            };
            if deliver_until(session, position, config, figures, paused).await? { Err(error) } else { Ok(false) }
        }
        closed => {
            *patience = Patience::default();
            closed.map(|()| true)
        }
    }
}

/// Looks again and again until the mapping fits; false: an end is wanted.
async fn fitting(session: &Session, advance: &mut Advance, shutdown: &mut watch::Receiver<bool>) -> Result<bool> {
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|now| *now) => return Ok(false),
            () = tokio::time::sleep(LOOK) => {}
        }
        if advance.gap_can_be_closed(session).await? {
            return Ok(true);
        }
    }
}

/// Delivers what was recorded up to `position` until that is over; gives what it came to.
async fn deliver_until(
    session: &Session,
    position: i64,
    config: &Config,
    figures: &Figures,
    over: impl Future<Output = Result<bool>>,
) -> Result<bool> {
    let (stop, stopping) = watch::channel(false);
    let (_feed, mut offered) = feed(position);
    figures.set_committed(offered.follow());
    let connect = async || session::connect(session.database(), "portalhook deliver").await;
    let delivering = deliver::run(settings::deliver(config, figures), connect, &mut offered, stopping);
    let over = async {
        let over = over.await;
        stop.send_replace(true);
        over
    };
    let ((), over) = tokio::try_join!(Box::pin(delivering), Box::pin(over))?;
    Ok(over)
}
