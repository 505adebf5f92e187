//! Several servers in one URL.

use tokio_postgres::error::SqlState;

use super::{NAME, ask_both, both, database};
use crate::error::Kind;
use crate::session::connect;
use crate::throwaway::Throwaway;

const PORT: &str =
    "SELECT current_setting('port') || CASE WHEN pg_is_in_recovery() THEN ' standby' ELSE ' primary' END";

#[tokio::test]
async fn of_several_servers_the_primary_is_taken_by_both_kinds() {
    let primary = Throwaway::start(&[]).expect("start");
    let standby = primary.standby().expect("start a standby");
    let of = |list: &[u16], rest: &str| {
        let places: Vec<String> = list.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        database(&format!("postgres://admin@{}/postgres{rest}", places.join(",")))
    };
    let expected = format!("{} primary", primary.port());
    for rest in ["", "?target_session_attrs=read-write", "?target_session_attrs=primary", "?target_session_attrs=any"] {
        // Down, a standby, the primary.
        for answer in ask_both(&of(&[1, standby.port(), primary.port()], rest), PORT).await {
            assert_eq!(answer.expect("connected"), expected, "{rest}");
        }
    }
    // One alone is taken as it is, unless the URL says more.
    for answer in ask_both(&of(&[standby.port()], ""), PORT).await {
        assert_eq!(answer.expect("connected"), format!("{} standby", standby.port()));
    }
    for answer in ask_both(&of(&[standby.port()], "?target_session_attrs=read-write"), PORT).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().ends_with("this server is a standby"), "{error:?}");
    }
    // None will do: one line for all.
    for answer in ask_both(&of(&[1, standby.port()], ""), PORT).await {
        let text = format!("{:?}", answer.expect_err("refused"));
        assert!(text.contains("at 127.0.0.1:1; ") || text.contains("Connection refused"), "{text}");
        assert!(text.contains(&format!("at 127.0.0.1:{}: this server is a standby", standby.port())), "{text}");
    }
}

/// After a failover two servers may call themselves the primary.
#[tokio::test]
async fn what_is_connected_after_a_session_meets_the_sessions_server() {
    let (first, second) = (Throwaway::start(&[]).expect("start"), Throwaway::start(&[]).expect("start"));
    let mut first = first;
    first.stop("fast").expect("stop");
    let url = format!("postgres://admin@127.0.0.1:{},127.0.0.1:{}/postgres", first.port(), second.port());
    let session = connect(&database(&url), NAME).await.expect("connect");
    first.launch().expect("start again");
    for answer in ask_both(session.database(), PORT).await {
        assert_eq!(answer.expect("connected"), format!("{} primary", second.port()));
    }
    for answer in ask_both(&database(&url), PORT).await {
        assert_eq!(answer.expect("connected"), format!("{} primary", first.port()));
    }
}

#[tokio::test]
async fn a_refused_login_is_not_tried_at_the_next_server() {
    let (first, second) = (super::authority::start(), super::authority::start());
    first
        .psql(
            "postgres",
            "COPY (SELECT 'host all admin all trust') TO PROGRAM 'cat > pg_hba.conf'; SELECT pg_reload_conf()",
        )
        .expect("prepare");
    let watcher = connect(&database(&first.url("admin", "postgres")), NAME).await.expect("connect");
    super::until(&watcher, "SELECT count(*) = 1 FROM pg_hba_file_rules").await;
    let url = format!("postgres://by_trust@127.0.0.1:{},127.0.0.1:{}/portal", first.port(), second.port());
    for answer in both(&url).await {
        let error = answer.expect_err("refused");
        assert_eq!(error.sqlstate(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{error:?}");
        assert!(error.to_string().contains(&format!("at 127.0.0.1:{}", first.port())), "{error:?}");
    }
}
