//! What the stream says.

use bytes::Bytes;

use super::{Portal, connect, inserted};
use crate::change::{Change, ReplicaIdentity, Row, Transaction, TupleData};

fn row(values: &[Option<&str>]) -> Row {
    let value = |value: &Option<&str>| match value {
        Some(text) => TupleData::Text(Bytes::copy_from_slice(text.as_bytes())),
        None => TupleData::Null,
    };
    values.iter().map(value).collect()
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
