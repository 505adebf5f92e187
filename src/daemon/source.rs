//! Whether the stream that we are about to read is the one that the checkpoint speaks of (DESIGN §2, Source).
//!
//! A server's identifier and a database's oid are the same in a copy of its files, and a copy that was promoted has a new
//! timeline, as a failover has. What tells such a copy is where `database.url` finds it: a failover is found in the same
//! place (several hosts, a name that moves), a copy in another.

use crate::advance::{Advance, Gap};
use crate::capture::slot;
use crate::doctor::origin::{self, Identity};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ledger::checkpoint::Checkpoint;
use crate::lsn::Lsn;
use crate::session::{Database, Replication, Session};

const IDENTIFY: &str = "SELECT oid::int8, current_setting('server_version') FROM pg_catalog.pg_database WHERE datname = current_database()";

/// What is found.
pub(super) struct Source {
    /// The server's.
    pub(super) version: String,
    /// The slot cannot go on where the checkpoint is.
    pub(super) gap: Option<Gap>,
}

/// Looks at the server and its slot, and notes what is new of them.
///
/// # Errors
/// `Kind::Usage` where this is a copy of the database: only the operator can decide what then.
pub(super) async fn look(database: &Database, session: &Session, advance: &mut Advance) -> Result<Source> {
    let mut replication = Replication::connect(database, "portalhook identify").await?;
    let identity = replication.identify_system().await?;
    let row = session
        .query_one(IDENTIFY, &[])
        .await
        .map_err(|error| Error::because(Kind::Unavailable, "identify the database", error))?;
    let (oid, version): (i64, String) = (row.get(0), row.get(1));
    let checkpoint = advance.checkpoint();
    let home = database.home();
    let found = Identity { system_identifier: identity.system_identifier, oid, home: Some(home.to_owned()) };
    permitted(database, checkpoint, &found)?;

    let timeline = i32::try_from(identity.timeline).unwrap_or(i32::MAX);
    let known = checkpoint.timeline.unwrap_or(timeline);
    let mut why = interrupted(session, checkpoint).await?;
    let mut fork = None;
    if known != timeline {
        fork = replication.timeline_start(identity.timeline).await?;
        tracing::warn!(
            "the server is on timeline {timeline} and was on {known}: a failover or a restore; transactions from {} on have \
             event ids of their own",
            fork.map_or("there".to_owned(), |fork| fork.to_string())
        );
        if why.is_none() && !goes_on(session, checkpoint, fork).await? {
            why = Some(format!("replication slot {} is of another timeline", checkpoint.slot));
        }
    }
    let gap = why.map(|why| Gap { why, timeline, home: home.to_owned(), new_source: known != timeline });
    if gap.is_none() {
        advance.note_server(session, timeline, fork, home).await?;
    }
    Ok(Source { version, gap })
}

/// A clone of the database, or one restored elsewhere, must not call production's customers.
fn permitted(database: &Database, checkpoint: &Checkpoint, found: &Identity) -> Result<()> {
    let known = Identity {
        system_identifier: checkpoint.system_identifier.clone(),
        oid: checkpoint.database_oid,
        home: checkpoint.home.clone(),
    };
    match origin::stranger(database, &known, found) {
        Some(what) => Err(Error::usage(format!("{what}: {}", origin::WAYS))),
        None => Ok(()),
    }
}

/// Why the slot cannot go on where the checkpoint is.
async fn interrupted(session: &Session, checkpoint: &Checkpoint) -> Result<Option<String>> {
    if let Some(why) = &checkpoint.gap {
        return Ok(Some(why.clone()));
    }
    let name = &checkpoint.slot;
    Ok(match slot::read(session, name).await.context("look for the replication slot")? {
        Some(slot) if slot.is_lost() => {
            let why = slot.invalid.map(|reason| format!(" ({reason})")).unwrap_or_default();
            Some(format!("replication slot {name} was given up by the server{why}"))
        }
        Some(_) => None,
        None => Some(format!("replication slot {name} is gone")),
    })
}

/// Whether a slot goes on after a promotion: only one that the standby kept in step with the primary's. That one may have
/// moved past a group commit that never reached the standby; then what it moved past is missing.
async fn goes_on(session: &Session, checkpoint: &Checkpoint, fork: Option<Lsn>) -> Result<bool> {
    // What a second fork would need, before the first was passed, is compared instead.
    let passed = checkpoint.fork.as_ref().is_none_or(|(earlier, _)| *earlier <= checkpoint.lsn);
    let slot = slot::read(session, &checkpoint.slot).await?;
    Ok(fork.is_some()
        && passed
        && slot.is_some_and(|slot| {
            slot.synced && slot.confirmed_flush.is_some_and(|confirmed| confirmed <= checkpoint.lsn)
        }))
}
