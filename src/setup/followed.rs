//! What is followed when the application's migrations change its tables: which tables the daemon may have mended
//! (`portalhook.mapped_tables`), and the event trigger that mends at once.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::script::{Script, fix};
use crate::error::{Context as _, Result};
use crate::mapping::layout::literal;
use crate::mapping::plan::{Plan, Table};

/// Its name in `pg_event_trigger`.
pub(crate) const EVENT_TRIGGER: &str = "portalhook_mend";

const CREATE: &str = "CREATE EVENT TRIGGER portalhook_mend ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'DROP INDEX')
    EXECUTE FUNCTION portalhook.mend_after_ddl();
COMMENT ON EVENT TRIGGER portalhook_mend IS 'portalhook: keeps mapped tables published and their updates possible, inside the transaction of a migration. It never fails one. DROP EVENT TRIGGER portalhook_mend removes it.'";

/// Writes down the plan's tables, with the administrator's rights: the daemon's role cannot.
pub(crate) async fn store(client: &Client, plan: &Plan, publication: &str, script: &mut Script<'_>) -> Result<()> {
    let rows: Vec<String> = plan.tables.iter().map(|table| row(table, publication)).collect();
    let names: Vec<String> = plan.tables.iter().map(name).collect();
    let sql = if rows.is_empty() {
        "DELETE FROM portalhook.mapped_tables".to_owned()
    } else {
        format!(
            "INSERT INTO portalhook.mapped_tables AS m (schema_name, table_name, oid, columns, key, publication) VALUES\n{}
ON CONFLICT (schema_name, table_name) DO UPDATE SET oid = excluded.oid, columns = excluded.columns, key = excluded.key,
    publication = excluded.publication, made_full = m.made_full AND m.oid = excluded.oid;
DELETE FROM portalhook.mapped_tables WHERE (schema_name, table_name) NOT IN ({})",
            rows.join(",\n"),
            names.join(", ")
        )
    };
    script.run(client, &sql, "write down the mapped tables").await
}

fn name(table: &Table) -> String {
    format!("({}, {})", literal(&table.schema), literal(&table.name))
}

fn row(table: &Table, publication: &str) -> String {
    let list = |names: Vec<&str>| {
        let names: Vec<String> = names.into_iter().map(literal).collect();
        format!("ARRAY[{}]::text[]", names.join(", "))
    };
    let stored = table.columns.iter().filter(|column| column.is_stored()).map(|column| column.name.as_str());
    let key = table.key.iter().map(|&place| table.columns[place].name.as_str());
    format!(
        "({}, {}, {}, {}, {}, {})",
        literal(&table.schema),
        literal(&table.name),
        table.oid,
        list(stored.collect()),
        list(key.collect()),
        literal(publication)
    )
}

/// Notes that identity FULL is ours to take back.
pub(crate) fn made_full_sql(table: &Table) -> String {
    format!(
        "UPDATE portalhook.mapped_tables SET made_full = true WHERE (schema_name, table_name) = {} AND NOT made_full",
        name(table)
    )
}

/// Makes the event trigger where it is wanted; it stays where it is.
pub(crate) async fn event_trigger(client: &Client, wanted: bool, script: &mut Script<'_>) -> Result<()> {
    let there = client
        .query_opt("SELECT FROM pg_event_trigger WHERE evtname = $1", &[&EVENT_TRIGGER])
        .await
        .context("look for the event trigger")?
        .is_some();
    if there {
        return script.say("event trigger", format!("{EVENT_TRIGGER}: already there"));
    }
    if !wanted {
        return Ok(());
    }
    match script.run(client, CREATE, "create the event trigger").await {
        Err(error) if error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(fix(
            "only a superuser may make an event trigger",
            "name one in --admin-url, or leave --event-trigger out: the daemon then mends within seconds",
        )),
        done => done,
    }?;
    script.say("event trigger", format!("{EVENT_TRIGGER}: mends mapped tables inside the migration's own transaction"))
}
