//! The front door: capture, the heart and delivery, started together, stopped together, and started again after a fault.
//!
//! Everything that lasts is in the ledger, so a start is always the same: take the capture, load the checkpoint, go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::advance::{self, Advance};
use crate::capture::{self, Positions, wal};
use crate::config::{Cascades, Config};
use crate::deliver;
use crate::error::{Error, Kind, Result};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::feed::feed;
use crate::session::{self, Database, Replication};

/// Bytes of transactions between capture and the heart.
const QUEUE: usize = 16 << 20;

/// Waits between starts after a fault: doubled each time, from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A run that lasted so long was well: the next fault begins with the first wait again.
const WELL: Duration = Duration::from_secs(30);

/// Runs until `shutdown`. Once it has streamed, faults that waiting can mend are waited out; before, they are returned.
pub(crate) async fn run(config: &Config, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let database = Database::parse(config.database.url()?.expose())?;
    let streamed = AtomicBool::new(false);
    let mut wait = FIRST_WAIT;
    loop {
        let began = tokio::time::Instant::now();
        let error = match once(config, &database, &streamed, shutdown.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error.kind(), Kind::Usage | Kind::Fenced) => return Err(error),
            Err(error) if !streamed.load(Ordering::Relaxed) => return Err(error),
            Err(error) => error,
        };
        if began.elapsed() > WELL {
            wait = FIRST_WAIT;
        }
        tracing::error!("{error:?}; starting again in {wait:?}");
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|now| *now) => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// From the checkpoint until shutdown or the first fault of any part, which ends the others.
async fn once(
    config: &Config,
    database: &Database,
    streamed: &AtomicBool,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let session = tokio::select! {
        biased;
        _ = shutdown.wait_for(|now| *now) => return Ok(()),
        session = session::connect(database, "portalhook advance") => session?,
    };
    let advance = Advance::load(&session, advance_settings(config)).await?;
    let checkpoint = advance.checkpoint().clone();
    check_source(database, &session, &checkpoint).await?;

    let (stop, stopping) = watch::channel(false);
    let (sender, mut transactions) = capture::channel(QUEUE);
    let (confirm, confirmed) = watch::channel(checkpoint.lsn);
    let (mut offers, mut offered) = feed(checkpoint.position);
    let positions = Positions::default();
    let start = wal::Start {
        slot: checkpoint.slot.clone(),
        publication: checkpoint.publication.clone(),
        lsn: checkpoint.lsn,
        xid_reference: checkpoint.xid,
    };
    let streaming = || {
        streamed.store(true, Ordering::Relaxed);
        tracing::info!(slot = checkpoint.slot, lsn = %checkpoint.lsn, "streaming");
    };
    let connect = async || session::connect(database, "portalhook deliver").await;

    let capturing = wal::run(database, &start, sender, confirmed, &positions, streaming, stopping.clone());
    let advancing = advance.run(&session, &mut transactions, &confirm, &mut offers, stopping.clone());
    let delivering = deliver::run(deliver_settings(config), connect, &mut offered, stopping.clone());
    let told = async {
        let mut stopping = stopping;
        tokio::select! {
            _ = shutdown.wait_for(|now| *now) => {}
            _ = stopping.wait_for(|now| *now) => {}
        }
        Ok(())
    };
    let (captured, advanced, delivered, _) = tokio::join!(
        ending(&stop, Box::pin(capturing)),
        ending(&stop, Box::pin(advancing)),
        ending(&stop, Box::pin(delivering)),
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

/// A clone of the database, or one restored elsewhere, must not call production's customers.
async fn check_source(database: &Database, session: &session::Session, checkpoint: &Checkpoint) -> Result<()> {
    let identity = Replication::connect(database, "portalhook identify").await?.identify_system().await?;
    let row = session
        .query_one("SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = current_database()", &[])
        .await
        .map_err(|error| Error::because(Kind::Unavailable, "identify the database", error))?;
    let oid: i64 = row.get(0);
    if identity.system_identifier == checkpoint.system_identifier && oid == checkpoint.database_oid {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{database} is a copy of the database that portalhook was set up in: nothing is delivered from a copy \
         (run portalhook setup --afresh to make this database a source of its own)"
    )))
}

fn advance_settings(config: &Config) -> advance::Settings {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    advance::Settings {
        cache: bytes(config.mirror.cache),
        max_body: bytes(config.deliver.max_body),
        fold_cascades: config.mapping.cascades == Cascades::Fold,
    }
}

fn deliver_settings(config: &Config) -> deliver::Settings {
    deliver::Settings {
        timeout: config.deliver.timeout,
        retries: deliver::Policy {
            pauses: config.deliver.retries.clone(),
            disable_after: config.deliver.disable_after,
            ..deliver::Policy::default()
        },
        allow_networks: config.deliver.allow_networks.clone(),
        max_in_flight: config.deliver.max_in_flight,
        max_body: usize::try_from(config.deliver.max_body).unwrap_or(usize::MAX),
        ..deliver::Settings::default()
    }
}
