//! The front door: capture, the heart and delivery, started together, stopped together, and started again after a fault.
//!
//! Everything that lasts is in the ledger, so a start is always the same: take the capture, load the checkpoint, go on.
//! A new configuration takes effect in the same way: the parts stop in order and start again with it.

mod catalog;
mod control;
mod gap;
mod guard;
mod house;
mod met;
mod observe;
mod retained;
mod settings;
mod source;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

pub(crate) use self::control::Control;
use self::control::Request;
use self::met::{Follower, Met};
use crate::advance::Advance;
use crate::advance::switch::copier;
use crate::capture::{self, wal};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::figures::{Figures, State};
use crate::ledger::feed::feed;
use crate::session::{self, Database};
use crate::{admin, deliver, failpoint, systemd};

/// Bytes of transactions between capture and the heart.
const QUEUE: usize = 4 << 20;

/// Waits between starts after a fault: doubled each time, from the first to the last (milliseconds).
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: usize = 10_000;

/// A run that lasted so long was well: the next fault begins with the first wait again.
const WELL: Duration = Duration::from_secs(30);

/// How long stopping may take: for attempts in flight, and then for the ledger to hear of them.
const STOP: Duration = deliver::DRAIN.saturating_add(Duration::from_secs(5));

/// Runs until it is asked to end. Once it has streamed, faults that waiting can mend are waited out; before, they are
/// returned.
pub(crate) async fn run(mut config: Config, mut control: Control) -> Result<()> {
    let database = Database::parse(config.database.url()?.expose())?;
    tracing::info!("portalhook {}: {database}", env!("CARGO_PKG_VERSION"));
    let figures = Arc::new(Figures::default());
    let (meeting, met) = watch::channel(None);
    let server = Follower::new(met);
    loop {
        let (limit, limited) = mpsc::channel(1);
        let limits = Limits { meeting: &meeting, server: &server, limited };
        let watched = async {
            tokio::join!(
                systemd::keep_informed(&figures),
                admin::serve(config.admin.listen, figures.clone()),
                observe::watch(&server, &figures, config.capture.max_wal, &limit),
                catalog::follow(&server, &figures),
                house::keep(&server, &figures, config.ledger.retention),
            );
            std::future::pending::<Result<Request>>().await
        };
        let request = tokio::select! {
            biased;
            request = Box::pin(supervise(&config, &database, &figures, &mut control, limits)) => request?,
            never = Box::pin(watched) => never?,
        };
        match request {
            Request::Stop => {
                tracing::info!("stopped: {} delivered since the start", figures.tally.delivered());
                return Ok(());
            }
            Request::Change(new) => config = *new,
        }
    }
}

/// What the supervisor has to do with the server, beside the parts.
struct Limits<'a> {
    /// Where it says which server capture has met.
    meeting: &'a watch::Sender<Option<Met>>,
    /// That server.
    server: &'a Follower,
    /// Why the slot must not be kept.
    limited: mpsc::Receiver<String>,
}

/// Runs the parts, again after each fault, until something is asked for.
async fn supervise(
    config: &Config,
    database: &Database,
    figures: &Figures,
    control: &mut Control,
    mut limits: Limits<'_>,
) -> Result<Request> {
    let mut wait = FIRST_WAIT;
    let mut patience = gap::Patience::default();
    figures.set_state(State::Starting);
    loop {
        let began = Instant::now();
        let (stop, stopping) = watch::channel(false);
        let mut running = Box::pin(once(config, database, figures, limits.meeting, &mut patience, stopping));
        let ended = tokio::select! {
            biased;
            request = control.next(config) => {
                if matches!(request, Request::Stop) {
                    figures.set_state(State::Stopping);
                }
                stop.send_replace(true);
                match timeout(STOP, &mut running).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!("while stopping: {error:?}"),
                    Err(_) => tracing::warn!("not everything stopped within {STOP:?}: what has no outcome comes again"),
                }
                return Ok(request);
            }
            Some(why) = limits.limited.recv() => {
                stop.send_replace(true);
                // What hangs ends with its connections.
                drop(timeout(STOP, &mut running).await);
                drop(running);
                guard::give_up(limits.server, &why).await
            }
            ended = &mut running => ended.and_then(|()| Err(Error::failed("the daemon stopped by itself"))),
        };
        let error = match ended {
            // The slot is given up: what is missed meanwhile is found at once.
            Ok(()) => {
                figures.set_state(State::Starting);
                wait = FIRST_WAIT;
                continue;
            }
            Err(error) if error.kind() == Kind::Again => {
                tracing::info!("{error:?}: going on from the checkpoint");
                figures.set_state(State::Starting);
                continue;
            }
            Err(error) if !figures.has_streamed() || is_final(&error) => return Err(error),
            Err(error) => error,
        };
        if began.elapsed() > WELL {
            wait = FIRST_WAIT;
        }
        tracing::error!("{error:?}; starting again in {wait:?}");
        figures.set_state(State::Faulty(format!("{error:?}")));
        // Should the manager wait for the end of a reload: it is taken, and the fault is another matter.
        systemd::ready();
        tokio::select! {
            biased;
            request = control.next(config) => return Ok(request),
            Some(why) = limits.limited.recv() => {
                if let Err(error) = guard::give_up(limits.server, &why).await {
                    tracing::error!("the replication slot cannot be given up: {error:?}");
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(Duration::from_millis(failpoint::limit("wait", LAST_WAIT) as u64));
    }
}

/// Whether no waiting can mend the fault of a daemon that was well before. A refused login can be mended at the server: a
/// password or pg_hba.conf that is being changed must not end the service for good.
fn is_final(error: &Error) -> bool {
    let refused_login = error.sqlstate().is_some_and(|state| state.code().starts_with("28"));
    matches!(error.kind(), Kind::Usage | Kind::Fenced) && !refused_login
}

/// From the checkpoint until shutdown or the first fault of any part, which ends the others.
async fn once(
    config: &Config,
    database: &Database,
    figures: &Figures,
    meeting: &watch::Sender<Option<Met>>,
    patience: &mut gap::Patience,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let session = tokio::select! {
        biased;
        _ = shutdown.wait_for(|now| *now) => return Ok(()),
        session = session::connect(database, "portalhook advance") => session?,
    };
    // Where the URL names several servers, all parts meet the one that this session has found.
    let database = session.database();
    let mut advance = Advance::load(&session, settings::advance(config)).await?;
    let source = source::look(database, &session, &mut advance).await?;
    meeting.send_replace(Some(Met::of(&session, &advance.checkpoint().slot).await?));
    if let Some(gap) = &source.gap
        && !gap::close(&session, &mut advance, gap, config, figures, patience, &mut shutdown).await?
    {
        return Ok(());
    }
    let checkpoint = advance.checkpoint().clone();

    let (stop, stopping) = watch::channel(false);
    let (sender, mut transactions) = capture::channel(QUEUE);
    let (confirm, confirmed) = watch::channel(checkpoint.lsn);
    let (mut offers, mut offered) = feed(checkpoint.position);
    figures.set_committed(offered.follow());
    let start = wal::Start {
        slot: checkpoint.slot.clone(),
        publication: checkpoint.publication.clone(),
        lsn: checkpoint.lsn,
        xid_reference: checkpoint.xid,
    };
    let streaming = || {
        tracing::info!(slot = checkpoint.slot, lsn = %checkpoint.lsn, postgresql = source.version, "streaming");
        figures.set_state(State::Streaming);
        systemd::ready();
    };
    let connect = async || session::connect(database, "portalhook deliver").await;
    let delivery = settings::deliver(config, figures);

    let capturing = wal::run(database, &start, sender, confirmed, &figures.positions, streaming, stopping.clone());
    let (command, mut commands) = mpsc::channel(1);
    let advancing = advance.run(&session, &mut transactions, &mut commands, &confirm, &mut offers, stopping.clone());
    let copying = copier::run(database, command, stopping.clone());
    let delivering = deliver::run(delivery, connect, &mut offered, stopping.clone());
    let told = async {
        let mut stopping = stopping;
        tokio::select! {
            _ = shutdown.wait_for(|now| *now) => {}
            _ = stopping.wait_for(|now| *now) => {}
        }
        Ok(())
    };
    let (captured, advanced, delivered, ..) = tokio::join!(
        ending(&stop, Box::pin(capturing)),
        ending(&stop, Box::pin(advancing)),
        ending(&stop, Box::pin(delivering)),
        ending(&stop, Box::pin(copying)),
        ending(&stop, Box::pin(told)),
    );
    // A fault of capture is the cause where there are several: the heart only sees that nothing comes any more.
    captured.and(advanced).and(delivered)
}

/// Whoever ends first ends all: by request, or with the fault that the daemon will wait out.
async fn ending(stop: &watch::Sender<bool>, part: impl Future<Output = Result<()>>) -> Result<()> {
    let result = part.await;
    stop.send_replace(true);
    result
}
