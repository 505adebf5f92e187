//! The server crashes, or another process takes the capture: nothing is lost, nothing is told in two ways.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use crate::support::LIMIT;
use crate::support::cluster::Database;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

/// Deliveries between two crashes.
const BETWEEN: usize = 60;

#[test]
fn a_server_that_crashes_under_a_stream_of_votes_loses_none_and_repeats_none_in_other_words() {
    // Many seconds between two flushes: a crash takes back what the daemon has committed and even delivered.
    let database = Database::on_its_own_server(&["wal_writer_delay = 10s", "wal_writer_flush_after = 1GB"]);
    let portal = Portal::without_setup(database, include_str!("../sql/demo/portal.sql"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (recovered, wait) = mpsc::channel();
        let (ended, database) = (&ended, &portal.database);
        scope.spawn(move || vote_until(ended, &wait, database));
        for crash in 1..=3 {
            receiver.wait_for_distinct(crash * BETWEEN);
            portal.database.crash();
            recovered.send(()).expect("the application waits for it");
        }
        receiver.wait_for_distinct(4 * BETWEEN);
        ended.store(true, Ordering::Relaxed);
    });
    let told: Vec<i64> = portal
        .events(&receiver, endpoint)
        .iter()
        .map(|event| event.data("/vote/id").as_i64().expect("an id"))
        .collect();
    let distinct: BTreeSet<i64> = told.iter().copied().collect();
    assert_eq!(distinct.len(), told.len(), "no vote is told twice");
    let votes = portal.sql("SELECT id FROM votes ORDER BY id");
    let votes: BTreeSet<i64> = votes.lines().map(|id| id.parse().expect("an id")).collect();
    assert_eq!(distinct, votes, "every vote that is there was told, and no other");
}

/// An application that goes on after each crash; a vote whose COMMIT was not answered is there or is not.
fn vote_until(ended: &AtomicBool, recovered: &mpsc::Receiver<()>, database: &Database) {
    let mut id = 1000;
    while !ended.load(Ordering::Relaxed) {
        id += 1;
        let vote = format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 98 + {id} % 2, 48 + {id} % 2)");
        if database.try_sql(&vote).is_err() && recovered.recv().is_err() {
            return;
        }
    }
}

#[test]
fn a_process_that_lost_the_capture_in_the_middle_of_a_commit_takes_all_of_it_back() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let mut first = portal.run();
    // All of the group is sent by now and waits for its last statement: the fence.
    let deadline = Instant::now() + LIMIT;
    let url = portal.database.owner_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connect");
        tokio::spawn(connection);
        client
            .batch_execute("BEGIN; UPDATE portalhook.checkpoint SET epoch = epoch + 1")
            .await
            .expect("take the capture, and hold on to it");
        portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (500, 99, 48)");
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'portalhook advance'
                     AND datname = current_database() AND wait_event_type = 'Lock'";
        while portal.sql(waits) != "1" {
            assert!(Instant::now() < deadline, "the daemon never waited at the fence");
        }
        client.batch_execute("COMMIT").await.expect("let it go on");
    });
    assert_eq!(first.wait_for_end().code(), Some(1));
    assert!(first.said().iter().any(|line| line.contains("took over the capture")), "{:?}", first.said());
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.events"), "0", "nothing of the group stayed");
    assert_eq!(receiver.received().len(), 0, "nothing of it was sent");
    let _second = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 500"]);
}
