//! Which mapping: a file, a preset, the one that is there, or that of an application that we recognise.

use std::path::Path;

use tokio_postgres::Client;

use super::script::fix;
use crate::error::{Context as _, Result};
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::{file, read};

/// Applications whose mapping comes with us.
const PRESETS: [(&str, &str); 2] =
    [("fider", include_str!("../../sql/presets/fider.sql")), ("astuto", include_str!("../../sql/presets/astuto.sql"))];

/// A mapping and where it is from.
pub(crate) struct Chosen {
    pub(crate) queries: Vec<(Entity, String)>,
    pub(crate) plan: Plan,
    /// What is allowed and may surprise.
    pub(crate) warnings: Vec<String>,
    /// For the report: "fider.sql", "preset fider", "already there".
    pub(crate) origin: String,
    /// It stands in `portalhook.mapping` as it is here.
    pub(crate) stored: bool,
}

/// Chooses, and lets PostgreSQL check what was chosen; changes nothing.
///
/// # Errors
/// `Kind::Usage` where there is no mapping, or a file is not one.
///
/// `mirrors`: how much of what is mirrored already is of use.
pub(crate) async fn choose(client: &Client, views: Option<&str>, mirrors: Known) -> Result<Chosen> {
    let there = stored(client).await?;
    let (mut queries, origin) = match views {
        Some(views) => given(views)?,
        None if !there.is_empty() => (there.clone(), "kept as it is".to_owned()),
        None => return recognised(client).await,
    };
    tidy(&mut queries);
    let mut before = match mirrors {
        Known::Nothing => None,
        Known::AsItIs | Known::Moved => plan_in_force(client).await?,
    };
    if let (Known::Moved, Some(before)) = (mirrors, &mut before) {
        find_by_name(client, before).await?;
    }
    let (plan, warnings) =
        read::read_again(client, &queries, before.as_ref()).await.context(format!("check the mapping ({origin})"))?;
    let stored = queries == there;
    let origin = if stored { "already there".to_owned() } else { origin };
    Ok(Chosen { queries, plan, warnings, origin, stored })
}

/// A file where there is one, a preset otherwise.
fn given(views: &str) -> Result<(Vec<(Entity, String)>, String)> {
    if Path::new(views).is_file() {
        let text = std::fs::read_to_string(views).context(format!("read {views}"))?;
        return Ok((file::split(&text).context(format!("read the mapping in {views}"))?, format!("from {views}")));
    }
    match PRESETS.iter().find(|(name, _)| *name == views) {
        Some((name, text)) => Ok((file::split(text)?, format!("preset {name}"))),
        None => Err(fix(format!("`{views}` is neither a file nor a preset"), format!("presets are {}", names()))),
    }
}

/// The preset whose tables and columns are all there.
async fn recognised(client: &Client) -> Result<Chosen> {
    for (name, text) in PRESETS {
        let mut queries = file::split(text)?;
        tidy(&mut queries);
        if fits(client, &queries).await? {
            let origin = format!("preset {name}, whose tables are here");
            let (plan, warnings) =
                read::read_with_warnings(client, &queries).await.context(format!("check the mapping ({origin})"))?;
            return Ok(Chosen { queries, plan, warnings, origin, stored: false });
        }
    }
    Err(fix(
        "there is no mapping yet, and this is no application that portalhook knows",
        format!(
            "give --views with a file of five views (portalhook.posts, votes, comments, users, portals) or a preset ({})",
            names()
        ),
    ))
}

/// Whether PostgreSQL can run all of these SELECTs here; leaves nothing behind.
async fn fits(client: &Client, queries: &[(Entity, String)]) -> Result<bool> {
    client.batch_execute("BEGIN").await.context("try a preset")?;
    let mut fits = true;
    for (place, (_, query)) in queries.iter().enumerate() {
        let sql = format!("CREATE TEMPORARY VIEW \"portalhook tries {place}\" AS {query}");
        match client.batch_execute(&sql).await {
            Ok(()) => {}
            // Class 42 and 3F: no such table, column, function or schema, or it is another type's.
            Err(error)
                if error.code().is_some_and(|code| code.code().starts_with("42") || code.code().starts_with("3F")) =>
            {
                fits = false;
                break;
            }
            Err(error) => return Err(error).context("try a preset"),
        }
    }
    client.batch_execute("ROLLBACK").await.context("try a preset")?;
    Ok(fits)
}

/// As `portalhook.mapping` keeps them: in order, without what ends a statement.
fn tidy(queries: &mut [(Entity, String)]) {
    queries.sort_by_key(|(entity, _)| *entity);
    for (_, query) in queries {
        query.truncate(query.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).len());
    }
}

fn names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

/// What of the mirrors that are there a new plan can count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Everything is copied anew.
    Nothing,
    AsItIs,
    /// They came with the tables from another cluster: under the same names, with other oids.
    Moved,
}

/// A restored table has another oid, and its columns other numbers.
async fn find_by_name(client: &Client, plan: &mut Plan) -> Result<()> {
    const FIND: &str = "SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    for table in &mut plan.tables {
        let row = client.query_opt(FIND, &[&table.schema, &table.name]).await.context("look for a restored table")?;
        table.oid = row.map_or(0, |row| row.get(0));
        table.columns.iter_mut().for_each(|column| column.number = 0);
    }
    Ok(())
}

/// The plan that the daemon runs, if one of this version is there: its mirrors are used where they hold what is wanted.
async fn plan_in_force(client: &Client) -> Result<Option<Plan>> {
    let there: bool = client
        .query_one("SELECT to_regclass('portalhook.plan') IS NOT NULL", &[])
        .await
        .context("look for the plan")?
        .get(0);
    if !there {
        return Ok(None);
    }
    let row = client.query_opt("SELECT plan::text FROM portalhook.plan", &[]).await.context("read the plan")?;
    Ok(row.and_then(|row| serde_json::from_str(row.get(0)).ok()))
}

async fn stored(client: &Client) -> Result<Vec<(Entity, String)>> {
    let there: bool = client
        .query_one("SELECT to_regclass('portalhook.mapping') IS NOT NULL", &[])
        .await
        .context("look for the mapping")?
        .get(0);
    if !there {
        return Ok(Vec::new());
    }
    let rows = client.query("SELECT entity, query FROM portalhook.mapping", &[]).await.context("read the mapping")?;
    let mut queries: Vec<(Entity, String)> = rows
        .iter()
        .filter_map(|row| {
            let name: &str = row.get(0);
            Entity::ALL.into_iter().find(|entity| entity.name() == name).map(|entity| (entity, row.get(1)))
        })
        .collect();
    tidy(&mut queries);
    Ok(queries)
}
