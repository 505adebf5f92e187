//! A replication connection before it streams: who the server is, and slots.
//!
//! Source: the PostgreSQL manual, "Streaming Replication Protocol".

use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use fallible_iterator::FallibleIterator;

use super::authenticate::{self, Greeting};
use super::channel::Channel;
use super::database::Database;
use super::dial::{Greet, dial};
use super::settings;
use super::stream::WalStream;
use super::wire::{Incoming, Wire, invalid, notice, refusal};
use crate::error::{Context, Error, Kind, Result};
use crate::lsn::Lsn;

/// A connection that may create slots and start the stream.
pub(crate) struct Replication {
    wire: Wire,
    greeting: Greeting,
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemIdentity {
    /// Made by initdb; a physical copy has the same.
    pub(crate) system_identifier: String,
    pub(crate) timeline: u32,
    /// How far WAL is flushed.
    pub(crate) wal_position: Lsn,
}

/// A new slot and the snapshot of the database at its beginning: what the stream brings is what this snapshot does not
/// see. The snapshot ends with this value (a transaction that has taken it keeps it).
pub(crate) struct ExportedSlot {
    connection: Replication,
    slot: String,
    /// Where the stream begins.
    pub(crate) consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub(crate) snapshot: String,
}

/// The first version whose standbys can keep a logical slot of the primary's (`sync_replication_slots`).
const FAILOVER: u32 = 17;

type Row = Vec<Option<String>>;

impl Replication {
    /// Connects with `replication=database` and the pinned settings, to the first server that accepts us. Where there is a
    /// session, use its `database`: several servers may call themselves the primary for a while.
    ///
    /// # Errors
    /// As `session::connect`.
    pub(crate) async fn connect(database: &Database, application_name: &str) -> Result<Self> {
        dial(database, application_name).await
    }

    /// The server process that serves this connection: who would end it can name it to `pg_terminate_backend`.
    #[cfg(test)]
    pub(crate) fn process(&self) -> i32 {
        self.greeting.process
    }

    /// Runs one replication command or SQL statement; `doing` is the context of an error.
    pub(crate) async fn query(&mut self, command: &str, doing: &str) -> Result<Vec<Row>> {
        frontend::query(command, &mut self.wire.output).context(doing)?;
        let (mut rows, mut error) = (Vec::new(), None);
        // An error, too, is followed by ReadyForQuery.
        loop {
            match self.wire.receive(true).await {
                Ok(Incoming::Other(Message::DataRow(body))) => rows.push(row(&body).context(doing)?),
                Ok(Incoming::Other(Message::ErrorResponse(body))) => error = Some(refusal(body.fields())),
                Ok(Incoming::Other(Message::ReadyForQuery(_))) => break,
                Ok(Incoming::Other(Message::NoticeResponse(body))) => notice(&body),
                Ok(Incoming::Other(_)) => {}
                Ok(Incoming::CopyBoth | Incoming::CopyData(_) | Incoming::Part(..)) => {
                    return Err(invalid("the server copies without being asked")).context(doing);
                }
                // A server that ends the session says why before it closes the connection.
                Err(closed) => return error.map_or(Err(closed).context(doing), |error| Err(error).context(doing)),
            }
        }
        error.map_or(Ok(rows), |error| Err(error).context(doing))
    }

    pub(crate) async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let doing = "identify the server";
        let rows = self.query("IDENTIFY_SYSTEM", doing).await?;
        let [identifier, timeline, position] = only_row(rows, doing)?;
        Ok(SystemIdentity {
            system_identifier: identifier,
            timeline: timeline.parse().map_err(|error| Error::because(Kind::Failed, doing, error))?,
            wal_position: position.parse().map_err(|error| Error::because(Kind::Failed, doing, error))?,
        })
    }

    /// Where a timeline began, in the one before it (`None`: the first has no beginning).
    pub(crate) async fn timeline_start(&mut self, timeline: u32) -> Result<Option<Lsn>> {
        if timeline <= 1 {
            return Ok(None);
        }
        let doing = "read the timeline's history";
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}"), doing).await?;
        let [_, history] = only_row(rows, doing)?;
        // Lines are: the earlier timeline, where it ended, why; the last one is of the timeline just before.
        let ends = history.lines().filter(|line| !line.trim_start().starts_with('#'));
        let last = ends.filter_map(|line| line.split_whitespace().nth(1)).next_back();
        last.map(str::parse).transpose().map_err(|error| Error::because(Kind::Failed, doing, error))
    }

    /// Creates a logical slot for pgoutput and exports its snapshot. Where the server can, standbys that synchronize slots keep
    /// it too, so that it goes on after a failover.
    ///
    /// The server waits for every transaction of the cluster that is writing; dropping the future only closes the
    /// connection, which the server notices when that wait ends.
    ///
    /// # Errors
    /// SQLSTATE 42710 where a slot of that name exists, 53400 where `max_replication_slots` is used up.
    pub(crate) async fn create_slot(mut self, slot: &str) -> Result<ExportedSlot> {
        // PostgreSQL 15 brought the syntax with parentheses.
        let export = match self.greeting.version {
            FAILOVER.. => "(SNAPSHOT 'export', FAILOVER)",
            15.. => "(SNAPSHOT 'export')",
            _ => "EXPORT_SNAPSHOT",
        };
        let doing = format!("create replication slot `{slot}`");
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {export}", identifier(slot));
        let rows = self.query(&command, &doing).await?;
        let [_, point, snapshot] = only_row(rows, &doing)?;
        let consistent_point = point.parse().map_err(|error| Error::because(Kind::Failed, doing, error))?;
        Ok(ExportedSlot { connection: self, slot: slot.to_owned(), consistent_point, snapshot })
    }

    /// Has standbys that synchronize slots keep this one, too (PostgreSQL 17).
    ///
    /// # Errors
    /// SQLSTATE 55006 while a process reads it.
    pub(crate) async fn keep_on_standbys(&mut self, slot: &str) -> Result<()> {
        let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", identifier(slot));
        self.query(&command, &format!("alter replication slot `{slot}`")).await.map(drop)
    }

    /// Starts the stream at the first transaction that ends after `lsn` (or after what the slot has confirmed).
    ///
    /// # Errors
    /// SQLSTATE 42704 where there is no such slot, 55006 where another process reads it, 55000 where it is lost.
    pub(crate) async fn start(mut self, slot: &str, publication: &str, lsn: Lsn) -> Result<WalStream> {
        let doing = format!("start replication from slot `{slot}`");
        let publications = literal(&identifier(publication));
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {lsn} (proto_version '1', publication_names {publications}, messages 'true')",
            identifier(slot)
        );
        frontend::query(&command, &mut self.wire.output).context(&doing)?;
        loop {
            match self.wire.receive(true).await.context(&doing)? {
                Incoming::CopyBoth => return Ok(WalStream::new(self.wire)),
                Incoming::Other(Message::ErrorResponse(body)) => return Err(refusal(body.fields())).context(doing),
                Incoming::Other(Message::NoticeResponse(body)) => notice(&body),
                Incoming::Other(Message::ParameterStatus(_)) => {}
                _ => return Err(invalid("the server sent a message out of turn")).context(doing),
            }
        }
    }
}

impl Greet for Replication {
    async fn greet(channel: Channel, database: &Database, application_name: &str) -> Result<Self> {
        let binding = channel.binding().map(<[u8]>::to_vec);
        let mut wire = Wire::new(channel);
        authenticate::start(&mut wire, database, application_name, binding.as_deref()).await?;
        wire.trust();
        let greeting = authenticate::greeting(&mut wire, database).await?;
        let mut connection = Self { wire, greeting };
        if greeting.version >= settings::NEWER {
            connection.query(settings::PIN_NEWER, "pin the session's settings").await?;
        }
        Ok(connection)
    }

    fn is_standby(&self) -> bool {
        self.greeting.standby
    }
}

impl ExportedSlot {
    /// The copy failed: the slot must not hold WAL for nobody.
    pub(crate) async fn discard(mut self) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", identifier(&self.slot));
        self.connection.query(&command, &format!("drop replication slot `{}`", self.slot)).await.map(drop)
    }
}

fn row(body: &DataRowBody) -> std::io::Result<Row> {
    let text = |range: std::ops::Range<usize>| {
        body.buffer().get(range).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    body.ranges().map(|range| Ok(range.and_then(text))).collect()
}

/// The first `N` values of an answer of one row, none of them null.
fn only_row<const N: usize>(rows: Vec<Row>, doing: &str) -> Result<[String; N]> {
    let unexpected = || Error::failed(format!("{doing}: the server's answer has an unexpected shape"));
    let mut rows = rows.into_iter();
    let (Some(row), None) = (rows.next(), rows.next()) else { return Err(unexpected()) };
    let values: Option<Vec<String>> = row.into_iter().take(N).collect();
    values.and_then(|values| values.try_into().ok()).ok_or_else(unexpected)
}

/// Quoted as the replication grammar reads it: only double quotes are doubled.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of the replication grammar, which knows no backslashes, and of SQL under our pinned settings.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_names_for_the_replication_grammar() {
        assert_eq!(identifier(r#"a"b\c"#), r#""a""b\c""#);
        assert_eq!(literal(&identifier("it's")), "'\"it''s\"'");
    }
}
