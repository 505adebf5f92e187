//! The stream of a real server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use super::wal::{self, Start};
use super::{Positions, Receiver, channel, slot};
use crate::change::{Change, ReplicaIdentity, Row, Transaction, TupleData};
use crate::error::{Kind, Result};
use crate::lsn::Lsn;
use crate::session::{Database, Session, connect, until};
use crate::throwaway::Throwaway;

const SLOT: &str = "portalhook_test";
const LIMIT: Duration = Duration::from_secs(60);

/// A server with a database `portal`, a publication `portalhook` of its table `posts`, and an unpublished `other`.
struct Portal {
    server: Throwaway,
    database: Database,
    admin: Session,
}

impl Portal {
    async fn start(settings: &[&str]) -> Self {
        let server = Throwaway::start(settings).expect("start");
        server.psql("postgres", "CREATE DATABASE portal").expect("create");
        let script = "
            CREATE TABLE posts (id int PRIMARY KEY, title text);
            CREATE TABLE other (id int);
            CREATE PUBLICATION portalhook FOR TABLE posts;";
        server.psql("portal", script).expect("prepare");
        let database = Database::parse(&server.url(Throwaway::SUPERUSER, "portal")).expect("a URL");
        let admin = connect(&database, "test").await.expect("connect");
        Self { server, database, admin }
    }

    /// Creates the slot; where its stream begins.
    async fn create_slot(&self) -> Lsn {
        slot::create(&self.database, SLOT).await.expect("create the slot").consistent_point
    }

    /// Runs statements in public.
    async fn sql(&self, script: &str) {
        self.admin.batch_execute(&format!("SET search_path = public; {script}")).await.expect(script);
    }

    async fn text(&self, query: &str) -> String {
        self.admin.query_one(query, &[]).await.expect(query).get(0)
    }

    async fn lsn(&self, expression: &str) -> Lsn {
        self.text(&format!("SELECT ({expression})::text")).await.parse().expect("an LSN")
    }

    async fn confirmed_flush(&self) -> Lsn {
        let slot = slot::read(&self.admin, SLOT).await.expect("read").expect("a slot");
        slot.confirmed_flush.expect("a position")
    }

    async fn until_confirmed(&self, lsn: Lsn) {
        let query = "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots".replace("{}", &lsn.to_string());
        until(&self.admin, &query).await;
    }

    fn capture(&self, lsn: Lsn, budget: usize) -> Capture {
        self.capture_of("portalhook", lsn, budget)
    }

    fn capture_of(&self, publication: &str, lsn: Lsn, budget: usize) -> Capture {
        let start =
            Start { slot: SLOT.to_owned(), publication: publication.to_owned(), lsn, xid_reference: 0x5_0000_0000 };
        let database = self.database.clone();
        let (sender, transactions) = channel(budget);
        let (durable, confirmed) = watch::channel(lsn);
        let (stop, shutdown) = watch::channel(false);
        let (started, streaming) = oneshot::channel();
        let positions = Arc::new(Positions::default());
        let shared = Arc::clone(&positions);
        let task = tokio::spawn(async move {
            let streaming = || started.send(()).expect("somebody waits or has waited");
            wal::run(&database, &start, sender, confirmed, &shared, streaming, shutdown).await
        });
        Capture { transactions, durable, stop, streaming, positions, task }
    }
}

/// A running `wal::run` and all its other ends.
struct Capture {
    transactions: Receiver,
    durable: watch::Sender<Lsn>,
    stop: watch::Sender<bool>,
    streaming: oneshot::Receiver<()>,
    positions: Arc<Positions>,
    task: JoinHandle<Result<()>>,
}

impl Capture {
    async fn streaming(&mut self) {
        tokio::time::timeout(LIMIT, &mut self.streaming).await.expect("in time").expect("it streams");
    }

    async fn next(&mut self) -> Transaction {
        tokio::time::timeout(LIMIT, self.transactions.recv()).await.expect("in time").expect("a transaction")
    }

    async fn stop(self) {
        self.stop.send(true).expect("it runs");
        tokio::time::timeout(LIMIT, self.task).await.expect("in time").expect("no panic").expect("no error");
    }

    /// The error with which it ends.
    async fn error(self) -> crate::error::Error {
        tokio::time::timeout(LIMIT, self.task).await.expect("in time").expect("no panic").expect_err("an error")
    }
}

fn row(values: &[Option<&str>]) -> Row {
    let value = |value: &Option<&str>| match value {
        Some(text) => TupleData::Text(Bytes::copy_from_slice(text.as_bytes())),
        None => TupleData::Null,
    };
    values.iter().map(value).collect()
}

/// The ids of inserted rows, as text, transaction by transaction.
fn inserted(transaction: &Transaction) -> Vec<String> {
    let id = |change: &Change| match change {
        Change::Insert { new, .. } => match &new[0] {
            TupleData::Text(id) => String::from_utf8(id.to_vec()).expect("text"),
            other => panic!("an id is {other:?}"),
        },
        other => panic!("not an insert: {other:?}"),
    };
    transaction.changes.iter().map(id).collect()
}

#[tokio::test]
async fn the_snapshot_and_the_stream_meet_without_gap_or_overlap() {
    let portal = Portal::start(&[]).await;
    portal.sql("INSERT INTO posts VALUES (1, 'before')").await;
    let exported = slot::create(&portal.database, SLOT).await.expect("create");
    portal.sql("INSERT INTO posts VALUES (2, 'after')").await;

    portal.sql("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    portal.sql(&format!("SET TRANSACTION SNAPSHOT '{}'", exported.snapshot)).await;
    assert_eq!(portal.text("SELECT string_agg(id::text, ',') FROM posts").await, "1");
    portal.sql("COMMIT").await;

    let lsn = exported.consistent_point;
    drop(exported.keep());
    let mut capture = portal.capture(lsn, 1 << 20);
    assert_eq!(inserted(&capture.next().await), ["2"]);
    capture.stop().await;
}

#[tokio::test]
async fn slots_are_created_seen_and_dropped() {
    let portal = Portal::start(&[]).await;
    assert_eq!(slot::read(&portal.admin, SLOT).await.expect("read"), None);
    let lsn = portal.create_slot().await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert_eq!(slot.name, SLOT);
    assert_eq!((slot.plugin.as_deref(), slot.database.as_deref()), (Some("pgoutput"), Some("portal")));
    assert_eq!((slot.confirmed_flush, slot.wal_status), (Some(lsn), Some(slot::WalStatus::Reserved)));
    assert!(slot.restart.is_some_and(|restart| restart <= lsn));
    assert!(slot.retained_bytes.is_some_and(|bytes| bytes >= 0));
    assert!(!slot.is_lost());

    let error = slot::create(&portal.database, SLOT).await.err().expect("refused");
    assert_eq!(error.sqlstate(), Some(&SqlState::DUPLICATE_OBJECT), "{error:?}");

    let mut first = portal.capture(lsn, 1 << 20);
    first.streaming().await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert!(slot.active_pid.is_some());
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_IN_USE), "{error:?}");
    let error = slot::drop(&portal.admin, SLOT).await.expect_err("refused");
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_IN_USE), "{error:?}");

    // After a shutdown the slot is free at once.
    first.stop().await;
    assert!(slot::drop(&portal.admin, SLOT).await.expect("dropped"));
    assert!(!slot::drop(&portal.admin, SLOT).await.expect("nothing to drop"));
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_OBJECT), "{error:?}");

    let exported = slot::create(&portal.database, SLOT).await.expect("create");
    exported.discard().await.expect("discard");
    assert_eq!(slot::read(&portal.admin, SLOT).await.expect("read"), None);
}

#[tokio::test]
async fn a_slot_whose_wal_was_removed_is_lost() {
    let portal = Portal::start(&["max_slot_wal_keep_size = '1MB'", "max_wal_size = '32MB'"]).await;
    let lsn = portal.create_slot().await;
    for _ in 0..3 {
        portal.sql("INSERT INTO other VALUES (1); SELECT pg_switch_wal()").await;
    }
    portal.sql("CHECKPOINT").await;
    let slot = slot::read(&portal.admin, SLOT).await.expect("read").expect("a slot");
    assert!(slot.is_lost(), "{slot:?}");
    let error = portal.capture(lsn, 1 << 20).error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
}

#[tokio::test]
async fn transactions_come_in_commit_order_without_what_was_rolled_back() {
    let portal = Portal::start(&[]).await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    let other = connect(&portal.database, "other").await.expect("connect");

    portal.sql("BEGIN; INSERT INTO posts VALUES (1, 'first to begin')").await;
    other.batch_execute("BEGIN; INSERT INTO public.posts VALUES (2, 'first to commit')").await.expect("insert");
    portal.sql("SAVEPOINT s; INSERT INTO posts VALUES (3, 'rolled back'); ROLLBACK TO s").await;
    portal.sql("SAVEPOINT s; INSERT INTO posts VALUES (4, 'kept'); RELEASE s").await;
    other.batch_execute("COMMIT").await.expect("commit");
    other.batch_execute("BEGIN; INSERT INTO public.posts VALUES (5, 'never'); ROLLBACK").await.expect("rollback");
    let xid: String = portal.text("SELECT pg_current_xact_id()::text").await;
    portal.sql("COMMIT").await;

    let first = capture.next().await;
    let second = capture.next().await;
    assert_eq!((inserted(&first), inserted(&second)), (vec!["2".to_owned()], vec!["1".to_owned(), "4".to_owned()]));
    assert!(first.end_lsn <= second.commit_lsn && second.commit_lsn < second.end_lsn);
    // Widened with the reference that the test gives: the fifth epoch.
    assert_eq!(second.xid, 0x5_0000_0000 + xid.parse::<u64>().expect("a number"));
    let seconds: f64 =
        portal.admin.query_one("SELECT extract(epoch FROM now())::float8", &[]).await.expect("row").get(0);
    assert!((seconds - second.commit_micros as f64 / 1e6).abs() < 60.0, "{}", second.commit_micros);
    capture.stop().await;
}

#[tokio::test]
async fn changes_come_as_they_were_made() {
    let portal = Portal::start(&[]).await;
    portal
        .sql(
            "CREATE TABLE whole (a int, b text);
             ALTER TABLE whole REPLICA IDENTITY FULL;
             ALTER PUBLICATION portalhook ADD TABLE whole;
             ALTER TABLE posts ALTER title SET STORAGE EXTERNAL",
        )
        .await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    let long = "ü".repeat(5000);
    portal
        .sql(&format!(
            "BEGIN;
             INSERT INTO posts VALUES (1, '{long}');
             INSERT INTO whole VALUES (1, NULL);
             COMMIT; BEGIN;
             UPDATE posts SET id = 2;
             UPDATE posts SET title = NULL;
             UPDATE whole SET b = 'x';
             SELECT pg_logical_emit_message(true, 'portalhook', '77');
             SELECT pg_logical_emit_message(false, 'portalhook', '78');
             SELECT pg_logical_emit_message(true, 'stranger', '79');
             DELETE FROM posts;
             DELETE FROM whole;
             TRUNCATE posts, whole, other;
             COMMIT"
        ))
        .await;
    let first = capture.next().await;
    let [Change::Insert { relation: posts, new }, Change::Insert { relation: whole, new: second }] = &first.changes[..]
    else {
        panic!("{first:?}")
    };
    assert_eq!((new, second), (&row(&[Some("1"), Some(&long)]), &row(&[Some("1"), None])));
    assert_eq!((posts.schema.as_str(), posts.name.as_str()), ("public", "posts"));
    assert_eq!((posts.identity, whole.identity), (ReplicaIdentity::Default, ReplicaIdentity::Full));
    let columns: Vec<_> = posts.columns.iter().map(|c| (c.name.as_str(), c.type_oid, c.key)).collect();
    assert_eq!(columns, [("id", 23, true), ("title", 25, false)]);

    let second = capture.next().await;
    let (posts, whole) = (posts.clone(), whole.clone());
    let expected = [
        Change::Update {
            relation: posts.clone(),
            old: Some(row(&[Some("1"), None])),
            new: vec![row(&[Some("2")])[0].clone(), TupleData::UnchangedToast],
        },
        Change::Update { relation: posts.clone(), old: None, new: row(&[Some("2"), None]) },
        Change::Update {
            relation: whole.clone(),
            old: Some(row(&[Some("1"), None])),
            new: row(&[Some("1"), Some("x")]),
        },
        Change::Operation { number: 77 },
        Change::Delete { relation: posts.clone(), old: row(&[Some("2"), None]) },
        Change::Delete { relation: whole.clone(), old: row(&[Some("1"), Some("x")]) },
        Change::Truncate { relations: vec![posts, whole] },
    ];
    assert_eq!(second.changes, expected);
    capture.stop().await;
}

#[tokio::test]
async fn an_altered_table_is_described_anew() {
    let portal = Portal::start(&[]).await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    portal.sql("INSERT INTO posts VALUES (1, 'a')").await;
    portal
        .sql("ALTER TABLE posts ADD votes int, ALTER title TYPE varchar(9); INSERT INTO posts VALUES (2, 'b', 3)")
        .await;
    let (first, second) = (capture.next().await, capture.next().await);
    let shape = |transaction: &Transaction| match &transaction.changes[..] {
        [Change::Insert { relation, new }] => {
            let columns = relation.columns.iter().map(|c| format!("{} {} {}", c.name, c.type_oid, c.type_modifier));
            (columns.collect::<Vec<_>>().join(", "), new.len())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(shape(&first), ("id 23 -1, title 25 -1".to_owned(), 2));
    assert_eq!(shape(&second), ("id 23 -1, title 1043 13, votes 23 -1".to_owned(), 3));
    capture.stop().await;
}

#[tokio::test]
async fn text_in_the_stream_does_not_follow_the_databases_settings() {
    let portal = Portal::start(&[]).await;
    portal
        .sql(
            "ALTER DATABASE portal SET DateStyle = 'SQL, DMY';
             ALTER DATABASE portal SET TimeZone = 'Asia/Kolkata';
             ALTER DATABASE portal SET IntervalStyle = 'sql_standard';
             ALTER DATABASE portal SET bytea_output = 'escape';
             ALTER DATABASE portal SET extra_float_digits = -3;
             CREATE TABLE kinds (at timestamptz, day date, span interval, raw bytea, real float8, coin money);
             ALTER PUBLICATION portalhook ADD TABLE kinds",
        )
        .await;
    let mut capture = portal.capture(portal.create_slot().await, 1 << 20);
    portal
        .sql(
            r"INSERT INTO kinds VALUES ('2024-03-04 10:00:00+00', '2024-03-04', '1 mon -2 days 03:00', '\x0001ff',
                                        0.1::float8 + 0.2::float8, 1234.5)",
        )
        .await;
    let transaction = capture.next().await;
    let [Change::Insert { new, .. }] = &transaction.changes[..] else { panic!("{transaction:?}") };
    let expected =
        ["2024-03-04 10:00:00+00", "2024-03-04", "1 mon -2 days +03:00:00", r"\x0001ff", "0.30000000000000004"];
    assert_eq!(new[..5], row(&expected.map(Some)));
    // The C locale prints money without a currency sign or with `$`, by the system's library; never another one.
    assert!(matches!(&new[5], TupleData::Text(coin) if coin.ends_with(b"1,234.50") || coin.ends_with(b"1234.50")));
    capture.stop().await;
}

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
    let mut capture = portal.capture(portal.create_slot().await, 1);
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
    for id in 1..=20 {
        assert_eq!(inserted(&capture.next().await), [id.to_string()]);
    }
    capture.stop().await;
}

#[tokio::test]
async fn ends_with_an_error_that_says_why() {
    let mut portal = Portal::start(&[]).await;
    let lsn = portal.create_slot().await;

    let capture = portal.capture_of("no such publication", lsn, 1 << 20);
    portal.sql("INSERT INTO posts VALUES (1, '')").await;
    let error = capture.error().await;
    assert_eq!(error.sqlstate(), Some(&SqlState::UNDEFINED_OBJECT), "{error:?}");
    assert!(format!("{error:?}").contains("\"no such publication\" does not exist"), "{error:?}");

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
