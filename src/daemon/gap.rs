//! Takes the stream up again where it was interrupted. While the mapping does not fit its tables that has to wait for the
//! operator; deliveries do not.

use std::time::Duration;

use tokio::sync::watch;

use super::settings;
use crate::advance::{Advance, Gap};
use crate::config::Config;
use crate::error::Result;
use crate::figures::{Figures, State};
use crate::ledger::feed::feed;
use crate::session::{self, Session};
use crate::{deliver, systemd};

/// How often the mapping is looked at while it does not fit.
const LOOK: Duration = Duration::from_millis(500);

/// False: an end is wanted.
///
/// # Errors
/// As `Advance::close_gap`.
pub(super) async fn close(
    session: &Session,
    advance: &mut Advance,
    gap: &Gap,
    config: &Config,
    figures: &Figures,
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
    if !fits && !Box::pin(wait(session, advance, config, figures, shutdown)).await? {
        return Ok(false);
    }
    tokio::select! {
        biased;
        _ = shutdown.wait_for(|now| *now) => Ok(false),
        closed = Box::pin(advance.close_gap(session.database(), session, gap)) => closed.map(|()| true),
    }
}

/// Delivers what was recorded until the mapping fits; false: an end is wanted.
async fn wait(
    session: &Session,
    advance: &mut Advance,
    config: &Config,
    figures: &Figures,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<bool> {
    let (stop, stopping) = watch::channel(false);
    let (_feed, mut offered) = feed(advance.checkpoint().position);
    figures.set_committed(offered.follow());
    let connect = async || session::connect(session.database(), "portalhook deliver").await;
    let delivering = deliver::run(settings::deliver(config, figures), connect, &mut offered, stopping);
    let fitting = async {
        let fits = loop {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|now| *now) => break Ok(false),
                () = tokio::time::sleep(LOOK) => {}
            }
            match advance.gap_can_be_closed(session).await {
                Ok(false) => {}
                fits => break fits,
            }
        };
        stop.send_replace(true);
        fits
    };
    let ((), fits) = tokio::try_join!(Box::pin(delivering), Box::pin(fitting))?;
    Ok(fits)
}
