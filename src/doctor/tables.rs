//! The application's tables as they are now, against what the plan knows of them, and their mirrors.

use tokio_postgres::Client;

use super::{Finding, SETUP};
use crate::error::{Context as _, Result};
use crate::mapping::layout::{MIRROR_SCHEMA, quote};
use crate::mapping::plan::{Column, EntityPlan, Plan, Table};

const TABLE: &str = "
    SELECT format('%I.%I', n.nspname, c.relname), c.relreplident::text,
           c.relrowsecurity AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)),
           ARRAY(SELECT a.attname::text FROM pg_index AS i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, place), pg_attribute AS a
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.place),
           ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')),
           ARRAY(SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1";

const MIRROR: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";

/// One mapped table: it is there, its changes say which row they are about, and the role sees all of it.
pub(super) async fn examine(client: &Client, plan: &Plan, table: &Table, role: &str) -> Result<Vec<Finding>> {
    let shown = format!("{}.{}", table.schema, table.name);
    let Some(row) = client.query_opt(TABLE, &[&table.oid]).await.context(format!("look at {shown}"))? else {
        // What became of it says the look at the catalog.
        return Ok(Vec::new());
    };
    let name: String = row.get(0);
    let (key, columns): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
    let mut findings = Vec::new();
    let (types, numbers): (Vec<String>, Vec<i16>) = (row.get(5), row.get(7));
    // A renamed column is the same one.
    let name_now = |column: &Column| {
        let place = numbers.iter().position(|number| *number == column.number);
        place.map_or_else(|| column.name.clone(), |place| columns[place].clone())
    };
    let planned: Vec<String> = table.key.iter().map(|&place| name_now(&table.columns[place])).collect();
    findings.extend(identity(&name, row.get(1), &key, &planned));
    for column in &table.columns {
        match columns.iter().position(|there| *there == column.name) {
            None => {
                let now = name_now(column);
                let problem = if now == column.name {
                    format!("{name} has no column {} any more, which the mapping reads", column.name)
                } else {
                    format!("column {} of {name}, which the mapping reads, is called {now} now", column.name)
                };
                let entities = readers(plan, table).join(" and ");
                findings.push(Finding::fail(problem, format!("change the SELECT of {entities} in portalhook.mapping")));
            }
            Some(place) if types[place] != column.source_type => findings.push(Finding::warn(
                format!("{name}.{} is of type {} now (mirrored as {})", column.name, types[place], column.source_type),
                SETUP,
            )),
            Some(_) => {}
        }
    }
    if row.get(2) {
        findings.push(Finding::fail(
            format!("{name} has row-level security, under which {role} would not see every row"),
            format!("ALTER ROLE {} BYPASSRLS", quote(role)),
        ));
    }
    let unreadable: Vec<String> = row.get(6);
    let unreadable: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.is_stored() && unreadable.contains(&column.name))
        .map(|column| quote(&column.name))
        .collect();
    if !unreadable.is_empty() {
        let columns = unreadable.join(", ");
        findings.push(Finding::fail(
            format!("{role} may not read {columns} of {name}"),
            format!("GRANT SELECT ({columns}) ON {name} TO {}", quote(role)),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::pass(format!("{name}: identity, columns and rights are as the mapping needs them")));
    }
    Ok(findings)
}

/// The entities whose SELECT names a table.
fn readers(plan: &Plan, table: &Table) -> Vec<&'static str> {
    let place = plan.tables.iter().position(|one| one.oid == table.oid);
    let reads = |entity: &&EntityPlan| entity.base == place || place.is_some_and(|place| entity.reads.contains(&place));
    plan.entities.iter().filter(reads).map(|entity| entity.entity.name()).collect()
}

/// Whether an UPDATE or DELETE says which row it is about (manual, "Logical Replication", replica identity).
fn identity(name: &str, identity: &str, key: &[String], planned: &[String]) -> Option<Finding> {
    match identity {
        "n" => Some(Finding::fail(
            format!("{name} has REPLICA IDENTITY NOTHING, so its updates do not say which row they are about"),
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
        )),
        "d" if key.is_empty() => Some(Finding::fail(
            format!(
                "{name} has no primary key, so PostgreSQL refuses the application's UPDATE and DELETE while it is published"
            ),
            format!(
                "ALTER TABLE {name} ADD PRIMARY KEY (…), or ALTER TABLE {name} REPLICA IDENTITY FULL; then portalhook setup"
            ),
        )),
        "d" if !planned.is_empty() && planned != key => Some(Finding::fail(
            format!(
                "the primary key of {name} is ({}) now, and the mirror has ({})",
                key.join(", "),
                planned.join(", ")
            ),
            SETUP,
        )),
        "i" => Some(Finding::warn(
            format!(
                "{name} has REPLICA IDENTITY USING INDEX: without that index, PostgreSQL refuses the application's UPDATE and DELETE"
            ),
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT, where it has a primary key"),
        )),
        _ => None,
    }
}

/// The mirrors have the plan's columns.
pub(super) async fn mirrors(client: &Client, plan: &Plan) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for table in &plan.tables {
        let rows = client
            .query(MIRROR, &[&MIRROR_SCHEMA, &table.mirror])
            .await
            .context(format!("look at the mirror of {}", table.name))?;
        let there: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        // It may have more: what the mapping has left since stays until the next copy.
        let lacks =
            |column: &&Column| !there.iter().any(|(name, of)| *name == column.name && *of == column.mirror_type);
        if table.columns.iter().filter(|column| column.is_stored()).any(|column| lacks(&column)) {
            let what = if there.is_empty() { "is not there" } else { "lacks columns of the plan" };
            findings.push(Finding::fail(
                format!("the mirror {MIRROR_SCHEMA}.\"{}\" {what}", table.mirror),
                "portalhook setup --afresh --admin-url URL",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::pass(format!("the {} mirrors have the mapped columns", plan.tables.len())));
    }
    Ok(findings)
}
