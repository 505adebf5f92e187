//! What setup needs to know about the server; what the server must be says the doctor.

use tokio_postgres::Client;

use super::script::fix;
use crate::doctor::{Finding, Verdict, server};
use crate::error::{Context as _, Result};

/// The server and database that setup prepares.
pub(crate) struct Server {
    pub(crate) database_oid: u32,
    pub(crate) database: String,
    pub(crate) system_identifier: String,
    /// The administrator's role.
    pub(crate) admin: String,
    pub(crate) admin_is_superuser: bool,
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
                    (SELECT system_identifier::text FROM pg_control_system())
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
    })
}
