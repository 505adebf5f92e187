//! The numbered, forward-only migrations of schema `portalhook`, applied with the administrator's rights.

use refinery::{Migration, Runner};
use tokio_postgres::Client;

use crate::error::{Context as _, Error, Result};

mod embedded {
    refinery::embed_migrations!("sql/migrations");
}

/// Which migrations were applied, and when.
const HISTORY: &str = "portalhook.migrations";

/// Applies what is missing, each in a transaction of its own, and says what it applied.
///
/// Refuses a database that a newer portalhook has migrated further, or whose applied migrations differ from ours.
pub(crate) async fn apply(client: &mut Client) -> Result<Vec<String>> {
    let report = runner().run_async(client).await.map_err(|error| Error::failed(explain(&error)))?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// The migrations that `apply` would apply.
pub(crate) async fn missing(client: &Client) -> Result<Vec<Migration>> {
    let there = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&HISTORY])
        .await
        .context("look for applied migrations")?
        .get(0);
    let applied: Vec<i32> = if there {
        let rows =
            client.query(&format!("SELECT version FROM {HISTORY}"), &[]).await.context("read applied migrations")?;
        rows.iter().map(|row| row.get(0)).collect()
    } else {
        Vec::new()
    };
    let mut all = runner().get_migrations().clone();
    all.sort();
    all.retain(|migration| !applied.iter().any(|version| i64::from(*version) == i64::from(migration.version())));
    Ok(all)
}

fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    runner
}

/// refinery's errors keep the server's message in their source.
fn explain(error: &refinery::Error) -> String {
    let mut text = format!("apply migrations: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(db) = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error) {
            text = format!("{text}: {}", db.message());
        }
        cause = error.source();
    }
    text
}
