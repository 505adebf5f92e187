//! The publication: whole tables, no column list and no row filter, because both would stand in the way of migrations.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::identity;
use super::script::{Script, fix};
use crate::error::{Context as _, Result};
use crate::mapping::layout::quote;
use crate::mapping::plan::{Plan, Table};

/// How long a statement waits for a lock on an application's table; everyone who comes after it waits as long.
const LOCK_TIMEOUT: &str = "2s";
/// Waits between attempts: about two minutes in all.
const BACKOFF: [u64; 6] = [1, 2, 5, 15, 30, 60];

/// Checks the tables' replica identities and row security: what the stream carries must be enough, and the copy must see all.
pub(crate) async fn check_tables(client: &Client, plan: &Plan, role: &str) -> Result<()> {
    for table in &plan.tables {
        let name = shown(table);
        let row = client
            .query_one(
                "SELECT relrowsecurity AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND (rolsuper OR rolbypassrls))
                 FROM pg_class WHERE oid = $1",
                &[&table.oid, &role],
            )
            .await
            .context(format!("look at {name}"))?;
        identity::check(client, table).await?;
        if row.get(0) {
            return Err(fix(
                format!("{name} has row-level security, under which {role} would not see every row"),
                format!("ALTER ROLE {} BYPASSRLS", quote(role)),
            ));
        }
    }
    Ok(())
}

/// Creates the publication, or brings it up to the plan's tables; those of `kept` stay in it.
pub(crate) async fn prepare(
    client: &Client,
    plan: &Plan,
    kept: &[Table],
    publication: &str,
    script: &mut Script<'_>,
) -> Result<()> {
    let quoted = quote(publication);
    let exists = client
        .query_opt(
            "SELECT puballtables, pubviaroot AND pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication WHERE pubname = $1",
            &[&publication],
        )
        .await
        .context("look for the publication")?;
    let Some(row) = exists else {
        let tables: Vec<String> = plan.tables.iter().map(qualified).collect();
        let tables = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", tables.join(", ")) };
        let sql = format!("CREATE PUBLICATION {quoted}{tables} WITH (publish_via_partition_root = true)");
        patiently(client, &sql, "create the publication", script).await?;
        return script.say("publication", format!("{publication}: created for {}", list(plan.tables.iter())));
    };
    if row.get(0) {
        return Err(fix(
            format!("publication {publication} is FOR ALL TABLES"),
            format!(
                "DROP PUBLICATION {quoted}, or name another in capture.publication; setup then makes one of the mapped tables"
            ),
        ));
    }
    let mut done = Vec::new();
    if !row.get::<_, bool>(1) {
        let sql = format!(
            "ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
        );
        script.run(client, &sql, "mend the publication's options").await?;
        done.push("options mended".to_owned());
    }
    change_tables(client, plan, kept, publication, script, &mut done).await?;
    let done = if done.is_empty() { "already there".to_owned() } else { done.join(", ") };
    script.say("publication", format!("{publication}: {done}"))
}

async fn change_tables(
    client: &Client,
    plan: &Plan,
    kept: &[Table],
    publication: &str,
    script: &mut Script<'_>,
    done: &mut Vec<String>,
) -> Result<()> {
    let quoted = quote(publication);
    // to_jsonb: column lists and row filters came with PostgreSQL 15.
    let members = client
        .query(
            "SELECT c.oid, n.nspname::text, c.relname::text,
                    coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL
             FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
             JOIN pg_class AS c ON c.oid = r.prrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE p.pubname = $1",
            &[&publication],
        )
        .await
        .context("read the publication's tables")?;
    let is_whole =
        |table: &Table| members.iter().any(|row| row.get::<_, u32>(0) == table.oid && !row.get::<_, bool>(3));
    for row in &members {
        let (oid, limited): (u32, bool) = (row.get(0), row.get(3));
        if limited || !plan.tables.iter().chain(kept).any(|table| table.oid == oid) {
            let (schema, name): (&str, &str) = (row.get(1), row.get(2));
            let sql = format!("ALTER PUBLICATION {quoted} DROP TABLE ONLY {}.{}", quote(schema), quote(name));
            patiently(client, &sql, "take a table out of the publication", script).await?;
            done.push(format!("removed {schema}.{name}"));
        }
    }
    let missing: Vec<&Table> = plan.tables.iter().filter(|table| !is_whole(table)).collect();
    if !missing.is_empty() {
        let tables: Vec<String> = missing.iter().map(|table| qualified(table)).collect();
        let sql = format!("ALTER PUBLICATION {quoted} ADD TABLE {}", tables.join(", "));
        patiently(client, &sql, "add tables to the publication", script).await?;
        done.push(format!("added {}", list(missing.into_iter())));
    }
    Ok(())
}

/// Runs a statement that locks tables of the application: it gives up after two seconds, so that nobody queues behind it
/// for long, and tries again.
pub(super) async fn patiently(client: &Client, sql: &str, doing: &str, script: &mut Script<'_>) -> Result<()> {
    if script.prints() {
        return script.show(&format!("SET lock_timeout = '{LOCK_TIMEOUT}';\n{sql};\nRESET lock_timeout"));
    }
    let mut waits = BACKOFF.iter();
    loop {
        // One text is one transaction: the timeout ends with it.
        let error = match client.batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {sql}")).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let wait = (error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)).then(|| waits.next()).flatten();
        let Some(&wait) = wait else { return Err(error).context(doing) };
        script.say("waiting", format!("a table is locked by someone else; trying again in {wait} s ({doing})"))?;
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}

/// ONLY: what inherits from it is not mapped, and without a key its updates would be refused once it is published.
fn qualified(table: &Table) -> String {
    format!("ONLY {}.{}", quote(&table.schema), quote(&table.name))
}

/// `public.posts`, for people.
pub(crate) fn shown(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}

fn list<'a>(tables: impl Iterator<Item = &'a Table>) -> String {
    tables.map(shown).collect::<Vec<_>>().join(", ")
}
