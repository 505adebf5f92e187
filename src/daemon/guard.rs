//! Gives the replication slot up where it would fill the server's disk (DESIGN §3, promise 5). What is missed is found by the
//! mirror afterwards: the gap.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::met::Follower;
use crate::capture::slot;
use crate::error::{Context as _, Result};

/// The server may take a moment to see that our own reader has gone.
const LOOKS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(200);

/// Whoever stands in capture's way may hold the checkpoint, too.
const SETTINGS: &str = "SET lock_timeout = '2s'";
/// For whoever looks; a slot that is gone is a gap also where nothing can be written.
const NOTE: &str = "UPDATE portalhook.checkpoint SET gap = $1, updated_at = now()";

/// Drops the slot, which nobody of ours reads any more, and writes down why.
///
/// # Errors
/// SQLSTATE 55006 while another process reads it: then it is not ours to give up.
pub(super) async fn give_up(server: &Follower, why: &str) -> Result<()> {
    let session = server.connect("portalhook guard").await?;
    session.batch_execute(SETTINGS).await.context("prepare the session")?;
    let slot = &session.slot;
    let mut looks = 0;
    loop {
        match slot::drop(&session, slot).await {
            Err(error) if error.sqlstate() == Some(&SqlState::OBJECT_IN_USE) && looks < LOOKS => {
                looks += 1;
                tokio::time::sleep(BETWEEN).await;
            }
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let why = format!("replication slot {slot} was given up: {why}");
    tracing::error!("{why}; what is committed until it is made anew is found by comparing the mirror with the tables");
    if let Err(error) = session.execute(NOTE, &[&why]).await.context("write down why the slot was given up") {
        tracing::warn!("{error:?}");
    }
    Ok(())
}
