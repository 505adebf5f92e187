//! Connections to a real server.

mod authority;
mod hostile;
mod logins;
mod servers;
mod tls;

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Database, Replication, connect};
use crate::error::{Error, Kind};
use crate::lsn::Lsn;
use crate::throwaway::Throwaway;

const NAME: &str = "portalhook test";

/// Waits until a query says true: the server's state is the event.
pub(crate) async fn until(client: &Client, query: &str) {
    let wait = async {
        loop {
            let row = client.query_opt(query, &[]).await.expect(query).expect("a condition must not lose its row");
            if row.get::<_, Option<bool>>(0) == Some(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never became true: {query}"));
}

fn database(url: &str) -> Database {
    Database::parse(url).expect(url)
}

/// Both kinds of connections, in turn: what they answer to "who am I".
async fn both(url: &str) -> [Result<String, Error>; 2] {
    ask_both(&database(url), "SELECT current_user::text").await
}

/// Both kinds, in turn: what they answer to `query`.
async fn ask_both(database: &Database, query: &str) -> [Result<String, Error>; 2] {
    let sql = match connect(database, NAME).await {
        Ok(session) => Ok(session.query_one(query, &[]).await.expect("a row").get(0)),
        Err(error) => Err(error),
    };
    let replication = match Replication::connect(database, NAME).await {
        Ok(mut connection) => {
            let rows = connection.query(query, "ask").await.expect("rows");
            Ok(rows[0][0].clone().expect("a value"))
        }
        Err(error) => Err(error),
    };
    [sql, replication]
}

#[tokio::test]
async fn the_settings_that_decide_how_values_are_printed_are_ours_on_both_connections() {
    let server = Throwaway::start(&[]).expect("start");
    server
        .psql(
            "postgres",
            "CREATE DATABASE portal;
             ALTER DATABASE portal SET DateStyle = 'SQL, DMY';
             ALTER DATABASE portal SET TimeZone = 'Asia/Kolkata';
             ALTER DATABASE portal SET IntervalStyle = 'sql_standard';
             ALTER DATABASE portal SET bytea_output = 'escape';
             ALTER DATABASE portal SET extra_float_digits = -3;
             ALTER DATABASE portal SET standard_conforming_strings = off;
             ALTER DATABASE portal SET client_encoding = 'LATIN1';
             ALTER DATABASE portal SET search_path = public;
             ALTER DATABASE portal SET statement_timeout = '10ms';
             ALTER DATABASE portal SET default_transaction_isolation = 'serializable';
             ALTER DATABASE portal SET default_transaction_read_only = on;",
        )
        .expect("prepare");
    let database = database(&format!("{}?options=-c%20work_mem%3D1MB", server.url(Throwaway::SUPERUSER, "portal")));
    let query = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_catalog.pg_settings
                 WHERE name = ANY (ARRAY['DateStyle', 'TimeZone', 'IntervalStyle', 'bytea_output', 'extra_float_digits',
                   'lc_monetary', 'lc_numeric', 'standard_conforming_strings', 'row_security', 'client_encoding',
                   'search_path', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                   'default_transaction_isolation', 'default_transaction_read_only', 'work_mem', 'application_name'])";
    let expected = "DateStyle=ISO, MDY IntervalStyle=postgres TimeZone=UTC application_name=portalhook test \
                    bytea_output=hex client_encoding=UTF8 default_transaction_isolation=read committed \
                    default_transaction_read_only=off extra_float_digits=1 idle_in_transaction_session_timeout=0 \
                    lc_monetary=C lc_numeric=C lock_timeout=0 row_security=off search_path= \
                    standard_conforming_strings=on statement_timeout=0 work_mem=1024";
    let session = connect(&database, NAME).await.expect("connect");
    let sql: String = session.query_one(query, &[]).await.expect("a row").get(0);
    assert_eq!(sql, expected);
    let mut connection = Replication::connect(&database, NAME).await.expect("connect");
    let rows = connection.query(query, "ask").await.expect("rows");
    assert_eq!(rows[0][0].as_deref(), Some(expected));
}

#[tokio::test]
async fn a_session_that_is_dropped_is_gone_from_the_server() {
    let server = Throwaway::start(&[]).expect("start");
    let database = database(&server.url(Throwaway::SUPERUSER, "postgres"));
    let session = connect(&database, "the one that goes").await.expect("connect");
    let watcher = connect(&database, NAME).await.expect("connect");
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the one that goes'";
    let count: i64 = watcher.query_one(query, &[]).await.expect("a row").get(0);
    assert_eq!(count, 1);
    drop(session);
    until(&watcher, &format!("SELECT ({query}) = 0")).await;
}

#[tokio::test]
async fn says_which_server_it_is_and_why_a_command_fails() {
    let server = Throwaway::start(&[]).expect("start");
    let mut connection =
        Replication::connect(&database(&server.url(Throwaway::SUPERUSER, "postgres")), NAME).await.expect("connect");
    let identity = connection.identify_system().await.expect("identity");
    let expected = server.psql("postgres", "SELECT system_identifier FROM pg_control_system()").expect("psql");
    assert_eq!((identity.system_identifier.as_str(), identity.timeline), (expected.trim(), 1));
    assert!(identity.wal_position > Lsn::ZERO);
    let error = connection.query("SELECT 1 / 0", "divide").await.expect_err("refused");
    assert_eq!(error.sqlstate(), Some(&SqlState::DIVISION_BY_ZERO));
    assert_eq!(format!("{error:?}"), "divide: division by zero");
    // The connection stands.
    assert_eq!(connection.query("SELECT NULL, ''", "ask").await.expect("rows"), [vec![None, Some(String::new())]]);
    let own = connection.process();
    server.psql("postgres", &format!("SELECT pg_terminate_backend({own})")).expect("psql");
    let error = connection.query("SELECT 1", "ask").await.expect_err("ended");
    assert_eq!((error.kind(), error.sqlstate()), (Kind::Unavailable, Some(&SqlState::ADMIN_SHUTDOWN)), "{error:?}");
}
