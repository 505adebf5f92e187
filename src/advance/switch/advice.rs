//! What to type where mapped columns are gone.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, shown};
use crate::mapping::plan::{Entity, EntityPlan, Plan, Table};

/// Tables and their columns under the names of now, which are quoted where they need it.
const NOW: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, quote_ident(n.nspname), quote_ident(c.relname), a.attnum, a.attname::text, quote_ident(a.attname)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = ANY ($1)";

/// A line that says what is missing, and the statements that mend it where tables and columns were only renamed.
///
/// `unfit` is what the mapping lacks although somebody has changed it since.
pub(super) async fn advise<'a>(
    client: &Client,
    plan: &Plan,
    table: &Table,
    missing: &[String],
    columns: impl Iterator<Item = &'a str>,
    unfit: Option<&str>,
) -> Result<String> {
    let columns: Vec<&str> = columns.collect();
    let title = format!("{}.{}", table.schema, table.name);
    let oids: Vec<u32> = plan.tables.iter().map(|table| table.oid).collect();
    let rows = client.query(NOW, &[&oids]).await.context("look for renamed columns")?;
    let now: Vec<Name> = rows.iter().map(Name::of).collect();
    let problems: Vec<String> = missing
        .iter()
        .map(|name| {
            let column = table.columns.iter().find(|column| column.name == *name);
            match column.and_then(|column| renamed(&now, table, column.number, name)) {
                Some(now) => format!("column {name} of {title}, which the mapping reads, is called {} now", now.column),
                None => {
                    format!(
                        "column {name} of {title}, which the mapping reads, is gone (it has {})",
                        columns.join(", ")
                    )
                }
            }
        })
        .collect();
    let mut statements = Vec::new();
    for entity in &plan.entities {
        statements.extend(statement(client, plan, entity, &now).await?);
    }
    if statements.is_empty() {
        statements.push(anything("…"));
    }
    let unfit =
        unfit.map_or_else(String::new, |problem| format!("As it stands portalhook.mapping is of no help: {problem}. "));
    Ok(format!(
        "{}: the stream is paused before it, deliveries go on. {unfit}Change the mapping: {}",
        problems.join("; "),
        statements.join(" ")
    ))
}

/// A column of a table as both are called now.
struct Name {
    oid: u32,
    table: (String, String),
    quoted_table: (String, String),
    number: i16,
    column: String,
    quoted_column: String,
}

impl Name {
    fn of(row: &tokio_postgres::Row) -> Self {
        Self {
            oid: row.get(0),
            table: (row.get(1), row.get(2)),
            quoted_table: (row.get(3), row.get(4)),
            number: row.get(5),
            column: row.get(6),
            quoted_column: row.get(7),
        }
    }
}

/// The column under another name than it had.
fn renamed<'n>(now: &'n [Name], table: &Table, number: i16, was: &str) -> Option<&'n Name> {
    now.iter().find(|name| name.oid == table.oid && name.number == number && name.column != was)
}

fn reads(entity: &EntityPlan, place: usize) -> bool {
    entity.base == Some(place) || entity.reads.contains(&place)
}

/// What no rule knows.
fn anything(entity: &str) -> String {
    format!("UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = '{entity}';")
}

/// The statement that puts new names into an entity's SELECT so that it still gives the same columns; `None` where it can be run as
/// it stands.
async fn statement(client: &Client, plan: &Plan, entity: &EntityPlan, now: &[Name]) -> Result<Option<String>> {
    let name = Entity::name(entity.entity);
    const HAS_QUOTES: &str = "SELECT query LIKE '%\"%' FROM portalhook.mapping WHERE entity = $1";
    let row = client.query_opt(HAS_QUOTES, &[&name]).await.context("try new names")?;
    let edits = Edits::of(plan, entity, now, row.is_some_and(|row| row.get(0)));
    if edits.are_none() || !matches!(gives(client, name, "query").await?, Given::Nothing) {
        return Ok(None);
    }
    let wanted: Vec<&str> = entity.outputs.iter().map(|output| output.name.as_str()).collect();
    for query in [edits.under_new_names(), edits.under_old_names(&wanted)] {
        let is_it = match gives(client, name, &query).await? {
            Given::Columns(outputs) => outputs == wanted,
            // In another schema, which the daemon may use once the mapping says so.
            Given::NoRight => query == edits.under_old_names(&wanted),
            Given::Nothing => false,
        };
        if is_it {
            return Ok(Some(format!("UPDATE portalhook.mapping SET query = {query} WHERE entity = '{name}';")));
        }
    }
    Ok(Some(anything(name)))
}

/// What PostgreSQL says to a SELECT.
enum Given {
    Columns(Vec<String>),
    NoRight,
    Nothing,
}

/// The columns of an entity's SELECT as this expression of SQL changes it.
async fn gives(client: &Client, entity: &str, query: &str) -> Result<Given> {
    let changed = format!(
        "SELECT {query}, coalesce(search_path, portalhook.mapping_search_path()) FROM portalhook.mapping WHERE entity = $1"
    );
    let row = client.query_opt(&changed, &[&entity]).await.context("try new names")?;
    let Some(row) = row else { return Ok(Given::Nothing) };
    let (query, path): (&str, &str) = (row.get(0), row.get(1));
    client.batch_execute("BEGIN").await.context("try new names")?;
    let tried = match client.execute("SELECT set_config('search_path', $1, true)", &[&path]).await {
        Ok(_) => client.prepare(query).await,
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await.context("try new names")?;
    Ok(match tried {
        Ok(statement) => Given::Columns(statement.columns().iter().map(|column| column.name().to_owned()).collect()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Given::NoRight,
        Err(_) => Given::Nothing,
    })
}

/// What is called otherwise in the tables that an entity reads: patterns and what takes their place.
#[derive(Default)]
struct Edits {
    tables: Vec<(String, String)>,
    /// With the old name.
    columns: Vec<(String, String, String)>,
    /// Something is gone.
    lacks: bool,
}

impl Edits {
    /// `has_quotes`: names in the SELECT may stand in quotes.
    fn of(plan: &Plan, entity: &EntityPlan, now: &[Name], has_quotes: bool) -> Self {
        let word = |name: &str| if has_quotes { format!("\"?{}\"?", word(name)) } else { word(name) };
        let mut edits = Self::default();
        for (_, table) in plan.tables.iter().enumerate().filter(|(place, _)| reads(entity, *place)) {
            let Some(name) = now.iter().find(|name| name.oid == table.oid) else { continue };
            let Some((schema, was)) = table.called().split_once('.') else { continue };
            let (moved, called) = (name.table.0 != schema, name.table.1 != was);
            if moved || called {
                let (schema_now, name_now) = &name.quoted_table;
                edits.tables.push(if moved {
                    (format!("(?:{}\\.)?{}", word(schema), word(was)), format!("{schema_now}.{name_now}"))
                } else {
                    (word(was), name_now.clone())
                });
            }
            for column in &table.columns {
                let is_it = |one: &Name| one.oid == table.oid && one.number == column.number;
                edits.lacks |= column.number != 0 && !now.iter().any(is_it);
                if let Some(name) = renamed(now, table, column.number, &column.name) {
                    let edit = (word(&column.name), name.quoted_column.clone(), column.name.clone());
                    if !edits.columns.contains(&edit) {
                        edits.columns.push(edit);
                    }
                }
            }
        }
        edits
    }

    fn are_none(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty() && !self.lacks
    }

    fn tables(&self) -> String {
        self.tables.iter().fold("query".to_owned(), |query, (from, to)| replace(&query, from, to, "gi"))
    }

    /// Everywhere the new names: the SELECT names its columns itself.
    fn under_new_names(&self) -> String {
        self.columns.iter().fold(self.tables(), |query, (from, to, _)| replace(&query, from, to, "gi"))
    }

    /// A column that the SELECT gives under its own name keeps that.
    fn under_old_names(&self, outputs: &[&str]) -> String {
        self.columns.iter().fold(self.tables(), |query, (from, to, was)| {
            if !outputs.contains(&was.as_str()) {
                return replace(&query, from, to, "gi");
            }
            // The first place is the list, which comes before all else.
            let in_list = format!("{from}(?=\\s*,|\\s+from\\M)");
            let given = replace(&query, &in_list, &format!("{to} AS {}", shown(was)), "i");
            replace(&given, &format!("(?<!\\mas\\s){from}"), to, "gi")
        })
    }
}

/// A name as a whole word; what is special in a pattern stands for any character.
fn word(name: &str) -> String {
    format!("\\m{}\\M", name.replace(|one: char| !one.is_alphanumeric() && one != '_', "."))
}

/// SQL that replaces a pattern in what SQL gives.
fn replace(query: &str, from: &str, to: &str, flags: &str) -> String {
    format!("regexp_replace({query}, {}, {}, '{flags}')", literal(from), literal(&to.replace('\\', "\\\\")))
}
