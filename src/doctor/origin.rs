//! Whether this is the database that portalhook was set up in, and whether its stream is whole.

use tokio_postgres::Client;

use super::Finding;
use crate::error::{Context as _, Result};
use crate::session::Database;
use crate::session::home::meet;

/// What to type where it is not.
pub(crate) const WAYS: &str = "portalhook setup --adopt if it goes on in that one's place, portalhook setup --new-source if it is \
                               another, such as a staging database";

/// What tells a database from its copies.
pub(crate) struct Identity {
    pub(crate) system_identifier: String,
    pub(crate) oid: i64,
    /// `Database::home`; `None`: not known.
    pub(crate) home: Option<String>,
}

/// Why `found` is not the database that the checkpoint knows; `None`: it is.
pub(crate) fn stranger(database: &Database, known: &Identity, found: &Identity) -> Option<String> {
    if known.system_identifier != found.system_identifier || known.oid != found.oid {
        return Some(format!(
            "{database} is a copy of the database that portalhook was set up in, and nothing is delivered from a copy"
        ));
    }
    match (&known.home, &found.home) {
        (Some(known), Some(found)) if !meet(known, found) => Some(format!(
            "{database} was read at {known} until now, and database.url finds it at {found}: it was moved, or is a copy, from \
             which nothing is delivered"
        )),
        _ => None,
    }
}

/// Whether it is the same database on a server that `pg_upgrade` made: that gives another system identifier, and keeps the oids
/// of the database and of every table, and the transaction ids. A dump that was restored keeps none of them.
pub(crate) async fn is_upgraded(client: &Client, known: &Identity, found: &Identity) -> Result<bool> {
    const ASK: &str = "
        SELECT count(*) > 0 AND coalesce(bool_and(to_regclass(format('%I.%I', schema_name, table_name)) = m.oid), false)
               AND (SELECT xid FROM portalhook.checkpoint) <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
        FROM portalhook.mapped_tables AS m";
    let place = known.home.as_ref().zip(found.home.as_ref()).is_some_and(|(known, found)| meet(known, found));
    if !place || known.oid != found.oid || known.system_identifier == found.system_identifier {
        return Ok(false);
    }
    Ok(client.query_one(ASK, &[]).await.context("look whether the server was upgraded")?.get(0))
}

/// The same, asked of the database; `None` too where setup was not here.
///
/// # Errors
/// Where it cannot be asked: the role may not see which server this is.
pub(crate) async fn look(client: &Client, database: &Database) -> Result<Option<String>> {
    const ASK: &str = "
        SELECT k.system_identifier, k.database_oid, to_jsonb(k) ->> 'home', c.system_identifier::text,
               (SELECT oid::int8 FROM pg_database WHERE datname = current_database())
        FROM portalhook.checkpoint AS k, pg_control_system() AS c";
    let row = client.query_opt(ASK, &[]).await.context("see which server this is")?;
    let Some(row) = row else { return Ok(None) };
    let known = Identity { system_identifier: row.get(0), oid: row.get(1), home: row.get(2) };
    let home = Some(database.home().to_owned());
    let found = Identity { system_identifier: row.get(3), oid: row.get(4), home };
    Ok(match stranger(database, &known, &found) {
        Some(what) => (!is_upgraded(client, &known, &found).await?).then_some(what),
        None => None,
    })
}

pub(super) async fn findings(client: &Client, database: &Database) -> Result<Vec<Finding>> {
    let mut findings = vec![match look(client, database).await {
        Ok(Some(what)) => Finding::fail(what, WAYS),
        Ok(None) => Finding::pass("this is the database that portalhook was set up in"),
        Err(error) => Finding::warn(
            format!("whether this is a copy cannot be told: {error:?}"),
            "GRANT EXECUTE ON FUNCTION pg_control_system() to the role; the daemon itself asks the replication connection",
        ),
    }];
    let sql = "SELECT to_jsonb(k) ->> 'gap', k.lsn::text FROM portalhook.checkpoint AS k";
    let row = client.query_opt(sql, &[]).await.context("read the checkpoint")?;
    if let Some((Some(why), lsn)) = row.map(|row| (row.get::<_, Option<String>>(0), row.get::<_, String>(1))) {
        findings.push(Finding::fail(
            format!("the stream is interrupted at {lsn}: {why}"),
            "portalhook run: it finds what was missed by comparing the mirror with the tables, and tells it",
        ));
    }
    Ok(findings)
}
