//! A copy under way: what the heart does for it meanwhile.
//!
//! The copy sees one snapshot. Changes that the snapshot does not see are kept, as writes on the new mirror's columns, in
//! `portalhook_mirror.recorded`, and are applied to the copy where the stream reaches the copy's own commit: L. So nothing
//! waits for the copy, and nothing is written into tables that nobody else can see yet.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::missed::Apart;
use super::snapshot::Snapshot;
use crate::advance::Advance;
use crate::advance::cut::Cuts;
use crate::change::{self, NotHeld, Row, Transaction, TupleData};
use crate::error::{Error, Kind, Result};
use crate::lsn::Lsn;
use crate::mapping::plan::Plan;
use crate::mirror::apply::{MirrorSql, apply};
use crate::mirror::net::{Key, Net, Netting, Write};
use crate::mirror::prepared::{Owned, Prepared};
use crate::mirror::room::Room;

/// Made anew for each attempt; ours alone, so that nothing of an earlier attempt is in it.
pub(crate) const CREATE: &str = "DROP TABLE IF EXISTS portalhook_mirror.recorded; \
     CREATE TABLE portalhook_mirror.recorded (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, xid bigint NOT NULL, change text NOT NULL)";
const KEEP: &str = "INSERT INTO portalhook_mirror.recorded (xid, change) SELECT * FROM unnest($1::int8[], $2::text[])";
/// Some 1 MiB at a time.
const READ: &str = "SELECT n, xid, change FROM (
        SELECT *, sum(octet_length(change)) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) - octet_length(change) AS earlier
        FROM (SELECT * FROM portalhook_mirror.recorded WHERE n > $1 ORDER BY n LIMIT 200) AS page
    ) AS summed WHERE earlier < 1048576 ORDER BY n";

/// What is copied, for which plan.
pub(crate) struct Job {
    /// Names the attempt: only its own announcement ends it.
    pub(crate) attempt: String,
    /// The plan that it was made from; the heart must be on it.
    pub(crate) before: Plan,
    pub(crate) plan: Plan,
    /// The `pg_snapshot` in which the mapping was read.
    pub(crate) seen: Option<String>,
    /// Indexes into `plan.tables`.
    pub(crate) copied: Vec<usize>,
    /// Tables (`pg_class.oid`) whose changes the stream did not carry for a while: what differs gives events.
    pub(crate) compared: Vec<u32>,
    /// Rows of `portalhook.switches` that are done with it.
    pub(crate) requests: Vec<i64>,
    /// The stream waits for it: it takes effect where that stands.
    pub(crate) at_pause: bool,
    /// What was committed before anything began: the copy sees it for certain.
    pub(crate) earlier: Snapshot,
    /// What the copy sees, once that is known.
    pub(crate) snapshot: Arc<OnceLock<Snapshot>>,
    /// Hears how it ended: the position, or why the copy is of no use.
    pub(crate) done: oneshot::Sender<Result<Lsn>>,
}

/// The job as the heart keeps it.
pub(crate) struct Recording {
    pub(crate) job: Job,
    /// Why the copy cannot be used, as `catch_up` has found.
    pub(crate) useless: Option<String>,
    /// Rows that are kept apart until it is in force, and when it was announced (microseconds since 1970).
    pub(super) apart: Vec<Apart>,
    pub(super) announced_at: i64,
    netting: Netting,
}

/// One transaction's writes on copied tables, as they are kept.
pub(crate) struct Kept {
    xid: u64,
    change: String,
}

#[derive(Serialize, Deserialize)]
enum Change {
    Writes {
        truncated: Vec<usize>,
        writes: Vec<KeptWrite>,
    },
    /// It cannot be read for the new mirror: the copy must see it.
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct KeptWrite {
    table: usize,
    key: Vec<String>,
    existed: bool,
    image: Option<Vec<Value>>,
    gone: Option<Vec<Value>>,
    moved_from: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    /// The write session holds it.
    Held {
        held: String,
    },
    /// `false`: not sent.
    Sent(bool),
    Null,
}

impl Job {
    /// Whether it copies a table (`pg_class.oid`).
    pub(super) fn copies(&self, table: u32) -> bool {
        self.copied.iter().any(|&place| self.plan.tables[place].oid == table)
    }
}

impl Recording {
    pub(crate) fn new(job: Job) -> Self {
        Self { netting: Netting::of(&job.plan, &job.copied), job, useless: None, apart: Vec::new(), announced_at: 0 }
    }

    /// What has to be kept of a transaction, or of a part of one, if anything.
    fn keep(&mut self, xid: u64, changes: &[change::Change]) -> Result<Option<Kept>> {
        if self.sees(xid) || !self.netting.touches(changes) {
            return Ok(None);
        }
        let (commit_lsn, end_lsn) = (Lsn::ZERO, Lsn::ZERO);
        let transaction = Transaction { xid, commit_lsn, end_lsn, commit_micros: 0, changes: changes.to_vec() };
        let change = match self.netting.net(transaction) {
            Ok(net) if net.writes.is_empty() && net.truncated.is_empty() => return Ok(None),
            Ok(net) => Change::Writes {
                truncated: net.truncated.iter().map(|(table, _)| *table).collect(),
                writes: net.writes.iter().map(kept).collect::<Result<_>>()?,
            },
            Err(error) => Change::Unreadable(error.to_string()),
        };
        let change = serde_json::to_string(&change)
            .map_err(|error| Error::because(Kind::Failed, "keep a change for the copy", error))?;
        Ok(Some(Kept { xid, change }))
    }

    /// The copy is of no use: the copier makes another.
    pub(super) fn give_up(self, why: &str) {
        // A copier that is gone starts anew anyway.
        drop(self.job.done.send(Err(Error::new(Kind::Again, why))));
    }

    fn sees(&self, xid: u64) -> bool {
        self.job.earlier.sees(xid) || self.job.snapshot.get().is_some_and(|snapshot| snapshot.sees(xid))
    }

    /// Applies to the copies what they do not see; says why not, where a change cannot be read for them.
    pub(crate) async fn catch_up(&self, sql: &Prepared<'_>) -> Result<Option<String>> {
        let Job { plan, copied, snapshot, .. } = &self.job;
        let Some(snapshot) = snapshot.get() else { return Ok(Some("the copy did not say what it sees".to_owned())) };
        let mirrors: Vec<MirrorSql> = plan.tables.iter().map(MirrorSql::new).collect();
        let cuts = Cuts::of_keys();
        let mut last = 0_i64;
        loop {
            let rows = sql.query("read what the copy has missed", READ, &[&last]).await?;
            let Some(row) = rows.last() else { return Ok(None) };
            last = row.get(0);
            let mut nets = Vec::with_capacity(rows.len());
            for row in &rows {
                let xid = row.get::<_, i64>(1).unsigned_abs();
                if snapshot.sees(xid) {
                    continue;
                }
                match read(row.get(2))? {
                    Change::Unreadable(why) => return Ok(Some(why)),
                    Change::Writes { truncated, writes } => nets.push(net(xid, truncated, writes)?),
                }
            }
            // A TRUNCATE stands alone.
            for part in nets.chunk_by(|a, b| a.truncated.is_empty() && b.truncated.is_empty()) {
                for &(table, _) in part.iter().flat_map(|net| &net.truncated) {
                    if copied.contains(&table) {
                        sql.run("empty a copy", &format!("DELETE FROM {}", plan.tables[table].mirror_name())).await?;
                    }
                }
                for mut batch in cuts.batches(part.to_vec()) {
                    let mut writes: Vec<&mut Write> = batch.iter_mut().flat_map(|net| &mut net.writes).collect();
                    apply(sql, plan, &mirrors, &mut writes, &Room::unbounded()).await?;
                }
            }
        }
    }
}

impl Advance {
    /// What of these changes a copy that is under way does not see.
    pub(super) fn keep(&mut self, xid: u64, changes: &[change::Change]) -> Result<Option<Kept>> {
        self.recording.as_mut().map_or(Ok(None), |recording| recording.keep(xid, changes))
    }
}

/// Posts what was kept of a group.
pub(crate) async fn keep(sql: &Prepared<'_>, kept: Vec<Kept>) -> Result<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let xids: Vec<i64> = kept.iter().map(|one| i64::try_from(one.xid).unwrap_or(i64::MAX)).collect();
    let changes: Vec<String> = kept.into_iter().map(|one| one.change).collect();
    let parameters: Vec<Owned> = vec![Box::new(xids), Box::new(changes)];
    sql.post("keep changes for the copy", KEEP, parameters).await
}

fn read(text: &str) -> Result<Change> {
    serde_json::from_str(text).map_err(|error| Error::because(Kind::Failed, "read a change for the copy", error))
}

fn net(xid: u64, truncated: Vec<usize>, writes: Vec<KeptWrite>) -> Result<Net> {
    let mut writes: Vec<Write> = writes.into_iter().map(KeptWrite::back).collect::<Result<_>>()?;
    writes.retain_mut(|write| {
        // The table is emptied first: what is written then is new, what is gone is gone.
        let is_emptied = truncated.contains(&write.table);
        write.existed &= !is_emptied;
        !is_emptied || write.image.is_some()
    });
    Ok(Net {
        xid,
        commit_lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        commit_micros: 0,
        writes,
        operations: Vec::new(),
        truncated: truncated.into_iter().map(|table| (table, 0)).collect(),
    })
}

fn kept(write: &Write) -> Result<KeptWrite> {
    let row =
        |row: &Option<Row>| row.as_ref().map(|row| row.iter().map(Value::of).collect::<Result<Vec<_>>>()).transpose();
    Ok(KeptWrite {
        table: write.table,
        key: key(&write.key)?,
        existed: write.existed,
        image: row(&write.image)?,
        gone: row(&write.gone)?,
        moved_from: write.moved_from.as_ref().map(key).transpose()?,
    })
}

impl KeptWrite {
    fn back(self) -> Result<Write> {
        let key = |key: Vec<String>| -> Key { key.into_iter().map(Bytes::from).collect() };
        let row = |row: Vec<Value>| row.into_iter().map(Value::back).collect::<Result<Row>>();
        Ok(Write {
            table: self.table,
            key: key(self.key),
            existed: self.existed,
            image: self.image.map(row).transpose()?,
            gone: self.gone.map(row).transpose()?,
            moved_from: self.moved_from.map(key),
            place: 0,
            alters: true,
        })
    }
}

impl Value {
    fn of(value: &TupleData) -> Result<Self> {
        Ok(match value {
            TupleData::Null => Self::Null,
            TupleData::UnchangedToast => Self::Sent(false),
            TupleData::Text(text) => Self::Text(utf8(text)?),
            TupleData::Held(held) => Self::Held { held: held.to_string() },
        })
    }

    fn back(self) -> Result<TupleData> {
        Ok(match self {
            Self::Null => TupleData::Null,
            Self::Sent(_) => TupleData::UnchangedToast,
            Self::Text(text) => TupleData::Text(Bytes::from(text)),
            Self::Held { held } => {
                let broken = |NotHeld| Error::failed("a value that is kept for the copy cannot be read back");
                TupleData::Held(Box::new(held.parse().map_err(broken)?))
            }
        })
    }
}

fn key(key: &Key) -> Result<Vec<String>> {
    key.iter().map(utf8).collect()
}

fn utf8(bytes: &Bytes) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| Error::because(Kind::Failed, "a value of the stream is not UTF-8", error))
}
