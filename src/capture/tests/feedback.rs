//! What the server is told, and how a stream ends.

use tokio_postgres::error::SqlState;

use super::{LIMIT, Portal, inserted, until};
use crate::error::Kind;

#[tokio::test]
async fn an_idle_stream_moves_the_slot_while_other_tables_are_written() {
    let portal = Portal::start(&[]).await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    portal.sql("INSERT INTO posts VALUES (1, 'a')").await;
    let transaction = capture.next().await;
    portal.sql("INSERT INTO other SELECT generate_series(1, 1000)").await;
    let written = portal.lsn("pg_current_wal_flush_lsn()").await;

    // Not past a transaction that has been received and is not durable.
    let query = "SELECT write_lsn >= '{}' FROM pg_stat_replication".replace("{}", &written.to_string());
    until(&portal.admin, &query).await;
    assert!(portal.confirmed_flush().await < transaction.end_lsn);
    assert!(capture.positions.received() >= written);
    assert!(capture.positions.confirmed() < transaction.end_lsn);

    capture.durable.send(transaction.end_lsn).expect("it runs");
    portal.until_confirmed(written).await;
    portal.sql("INSERT INTO other SELECT generate_series(1, 1000)").await;
    portal.until_confirmed(portal.lsn("pg_current_wal_flush_lsn()").await).await;
    assert!(capture.transactions.try_recv().is_none());
    capture.stop().await;
}

#[tokio::test]
async fn a_new_stream_leaves_out_what_is_durable_and_repeats_what_is_not() {
    let portal = Portal::start(&[]).await;
    let begin = portal.create_slot().await;
    let mut capture = portal.capture(begin, 1 << 20);
    for id in 1..=3 {
        portal.sql(&format!("INSERT INTO posts VALUES ({id}, '')")).await;
    }
    let first = capture.next().await;
    capture.next().await;
    // What became durable just before the end is confirmed by the end.
    capture.durable.send(first.end_lsn).expect("it runs");
    capture.stop().await;
    assert_eq!(portal.confirmed_flush().await, first.end_lsn);

    let mut capture = portal.capture(begin, 1 << 20);
    let second = capture.next().await;
    assert_eq!(inserted(&second), ["2"]);
    // Cut off without a farewell, the slot knows less than we do.
    capture.task.abort();
    assert!(capture.task.await.expect_err("cut off").is_cancelled());
    until(&portal.admin, "SELECT active_pid IS NULL FROM pg_replication_slots").await;
    let mut capture = portal.capture(second.end_lsn, 1 << 20);
    assert_eq!(inserted(&capture.next().await), ["3"]);
    capture.stop().await;
}

#[tokio::test]
async fn feedback_goes_on_while_the_consumer_is_stuck() {
    let portal = Portal::start(&["wal_sender_timeout = '2s'"]).await;
    let begin = portal.create_slot().await;
    let mut capture = portal.capture(begin, 1);
    // More than all buffers between the server and us hold: the server waits for us to read.
    for id in 1..=20 {
        portal.sql(&format!("INSERT INTO posts VALUES ({id}, repeat('x', 1000000))")).await;
    }
    capture.streaming().await;
    until(&portal.admin, "SELECT reply_time IS NOT NULL FROM pg_stat_replication").await;
    let (pid, later): (i32, String) = {
        let query = "SELECT pid, (clock_timestamp() + interval '5 s')::text FROM pg_stat_replication";
        let row = portal.admin.query_one(query, &[]).await.expect("one walsender");
        (row.get(0), row.get(1))
    };
    // The row is gone if the server hangs up, and then this fails.
    let query =
        format!("SELECT max(reply_time) > '{later}' FROM pg_stat_replication WHERE pid = {pid} HAVING count(*) = 1");
    until(&portal.admin, &query).await;
    assert_eq!(capture.transactions.queued(), 1);
    for id in 1..=5 {
        assert_eq!(inserted(&capture.next().await), [id.to_string()]);
    }
    // Stopped while it is stuck again, it ends all the same, and loses nothing.
    capture.stop().await;
    until(&portal.admin, "SELECT active_pid IS NULL FROM pg_replication_slots").await;
    let mut capture = portal.capture(begin, 1 << 30);
    for id in 1..=20 {
        assert_eq!(inserted(&capture.next().await), [id.to_string()]);
    }
    capture.stop().await;
}

#[tokio::test]
async fn ends_with_an_error_that_says_why() {
    let mut portal = Portal::start(&[]).await;
    let lsn = portal.create_slot().await;

    let error = portal.capture_of("it's not there", lsn, 1 << 20).error().await;
    assert_eq!(error.to_string(), "publication `it's not there` does not exist");

    // Names that need quoting, and an error in mid-stream: until 17, a publication must exist where a change is decoded.
    portal.sql("INSERT INTO posts VALUES (1, '')").await;
    portal.sql("CREATE PUBLICATION \"Bob's \"\"first\"\"\" FOR TABLE posts").await;
    let version: i32 = portal.text("SHOW server_version_num").await.parse().expect("a number");
    if version < 180_000 {
        let error = portal.capture_of("Bob's \"first\"", lsn, 1 << 20).error().await;
        assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_OBJECT), "{error:?}");
        assert!(format!("{error:?}").contains("publication \"Bob's \"first\"\" does not exist"), "{error:?}");
    }

    let mut capture = portal.capture(lsn, 1 << 20);
    capture.next().await;
    drop(capture.transactions);
    portal.sql("INSERT INTO posts VALUES (2, '')").await;
    let error =
        tokio::time::timeout(LIMIT, capture.task).await.expect("in time").expect("no panic").expect_err("an error");
    assert_eq!(error.kind(), Kind::Failed, "{error:?}");
    assert!(error.to_string().contains("nobody takes them"), "{error:?}");

    until(&portal.admin, "SELECT active_pid IS NULL FROM pg_replication_slots").await;
    let mut capture = portal.capture(lsn, 1 << 20);
    capture.next().await;
    portal.server.stop("immediate").expect("crash");
    let error = capture.error().await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn a_server_that_shuts_down_does_not_wait_for_an_idle_stream() {
    let mut portal = Portal::start(&[]).await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    capture.streaming().await;
    portal.sql("INSERT INTO other SELECT generate_series(1, 1000)").await;
    let stopping = tokio::task::spawn_blocking(move || portal.server.stop("fast").map(|()| portal));
    let error = capture.error().await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    let stopped = tokio::time::timeout(LIMIT, stopping).await.expect("in time").expect("no panic");
    assert!(stopped.is_ok());
}
