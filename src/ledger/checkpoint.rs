//! How far the stream has been taken, and who may take it further.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Context as _, Error, Kind, Result};
use crate::lsn::Lsn;
use crate::mirror::prepared::{Owned, Prepared};

const TAKE: &str = "UPDATE portalhook.checkpoint SET epoch = epoch + 1, updated_at = now() \
                    RETURNING lsn::text, xid, position, epoch, source, system_identifier, database_oid, slot, publication, \
                    timeline, home, fork::text, source_after_fork, gap";

const MOVE: &str = "move the checkpoint";

/// Divides by zero where another process took the capture: what is sent behind it then cannot commit.
const ADVANCE: &str = "WITH moved AS (
        UPDATE portalhook.checkpoint SET lsn = $1::text::pg_lsn, xid = $2, position = $3, updated_at = now()
        WHERE epoch = $4 RETURNING 1
    ) SELECT 1 / count(*) FROM moved";

/// The row of `portalhook.checkpoint`.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// End of the last transaction that the mirror holds.
    pub(crate) lsn: Lsn,
    /// Its 64-bit transaction id: what later ones are widened by.
    pub(crate) xid: u64,
    /// Position of the last event.
    pub(crate) position: i64,
    /// The fence: whoever took the capture last knows it.
    pub(crate) epoch: i64,
    /// What makes event ids of this database unlike those of its copies.
    pub(crate) source: String,
    pub(crate) system_identifier: String,
    pub(crate) database_oid: i64,
    pub(crate) slot: String,
    pub(crate) publication: String,
    /// `None`: not known yet.
    pub(crate) timeline: Option<i32>,
    /// Where `database.url` finds the server (`Database::home`); `None`: not known yet.
    pub(crate) home: Option<String>,
    /// Where the server's timeline began, and the source of what commits from there on.
    pub(crate) fork: Option<(Lsn, String)>,
    /// Why the stream is interrupted, until the gap is closed.
    pub(crate) gap: Option<String>,
}

impl Checkpoint {
    /// Takes the capture: from here on a process that took it earlier cannot commit.
    pub(crate) async fn take(client: &Client) -> Result<Self> {
        let not_set_up = || Error::usage("this database is not set up: run portalhook setup first");
        let row = match client.query_opt(TAKE, &[]).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Err(not_set_up()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                return Err(Error::usage(
                    "this database was set up by an older portalhook: run portalhook setup again",
                ));
            }
            row => row.context("take the capture")?.ok_or_else(not_set_up)?,
        };
        let read = |text: &str| {
            text.parse::<Lsn>().map_err(|error| Error::failed(format!("the checkpoint cannot be read: {error}")))
        };
        let fork = row.get::<_, Option<&str>>(11).map(read).transpose()?;
        Ok(Self {
            lsn: read(row.get(0))?,
            xid: row.get::<_, i64>(1).unsigned_abs(),
            position: row.get(2),
            epoch: row.get(3),
            source: row.get(4),
            system_identifier: row.get(5),
            database_oid: row.get(6),
            slot: row.get(7),
            publication: row.get(8),
            timeline: row.get(9),
            home: row.get(10),
            fork: fork.zip(row.get(12)),
            gap: row.get(13),
        })
    }

    /// The source of a transaction: transaction ids are given again on another timeline.
    pub(crate) fn source_at(&self, commit: Lsn) -> &str {
        match &self.fork {
            Some((fork, source)) if commit >= *fork => source,
            _ => &self.source,
        }
    }

    /// Moves on to where the group ends, inside its transaction: posted, see `fenced`.
    pub(crate) async fn advance(&self, sql: &Prepared<'_>) -> Result<()> {
        let xid = i64::try_from(self.xid).map_err(|_| Error::failed("a transaction id is out of range"))?;
        let parameters: Vec<Owned> =
            vec![Box::new(self.lsn.to_string()), Box::new(xid), Box::new(self.position), Box::new(self.epoch)];
        sql.post(MOVE, ADVANCE, parameters).await
    }
}

/// The fence: another process has the capture now.
pub(crate) fn taken_over() -> Error {
    Error::new(Kind::Fenced, "another portalhook took over the capture of this database: this one stops")
}

/// What the answers of a group commit mean: its fence is an error of PostgreSQL's.
pub(crate) fn fenced(error: Error) -> Error {
    if error.sqlstate() == Some(&SqlState::DIVISION_BY_ZERO) && error.to_string().starts_with(MOVE) {
        return taken_over();
    }
    error
}
