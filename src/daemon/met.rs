//! The server that capture has found, and no other: where `database.url` names several, or a name moves, two may call
//! themselves the primary for a while.

use tokio::sync::watch;

use crate::error::{Context as _, Error, Kind, Result};
use crate::session::{self, Database, Session};

/// A server is another one after each of its starts; capture meets it anew then, too.
const STARTED: &str = "SELECT pg_catalog.pg_postmaster_start_time()::text";

/// Capture's server, as the parts that connect by themselves know it.
#[derive(Clone)]
pub(super) struct Met {
    /// At that server alone.
    database: Database,
    started: String,
    slot: String,
}

impl Met {
    /// The server of a session of capture's, which reads this slot.
    pub(super) async fn of(session: &Session, slot: &str) -> Result<Self> {
        Ok(Self { database: session.database().clone(), started: started(session).await?, slot: slot.to_owned() })
    }
}

async fn started(session: &Session) -> Result<String> {
    Ok(session.query_one(STARTED, &[]).await.context("see which server this is")?.get(0))
}

/// The server that capture met last, for those who follow it.
#[derive(Clone)]
pub(super) struct Follower(watch::Receiver<Option<Met>>);

/// A session and which server it is at.
pub(super) struct Following {
    session: Session,
    started: String,
    /// What capture reads.
    pub(super) slot: String,
}

impl Follower {
    pub(super) fn new(met: watch::Receiver<Option<Met>>) -> Self {
        Self(met)
    }

    /// A session at capture's server.
    ///
    /// # Errors
    /// `Kind::Unavailable` where another one answers in its place.
    pub(super) async fn connect(&self, application_name: &str) -> Result<Following> {
        let met = self.0.borrow().clone();
        let met = met.ok_or_else(|| Error::new(Kind::Unavailable, "capture has met no server yet"))?;
        let session = session::connect(&met.database, application_name).await?;
        let started = started(&session).await?;
        if started != met.started {
            let message = format!("{} is another server than the one that capture reads", met.database);
            return Err(Error::new(Kind::Unavailable, message));
        }
        Ok(Following { session, started, slot: met.slot })
    }

    /// The session that is there, unless it has ended or capture has gone on to another server.
    pub(super) fn keep(&self, kept: Option<Following>) -> Option<Following> {
        let met = self.0.borrow();
        kept.filter(|kept| !kept.session.is_closed() && met.as_ref().is_some_and(|met| met.started == kept.started))
    }
}

impl std::ops::Deref for Following {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl std::ops::DerefMut for Following {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
