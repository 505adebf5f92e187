//! What operators do in SQL: send again, change in silence, rotate secrets, tell events of their own.

use serde_json::json;

use crate::support::portal::{Portal, SECRET, name_and_id};
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::verify::verify;

fn vote(number: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({number}, 99, 49);")
}

fn same(one: &Received, other: &Received) {
    assert_eq!((one.id(), one.sequence(), &one.body), (other.id(), other.sequence(), &other.body));
}

#[test]
fn what_is_redelivered_has_the_same_bytes_id_and_sequence_and_goes_where_it_went() {
    let portal = Portal::sample();
    let (one, two) = (Receiver::start(), Receiver::start());
    let (first, second) = (portal.endpoint(&one), portal.endpoint(&two));
    let _daemon = portal.run();
    portal.sql(&vote(1));
    portal.sql(&vote(2));
    portal.wait_for_outcome("SELECT coalesce(sum(cardinality(positions)), 0) = 4 FROM portalhook.successes");
    // The row that the event was about has changed since: its event has not.
    portal.sql("UPDATE posts SET title = 'Another' WHERE id = 99; UPDATE users SET name = 'Another' WHERE id = 49;");
    let id = one.wait_for_distinct(2)[0].id().to_owned();
    assert_eq!(portal.sql(&format!("SELECT portalhook.redeliver('{id}')")), "2");
    for receiver in [&one, &two] {
        let of =
            |received: &[Received]| received.iter().filter(|request| request.id() == id).cloned().collect::<Vec<_>>();
        let received = of(&receiver.wait_for("the event again", |received| of(received).len() == 2));
        same(&received[0], &received[1]);
        verify(&received[1], SECRET);
    }
    portal
        .wait_for_outcome("SELECT count(*) = 2 FROM portalhook.deliveries WHERE status = 'delivered' AND attempts = 1");
    assert_eq!(portal.sql(&format!("SELECT portalhook.redeliver('{id}', {second})")), "1");
    two.wait_for("the event a third time", |received| received.len() == 4);
    assert_eq!(portal.events(&one, first).len(), 2);
    assert_eq!(one.received().len(), 4, "two votes, one of them again, and the marker: not a third time");
}

#[test]
fn what_is_redelivered_twice_before_it_is_sent_is_sent_once() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.successes");
    daemon.terminate();
    let id = receiver.received()[0].id().to_owned();
    portal.sql(&format!("SELECT portalhook.redeliver('{id}'); SELECT portalhook.redeliver('{id}', {endpoint});"));
    let _daemon = portal.run();
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    assert_eq!(portal.events(&receiver, endpoint).len(), 1);
    assert_eq!(receiver.received().iter().filter(|request| request.id() == id).count(), 2);
}

#[test]
fn a_delivery_that_was_given_up_arrives_when_it_is_redelivered() {
    let portal = Portal::sample();
    let receiver = Receiver::scripted(|request| Answer::Status(if request.arrival == 0 { 500 } else { 200 }));
    let endpoint = portal.endpoint_with(&receiver, "retries", "'{}'");
    let _daemon = portal.run();
    portal.sql(&vote(1));
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.failures");
    portal.sql("SELECT portalhook.redeliver(event_id) FROM portalhook.failures");
    let received = receiver.wait_for("the vote again", |received| received.len() == 2);
    same(&received[0], &received[1]);
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.failures"), "0");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
}

#[test]
fn a_replay_of_more_than_one_look_at_the_ledger_keeps_its_order_and_sends_each_once() {
    const VOTES: u64 = 1500;
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "max_in_flight", "1");
    let daemon = portal.run();
    portal.sql(&format!("INSERT INTO votes (id, post_id) SELECT n, 99 FROM generate_series(1, {VOTES}) AS n"));
    portal.wait_for_outcome(&format!(
        "SELECT coalesce(sum(cardinality(positions)), 0) = {VOTES} FROM portalhook.successes"
    ));
    daemon.terminate();
    let replay = format!("SELECT portalhook.replay({endpoint}, since => now() - interval '1 hour')");
    assert_eq!(portal.sql(&replay), VOTES.to_string());
    assert_eq!(portal.sql(&replay), "0", "all of it is due already");
    let _daemon = portal.run();
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.deliveries WHERE status = 'pending'");
    assert_eq!(portal.events(&receiver, endpoint).len() as u64, VOTES);
    let votes: Vec<Received> =
        receiver.received().into_iter().filter(|request| request.event() == "vote.created").collect();
    let again: Vec<u64> = votes[votes.len() / 2..].iter().map(Received::sequence).collect();
    assert_eq!(again, (1..=VOTES).collect::<Vec<_>>());
}

#[test]
fn a_long_replay_while_the_daemon_runs_sends_each_once_more() {
    const VOTES: usize = 3000;
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(&format!("INSERT INTO votes (id, post_id) SELECT n, 99 FROM generate_series(1, {VOTES}) AS n"));
    portal.wait_for_outcome(&format!(
        "SELECT coalesce(sum(cardinality(positions)), 0) = {VOTES} FROM portalhook.successes"
    ));
    portal.sql(&format!("SELECT portalhook.replay({endpoint}, '-infinity')"));
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.deliveries WHERE status = 'pending'");
    let received = receiver.received();
    assert_eq!(received.len(), 2 * VOTES, "each twice, none a third time");
    assert_eq!(portal.events(&receiver, endpoint).len(), VOTES);
}

#[test]
fn a_muted_transaction_is_silent_but_counts_and_later_events_build_on_it() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.sql("INSERT INTO portalhook.custom_events (name) VALUES ('import.finished')");
    let _daemon = portal.run();
    portal.sql(
        "BEGIN;
         INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'Imported', 49, 4);
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 100, 49);
         SELECT portalhook.mute('the old portal');
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);
         DELETE FROM posts WHERE id = 98;
         SELECT portalhook.emit('import.finished', '{\"posts\": 1}');
         COMMIT;
         INSERT INTO votes (id, post_id, user_id) VALUES (3, 100, 49);
         BEGIN; SELECT portalhook.mute(); ROLLBACK;
         INSERT INTO votes (id, post_id, user_id) VALUES (4, 100, 48);",
    );
    let events = portal.events(&receiver, endpoint);
    let names: Vec<String> = events.iter().map(Received::event).collect();
    assert_eq!(names, ["import.finished", "vote.created", "vote.created"]);
    assert_eq!(events[1].data("/post/title"), json!("Imported"));
    assert_eq!(events[1].data("/vote/voter/counter_votes"), json!(3), "the muted votes count");
    assert_eq!(name_and_id(&events[2]), "vote.created 4");
}

#[test]
fn while_a_secret_rotates_both_sign_and_afterwards_only_the_new_one() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    portal.sql(&format!("INSERT INTO portalhook.endpoints (url) VALUES ('{}')", receiver.url()));
    let old = portal.sql("SELECT portalhook.secret('4')");
    let new = portal.sql("SELECT portalhook.rotate_secret('4', keep_old_for => '1 hour')");
    portal.sql(&vote(1));
    let daemon = portal.run();
    let rotating = receiver.wait_for_distinct(1)[0].clone();
    daemon.terminate();
    assert_eq!(rotating.header("webhook-signature").split(' ').count(), 2);
    verify(&rotating, &new);
    let verifies = |secret: &str, request: &Received| {
        standardwebhooks::Webhook::new(secret).expect("a secret").verify(&request.body, &request.headers).is_ok()
    };
    assert!(verifies(&old, &rotating), "receivers that have the old one still verify");
    portal.sql("UPDATE portalhook.secrets SET previous_until = now() - interval '1 second' WHERE portal = '4'");
    portal.sql(&vote(2));
    let _daemon = portal.run();
    let rotated = receiver.wait_for("the second vote", |received| received.iter().any(|one| one.sequence() == 2));
    let rotated = rotated.iter().find(|one| one.sequence() == 2).expect("waited for");
    verify(rotated, &new);
    assert!(!verifies(&old, rotated));
    assert_eq!(rotated.header("webhook-signature").split(' ').count(), 1);
}

#[test]
fn an_endpoint_with_a_secret_of_its_own_does_not_use_the_portals() {
    let portal = Portal::sample();
    let (own, shared) = (Receiver::start(), Receiver::start());
    portal.endpoint(&own);
    portal.sql(&format!("INSERT INTO portalhook.endpoints (url) VALUES ('{}')", shared.url()));
    portal.sql(&vote(1));
    let _daemon = portal.run();
    verify(&own.wait_for_distinct(1)[0], SECRET);
    verify(&shared.wait_for_distinct(1)[0], &portal.sql("SELECT portalhook.secret('4')"));
}

#[test]
fn an_own_event_carries_its_data_byte_for_byte_and_goes_to_its_portal() {
    let portal = Portal::sample();
    let (here, elsewhere) = (Receiver::start(), Receiver::start());
    let (four, five) =
        (portal.endpoint_with(&here, "portal", "'4'"), portal.endpoint_with(&elsewhere, "portal", "'5'"));
    let error = portal.database.sql_error("SELECT portalhook.emit('roadmap.published')");
    assert!(error.contains("there is no event 'roadmap.published' of your own"), "{error}");
    portal.sql("INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published')");
    let _daemon = portal.run();
    portal.sql(
        r#"BEGIN; SELECT portalhook.emit('roadmap.published', '{"rolled": "back"}', '4'); ROLLBACK;
           SELECT portalhook.emit('roadmap.published', '{"b": 1.10,  "a": [2, 12345678901234567890.10], "ü": "\u00e4"}', '4');"#,
    );
    let events = portal.events(&here, four);
    assert_eq!(events.len(), 1);
    assert!(
        events[0].text().ends_with(r#""data":{"b": 1.10,  "a": [2, 12345678901234567890.10], "ü": "\u00e4"}}"#),
        "{}",
        events[0].text()
    );
    assert_eq!(portal.events(&elsewhere, five).len(), 0);
}
