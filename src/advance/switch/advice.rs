//! What to type where mapped columns are gone.

use tokio_postgres::Client;

use crate::error::{Context as _, Result};
use crate::mapping::layout::literal;
use crate::mapping::plan::{Entity, EntityPlan, Plan, Table};

/// A line that says what is missing, and the statement that mends it where the column was only renamed.
pub(super) async fn advise<'a>(
    client: &Client,
    plan: &Plan,
    table: &Table,
    missing: &[String],
    columns: impl Iterator<Item = &'a str>,
) -> Result<String> {
    const NOW: &str =
        "SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = $1 AND a.attnum = $2 AND NOT a.attisdropped";
    let columns: Vec<&str> = columns.collect();
    let title = format!("{}.{}", table.schema, table.name);
    let place = plan.tables.iter().position(|one| one.oid == table.oid);
    let mut problems = Vec::new();
    let mut statements = Vec::new();
    for name in missing {
        let number = table.columns.iter().find(|column| column.name == *name).map_or(0, |column| column.number);
        let now = client.query_opt(NOW, &[&table.oid, &number]).await.context("look for a renamed column")?;
        let now: Option<String> = now.map(|row| row.get(0));
        match now.filter(|now| now != name) {
            Some(now) => {
                problems.push(format!("column {name} of {title}, which the mapping reads, is called {now} now"));
                for entity in plan.entities.iter().filter(|entity| place.is_some() && reads(entity, place)) {
                    statements.extend(renaming(client, entity, name, &now).await?);
                }
            }
            None => problems.push(format!(
                "column {name} of {title}, which the mapping reads, is gone (it has {})",
                columns.join(", ")
            )),
        }
    }
    if statements.is_empty() {
        statements.push("UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = '…';".to_owned());
    }
    Ok(format!(
        "{}: the stream is paused before it, deliveries go on. Change the mapping: {}",
        problems.join("; "),
        statements.join(" ")
    ))
}

fn reads(entity: &EntityPlan, place: Option<usize>) -> bool {
    entity.base == place || place.is_some_and(|place| entity.reads.contains(&place))
}

/// The statement that puts the new name into an entity's SELECT so that it still gives the same columns.
async fn renaming(client: &Client, entity: &EntityPlan, old: &str, new: &str) -> Result<Option<String>> {
    const TRY: &str =
        "SELECT regexp_replace(query, $2, $3, 'g'), coalesce(search_path, portalhook.mapping_search_path())
        FROM portalhook.mapping WHERE entity = $1 AND query ~ $2";
    let name = Entity::name(entity.entity);
    let pattern = format!("\\m{}\\M", old.replace(|one: char| !one.is_alphanumeric() && one != '_', "."));
    for replacement in [new.to_owned(), format!("{new} AS {old}")] {
        let row = client.query_opt(TRY, &[&name, &pattern, &replacement]).await.context("try the new name")?;
        let Some(row) = row else { return Ok(None) };
        let (query, path): (&str, &str) = (row.get(0), row.get(1));
        client.batch_execute("BEGIN").await.context("try the new name")?;
        let outputs = match client.execute("SELECT set_config('search_path', $1, true)", &[&path]).await {
            Ok(_) => client.prepare(query).await.ok(),
            Err(_) => None,
        };
        client.batch_execute("ROLLBACK").await.context("try the new name")?;
        let same = outputs.is_some_and(|statement| {
            statement
                .columns()
                .iter()
                .map(tokio_postgres::Column::name)
                .eq(entity.outputs.iter().map(|output| output.name.as_str()))
        });
        if same {
            return Ok(Some(format!(
                "UPDATE portalhook.mapping SET query = regexp_replace(query, {}, {}, 'g') WHERE entity = '{name}';",
                literal(&pattern),
                literal(&replacement)
            )));
        }
    }
    Ok(None)
}
