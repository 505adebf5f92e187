//! Transactions that are larger than memory may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::cluster::Database;
use crate::support::ids::{hash, hash_of};
use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Answer, Receiver};
use crate::support::session::{Holder, once};

/// Some 4 MiB of changes; see `GROWTH` for what they would be in memory all at once.
const VOTES: usize = 15_000;

/// How long a daemon that is asked to end may take, whatever it is doing.
const STOP: Duration = Duration::from_secs(5);

/// Bytes of memory that such a transaction may take.
const GROWTH: u64 = 24 << 20;

#[test]
fn a_large_transaction_is_told_whole_and_in_order_within_little_memory() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let marked = Receiver::start();
    let marker = portal.endpoint_with(&marked, "events", "'{comment.updated}'");
    let daemon = portal.run();
    portal.events(&receiver, endpoint);
    // What the ledger says is enough here.
    portal.sql(&format!("UPDATE portalhook.endpoints SET enabled = false WHERE id = {endpoint}"));
    let before = daemon.peak_memory();

    portal.sql(&format!(
        "BEGIN;
         INSERT INTO users (id, name) SELECT 1000 + n, 'Voter ' || n FROM generate_series(1, 1000) AS n;
         INSERT INTO votes (id, post_id, user_id) SELECT n, 99, 1000 + n % 1000 + 1 FROM generate_series(1, {VOTES}) AS n;
         UPDATE posts SET title = 'Everybody likes it' WHERE id = 99;
         COMMIT;
         INSERT INTO votes (id, post_id, user_id) VALUES ({VOTES} + 1, 99, 1001);"
    ));
    portal.events(&marked, marker);
    check_votes(&portal, endpoint, VOTES + 1);
    let voter = |position: usize, counter: usize| {
        format!("{position}|vote.created|vote:{position}|Everybody likes it|Voter {}|{counter}", position % 1000 + 1)
    };
    let told = votes(&portal, &format!("id IN (1, 7000, {VOTES}, {VOTES} + 1)"));
    // Counters are those after the transaction, the same in all its events.
    let each = VOTES / 1000;
    let last = format!("{0}|vote.created|vote:{0}|Everybody likes it|Voter 1|{1}", VOTES + 1, each + 1);
    assert_eq!(told, [voter(1, each), voter(7_000, each), voter(VOTES, each), last], "with {told:?}");
    let gone = daemon.peak_memory();
    assert!(gone - before < GROWTH, "{before} bytes before, {gone} after");

    portal.sql("DELETE FROM posts WHERE id = 99;");
    portal.events(&marked, marker);
    check_votes(&portal, endpoint, 2 * (VOTES + 1));
    let deleted = portal.sql(
        "SELECT count(*), count(DISTINCT body::json #>> '{data,post,title}'), min((body::json #>> '{data,vote,voter,counter_votes}')::int),
                max((body::json #>> '{data,vote,voter,counter_votes}')::int)
         FROM (SELECT portalhook.body(e) AS body FROM portalhook.events AS e WHERE event = 'vote.deleted') AS e",
    );
    assert_eq!(deleted, format!("{}|1|0|0", VOTES + 1), "the post is in each of them, and nobody has a vote any more");
    assert!(daemon.peak_memory() - before < GROWTH, "{before} bytes before, {} after", daemon.peak_memory());
    daemon.terminate();
}

#[test]
fn a_large_transaction_that_is_broken_off_comes_again_as_if_nothing_had_been() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let limits = ("PORTALHOOK_LIMITS", "part:2000,page:7");
    portal.sql(
        "BEGIN;
         INSERT INTO posts (id, title, user_id, portal_id) SELECT 1000 + n, 'Idea ' || n, 48, 4 FROM generate_series(1, 40) AS n;
         INSERT INTO votes (id, post_id, user_id) SELECT n, 1001, 49 FROM generate_series(1, 60) AS n;
         UPDATE posts SET status = 'planned' WHERE id IN (99, 1001);
         DELETE FROM votes WHERE id > 50;
         COMMIT;
         DELETE FROM votes WHERE id = 1;",
    );
    for point in ["received", "staged:1", "staged:4", "evaluated", "committed"] {
        let mut daemon = portal.spawn(&[limits, ("PORTALHOOK_FAILPOINT", point)]);
        assert!(!daemon.wait_for_end().success(), "{point} was passed");
    }
    let _daemon = portal.spawn(&[limits]);
    let told: Vec<String> = portal.events(&receiver, endpoint).iter().map(name_and_id).collect();
    let mut expected: Vec<String> = (1002..=1040).map(|id| format!("post.created {id}")).collect();
    expected.extend((1..=50).map(|id| format!("vote.created {id}")));
    expected.extend(["post.status_changed 99", "post.created 1001", "vote.deleted 1"].map(str::to_owned));
    assert_eq!(told, expected);
}

/// Every transaction is a large one, in pages of seven rows.
const LIMITS: (&str, &str) = ("PORTALHOOK_LIMITS", "part:2000,page:7");

/// Waits in the server until the heart is in the middle of the large transaction that `held` does not let pass.
fn wait_for_the_middle(portal: &Portal) {
    let waits = "SELECT FROM pg_stat_get_activity(NULL) WHERE application_name = 'portalhook advance' AND wait_event_type = 'Lock'
                   AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    portal.sql(&once(waits));
}

const MIRRORED_VOTES: &str = "LOCK portalhook_mirror.\"public.votes\" IN SHARE MODE";

const VOTES_OF_ONE: &str = "
    BEGIN;
    INSERT INTO votes (id, post_id, user_id) SELECT n, 99, 49 FROM generate_series(2, 201) AS n;
    UPDATE posts SET status = 'planned' WHERE id = 99;
    COMMIT;
    DELETE FROM votes WHERE id = 1;";

#[test]
fn a_daemon_that_ends_in_the_middle_of_a_large_transaction_does_it_again_as_it_was() {
    for signal in ["TERM", "KILL"] {
        let portal = Portal::sample();
        let receiver = Receiver::start();
        let endpoint = portal.endpoint(&receiver);
        let daemon = portal.spawn(&[LIMITS]);
        daemon.wait_for_line("streaming");
        portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
        receiver.wait_for_distinct(1);
        let held = Holder::of(&portal, MIRRORED_VOTES);
        portal.sql(VOTES_OF_ONE);
        wait_for_the_middle(&portal);
        if signal == "TERM" {
            let asked = Instant::now();
            daemon.terminate();
            assert!(asked.elapsed() < STOP, "it ended {:?} later", asked.elapsed());
        } else {
            portal.kill(daemon);
        }
        assert_eq!(receiver.distinct(), 1, "nothing of the transaction was told");
        drop(held);
        let _daemon = portal.spawn(&[LIMITS]);
        let events = portal.events(&receiver, endpoint);
        let mut expected = vec!["vote.created 1".to_owned()];
        expected.extend((2..=201).map(|id| format!("vote.created {id}")));
        expected.extend(["post.status_changed 99", "vote.deleted 1"].map(str::to_owned));
        assert_eq!(events.iter().map(name_and_id).collect::<Vec<_>>(), expected, "after SIG{signal}");
        let source = portal.sql("SELECT source FROM portalhook.checkpoint");
        let told = portal.sql(
            "SELECT id, xid, event, split_part(entity, ':', 2) FROM portalhook.events WHERE event <> 'webhook.test' ORDER BY position",
        );
        for (event, told) in events.iter().zip(told.lines()) {
            let [id, xid, name, entity] = told.split('|').collect::<Vec<_>>()[..] else { panic!("{told}") };
            assert_eq!((event.id(), hash(id)), (id, hash_of([&source, xid, name, entity])), "{told}");
        }
        assert_eq!(events[1].data("/vote/voter/counter_votes"), 201, "those after the transaction");
        assert_eq!(mirror::differences(&portal), "");
    }
}

#[test]
fn deliveries_and_feedback_go_on_while_a_large_transaction_is_worked_on() {
    let database = Database::on_its_own_server(&["wal_sender_timeout = '4s'"]);
    let portal = Portal::without_setup(database, include_str!("../sql/demo/portal.sql"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let receiver = Receiver::scripted(move |_| Answer::Status(if well.load(Ordering::SeqCst) { 200 } else { 503 }));
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.spawn(&[LIMITS]);
    daemon.wait_for_line("streaming");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    receiver.wait_for_distinct(1);
    let held = Holder::of(&portal, MIRRORED_VOTES);
    portal.sql(VOTES_OF_ONE);
    wait_for_the_middle(&portal);

    is_well.store(true, Ordering::SeqCst);
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.deliveries WHERE status = 'delivered'");
    // Longer than the server waits for a word, on the same connection.
    let sender = "SELECT pid FROM pg_stat_replication";
    let (process, now) = (portal.sql(sender), portal.sql("SELECT clock_timestamp()"));
    let later = format!("SELECT FROM pg_stat_get_wal_senders() WHERE reply_time > timestamptz '{now}' + interval '6s'");
    portal.sql(&once(&later));
    assert_eq!(portal.sql(sender), process, "the server has not hung up");
    assert_eq!(receiver.distinct(), 1);
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.events"), "1", "the transaction was worked on meanwhile");

    drop(held);
    assert_eq!(portal.events(&receiver, endpoint).len(), 203);
    daemon.terminate();
}

/// Votes' events that fulfil a condition on their position among them, in their order.
fn votes(portal: &Portal, condition: &str) -> Vec<String> {
    let rows = portal.sql(&format!(
        "SELECT id, event, entity, body::json #>> '{{data,post,title}}', body::json #>> '{{data,vote,voter,name}}',
                body::json #>> '{{data,vote,voter,counter_votes}}'
         FROM (SELECT row_number() OVER (ORDER BY position) AS id, event, entity, portalhook.body(e) AS body
               FROM portalhook.events AS e WHERE event LIKE 'vote.%') AS e
         WHERE {condition} ORDER BY id"
    ));
    rows.lines().map(str::to_owned).collect()
}

/// So many votes' events are there, each event with a sequence number of its own and none left out.
#[track_caller]
fn check_votes(portal: &Portal, endpoint: i64, count: usize) {
    let found = portal.sql(&format!(
        "SELECT count(*) FILTER (WHERE event LIKE 'vote.%'), count(*) = max(sequences[1]), count(DISTINCT sequences[1]) = count(*),
                count(DISTINCT id) = count(*)
         FROM portalhook.events WHERE endpoints = ARRAY[{endpoint}::bigint]"
    ));
    assert_eq!(found, format!("{count}|t|t|t"));
}
