//! What the mirror remembers of each table's catalog, and what a look at it says now. Migrations change rows without a word in
//! the stream (a rewrite, an attached partition, a swap by renaming): only the catalog shows it.

mod difference;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Client;

pub(crate) use self::difference::{Difference, Follow, differences};
use crate::error::{Context as _, Error, Kind, Result};
use crate::mapping::plan::Plan;
use crate::mirror::prepared::Prepared;

const LOOK: &str = include_str!("../../sql/queries/look.sql");

/// A mirrored table in the catalog, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The plan's table.
    pub(crate) oid: u32,
    /// `None`: it was dropped.
    pub(crate) table: Option<Described>,
    /// Another table that has the name which the mapping says.
    pub(crate) namesake: Option<u32>,
}

/// A table that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// The mapping names it so.
    pub(crate) named: bool,
    /// The oid of its row in `pg_publication_rel`: another one means that it was out of the publication for a while.
    pub(crate) published: Option<u32>,
    /// REPLICA IDENTITY FULL is ours.
    pub(crate) made_full: bool,
    /// The table, then its partitions.
    pub(crate) members: Vec<Member>,
    /// Those that the mapping reads, and those that were read when it was remembered.
    pub(crate) columns: Vec<Attribute>,
    /// Of the enums that those columns are made of.
    pub(crate) labels: Vec<Label>,
}

/// A table or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) oid: u32,
    /// Qualified and quoted.
    pub(crate) name: String,
    /// `pg_class.relfilenode`; 0 where there are only partitions.
    pub(crate) storage: u32,
    /// `pg_class.relreplident`
    pub(crate) identity: String,
    /// The primary key's columns, if it is an immediate one.
    pub(crate) key: Vec<String>,
    /// PostgreSQL refuses its UPDATE and DELETE while it is published.
    pub(crate) refuses: bool,
    /// A generated column, on a server where that forbids identity FULL.
    pub(crate) generated: Option<String>,
}

/// A column, which keeps its number for as long as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) number: i16,
    pub(crate) name: String,
    /// As `format_type` prints it.
    #[serde(rename = "type")]
    pub(crate) type_name: String,
}

/// A value of an enum, which keeps its oid when it is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) oid: u32,
    /// The enum, as `format_type` prints it.
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) label: String,
}

/// A value of an enum that was renamed since the mirror was copied, and a column that is of this enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RenamedLabel {
    /// Index into `Plan::tables`.
    pub(crate) table: usize,
    pub(crate) column: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// One table of the plan: as it was when its mirror was copied, and as it is.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// The table's place in `Plan::tables`.
    pub(crate) table: usize,
    /// `None`: nothing was remembered yet.
    pub(crate) before: Option<Seen>,
    pub(crate) now: Seen,
}

/// Looks at all tables of the plan. In a transaction with a snapshot, what that one sees.
pub(crate) async fn look(client: &Client, plan: &Plan, publication: &str) -> Result<Vec<Look>> {
    let tables: Vec<_> = plan
        .tables
        .iter()
        .map(|table| {
            let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            let (schema, name) = table.called().split_once('.').unwrap_or_default();
            json!({"mirror": table.mirror, "oid": table.oid, "schema": schema, "name": name, "columns": columns})
        })
        .collect();
    let tables = serde_json::Value::from(tables).to_string();
    let rows = client.query(LOOK, &[&tables, &publication]).await.context("look at the catalog")?;
    let looks = rows.iter().map(|row| {
        let (mirror, before, now): (&str, Option<&str>, &str) = (row.get(0), row.get(1), row.get(2));
        let table = plan.tables.iter().position(|table| table.mirror == mirror);
        // What another version remembered is as good as nothing.
        let before = before.and_then(|json| serde_json::from_str(json).ok());
        let now = serde_json::from_str(now).map_err(|error| Error::because(Kind::Failed, "read the catalog", error))?;
        Ok(table.map(|table| Look { table, before, now }))
    });
    looks.filter_map(Result::transpose).collect()
}

/// Values of enums that have another name than when the mirrors were copied, for each column that has them.
pub(crate) async fn renamed_labels(client: &Client, plan: &Plan, publication: &str) -> Result<Vec<RenamedLabel>> {
    let mut renamed = Vec::new();
    for Look { table, before, now } in look(client, plan, publication).await? {
        let (Some(before), Some(now)) = (before.and_then(|before| before.table), now.table) else { continue };
        for label in &now.labels {
            let Some(old) = before.labels.iter().find(|old| old.oid == label.oid && old.label != label.label) else {
                continue;
            };
            let columns = plan.tables[table].columns.iter().filter(|column| column.source_type == label.type_name);
            renamed.extend(columns.map(|column| RenamedLabel {
                table,
                column: column.name.clone(),
                from: old.label.clone(),
                to: label.label.clone(),
            }));
        }
    }
    Ok(renamed)
}

/// From now on this is what the mirror of the table was copied from.
pub(crate) async fn remember(client: &Client, mirror: &str, seen: &Seen) -> Result<()> {
    let json =
        serde_json::to_string(seen).map_err(|error| Error::because(Kind::Failed, "write down the catalog", error))?;
    client
        .execute(
            "INSERT INTO portalhook.catalog (mirror, seen) VALUES ($1, $2::text::jsonb)
             ON CONFLICT (mirror) DO UPDATE SET seen = excluded.seen, at = now()",
            &[&mirror, &json],
        )
        .await
        .context("remember the catalog")?;
    Ok(())
}

/// What a mirror was copied from; `None`: nothing was remembered, or by another version.
pub(crate) async fn remembered(sql: &Prepared<'_>, mirror: &str) -> Result<Option<Seen>> {
    let rows = sql
        .query("recall the catalog", "SELECT seen::text FROM portalhook.catalog WHERE mirror = $1", &[&mirror])
        .await?;
    Ok(rows.first().and_then(|row| serde_json::from_str(row.get(0)).ok()))
}

/// Remembers those mirrors of the plan that are new, as the client's transaction sees their tables. To be called in the
/// transaction that copies, so that whatever changes after its snapshot is a difference.
pub(crate) async fn remember_all(client: &Client, plan: &Plan, publication: &str) -> Result<()> {
    for look in look(client, plan, publication).await?.iter().filter(|look| look.before.is_none()) {
        remember(client, &plan.tables[look.table].mirror, &look.now).await?;
    }
    Ok(())
}

/// Fails with `Kind::Again` where a table that was read in this transaction's snapshot has got other files since: to an older snapshot a
/// rewritten or truncated table looks empty (manual, "Concurrency Control", Caveats), so what was copied may be nothing.
/// To be called after the copy, which holds the tables' locks.
pub(crate) async fn check_files(client: &Client, tables: &[u32]) -> Result<()> {
    let row = client
        .query_opt(
            // The query sees the snapshot's catalog, the function that of now.
            "SELECT m.member::regclass::text FROM unnest($1::oid[]) AS t (oid), LATERAL portalhook.members(t.oid) AS m
             WHERE m.storage <> 0 AND m.storage IS DISTINCT FROM pg_relation_filenode(m.member) LIMIT 1",
            &[&tables],
        )
        .await
        .context("see that no table was rewritten meanwhile")?;
    match row {
        Some(row) => Err(Error::new(
            Kind::Again,
            format!("{} was rewritten while it was copied, so the copy may lack rows", row.get::<_, &str>(0)),
        )),
        None => Ok(()),
    }
}
