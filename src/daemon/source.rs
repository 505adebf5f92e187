//! Whether the stream that we are about to read is the one that the checkpoint speaks of.

use crate::advance::Gap;
use crate::capture::slot;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ledger::checkpoint::Checkpoint;
use crate::session::{Database, Replication, Session};

/// What is found.
pub(super) struct Source {
    /// The server's.
    pub(super) version: String,
    /// The slot cannot go on where the checkpoint is.
    pub(super) gap: Option<Gap>,
}

/// Looks at the server and its slot.
///
/// # Errors
/// `Kind::Usage` where this is a copy of the database: only the operator can decide what then.
pub(super) async fn look(database: &Database, session: &Session, checkpoint: &Checkpoint) -> Result<Source> {
    let identity = Replication::connect(database, "portalhook identify").await?.identify_system().await?;
    let row = session
        .query_one(
            "SELECT oid::int8, current_setting('server_version') FROM pg_catalog.pg_database WHERE datname = current_database()",
            &[],
        )
        .await
        .map_err(|error| Error::because(Kind::Unavailable, "identify the database", error))?;
    let (oid, version): (i64, String) = (row.get(0), row.get(1));
    if identity.system_identifier != checkpoint.system_identifier || oid != checkpoint.database_oid {
        return Err(Error::usage(format!(
            "{database} is a copy of the database that portalhook was set up in: nothing is delivered from a copy \
             (run portalhook setup --afresh to make this database a source of its own)"
        )));
    }
    let timeline = i32::try_from(identity.timeline).unwrap_or(i32::MAX);
    let new_timeline = checkpoint.timeline.is_some_and(|known| known != timeline);
    let why = interrupted(session, checkpoint).await?;
    let gap = why.map(|why| Gap { why, timeline, new_source: new_timeline });
    Ok(Source { version, gap })
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
