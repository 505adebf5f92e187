//! What the server must be.

use tokio_postgres::Client;

use super::Finding;
use crate::capture::slot::Slot;
use crate::error::{Context as _, Result};

/// The oldest major version that logical messages and the replication protocol of ours work with.
const OLDEST: i32 = 14;

/// The server, as far as anyone may see it.
pub(crate) struct Facts {
    major: i32,
    version: String,
    pub(crate) wal_level: String,
    pub(crate) standby: bool,
    pub(crate) database_oid: u32,
    max_slots: i64,
    slots: i64,
    max_senders: i64,
    senders: i64,
    /// Megabytes; -1: without limit.
    slot_keep: i64,
}

pub(crate) async fn facts(client: &Client) -> Result<Facts> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), current_setting('wal_level'),
                    pg_is_in_recovery(), (SELECT oid FROM pg_database WHERE datname = current_database()),
                    current_setting('max_replication_slots')::bigint, (SELECT count(*) FROM pg_replication_slots),
                    current_setting('max_wal_senders')::bigint, (SELECT count(*) FROM pg_stat_replication),
                    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size')",
            &[],
        )
        .await
        .context("look at the server")?;
    Ok(Facts {
        major: row.get(0),
        version: row.get(1),
        wal_level: row.get(2),
        standby: row.get(3),
        database_oid: row.get(4),
        max_slots: row.get(5),
        slots: row.get(6),
        max_senders: row.get(7),
        senders: row.get(8),
        slot_keep: row.get(9),
    })
}

/// Without these nothing works; setup refuses to begin.
pub(crate) fn requirements(facts: &Facts) -> Vec<Finding> {
    let Facts { version, wal_level, .. } = facts;
    vec![
        if facts.major < OLDEST {
            Finding::fail(
                format!("PostgreSQL {version} is too old"),
                format!("portalhook needs version {OLDEST} or later"),
            )
        } else {
            Finding::pass(format!("PostgreSQL {version} is {OLDEST} or later"))
        },
        if facts.standby {
            Finding::fail("this server is a standby", "give the URL of the primary")
        } else {
            Finding::pass("the server is a primary")
        },
        if wal_level == "logical" {
            Finding::pass("wal_level is logical")
        } else {
            Finding::fail(
                format!("wal_level is {wal_level}, and capture needs logical"),
                "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL (on a managed service: its parameter for logical replication)",
            )
        },
    ]
}

/// Room for our slot and its connection, and what bounds the WAL that the slot may hold; `max_wal` is `capture.max_wal`.
pub(super) fn room(facts: &Facts, slot: Option<&Slot>, max_wal: u64) -> Vec<Finding> {
    let Facts { max_slots, slots, max_senders, senders, .. } = facts;
    let mut findings = Vec::new();
    findings.push(if slot.is_none() && slots >= max_slots {
        Finding::fail(
            format!("all {max_slots} replication slots are taken"),
            format!("ALTER SYSTEM SET max_replication_slots = {}; then restart PostgreSQL", max_slots + 4),
        )
    } else {
        Finding::pass(format!("replication slots: {slots} of {max_slots} taken"))
    });
    let ours_is_read = slot.is_some_and(|slot| slot.active_pid.is_some());
    findings.push(if !ours_is_read && senders >= max_senders {
        Finding::fail(
            format!("all {max_senders} WAL senders are taken"),
            format!("ALTER SYSTEM SET max_wal_senders = {}; then restart PostgreSQL", max_senders + 4),
        )
    } else {
        Finding::pass(format!("WAL senders: {senders} of {max_senders} taken"))
    });
    findings.push(keep(facts, max_wal));
    findings
}

/// What bounds the log that a slot may hold while nobody reads it.
pub(crate) fn keep(facts: &Facts, max_wal: u64) -> Finding {
    let wanted = max_wal >> 20;
    match facts.slot_keep {
        -1 => Finding::warn(
            "max_slot_wal_keep_size has no limit: while nothing reads the slot, the server keeps WAL until its disk is full",
            format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{wanted}MB'; SELECT pg_reload_conf()"),
        ),
        limit if u64::try_from(limit).is_ok_and(|limit| limit < wanted) => Finding::warn(
            format!(
                "max_slot_wal_keep_size is {limit} MB: the server gives the slot up before capture.max_wal ({wanted} MB) is reached"
            ),
            format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{wanted}MB'; SELECT pg_reload_conf()"),
        ),
        limit => Finding::pass(format!("max_slot_wal_keep_size is {limit} MB")),
    }
}
