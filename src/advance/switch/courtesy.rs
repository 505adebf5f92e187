//! A copy reads tables of the application, and a migration that wants one for itself waits for that, with everybody who comes
//! after it in the queue. So a copy gives way: it can be made again at any time.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Context as _, Error, Result};
use crate::session::{self, Database};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);

/// Somebody who has waited for a lock that `$1` holds for half a second: what only takes a moment is not worth it.
const WAITING: &str = "
    SELECT l.relation::regclass::text FROM pg_locks AS l
    WHERE NOT l.granted AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.waitstart < clock_timestamp() - interval '500 milliseconds' AND $1 = ANY (pg_blocking_pids(l.pid)) LIMIT 1";

/// Does the work, whose session must be that of `client`, unless a migration waits for it.
///
/// # Errors
/// Those of the work; or that it gave way.
pub(super) async fn giving_way<T>(
    database: &Database,
    client: &Client,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let own = client.query_one("SELECT pg_backend_pid()", &[]).await.context("look at our own session")?.get(0);
    let other = session::connect(database, "portalhook switch").await?;
    tokio::pin!(work);
    let table = tokio::select! {
        biased;
        done = &mut work => return done,
        table = watch(&other, own) => table,
    };
    match table {
        // The work ends with an error of its own, which says less.
        Ok(table) => {
            if let Ok(done) = work.await {
                return Ok(done);
            }
            Err(Error::failed(format!("a statement of the application waited for {table}, and the copy gave way")))
        }
        Err(error) => {
            tracing::debug!("nobody looks who waits for the copy: {error:?}");
            work.await
        }
    }
}

/// Ends once somebody has waited too long and the work was cancelled; gives the table.
async fn watch(other: &Client, own: i32) -> Result<String> {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(row) = other.query_opt(WAITING, &[&own]).await.context("look who waits")? {
            other.query_one("SELECT pg_cancel_backend($1)", &[&own]).await.context("give way")?;
            return Ok(row.get(0));
        }
    }
}
