//! Stores the chosen mapping and grants exactly the columns that it reads.

use tokio_postgres::Client;

use super::choose::Chosen;
use super::publication::shown;
use super::role::Role;
use super::script::Script;
use super::server::Server;
use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Entity, Plan, Table};

/// Writes `portalhook.mapping` where it says something else.
pub(crate) async fn store(client: &Client, chosen: &Chosen, script: &mut Script<'_>) -> Result<()> {
    if !chosen.stored {
        let rows: Vec<String> = chosen
            .queries
            .iter()
            .map(|(entity, query)| format!("({}, {})", literal(entity.name()), literal(query)))
            .collect();
        let mut sql = format!(
            "INSERT INTO portalhook.mapping (entity, query) VALUES\n{}\nON CONFLICT (entity) DO UPDATE SET query = excluded.query WHERE mapping.query <> excluded.query",
            rows.join(",\n")
        );
        if !chosen.queries.iter().any(|(entity, _)| *entity == Entity::CommentVotes) {
            sql.push_str(";\nDELETE FROM portalhook.mapping WHERE entity = 'comment_votes'");
        }
        script.run(client, &sql, "store the mapping").await?;
    }
    let entities: Vec<&str> = chosen.queries.iter().map(|(entity, _)| entity.name()).collect();
    script.say("mapping", format!("{} ({})", chosen.origin, entities.join(", ")))?;
    chosen.warnings.iter().try_for_each(|warning| script.say("warning", warning))
}

/// Stores the mapping for a daemon that switches to it. Where its text is there already and comes to something else by now, the
/// daemon is asked to read it again.
pub(crate) async fn announce(client: &Client, chosen: &Chosen, script: &mut Script<'_>) -> Result<()> {
    if chosen.stored {
        let ask = "SELECT portalhook.request_copy('{}', 'portalhook setup found that the mapping comes to something else by now')";
        script.run(client, ask, "ask for a switch").await?;
    }
    store(client, chosen, script).await
}

/// USAGE on the schemas and SELECT on the mapped columns; takes back what the plan before had and this one has not.
pub(crate) async fn grant(
    client: &Client,
    server: &Server,
    role: &Role,
    plan: &Plan,
    before: Option<&Plan>,
    script: &mut Script<'_>,
) -> Result<()> {
    if role.name == server.admin {
        return script.say("columns", "the administrator's own role needs none");
    }
    let to = quote(&role.name);
    let mut sql: Vec<String> = Vec::new();
    for table in before.map(|plan| plan.tables.as_slice()).unwrap_or_default() {
        let now = plan.tables.iter().find(|now| now.oid == table.oid).map(columns).unwrap_or_default();
        let gone: Vec<String> = columns(table).into_iter().filter(|column| !now.contains(column)).collect();
        let there = existing(client, table, &gone).await?;
        if !there.is_empty() {
            sql.push(format!("REVOKE SELECT ({}) ON {} FROM {to}", there.join(", "), name(table)));
        }
    }
    let mut schemas: Vec<&str> = plan.tables.iter().map(|table| table.schema.as_str()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    sql.extend(schemas.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {to}", quote(schema))));
    sql.extend(
        plan.tables
            .iter()
            .map(|table| format!("GRANT SELECT ({}) ON {} TO {to}", columns(table).join(", "), name(table))),
    );
    if !sql.is_empty() {
        script.run(client, &sql.join(";\n"), "grant SELECT on the mapped columns").await?;
    }
    // What else the SELECTs name: types, functions, operators. A daemon that switches asks for it itself.
    let schemas = format!("SELECT portalhook.grant_schemas({})", literal(&role.name));
    script.run(client, &schemas, "grant USAGE on the schemas that the mapping names").await?;
    let granted: Vec<String> =
        plan.tables.iter().map(|table| format!("{} ({})", shown(table), columns(table).len())).collect();
    script.say("columns", format!("{} may read the mapped columns of {}", role.name, granted.join(", ")))
}

/// The columns that are copied; a generated one is computed from others.
fn columns(table: &Table) -> Vec<String> {
    table.columns.iter().filter(|column| column.is_stored()).map(|column| quote(&column.name)).collect()
}

fn name(table: &Table) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// Those of the quoted columns that the table of this name still has: it may have been altered or dropped since.
async fn existing(client: &Client, table: &Table, columns: &[String]) -> Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT a.attname::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
             JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid = $1 AND n.nspname = $2 AND c.relname = $3 AND a.attnum > 0 AND NOT a.attisdropped",
            &[&table.oid, &table.schema, &table.name],
        )
        .await
        .context("look for columns that are no longer mapped")?;
    Ok(rows.iter().map(|row| quote(row.get(0))).filter(|column| columns.contains(column)).collect())
}
