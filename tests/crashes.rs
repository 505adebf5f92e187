//! The process ends at each place where it could matter: nothing is lost, and what comes twice is the same.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Receiver, by_sequence};

/// Past the ids of the sample's own posts.
const ID: usize = 1000;

#[test]
fn a_death_with_a_transaction_received_loses_nothing() {
    dies_at("received");
}

#[test]
fn a_death_with_a_batch_evaluated_loses_nothing() {
    dies_at("evaluated");
}

#[test]
fn a_death_with_events_committed_loses_nothing() {
    dies_at("committed");
}

#[test]
fn a_death_with_a_request_sent_loses_nothing() {
    dies_at("sent");
}

#[test]
fn a_death_with_an_answer_in_hand_repeats_the_same_delivery() {
    for receiver in dies_at("answered") {
        let received = receiver.received();
        assert!(
            by_sequence(&received).values().any(|requests| requests.len() > 1),
            "the accepted delivery comes again"
        );
    }
}

#[test]
fn a_death_with_an_outcome_recorded_loses_nothing() {
    dies_at("recorded");
}

#[test]
fn a_death_with_the_slot_confirmed_loses_nothing() {
    dies_at("confirmed");
}

/// Lets the daemon die at the first and at the third passing of a place, while the application works on.
fn dies_at(point: &str) -> [Receiver; 2] {
    [1, 3].map(|passing| {
        let portal = Portal::sample();
        let receiver = Receiver::start();
        let endpoint = portal.endpoint(&receiver);
        let mut daemon = portal.spawn(&[("PORTALHOOK_FAILPOINT", &format!("{point}:{passing}"))]);
        let played = play_until_it_ends(&portal, &mut daemon, point);

        // What is in the tables now is not what the events must say.
        portal.sql("DELETE FROM votes WHERE id = 1001; UPDATE users SET name = 'Somebody else';");
        let _daemon = portal.run();
        let events = portal.events(&receiver, endpoint);
        let found: Vec<String> = events.iter().map(name_and_id).collect();
        let mut expected: Vec<String> = (1..=played)
            .flat_map(|number| [format!("post.created {}", ID + number), format!("vote.created {}", ID + number)])
            .collect();
        expected.push("vote.deleted 1001".to_owned());
        assert_eq!(found, expected, "{point}:{passing}");
        for event in &events[..2 * played] {
            assert_eq!(event.data("/post/author/name"), "Rubenb", "{point}: as of the event, not as of now");
        }
        receiver
    })
}

/// One transaction after another until the daemon is gone; returns how many.
fn play_until_it_ends(portal: &Portal, daemon: &mut crate::support::process::Process, point: &str) -> usize {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            let mut number = 0;
            loop {
                number += 1;
                let id = ID + number;
                portal.sql(&format!(
                    "BEGIN;
                     INSERT INTO posts (id, title, user_id, portal_id) VALUES ({id}, 'Idea', 48, 4);
                     INSERT INTO votes (id, post_id, user_id) VALUES ({id}, {id}, 49);
                     COMMIT;"
                ));
                if ended.load(Ordering::Relaxed) {
                    return number;
                }
            }
        });
        // Also when the wait panics: the player must end, or the scope never does.
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| daemon.wait_for_end()));
        ended.store(true, Ordering::Relaxed);
        let status = status.unwrap_or_else(|_| panic!("the daemon never passed {point}"));
        assert!(!status.success(), "{point} was passed");
        assert!(daemon.said().iter().any(|line| line.contains(point)), "it died there: {:?}", daemon.said());
        player.join().expect("the application works")
    })
}
