//! A mirror made from the one that is there, in the group commit that needs it: converted, renamed, or joined with the table.

use tokio_postgres::error::SqlState;

use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Column, Plan, Table};
use crate::mirror::prepared::Prepared;
use crate::session::Session;

/// Why a mirror cannot be made from the one that is there.
pub(in crate::advance) enum Unfit {
    /// There is none of this table.
    NotMirrored(String),
    /// Rows of this table (`pg_class.oid`) cannot be told by a key that the mirror has; why.
    Apart(u32, String),
}

/// One mirror's way to its next form.
pub(crate) struct Rebuild {
    oid: u32,
    title: String,
    create: String,
    fill: String,
    /// The same, with null for values that cannot be converted.
    lenient: Option<String>,
    analyze: String,
    /// Whether the key's values, as they become, are there and different; `None`: they stay.
    keeps_apart: Option<String>,
    /// What was remembered of the table's catalog for the old mirror and is for this one: what the watch finds by it still holds.
    remembered: (String, String),
    /// Columns whose values are the table's of now, as people name them.
    pub(crate) copied: Vec<String>,
}

const REMEMBER: &str =
    "INSERT INTO portalhook.catalog (mirror, seen) SELECT $2, seen FROM portalhook.catalog WHERE mirror = $1
    ON CONFLICT (mirror) DO UPDATE SET seen = excluded.seen, at = now()";
const COPY: &str = "SELECT portalhook.request_copy($1::oid[], $2)";

impl Rebuild {
    pub(super) fn of(before: &Plan, table: &Table) -> Result<Self, Unfit> {
        let title = format!("{}.{}", table.schema, table.name);
        let Some(old) = before.tables.iter().find(|old| old.oid == table.oid) else {
            return Err(Unfit::NotMirrored(title));
        };
        let stored: Vec<&Column> = table.columns.iter().filter(|column| column.is_stored()).collect();
        let sources: Vec<Option<&Column>> = stored.iter().map(|column| source(old, column)).collect();
        let key: Vec<&Column> = table.key.iter().map(|&index| &table.columns[index]).collect();
        let is_new = |column: &Column| source(old, column).is_none();
        let any_new = stored.iter().any(|column| is_new(column));
        if any_new && (key.is_empty() || key.iter().any(|column| is_new(column))) {
            let why = format!("{title} has no key by which its mirror could be given the columns that are newly named");
            return Err(Unfit::Apart(table.oid, why));
        }
        let value = |column: &Column, source: Option<&Column>, lenient: bool| match source {
            None => of_table(column),
            Some(source) => converted(column, source, lenient),
        };
        let list = |lenient: bool| {
            let values = stored.iter().zip(&sources).map(|(column, source)| value(column, *source, lenient));
            values.collect::<Vec<_>>().join(", ")
        };
        let names: Vec<String> = stored.iter().map(|column| quote(&column.name)).collect();
        let join = if any_new {
            let on: Vec<String> = key
                .iter()
                .map(|column| format!("{} = {}", of_table(column), value(column, source(old, column), false)))
                .collect();
            format!(" LEFT JOIN {} AS a ON {}", table.source(), on.join(" AND "))
        } else {
            String::new()
        };
        let fill = |lenient: bool| {
            let kept: Vec<String> = key
                .iter()
                .filter(|_| lenient)
                .map(|column| format!("{} IS NOT NULL", value(column, source(old, column), true)))
                .collect();
            let kept = if kept.is_empty() { String::new() } else { format!(" WHERE {}", kept.join(" AND ")) };
            format!(
                "INSERT INTO {} ({}) SELECT {} FROM {} AS m{join}{kept}",
                table.mirror_name(),
                names.join(", "),
                list(lenient),
                old.mirror_name()
            )
        };
        let key_values: Vec<String> = key.iter().map(|column| value(column, source(old, column), false)).collect();
        let other_key = key.iter().any(|column| !source(old, column).is_some_and(|one| is_same(column, one)))
            || key.len() != old.key.len()
            || !key.iter().all(|column| old.key.iter().any(|&place| source(old, column) == Some(&old.columns[place])));
        let keeps_apart = (other_key && !key.is_empty()).then(|| {
            let there: Vec<String> = key_values.iter().map(|value| format!("{value} IS NOT NULL")).collect();
            format!(
                "SELECT count(*) = count(DISTINCT ROW({})) AND coalesce(bool_and({}), true) FROM {} AS m",
                key_values.join(", "),
                there.join(" AND "),
                old.mirror_name()
            )
        });
        let converts =
            stored.iter().zip(&sources).any(|(column, source)| source.is_some_and(|one| !is_same(column, one)));
        Ok(Self {
            oid: table.oid,
            create: format!("DROP TABLE IF EXISTS {}; {}", table.mirror_name(), table.create_sql()),
            fill: fill(false),
            lenient: converts.then(|| fill(true)),
            remembered: (old.mirror.clone(), table.mirror.clone()),
            keeps_apart,
            analyze: crate::mirror::copy::analyze_sql(table),
            copied: stored
                .iter()
                .filter(|column| is_new(column))
                .map(|column| format!("column {} of {title}", column.name))
                .collect(),
            title,
        })
    }

    /// Its rows are not kept apart.
    pub(super) fn unfit(&self) -> Unfit {
        let why = format!("the key of {} has other values, which the stream did not bring", self.title);
        Unfit::Apart(self.oid, why)
    }

    /// Whether every row of the mirror still has a key of its own, as far as the mirror can tell.
    pub(super) async fn keeps_rows_apart(&self, session: &Session) -> Result<bool> {
        let Some(query) = &self.keeps_apart else { return Ok(true) };
        match session.query_one(query, &[]).await {
            Ok(row) => Ok(row.get(0)),
            Err(error) if error.code().is_some_and(is_about_a_value) => Ok(false),
            Err(error) => Err(error).context(format!("see what becomes of the key of {}", self.title)),
        }
    }

    /// Runs inside the group's transaction.
    pub(super) async fn run(&self, sql: &Prepared<'_>) -> Result<()> {
        let what = format!("make the mirror of {} anew", self.title);
        sql.run(&what, "SET LOCAL enable_seqscan = on").await?;
        sql.run(&what, &self.create).await?;
        sql.run(&what, "SAVEPOINT rebuilding").await?;
        match (sql.run(&what, &self.fill).await, &self.lenient) {
            (Err(error), Some(lenient)) if error.sqlstate().is_some_and(is_about_a_value) => {
                sql.run(&what, "ROLLBACK TO SAVEPOINT rebuilding").await?;
                tracing::warn!(
                    "values of {} cannot be converted ({error:?}): they are null until its fresh copy is there",
                    self.title
                );
                sql.run(&what, lenient).await?;
                let why = format!("values of {} could not be converted", self.title);
                sql.query("ask for a fresh copy", COPY, &[&vec![self.oid], &why]).await?;
            }
            (done, _) => done?,
        }
        sql.run(&what, "RELEASE SAVEPOINT rebuilding").await?;
        let (old, new) = &self.remembered;
        sql.query("remember a table", REMEMBER, &[old, new]).await?;
        sql.run(&what, &self.analyze).await?;
        sql.run(&what, "SET LOCAL enable_seqscan = off").await
    }
}

fn is_about_a_value(state: &SqlState) -> bool {
    matches!(&state.code()[..2], "22" | "23")
}

/// The column of the old mirror that has its values: the same column of the table, whatever its name was.
fn source<'t>(old: &'t Table, column: &Column) -> Option<&'t Column> {
    let stored = || old.columns.iter().filter(|there| there.is_stored());
    let by_number = stored().find(|there| column.number != 0 && there.number == column.number);
    by_number.or_else(|| stored().find(|there| there.name == column.name && (there.number == 0 || column.number == 0)))
}

fn is_same(column: &Column, source: &Column) -> bool {
    column.mirror_type == source.mirror_type
}

fn converted(column: &Column, source: &Column, lenient: bool) -> String {
    let name = format!("m.{}", quote(&source.name));
    if is_same(column, source) {
        return name;
    }
    let text = format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END");
    match column.mirror_type.as_str() {
        "text" => text,
        // Where texts are no JSON already, they become JSON strings, as a migration will have made them.
        to @ ("json" | "jsonb") if lenient => format!("to_json({text})::{to}"),
        to if lenient => format!("portalhook.castable({text}, {})::{to}", literal(to)),
        to => format!("({text})::{to}"),
    }
}

/// The table's own value, as the mirror has it.
fn of_table(column: &Column) -> String {
    let name = format!("a.{}", quote(&column.name));
    if column.mirror_type == column.source_type {
        name
    } else {
        format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END")
    }
}
