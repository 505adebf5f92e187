//! The server's own proof that a rewritten SELECT reads mirrors alone and gives the columns that the original gives.

use std::fmt::Write as _;

use tokio_postgres::Client;

use super::catalog::{ViewColumn, dependencies_of, view_columns};
use super::layout::quote;
use super::plan::{Table, Template};
use super::read;
use crate::error::{Context, Error, Result};

/// Makes empty mirrors in `schema`, inside the caller's transaction.
pub(super) async fn mirrors(client: &Client, schema: &str, tables: &[Table]) -> Result<()> {
    let mut script = String::new();
    for table in tables {
        write!(script, "{};", table.create_in(schema)).expect("a String takes everything");
    }
    client.batch_execute(&script).await.context("try out the mirrors")
}

/// Makes a view of a rewritten SELECT and looks at what it depends on; `keys` columns stand before the outputs.
pub(super) async fn template(
    client: &Client,
    schema: &str,
    template: &Template,
    base: Option<&Table>,
    outputs: &[ViewColumn],
) -> Result<()> {
    let view = format!("{}.\"portalhook proof\"", quote(schema));
    let hole = base.map(|base| base.rows(&base.mirror_in(schema), None)).unwrap_or_default();
    client
        .batch_execute(&format!("CREATE VIEW {view} AS {}", template.over(&hole)))
        .await
        .map_err(|error| refusal(error, template))?;
    let oid: u32 = client
        .query_one("SELECT $1::text::regclass::oid", &[&view])
        .await
        .context("find the view of a rewritten SELECT")?
        .get(0);
    let columns = view_columns(client, oid).await?;
    let keys = base.map_or(0, |base| base.key.len());
    if columns.get(keys..) != Some(outputs) {
        let show = |columns: &[ViewColumn]| {
            columns.iter().map(|column| format!("{} {}", column.name, column.type_name)).collect::<Vec<_>>().join(", ")
        };
        return Err(Error::failed(format!(
            "over the mirrors it would give ({}) instead of ({})",
            show(&columns),
            show(outputs)
        )));
    }
    let strangers: Vec<String> = client
        .query(
            "SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0)
               FROM pg_rewrite r
               JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.deptype = 'n'
               JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid AND c.relkind <> 'c'
              WHERE r.ev_class = $1 AND c.relnamespace <> (SELECT oid FROM pg_namespace WHERE nspname = $2)",
            &[&oid, &schema],
        )
        .await
        .context("read what a rewritten SELECT depends on")?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if !strangers.is_empty() {
        return Err(Error::usage(format!(
            "it names {} as a constant or in a way that cannot be turned to a mirror; leave that out",
            strangers.join(", ")
        )));
    }
    if let Some(table) = dependencies_of(client, oid).await?.row_types.first() {
        return Err(Error::usage(format!("it uses {table} as a type (a whole row); name the columns that you need")));
    }
    client.batch_execute(&format!("DROP VIEW {view}")).await.context("drop the view of a rewritten SELECT")
}

/// The server refuses the rewritten text: in words that an operator can use where the cause is known.
fn refusal(error: tokio_postgres::Error, template: &Template) -> Error {
    match error.as_db_error() {
        Some(db) if db.code().code() == "42803" => Error::usage(
            "it has an aggregate without subquery; a row of the view must be a row of the base table: \
             write (SELECT count(*) FROM … WHERE …)",
        ),
        Some(db) if read::way_out(db.code()).is_some() => {
            Error::usage(format!("{}: {}", db.message(), read::way_out(db.code()).unwrap_or_default()))
        }
        Some(db) => Error::usage(format!(
            "it cannot be turned to read mirrors: {}; the text was: {}(…){}",
            db.message(),
            template.head,
            template.tail
        )),
        None => match Err::<(), _>(error).context("try out a rewritten SELECT") {
            Err(error) => error,
            Ok(()) => Error::failed("try out a rewritten SELECT"),
        },
    }
}
