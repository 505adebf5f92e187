//! What the commands that ask a database share: a session, endpoints by id or address, and refusals as one line.

use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::error::{Context as _, Error, Kind, Result};
use crate::session::{self, Database, Session};

/// Small questions to a ledger that may be large: indexes, and no compiling.
const SETTINGS: &str = "SET enable_seqscan = off";

/// A session as `database.url` says.
///
/// # Errors
/// `Kind::Usage` where setup has not been here.
pub(crate) async fn connect(config: &Config, command: &str) -> Result<Session> {
    let database = Database::parse(config.database.url()?.expose())?;
    let session = session::connect(&database, &format!("portalhook {command}")).await?;
    session.batch_execute(SETTINGS).await.context("prepare the session")?;
    let sql = "SELECT coalesce((SELECT true FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                                WHERE n.nspname = 'portalhook' AND c.relname = 'endpoint_health'), false)";
    let row = session.query_one(sql, &[]).await.context("look for our schema")?;
    if row.get(0) {
        Ok(session)
    } else {
        Err(Error::usage(format!("{database} is not set up: run portalhook setup first")))
    }
}

/// The line for an error of one of our SQL functions: what it refuses and what is allowed, without a word of SQL.
pub(crate) fn refused(doing: &str, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(said) if *said.code() == SqlState::INVALID_PARAMETER_VALUE => {
            let hint = said.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Error::failed(format!("{}{hint}", said.message()))
        }
        Some(said) if *said.code() == SqlState::INSUFFICIENT_PRIVILEGE => Error::failed(format!(
            "{doing}: {} (run portalhook setup again: it grants what this version needs)",
            said.message()
        )),
        _ => Err::<(), _>(error).context(doing).err().unwrap_or_else(|| Error::failed(doing)),
    }
}

/// An endpoint that a command works on.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) id: i64,
    pub(crate) url: String,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "endpoint {} ({})", self.id, self.url)
    }
}

/// The endpoints with this id, or whose URL holds this text (or is LIKE it, where there is a `%`), in order of their ids.
pub(crate) async fn endpoints(session: &Session, wanted: &str) -> Result<Vec<Named>> {
    let sql = "SELECT id, url FROM portalhook.endpoints
               WHERE CASE WHEN $1 ~ '^[0-9]{1,18}$' THEN id::text = $1
                          WHEN position('%' IN $1) > 0 THEN url LIKE $1
                          ELSE position($1 IN url) > 0 END
               ORDER BY id";
    let rows = session.query(sql, &[&wanted]).await.context("look for the endpoint")?;
    if rows.is_empty() {
        return Err(Error::failed(format!(
            "there is no endpoint {wanted} (give an id or a part of a URL; portalhook status shows those that are there)"
        )));
    }
    Ok(rows.iter().map(|row| Named { id: row.get(0), url: row.get(1) }).collect())
}

/// The one endpoint that is meant.
pub(crate) async fn endpoint(session: &Session, wanted: &str) -> Result<Named> {
    let mut found = endpoints(session, wanted).await?;
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (last, others) => {
            let all: Vec<String> = others.iter().chain(&last).map(|one| format!("{} ({})", one.id, one.url)).collect();
            Err(Error::new(Kind::Usage, format!("{wanted} fits several endpoints: {}; give its id", all.join(", "))))
        }
    }
}

/// Whether a daemon reads the slot now.
pub(crate) async fn is_streaming(session: &Session) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s JOIN portalhook.checkpoint AS c ON c.slot = s.slot_name
                              WHERE s.active)";
    Ok(session.query_one(sql, &[]).await.context("look whether the daemon runs")?.get(0))
}

/// Prints a line; nobody is left to tell when the terminal is gone.
pub(crate) fn say(line: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// What to say after something was made due that nobody will send now.
pub(crate) const NOT_RUNNING: &str = "the daemon is not running: that is sent once portalhook run is started";
