//! Old days go, and what was undelivered in them stays visible.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Pruned, prune};
use crate::session::{self, Database, Session};
use crate::throwaway::Throwaway;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A ledger with partitions of the days before today whose numbers are given; `$public.day(n)` is the day n days ago.
async fn ledger(days: &[i32]) -> (Throwaway, Session) {
    let server = Throwaway::start(&[]).expect("start");
    let client = connect(&server).await;
    client.batch_execute("CREATE SCHEMA portalhook; CREATE SCHEMA portalhook_ledger").await.expect("schemas");
    client.batch_execute(include_str!("../../../sql/migrations/V1__ledger.sql")).await.expect("tables");
    client.batch_execute(include_str!("../../../sql/migrations/V7__source.sql")).await.expect("columns");
    client.batch_execute(include_str!("../../../sql/migrations/V11__parts.sql")).await.expect("parts");
    client
        .batch_execute(
            "CREATE FUNCTION public.day(ago int) RETURNS date LANGUAGE sql AS $$ SELECT (now() AT TIME ZONE 'UTC')::date - ago $$;
             INSERT INTO portalhook.checkpoint (lsn, xid, position, epoch, source, system_identifier, database_oid, slot, publication)
             VALUES ('0/1', 1, 0, 1, '', '', 1, 'feed', 'feed');",
        )
        .await
        .expect("checkpoint");
    for day in days {
        client.execute("SELECT portalhook.prepare_partitions(public.day($1), 1)", &[day]).await.expect("partitions");
    }
    (server, client)
}

async fn connect(server: &Throwaway) -> Session {
    let database = Database::parse(&server.url(Throwaway::SUPERUSER, "postgres")).expect("a URL");
    session::connect(&database, "test").await.expect("connect")
}

/// An event `ago` days old for these endpoints; its sequence is its position at each.
async fn event(client: &Client, position: i64, ago: i32, endpoints: &[i64]) {
    let sql = "INSERT INTO portalhook.events (position, recorded_on, id, event, occurred_at, xid, lsn, entity, endpoints, sequences, body)
               VALUES ($1::bigint, public.day($2), ($1::bigint)::text, 'vote.created', now(), 1, '0/1', 'vote:1', $3::bigint[], array_fill($1::bigint, ARRAY[cardinality($3::bigint[])]), '{}')";
    client.execute(sql, &[&position, &ago, &endpoints]).await.expect("an event");
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
}

const RANGES: &str = "SELECT concat_ws(' ', endpoint, first_sequence, last_sequence, split_part(reason, ':', 1))
                      FROM portalhook.settled_ranges ORDER BY endpoint, first_sequence";

#[tokio::test]
async fn days_older_than_the_retention_go_and_tomorrow_is_there() {
    let (_server, mut client) = ledger(&[20, 9, 8, 7, 0]).await;
    let pruned = prune(&mut client, WEEK).await.expect("prune");
    assert_eq!(pruned.days, texts(&client, "SELECT public.day(n)::text FROM unnest(ARRAY[20, 9, 8]) n").await);
    assert_eq!((pruned.expired, pruned.put_off), (0, false));
    let left = "SELECT DISTINCT substring(relname FROM '\\d+$') FROM pg_class
                WHERE relnamespace = 'portalhook_ledger'::regnamespace AND relkind = 'r' ORDER BY 1";
    let expected = texts(&client, "SELECT to_char(public.day(n), 'YYYYMMDD') FROM unnest(ARRAY[7, 0, -1]) n").await;
    assert_eq!(texts(&client, left).await, expected, "the last seven whole days, today, tomorrow");
    assert_eq!(prune(&mut client, WEEK).await.expect("again"), Pruned::default());
}

#[tokio::test]
async fn the_parts_of_a_days_bodies_go_with_it_and_not_before() {
    let (_server, mut client) = ledger(&[9, 7]).await;
    for (number, ago) in [(1, 9), (2, 7)] {
        event(&client, number, ago, &[]).await;
        let sql = "INSERT INTO portalhook.parts VALUES ($1::bigint, public.day($2), '[1, 2]')";
        client.execute(sql, &[&number, &ago]).await.expect("a part");
    }
    client.batch_execute("UPDATE portalhook.events SET body = '{', part = position, tail = '}'").await.expect("refer");
    prune(&mut client, WEEK).await.expect("prune");
    assert_eq!(texts(&client, "SELECT number::text FROM portalhook.parts").await, ["2"]);
    assert_eq!(texts(&client, "SELECT portalhook.body(e) FROM portalhook.events AS e").await, ["{[1, 2]}"]);
    assert_eq!(texts(&client, "SELECT portalhook.body('2')").await, ["{[1, 2]}"]);
}

#[tokio::test]
async fn what_was_undelivered_in_a_dropped_day_becomes_ranges() {
    let (_server, mut client) = ledger(&[9, 8, 0]).await;
    // 1 to 6 are old. Endpoint 1 is disabled and stands before 2; endpoint 2 has all but a retry; 3 has all of the old.
    for (position, ago) in [(1, 9), (2, 9), (3, 9), (4, 8), (5, 8), (6, 8), (7, 0), (8, 0)] {
        event(&client, position, ago, &[1, 2, 3]).await;
    }
    client
        .batch_execute(
            "INSERT INTO portalhook.cursors VALUES (1, 1, 1), (2, 8, 8), (3, 6, 6);
             INSERT INTO portalhook.successes VALUES (1, public.day(8), 4, '{4}', ARRAY[now()], '{200}', '{1}');
             INSERT INTO portalhook.deliveries (endpoint, position, recorded_on, sequence, event_id, status, attempts, due_at)
             VALUES (1, 5, public.day(8), 5, '5', 'failed', 3, NULL), (2, 5, public.day(8), 5, '5', 'pending', 3, now()),
                    (2, 7, public.day(0), 7, '7', 'pending', 3, now()), (2, 3, public.day(9), 3, '3', 'delivered', 2, NULL);",
        )
        .await
        .expect("standing");
    let pruned = prune(&mut client, WEEK).await.expect("prune");
    assert_eq!((pruned.days.len(), pruned.expired), (2, 4));
    assert_eq!(texts(&client, RANGES).await, ["1 2 3 expired", "1 6 6 expired", "2 5 5 expired"]);
    let cursors = "SELECT concat_ws(' ', endpoint, position, sequence) FROM portalhook.cursors ORDER BY endpoint";
    assert_eq!(texts(&client, cursors).await, ["1 6 6", "2 8 8", "3 6 6"]);
    let pending = "SELECT concat_ws(' ', endpoint, position) FROM portalhook.deliveries WHERE status = 'pending'";
    assert_eq!(texts(&client, pending).await, ["2 7"]);
    // Nothing is told twice, and ranges outlive their partitions.
    assert_eq!(prune(&mut client, WEEK).await.expect("again"), Pruned::default());
    assert_eq!(texts(&client, RANGES).await.len(), 3);
}

#[tokio::test]
async fn a_clock_that_was_set_back_lets_no_delivery_go_unseen() {
    let (_server, mut client) = ledger(&[9, 8]).await;
    event(&client, 1, 8, &[1]).await;
    event(&client, 2, 9, &[1]).await;
    client.batch_execute("INSERT INTO portalhook.cursors VALUES (1, 0, 0)").await.expect("a cursor");
    assert_eq!(prune(&mut client, WEEK).await.expect("prune").expired, 2);
    assert_eq!(texts(&client, RANGES).await, ["1 1 2 expired"]);
}

#[tokio::test]
async fn a_reader_in_the_way_puts_it_off_and_waits_for_nothing() {
    let (server, mut client) = ledger(&[9, 0]).await;
    event(&client, 1, 9, &[1]).await;
    client.batch_execute("INSERT INTO portalhook.cursors VALUES (1, 0, 0)").await.expect("a cursor");
    let dump = connect(&server).await;
    dump.batch_execute("BEGIN; SELECT count(*) FROM portalhook.events").await.expect("read");
    let pruned = prune(&mut client, WEEK).await.expect("prune");
    assert_eq!((pruned.days.len(), pruned.put_off), (0, true));
    assert_eq!(texts(&client, RANGES).await, ["1 1 1 expired"], "given up all the same, and visibly");
    dump.batch_execute("COMMIT").await.expect("done");
    let pruned = prune(&mut client, WEEK).await.expect("again");
    assert_eq!((pruned.days.len(), pruned.expired, pruned.put_off), (1, 0, false));
    assert_eq!(texts(&client, RANGES).await.len(), 1);
}

#[tokio::test]
async fn an_operation_stays_until_the_stream_has_brought_it() {
    let (_server, mut client) = ledger(&[0]).await;
    client
        .batch_execute(
            "SELECT portalhook.announce('test', '{}');
             UPDATE portalhook.operations SET created_at = now() - interval '30 days';
             INSERT INTO portalhook.row_failures VALUES (now() - interval '30 days', '0/1', 'posts', 't', 'old', '22012', ''),
                                                        (now(), '0/1', 'posts', 't', 'new', '22012', '');
             INSERT INTO portalhook.settled_ranges VALUES (1, 1, 1, 'expired', now() - interval '30 days'), (1, 2, 2, 'expired', now());",
        )
        .await
        .expect("rows");
    prune(&mut client, WEEK).await.expect("prune");
    let operations = "SELECT id::text FROM portalhook.operations";
    assert_eq!(texts(&client, operations).await.len(), 1, "the stream has not brought it");
    assert_eq!(texts(&client, "SELECT key FROM portalhook.row_failures").await, ["new"]);
    assert_eq!(texts(&client, RANGES).await, ["1 2 2 expired"]);
    client.batch_execute("UPDATE portalhook.operations SET taken = true").await.expect("taken");
    prune(&mut client, WEEK).await.expect("prune");
    assert_eq!(texts(&client, operations).await.len(), 0, "the stream has brought it");
}
