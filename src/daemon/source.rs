//! Whether the stream that we are about to read is the one that the checkpoint speaks of.

use crate::capture::slot;
use crate::error::{Context as _, Error, Kind, Result};
use crate::ledger::checkpoint::Checkpoint;
use crate::session::{Database, Replication, Session};

/// Refuses a copy of the database, and a slot that is lost; gives the server's version.
///
/// # Errors
/// `Kind::Usage` for both: only the operator can decide what then.
pub(super) async fn check(database: &Database, session: &Session, checkpoint: &Checkpoint) -> Result<String> {
    let version = check_identity(database, session, checkpoint).await?;
    check_slot(session, checkpoint).await?;
    Ok(version)
}

/// A clone of the database, or one restored elsewhere, must not call production's customers.
async fn check_identity(database: &Database, session: &Session, checkpoint: &Checkpoint) -> Result<String> {
    let identity = Replication::connect(database, "portalhook identify").await?.identify_system().await?;
    let row = session
        .query_one(
            "SELECT oid::int8, current_setting('server_version') FROM pg_catalog.pg_database WHERE datname = current_database()",
            &[],
        )
        .await
        .map_err(|error| Error::because(Kind::Unavailable, "identify the database", error))?;
    let (oid, version): (i64, String) = (row.get(0), row.get(1));
    if identity.system_identifier == checkpoint.system_identifier && oid == checkpoint.database_oid {
        return Ok(version);
    }
    Err(Error::usage(format!(
        "{database} is a copy of the database that portalhook was set up in: nothing is delivered from a copy \
         (run portalhook setup --afresh to make this database a source of its own)"
    )))
}

/// What the slot held and we have not read is gone with it: that is for the operator to know, not for us to pass over.
async fn check_slot(session: &Session, checkpoint: &Checkpoint) -> Result<()> {
    let name = &checkpoint.slot;
    let found = slot::read(session, name).await.context("look for the replication slot")?;
    let how = match found {
        Some(slot) if slot.is_lost() => {
            let why = slot.invalid.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("was given up by the server{why}")
        }
        Some(_) => return Ok(()),
        None => "is gone".to_owned(),
    };
    Err(Error::usage(format!(
        "replication slot {name} {how}: what was committed after {} cannot be read any more. Run portalhook setup \
         --afresh: it makes a new slot and a new copy. Changes from there to the new copy give no events; deliveries that \
         are in the ledger stay",
        checkpoint.lsn
    )))
}
