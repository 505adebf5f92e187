//! A death at each step of a copy and of the switch to it.

use super::*;

/// The daemon dies at a step of the copy or the switch, while the application works on; then another one goes on.
fn dies_at(point: &str) {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    under_load(&portal, || {
        let mut daemon = portal.spawn(&[("PORTALHOOK_FAILPOINT", point)]);
        daemon.wait_for_line("streaming");
        receiver.wait_for_distinct(10);
        portal.sql(&map("posts", POSTS_WITH_VIEWS));
        assert!(!daemon.wait_for_end().success(), "{point} was passed");
        assert!(daemon.said().iter().any(|line| line.contains(point)), "it died there: {:?}", daemon.said());
    });
    let _daemon = portal.run();
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id, views) VALUES (5000, 'Idea', 48, 4, 5000)");
    let events = portal.events(&receiver, endpoint);
    views_from_one_position_on(&events);
    mirror_equals_tables(&portal);
}

#[test]
fn a_death_with_a_copy_asked_for_loses_nothing() {
    dies_at("recording");
}

#[test]
fn a_death_in_the_middle_of_a_copy_loses_nothing() {
    dies_at("copying");
}

#[test]
fn a_death_with_a_copy_made_but_not_committed_loses_nothing() {
    dies_at("announced");
}

#[test]
fn a_death_with_a_copy_committed_loses_nothing() {
    dies_at("copy_committed");
}

#[test]
fn a_death_where_the_stream_reaches_the_copy_loses_nothing() {
    dies_at("copied");
}

#[test]
fn a_death_with_a_copy_that_has_caught_up_loses_nothing() {
    dies_at("caught_up");
}

#[test]
fn a_death_right_after_the_switch_loses_nothing() {
    dies_at("switched");
}
