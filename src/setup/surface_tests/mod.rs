//! What operators touch in SQL: every refusal with its message, and what reaches the stream.

mod endpoints;
mod mapping;
mod mending;
mod operations;
mod views;

use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use super::migrations;
use crate::throwaway::Throwaway;

/// A migrated database.
async fn migrated() -> (Throwaway, Client) {
    let server = Throwaway::start(&[]).expect("start");
    let mut client = connect(&server, Throwaway::SUPERUSER).await;
    client.batch_execute("CREATE SCHEMA portalhook; CREATE SCHEMA portalhook_ledger").await.expect("schemas");
    let applied = migrations::apply(&mut client).await.expect("migrate");
    assert!(!applied.is_empty());
    (server, client)
}

async fn connect(server: &Throwaway, role: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&server.url(role, "postgres"), tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// The error of a statement that must fail.
async fn refused(client: &Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone()
}

/// Statements that must fail, each with a part of the message and a part of the hint.
async fn all_refused(client: &Client, cases: &[(&str, &str, &str)]) {
    for (sql, message, hint) in cases {
        let error = refused(client, sql).await;
        assert!(error.message().contains(message), "{sql}\n  says: {}", error.message());
        assert!(error.hint().unwrap_or_default().contains(hint), "{sql}\n  hints: {:?}", error.hint());
        assert!(
            ["22023", "23514", "42703", "42P01", "42601"].contains(&error.code().code()),
            "{sql}: {:?}",
            error.code()
        );
    }
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client
        .query(sql, &[])
        .await
        .expect(sql)
        .iter()
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_default())
        .collect()
}

async fn text(client: &Client, sql: &str) -> String {
    texts(client, sql).await.join("\n")
}

#[tokio::test]
async fn migrations_apply_once_and_know_what_is_missing() {
    let (_server, mut client) = migrated().await;
    assert!(migrations::missing(&client).await.expect("missing").is_empty());
    assert!(migrations::apply(&mut client).await.expect("again").is_empty());
    client.batch_execute("DELETE FROM portalhook.migrations WHERE version = 5").await.expect("forget");
    let missing = migrations::missing(&client).await.expect("missing");
    assert_eq!(missing.iter().map(refinery::Migration::version).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn everything_in_the_schema_is_described_and_no_function_is_for_everyone() {
    let (_server, client) = migrated().await;
    let undescribed = texts(
        &client,
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'portalhook'::regnamespace AND relkind IN ('r', 'p', 'v')
             AND relname <> 'migrations' AND obj_description(oid, 'pg_class') IS NULL
         UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL",
    )
    .await;
    assert_eq!(undescribed, Vec::<String>::new());
    let open = texts(
        &client,
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace
             AND has_function_privilege('pg_read_all_stats', oid, 'EXECUTE') ORDER BY 1",
    )
    .await;
    assert_eq!(open, ["mapping_columns", "mapping_search_path", "select_columns"]);
    let unpinned = texts(
        &client,
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace
             AND NOT coalesce(proconfig::text LIKE '%search_path=pg_catalog%', false)",
    )
    .await;
    assert_eq!(unpinned, Vec::<String>::new());
    let by_session = texts(
        &client,
        r"SELECT proname::text FROM pg_proc WHERE pronamespace = 'portalhook'::regnamespace
             AND NOT (coalesce(proconfig::text, '') LIKE '%standard_conforming_strings=on%'
                      AND coalesce(proconfig::text, '') LIKE '%quote_all_identifiers=off%')
             AND prosrc ~ '\\|format_type|::regclass'",
    )
    .await;
    assert_eq!(by_session, Vec::<String>::new(), "depends on the settings of whoever calls it: pin them as V12 does");
}
