//! Connections to a real server.

use std::error::Error as _;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
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
    let database = database(url);
    let sql = match connect(&database, NAME).await {
        Ok(session) => Ok(session.query_one("SELECT current_user::text", &[]).await.expect("a row").get(0)),
        Err(error) => Err(error),
    };
    let replication = match Replication::connect(&database, NAME).await {
        Ok(mut connection) => {
            let rows = connection.query("SELECT current_user::text", "ask").await.expect("rows");
            Ok(rows[0][0].clone().expect("a value"))
        }
        Err(error) => Err(error),
    };
    [sql, replication]
}

/// A server whose roles are named by how they must prove themselves; their password is `pa ss/@?'"ü`.
fn guarded_server() -> Throwaway {
    let mut server = Throwaway::start(&[]).expect("start");
    let script = r#"
        SET password_encryption = 'scram-sha-256';
        CREATE ROLE by_scram LOGIN REPLICATION PASSWORD $$pa ss/@?'"ü$$;
        CREATE ROLE by_password LOGIN REPLICATION PASSWORD $$pa ss/@?'"ü$$;
        CREATE ROLE by_trust LOGIN REPLICATION;
        SET password_encryption = 'md5';
        CREATE ROLE by_md5 LOGIN REPLICATION PASSWORD $$pa ss/@?'"ü$$;
        CREATE DATABASE portal;
        SELECT current_setting('hba_file') AS hba \gset
        COPY (SELECT kind || ' all ' || who || CASE kind WHEN 'host' THEN ' all ' ELSE ' ' END || how
              FROM (VALUES ('local'), ('host')) AS a (kind),
                   (VALUES ('admin', 'trust'), ('by_trust', 'trust'), ('by_scram', 'scram-sha-256'),
                           ('by_md5', 'md5'), ('by_password', 'password')) AS b (who, how)) TO :'hba';
    "#;
    server.psql("postgres", script).expect("prepare");
    server.stop("fast").expect("stop");
    server.launch().expect("start again");
    server
}

#[tokio::test]
async fn each_way_of_authentication_works_over_tcp_and_a_unix_socket() {
    let server = guarded_server();
    let socket = server.socket_directory().display().to_string().replace('/', "%2F");
    let tcp = format!("127.0.0.1:{}", server.port());
    let unix = format!("{socket}:{}", server.port());
    for role in ["by_trust", "by_password", "by_md5", "by_scram"] {
        for place in [&tcp, &unix] {
            for answer in both(&format!("postgres://{role}:pa%20ss%2F%40%3F%27%22%C3%BC@{place}/portal")).await {
                assert_eq!(answer.expect("connected"), role, "{place}");
            }
        }
    }
    let query =
        format!("postgres://by_scram:pa%20ss%2F%40%3F%27%22%C3%BC@/portal?host={socket}&port={}", server.port());
    for answer in both(&query).await {
        assert_eq!(answer.expect("connected"), "by_scram");
    }
    // The first of two servers is not there.
    for answer in both(&format!("postgres://by_trust@127.0.0.1:1,{tcp}/portal")).await {
        assert_eq!(answer.expect("connected"), "by_trust");
    }
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_the_operators_to_mend_and_is_never_shown() {
    let server = guarded_server();
    for role in ["by_password", "by_md5", "by_scram"] {
        for answer in both(&format!("postgres://{role}:wr0ng@127.0.0.1:{}/portal", server.port())).await {
            let error = answer.expect_err("refused");
            let text = format!("{error:?}");
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert_eq!(error.sqlstate(), Some(&SqlState::INVALID_PASSWORD), "{text}");
            assert!(text.contains(&format!("database `portal` as role `{role}` at 127.0.0.1")), "{text}");
            assert!(text.contains("password authentication failed"), "{text}");
            assert!(!text.contains("wr0ng"), "{text}");
        }
        for answer in both(&format!("postgres://{role}@127.0.0.1:{}/portal", server.port())).await {
            let error = answer.expect_err("refused");
            assert_eq!(error.kind(), Kind::Usage, "{error:?}");
            assert!(error.to_string().contains("asks for a password"), "{error:?}");
        }
    }
    for answer in both(&format!("postgres://by_trust@127.0.0.1:{}/nowhere", server.port())).await {
        let error = answer.expect_err("refused");
        assert_eq!((error.kind(), error.sqlstate()), (Kind::Usage, Some(&SqlState::INVALID_CATALOG_NAME)), "{error:?}");
    }
    for answer in both(&format!("postgres://unlisted@127.0.0.1:{}/portal", server.port())).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.sqlstate(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_is_no_postgresql_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://me@127.0.0.1:{port}/portal?connect_timeout=1");
    // It accepts (the kernel does) and says nothing.
    for answer in both(&url).await {
        let error = answer.expect_err("no answer");
        assert_eq!((error.kind(), error.exit_code()), (Kind::Unavailable, 69), "{error:?}");
        assert!(error.to_string().contains("no answer"), "{error:?}");
    }
    let web = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("write");
        }
    });
    let error = Replication::connect(&database(&url), NAME).await.err().expect("refused");
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.source().is_some_and(|cause| cause.to_string().contains("too long")), "{error:?}");
    web.abort();
    assert!(web.await.is_err(), "the listener is gone");
    for answer in both(&url).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error:?}");
    }
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
