//! What setup needs to know about the server, and what the server must be.

use tokio_postgres::Client;

use super::script::fix;
use crate::error::{Context as _, Result};

/// The oldest major version that logical messages and the replication protocol of ours work with.
const OLDEST: i32 = 14;

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
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), current_setting('wal_level'),
                    pg_is_in_recovery(), d.oid, d.datname::text, current_user::text, current_setting('is_superuser') = 'on',
                    (SELECT system_identifier::text FROM pg_control_system())
             FROM pg_database AS d WHERE d.datname = current_database()",
            &[],
        )
        .await
        .context("look at the server")?;
    let (major, version, wal_level, standby): (i32, String, String, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if major < OLDEST {
        return Err(fix(
            format!("PostgreSQL {version} is too old"),
            format!("portalhook needs version {OLDEST} or later"),
        ));
    }
    if standby {
        return Err(fix("this server is a standby", "give the URL of the primary"));
    }
    if wal_level != "logical" {
        return Err(fix(
            format!("wal_level is {wal_level}, and capture needs logical"),
            "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL (on a managed service: its parameter for logical replication)",
        ));
    }
    Ok(Server {
        database_oid: row.get(4),
        database: row.get(5),
        system_identifier: row.get(8),
        admin: row.get(6),
        admin_is_superuser: row.get(7),
    })
}
