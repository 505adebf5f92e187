//! Endpoints: from when on they receive, what, and what happens when they do not answer.

use serde_json::json;

use crate::support::portal::{Portal, SECRET, distinct};
use crate::support::receiver::{Answer, Gate, Received, Receiver};
use crate::support::verify::verify;

fn vote(number: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({number}, 99, 49);")
}

#[test]
fn an_endpoint_added_between_two_votes_of_the_same_second_gets_exactly_the_second() {
    let portal = Portal::sample();
    let (early, late) = (Receiver::start(), Receiver::start());
    let first = portal.endpoint(&early);
    let _daemon = portal.run();
    // One session, three transactions within milliseconds.
    let second: i64 = portal
        .sql(&format!(
            "{} INSERT INTO portalhook.endpoints (url, secret) VALUES ('{}', '{SECRET}') RETURNING id; {}",
            vote(1),
            late.url(),
            vote(2)
        ))
        .parse()
        .expect("an id");
    assert_eq!(portal.event_names(&early, first), ["vote.created 1", "vote.created 2"]);
    let events = portal.events(&late, second);
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].data("/vote/id"), events[0].sequence()), (json!(2), 1));
}

#[test]
fn an_endpoint_added_while_the_daemon_is_down_and_behind_gets_only_what_came_after_it() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    portal.sql(&vote(1));
    let endpoint = portal.endpoint(&receiver);
    portal.sql(&vote(2));
    let _daemon = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 2"]);
}

#[test]
fn an_endpoint_that_was_removed_gets_nothing_more() {
    let portal = Portal::sample();
    let (gone, there) = (Receiver::start(), Receiver::start());
    let (first, second) = (portal.endpoint(&gone), portal.endpoint(&there));
    let _daemon = portal.run();
    portal.sql(&vote(1));
    portal.events(&gone, first);
    let before = gone.received().len();
    portal.sql(&format!("DELETE FROM portalhook.endpoints WHERE id = {first}; {}", vote(2)));
    assert_eq!(portal.event_names(&there, second), ["vote.created 1", "vote.created 2"]);
    assert_eq!(gone.received().len(), before);
}

#[test]
fn an_endpoint_gets_only_the_events_and_the_portal_that_it_asks_for() {
    let portal = Portal::sample_with(
        "INSERT INTO portals VALUES (5, 'Other Portal');
         INSERT INTO posts (id, title, portal_id) VALUES (77, 'Elsewhere', 5);",
    );
    let (votes, other, posts) = (Receiver::start(), Receiver::start(), Receiver::start());
    let by_event = portal.endpoint_with(&votes, "events", "'{vote.created,webhook.test}'");
    let by_portal = portal.endpoint_with(&other, "portal", "'5'");
    let by_star = portal.endpoint_with(&posts, "events", "'{post.*,webhook.test}'");
    let _daemon = portal.run();
    portal.sql(
        "INSERT INTO votes (id, post_id) VALUES (1, 99), (2, 77);
         DELETE FROM votes WHERE id = 1;
         UPDATE posts SET title = 'Somewhere else' WHERE id = 77;
         UPDATE posts SET status = 'planned' WHERE id IN (77);
         UPDATE posts SET status = 'planned' WHERE id IN (99);",
    );
    assert_eq!(portal.event_names(&votes, by_event), ["vote.created 1", "vote.created 2"]);
    assert_eq!(portal.event_names(&other, by_portal), ["vote.created 2", "post.status_changed 77"]);
    assert_eq!(
        portal.event_names(&posts, by_star),
        ["post.updated 77", "post.status_changed 77", "post.status_changed 99"]
    );
}

#[test]
fn a_test_delivery_goes_to_its_endpoint_alone() {
    let portal = Portal::sample();
    let (tested, other) = (Receiver::start(), Receiver::start());
    let (first, second) = (portal.endpoint(&tested), portal.endpoint(&other));
    let _daemon = portal.run();
    portal.sql(&format!("SELECT portalhook.test({first});"));
    let received = tested.wait_for_distinct(1);
    verify(&received[0], SECRET);
    assert_eq!(received[0].event(), "webhook.test");
    assert_eq!(received[0].json()["data"], json!({"endpoint": {"id": first, "url": tested.url()}}));
    assert_eq!(portal.events(&other, second).len(), 0);
    assert_eq!(other.distinct(), 1, "its own marker alone");
}

#[test]
fn a_delivery_is_tried_again_with_the_same_bytes_until_it_is_accepted() {
    let portal = Portal::sample();
    let receiver = Receiver::scripted(|request| match request.arrival {
        0 => Answer::Status(500),
        1 => Answer::LoseResponse,
        2 => Answer::Status(302),
        3 => Answer::Status(429),
        _ => Answer::Status(204),
    });
    portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(&vote(1));
    let received = receiver.wait_for("five attempts", |received| received.len() >= 5);
    assert_eq!(received.iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(distinct(&received).len(), 1, "the same id, sequence and bytes");
}

#[test]
fn what_becomes_of_a_delivery_stands_in_the_ledger() {
    let portal = Portal::sample();
    let receiver =
        Receiver::scripted(|request| if request.attempt() < 3 { Answer::Status(503) } else { Answer::Status(200) });
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.events(&receiver, endpoint);
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    daemon.terminate();
    assert_eq!(
        portal.sql("SELECT event, status, attempts, http_status, sequence FROM portalhook.recent_deliveries WHERE event = 'vote.created'"),
        "vote.created|delivered|3|200|1"
    );
}

#[test]
fn a_delivery_that_uses_up_its_retries_is_a_visible_failure() {
    let portal = Portal::sample();
    let receiver =
        Receiver::scripted(
            |request| {
                if request.event() == "vote.created" { Answer::Status(400) } else { Answer::Status(200) }
            },
        );
    let endpoint = portal.endpoint_with(&receiver, "retries", "'{}'");
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.sql("UPDATE posts SET status = 'planned' WHERE id = 98;");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "post.status_changed 98"]);
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    daemon.terminate();
    assert_eq!(
        portal.sql("SELECT event, status, attempts, http_status, first_sequence FROM portalhook.failures"),
        "vote.created|failed|1|400|1"
    );
}

#[test]
fn an_endpoint_that_hangs_costs_the_others_nothing() {
    let portal = Portal::sample();
    let (stuck, well) = (Receiver::scripted(|_| Answer::Hang), Receiver::start());
    portal.endpoint(&stuck);
    let endpoint = portal.endpoint(&well);
    let _daemon = portal.run();
    portal.sql(&(1..=50).map(vote).collect::<String>());
    assert_eq!(portal.events(&well, endpoint).len(), 50);
    stuck.wait_for_distinct(1);
}

#[test]
fn an_event_of_a_post_waits_for_the_post_itself() {
    let portal = Portal::sample();
    let gate = Gate::closed();
    let receiver = Receiver::scripted({
        let gate = gate.clone();
        move |request| if request.event() == "post.created" { Answer::Hold(gate.clone()) } else { Answer::Status(200) }
    });
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(
        "INSERT INTO posts (id, title, portal_id) VALUES (100, 'New', 4);
         INSERT INTO votes (id, post_id) VALUES (1, 100);
         INSERT INTO votes (id, post_id) VALUES (2, 98);",
    );
    // The vote on the other post came last and is here: the vote on the held post is kept back, not just late.
    let held =
        receiver.wait_for("the vote on the other post", |received| received.iter().any(|one| one.sequence() == 3));
    assert!(held.iter().all(|request| request.sequence() != 2), "a vote overtook its post");
    gate.open();
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.created 100", "vote.created 1", "vote.created 2"]);
}

#[test]
fn without_a_secret_of_its_own_an_endpoint_uses_the_portals() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let secret = portal.sql("SELECT portalhook.secret('4')");
    portal.sql(&format!("INSERT INTO portalhook.endpoints (url) VALUES ('{}')", receiver.url()));
    let _daemon = portal.run();
    portal.sql(&vote(1));
    verify(&receiver.wait_for_distinct(1)[0], &secret);
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "retries", "'{}'");
    // The last word on the networks: none.
    let daemon = portal.spawn(&[("PORTALHOOK_DELIVER__ALLOW_NETWORKS", "")]);
    daemon.wait_for_line("streaming");
    portal.sql(&vote(1));
    portal.wait_for_outcome(&format!(
        "SELECT count(*) = 1 FROM portalhook.deliveries
         WHERE endpoint = {endpoint} AND status = 'failed' AND error_class = 'refused_address'"
    ));
    assert_eq!(receiver.received().len(), 0);
}
