//! Each way of proving who we are, and what is said where it fails.

use std::error::Error as _;

use tokio::io::AsyncWriteExt as _;
use tokio_postgres::error::SqlState;

use super::{NAME, both, database};
use crate::error::Kind;
use crate::session::Replication;
use crate::throwaway::Throwaway;

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
    for answer in both(&url).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        assert!(format!("{error:?}").ends_with("what answers there is no PostgreSQL server"), "{error:?}");
    }
    let in_the_clear = database(&format!("{url}&sslmode=disable"));
    let error = Replication::connect(&in_the_clear, NAME).await.err().expect("refused");
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
