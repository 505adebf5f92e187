//! A copy reads tables of the application, and a migration that wants one for itself waits for that, with everybody who comes
//! after it in the queue. So a copy gives way: it can be made again at any time.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Context as _, Error, Kind, Result};
use crate::session::{self, Database};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);

/// Somebody who has waited for a lock that `$1` holds for half a second: what only takes a moment is not worth it.
const WAITING: &str = "
    SELECT FROM pg_locks AS l
    WHERE NOT l.granted AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.waitstart < clock_timestamp() - interval '500 milliseconds' AND $1 = ANY (pg_blocking_pids(l.pid)) LIMIT 1";

/// Does the work, whose session must be that of `client`, unless a migration waits for it. `who` names the session that looks.
///
/// # Errors
/// Those of the work; `Kind::Again`: it gave way.
pub(crate) async fn giving_way<T>(
    database: &Database,
    who: &str,
    client: &Client,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let own = client.query_one("SELECT pg_backend_pid()", &[]).await.context("look at our own session")?.get(0);
    let other = session::connect(database, who).await?;
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done.map_err(gave_way),
        watched = watch(&other, own) => {
            if let Err(error) = watched {
                tracing::debug!("nobody looks who waits for the copy: {error:?}");
            }
            work.await.map_err(gave_way)
        }
    }
}

/// A copy is cancelled by us alone, or by an operator who wants the same.
fn gave_way(error: Error) -> Error {
    if error.sqlstate() == Some(&SqlState::QUERY_CANCELED) {
        return Error::new(
            Kind::Again,
            "a statement of the application waited for a table that was being copied, and the copy gave way",
        );
    }
    error
}

/// Ends once somebody has waited too long and the work was cancelled.
async fn watch(other: &Client, own: i32) -> Result<()> {
    loop {
        tokio::time::sleep(LOOK).await;
        if other.query_opt(WAITING, &[&own]).await.context("look who waits")?.is_some() {
            other.query_one("SELECT pg_cancel_backend($1)", &[&own]).await.context("give way")?;
            return Ok(());
        }
    }
}
