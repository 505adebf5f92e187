//! What setup needs to know about the server; what the server must be says the doctor.

use tokio_postgres::Client;

use super::script::{Script, fix};
use crate::doctor::{Finding, Verdict, server};
use crate::error::{Context as _, Result};
use crate::session::Session;

/// Says what only the operator can decide, since it is the whole server's: how much write-ahead log it keeps while no daemon runs.
pub(crate) async fn advise(client: &Client, max_wal: u64, script: &mut Script<'_>) -> Result<()> {
    match server::keep(&server::facts(client).await?, max_wal) {
        Finding { verdict: Verdict::Warn, what, fix: Some(mended) } => {
            script.say("advice", format!("{what}: {mended}"))
        }
        _ => Ok(()),
    }
}

/// The server and database that setup prepares.
pub(crate) struct Server {
    pub(crate) database_oid: u32,
    pub(crate) database: String,
    pub(crate) system_identifier: String,
    /// The administrator's role.
    pub(crate) admin: String,
    pub(crate) admin_is_superuser: bool,
    /// When it was started: what tells it from a copy of itself.
    started: String,
}

/// Reads and checks the server.
///
/// # Errors
/// `Kind::Usage` with the fix where the version is too old, WAL is not logical, or this is a standby.
pub(crate) async fn look(client: &Client) -> Result<Server> {
    for finding in server::requirements(&server::facts(client).await?) {
        if let Finding { verdict: Verdict::Fail, what, fix: Some(mended) } = finding {
            return Err(fix(what, mended));
        }
    }
    let row = client
        .query_one(
            "SELECT d.oid, d.datname::text, current_user::text, current_setting('is_superuser') = 'on',
                    (SELECT system_identifier::text FROM pg_control_system()), pg_postmaster_start_time()::text
             FROM pg_database AS d WHERE d.datname = current_database()",
            &[],
        )
        .await
        .context("look at the server")?;
    Ok(Server {
        database_oid: row.get(0),
        database: row.get(1),
        system_identifier: row.get(4),
        admin: row.get(2),
        admin_is_superuser: row.get(3),
        started: row.get(5),
    })
}

impl Server {
    /// Whether `database.url`, with this session, leads to where `--admin-url` does.
    ///
    /// # Errors
    /// `Kind::Usage` where they are two servers.
    pub(crate) async fn is_that_of(&self, session: &Session) -> Result<()> {
        let row = session
            .query_one(
                "SELECT oid, pg_postmaster_start_time()::text FROM pg_database WHERE datname = current_database()",
                &[],
            )
            .await
            .context("look at the server of database.url")?;
        if (row.get::<_, u32>(0), row.get::<_, &str>(1)) == (self.database_oid, self.started.as_str()) {
            return Ok(());
        }
        Err(fix(
            format!("--admin-url leads to another server than database.url, which is {}", session.database()),
            "both must lead to the same database",
        ))
    }
}
