//! Slots, seen over SQL.

use tokio_postgres::Client;

use crate::error::{Context, Error, Kind, Result};
use crate::lsn::Lsn;
use crate::session::{Database, ExportedSlot, Replication};

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// `pgoutput`, if it is one of ours; `None` for a physical slot.
    pub(crate) plugin: Option<String>,
    /// `None` for a physical slot.
    pub(crate) database: Option<String>,
    /// The server process that reads it now.
    pub(crate) active_pid: Option<i32>,
    /// What was confirmed: transactions that end later are sent again.
    pub(crate) confirmed_flush: Option<Lsn>,
    /// The oldest WAL that the slot holds.
    pub(crate) restart: Option<Lsn>,
    pub(crate) wal_status: Option<WalStatus>,
    /// Why the server gave it up (PostgreSQL 17: `invalidation_reason`; 16: only that it was a conflict).
    pub(crate) invalid: Option<String>,
    /// Kept on a standby by `sync_replication_slots` (PostgreSQL 17): it goes on where that one is promoted.
    pub(crate) synced: bool,
    /// Standbys that synchronize slots keep it too; `None`: the server is older than 17.
    pub(crate) failover: Option<bool>,
    /// Bytes of WAL between the slot's oldest and the server's newest.
    pub(crate) retained_bytes: Option<i64>,
}

/// `wal_status`, from safe to gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WalStatus {
    Reserved,
    /// More than `max_wal_size`, still kept.
    Extended,
    /// More than `max_slot_wal_keep_size`: may be removed at the next checkpoint.
    Unreserved,
    Lost,
}

impl Slot {
    /// Its WAL is gone, or the server has given it up: nothing can be read from it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalid.is_some()
    }
}

/// The slot of this name, if there is one.
pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
    // `to_jsonb` gives null for columns that an older server does not have. Positions as text: a standby has no
    // current one to subtract from.
    const QUERY: &str = "
        SELECT slot_name::text, plugin::text, database::text, active_pid, confirmed_flush_lsn::text, restart_lsn::text,
               wal_status,
               coalesce(to_jsonb(s) ->> 'invalidation_reason',
                        CASE WHEN to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict' END),
               CASE WHEN NOT pg_catalog.pg_is_in_recovery()
                    THEN (pg_catalog.pg_current_wal_lsn() - restart_lsn)::bigint END,
               coalesce(to_jsonb(s) ->> 'synced' = 'true', false), to_jsonb(s) ->> 'failover' = 'true'
        FROM pg_catalog.pg_replication_slots AS s
        WHERE slot_name = $1::text::name";
    let doing = format!("read the state of replication slot `{name}`");
    let Some(row) = client.query_opt(QUERY, &[&name]).await.context(&doing)? else { return Ok(None) };
    let lsn = |index: usize| -> Result<Option<Lsn>> {
        let text: Option<&str> = row.try_get(index).context(&doing)?;
        text.map(str::parse).transpose().map_err(|error| Error::because(Kind::Failed, &doing, error))
    };
    let wal_status: Option<&str> = row.try_get(6).context(&doing)?;
    Ok(Some(Slot {
        name: row.try_get(0).context(&doing)?,
        plugin: row.try_get(1).context(&doing)?,
        database: row.try_get(2).context(&doing)?,
        active_pid: row.try_get(3).context(&doing)?,
        confirmed_flush: lsn(4)?,
        restart: lsn(5)?,
        wal_status: wal_status.map(|text| status(text, &doing)).transpose()?,
        invalid: row.try_get(7).context(&doing)?,
        synced: row.try_get(9).context(&doing)?,
        failover: row.try_get(10).context(&doing)?,
        retained_bytes: row.try_get(8).context(&doing)?,
    }))
}

fn status(text: &str, doing: &str) -> Result<WalStatus> {
    Ok(match text {
        "reserved" => WalStatus::Reserved,
        "extended" => WalStatus::Extended,
        "unreserved" => WalStatus::Unreserved,
        "lost" => WalStatus::Lost,
        _ => return Err(Error::failed(format!("{doing}: unknown wal_status `{text}`"))),
    })
}

/// Creates the slot and exports its snapshot; see `Replication::create_slot` for how long that may take.
pub(crate) async fn create(database: &Database, name: &str) -> Result<ExportedSlot> {
    Replication::connect(database, "portalhook setup").await?.create_slot(name).await
}

/// Drops the slot; says whether there was one.
///
/// # Errors
/// SQLSTATE 55006 while a process reads it.
pub(crate) async fn drop(client: &Client, name: &str) -> Result<bool> {
    const STATEMENT: &str = "
        SELECT pg_catalog.pg_drop_replication_slot(slot_name)
        FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name";
    let dropped = client.query(STATEMENT, &[&name]).await.context(format!("drop replication slot `{name}`"))?;
    Ok(!dropped.is_empty())
}
