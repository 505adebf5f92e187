mod checks;
mod files;
mod portals;
mod selects;
mod values;

use tokio_postgres::{Client, NoTls};

use super::plan::Plan;
use crate::throwaway::Throwaway;

/// A session as the owner's, with the settings that ours pin.
async fn connect(server: &Throwaway, database: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&server.url(Throwaway::SUPERUSER, database), NoTls).await.expect("connect");
    tokio::spawn(async move { connection.await.expect("the connection stays") });
    client
        .batch_execute(
            "SET search_path = ''; SET DateStyle = 'ISO'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres';
             SET bytea_output = 'hex'; SET extra_float_digits = 1; SET lc_monetary = 'C'; SET lc_numeric = 'C';
             SET standard_conforming_strings = on; SET row_security = off",
        )
        .await
        .expect("pin settings");
    client
}

/// Makes the mirrors and fills them from the tables, as a copy does.
async fn fill(client: &Client, plan: &Plan) {
    client
        .batch_execute("DROP SCHEMA IF EXISTS portalhook_mirror CASCADE; CREATE SCHEMA portalhook_mirror")
        .await
        .expect("schema");
    for sql in plan.id_functions_sql() {
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }
    for table in &plan.tables {
        client.batch_execute(&table.create_sql()).await.expect("create the mirror");
        let stored = || table.columns.iter().filter(|column| column.is_stored());
        let quote = |name: &str| super::layout::quote(name);
        let names: Vec<String> = stored().map(|column| quote(&column.name)).collect();
        let values: Vec<String> = stored()
            .map(|column| {
                let name = quote(&column.name);
                if column.mirror_type == column.source_type {
                    name
                } else {
                    // format prints NULL as an empty string.
                    format!("CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END")
                }
            })
            .collect();
        client
            .batch_execute(&format!(
                "INSERT INTO {} ({}) SELECT {} FROM {}.{}",
                table.mirror_name(),
                names.join(", "),
                values.join(", "),
                quote(&table.schema),
                quote(&table.name)
            ))
            .await
            .expect("fill the mirror");
    }
}

/// The one text column of a query's rows, sorted: a SELECT promises no order.
async fn texts(client: &Client, query: &str) -> Vec<String> {
    let mut rows: Vec<String> = client
        .query(query, &[])
        .await
        .unwrap_or_else(|error| panic!("{error:?}: {query}"))
        .iter()
        .map(|row| row.get(0))
        .collect();
    rows.sort();
    rows
}
