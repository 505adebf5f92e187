//! What operators do in our own tables, read at its place in the stream.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::mirror::prepared::Prepared;

const READ: &str = "SELECT id, kind, payload::text, xid FROM portalhook.operations WHERE id = ANY ($1::bigint[])";
const READ_MISSED: &str = "SELECT id, kind, payload::text FROM portalhook.operations WHERE NOT taken ORDER BY id";
const TAKE: &str = "UPDATE portalhook.operations SET taken = true WHERE id = ANY ($1::bigint[]) AND NOT taken";
const VISIBLE: &str = "SELECT pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot())";

/// A transaction appears in the stream a moment before queries see it.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One row of `portalhook.operations`.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// An endpoint as it is routed to from here on.
    PutEndpoint {
        endpoint: i64,
        events: Vec<String>,
        portal: Option<String>,
    },
    DeleteEndpoint {
        endpoint: i64,
    },
    /// `portalhook.test()`.
    Test {
        endpoint: i64,
        url: String,
    },
    /// `portalhook.emit()`: `data` as it was given.
    Emit {
        event: String,
        data: String,
        portal: Option<String>,
    },
    /// An endpoint was given up.
    Disabled {
        endpoint: i64,
        url: String,
        portal: Option<String>,
        reason: String,
    },
    /// A SELECT of the mapping was changed to this; without a query: removed.
    Mapping {
        entity: String,
        query: Option<String>,
        search_path: Option<String>,
    },
    /// A copy is complete.
    Switch {
        attempt: String,
    },
    /// `portalhook.mute()`: the transaction's changes give no events.
    Mute {
        reason: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum EndpointPayload {
    Put { endpoint: i64, events: Vec<String>, portal: Option<String> },
    Delete { endpoint: i64 },
}

#[derive(Deserialize)]
struct TestPayload {
    endpoint: i64,
    url: String,
}

#[derive(Deserialize)]
struct EmitPayload {
    event: String,
    data: Box<RawValue>,
    portal: Option<String>,
}

#[derive(Deserialize)]
struct DisabledPayload {
    endpoint: i64,
    url: String,
    portal: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
struct MappingPayload {
    entity: String,
    query: Option<String>,
    search_path: Option<String>,
}

#[derive(Deserialize)]
struct SwitchPayload {
    attempt: String,
}

#[derive(Deserialize)]
struct MutePayload {
    reason: Option<String>,
}

impl Operation {
    fn read(kind: &str, payload: &str) -> Result<Self> {
        fn parse<'p, T: Deserialize<'p>>(kind: &str, payload: &'p str) -> Result<T> {
            serde_json::from_str(payload)
                .map_err(|error| Error::failed(format!("an operation of kind {kind} cannot be read: {error}")))
        }
        Ok(match kind {
            "endpoint" => match parse(kind, payload)? {
                EndpointPayload::Put { endpoint, events, portal } => Self::PutEndpoint { endpoint, events, portal },
                EndpointPayload::Delete { endpoint } => Self::DeleteEndpoint { endpoint },
            },
            "test" => {
                let TestPayload { endpoint, url } = parse(kind, payload)?;
                Self::Test { endpoint, url }
            }
            "emit" => {
                let EmitPayload { event, data, portal } = parse(kind, payload)?;
                Self::Emit { event, data: data.get().to_owned(), portal }
            }
            "disabled" => {
                let DisabledPayload { endpoint, url, portal, reason } = parse(kind, payload)?;
                Self::Disabled { endpoint, url, portal, reason }
            }
            "mapping" => {
                let MappingPayload { entity, query, search_path } = parse(kind, payload)?;
                Self::Mapping { entity, query, search_path }
            }
            "switch" => {
                let SwitchPayload { attempt } = parse(kind, payload)?;
                Self::Switch { attempt }
            }
            "mute" => {
                let MutePayload { reason } = parse(kind, payload)?;
                Self::Mute { reason }
            }
            other => return Err(Error::failed(format!("an operation of the unknown kind {other} was found"))),
        })
    }
}

/// Reads and takes the operations that the stream named: `wanted` are (number, 64-bit id of the transaction that announced it).
///
/// A message is only a hint, which anyone may write: an operation counts where its row says the same transaction. That it is
/// taken in becomes so with the group's commit.
pub(crate) async fn read(sql: &Prepared<'_>, wanted: &[(i64, u64)]) -> Result<HashMap<i64, Operation>> {
    let mut operations = HashMap::new();
    if wanted.is_empty() {
        return Ok(operations);
    }
    let mut transactions: Vec<u64> = wanted.iter().map(|(_, xid)| *xid).collect();
    transactions.dedup();
    for xid in transactions {
        await_visible(sql, xid).await?;
    }
    let announced: HashMap<i64, u64> = wanted.iter().copied().collect();
    let numbers: Vec<i64> = wanted.iter().map(|(number, _)| *number).collect();
    for row in sql.query("read operations", READ, &[&numbers]).await? {
        let (number, xid): (i64, i64) = (row.get(0), row.get(3));
        if announced.get(&number).copied() == u64::try_from(xid).ok() {
            operations.insert(number, Operation::read(row.get(1), row.get(2))?);
        } else {
            tracing::warn!(number, "a logical message names an operation of another transaction: ignored");
        }
    }
    take(sql, operations.keys().copied().collect()).await?;
    Ok(operations)
}

/// Reads these, whoever announced them.
pub(crate) async fn read_these(sql: &Prepared<'_>, numbers: &[i64]) -> Result<HashMap<i64, Operation>> {
    let rows = sql.query("read operations", READ, &[&numbers]).await?;
    rows.iter().map(|row| Ok((row.get(0), Operation::read(row.get(1), row.get(2))?))).collect()
}

/// Those that the stream has not brought, in the order in which they were written.
pub(crate) async fn read_missed(sql: &Prepared<'_>) -> Result<Vec<(i64, Operation)>> {
    let rows = sql.query("read operations", READ_MISSED, &[]).await?;
    rows.iter().map(|row| Ok((row.get(0), Operation::read(row.get(1), row.get(2))?))).collect()
}

/// Notes that these are taken in: posted.
pub(crate) async fn take(sql: &Prepared<'_>, numbers: Vec<i64>) -> Result<()> {
    if numbers.is_empty() {
        return Ok(());
    }
    sql.post("take in operations", TAKE, vec![Box::new(numbers)]).await
}

/// Waits until queries see the transaction; it has committed, so that is a matter of moments.
async fn await_visible(sql: &Prepared<'_>, xid: u64) -> Result<()> {
    loop {
        let rows = sql.query("wait for an operation", VISIBLE, &[&xid.to_string()]).await?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
