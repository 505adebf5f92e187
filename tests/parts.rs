//! A large post stands in the ledger once, and no body shows it.

use crate::support::portal::{Portal, distinct};
use crate::support::receiver::{Answer, Received, Receiver};

/// Some kilobytes, of one to four bytes a character, with everything that JSON escapes.
const LARGE: &str = "UPDATE posts SET description = repeat(E'a \"quoted\" \\\\ line\\n é € 🗳 ', 100) WHERE id = 99;";

fn votes(first: u32, last: u32) -> String {
    (first..=last).map(|id| format!("INSERT INTO votes (id, post_id, user_id, created_at) VALUES ({id}, {}, 49, '2024-01-01 00:00:00+00');\n", if id.is_multiple_of(5) { 98 } else { 99 })).collect()
}

/// Every body as it must be: the votes are Mara's, the first one her first.
fn expected(event: &Received, id: u32) -> String {
    let description = serde_json::to_string(&"a \"quoted\" \\ line\n é € 🗳 ".repeat(100)).expect("a string");
    let user = |id: u32, name: &str, email: &str, role: &str, votes: u32| {
        format!(
            r#"{{"id":{id},"name":"{name}","email":"{email}","role":"{role}","counter_votes":{votes},"counter_comments":0,"counter_posts":1,"counter_comment_votes":0}}"#
        )
    };
    let mara = user(49, "Mara", "mara@example.com", "user", id);
    let post = if id.is_multiple_of(5) {
        format!(r#"{{"id":98,"title":"Keyboard shortcuts","description":"For everything.","author":{mara}}}"#)
    } else {
        let ruben = user(48, "Rubenb", "ruben@abc.nl", "admin", 0);
        format!(r#"{{"id":99,"title":"This is a great idea","description":{description},"author":{ruben}}}"#)
    };
    format!(
        r#"{{"id":"{}","creation_time":{},"event":"vote.created","data":{{"vote":{{"id":{id},"created_at":"2024-01-01T00:00:00.000000Z","voter":{mara}}},"post":{post},"portal":{{"id":4,"title":"Test Portal"}}}}}}"#,
        event.id(),
        event.json()["creation_time"],
    )
}

/// The votes among these events have the right bytes, and the ledger shows the same.
#[track_caller]
fn check(portal: &Portal, events: &[Received], count: u32) {
    let votes: Vec<&Received> = events.iter().filter(|event| event.event() == "vote.created").collect();
    assert_eq!(votes.len(), count as usize);
    for (event, id) in votes.into_iter().zip(1..) {
        assert_eq!(event.text(), expected(event, id));
        assert_eq!(portal.sql(&format!("SELECT portalhook.body('{}')", event.id())), event.text());
    }
}

#[test]
fn a_large_post_stands_in_the_ledger_once_and_every_body_has_it_whole() {
    let portal = Portal::sample_with(LARGE);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(&format!("BEGIN; {} COMMIT;", votes(1, 3).replace(", 49,", ", 48,")));
    portal.sql("DELETE FROM votes");
    portal.sql(&votes(1, 12));
    let events = portal.events(&receiver, endpoint);
    check(&portal, &events[6..], 12);
    let parts = portal.sql("SELECT count(*), count(DISTINCT part) FROM portalhook.events WHERE octet_length(portalhook.body(events)) > 4000 AND part IS NOT NULL");
    let (referring, distinct) = parts.split_once('|').expect("two numbers");
    // The author's counters are part of the post: three while he had voted, 13 before and after that.
    assert_eq!((referring, distinct), ("14", "2"), "all but the first of each");
    let small = portal.sql("SELECT count(*) FROM portalhook.events WHERE post = '98' AND part IS NOT NULL");
    assert_eq!(small, "0", "a small post stays where it is");
}

#[test]
fn what_comes_from_the_ledger_is_whole_too() {
    let portal = Portal::sample_with(LARGE);
    let (live, late) = (Receiver::start(), Receiver::start());
    // The first attempt fails, so that each body is read from the ledger for the second.
    let retried = Receiver::scripted(|request| Answer::Status(if request.attempt() == 1 { 500 } else { 200 }));
    let (first, second, third) = (portal.endpoint(&live), portal.endpoint(&late), portal.endpoint(&retried));
    portal.sql(&format!("UPDATE portalhook.endpoints SET enabled = false WHERE id = {second}"));
    let daemon = portal.run();
    portal.sql(&votes(1, 12));
    let events = portal.events(&live, first);
    check(&portal, &events, 12);
    check(&portal, &portal.events(&retried, third), 12);
    portal.kill(daemon);
    let _daemon = portal.run();
    portal.sql(&format!("UPDATE portalhook.endpoints SET enabled = true WHERE id = {second}"));
    check(&portal, &portal.events(&late, second), 12);
    let shared = portal.sql("SELECT id FROM portalhook.events WHERE part IS NOT NULL AND entity = 'vote:7'");
    portal.sql(&format!("SELECT portalhook.redeliver('{shared}', {first})"));
    let again = |received: &[Received]| received.iter().filter(|request| request.id() == shared).count() == 2;
    // `distinct` compares the bytes of duplicates.
    check(&portal, &distinct(&live.wait_for("it again", again)), 12);
}

#[test]
fn a_post_that_goes_with_many_votes_costs_a_kilobyte_of_ledger_an_event() {
    const VOTES: usize = 2000;
    // Random, so that compression does not hide a repetition.
    let portal = Portal::sample_with(&format!(
        "UPDATE posts SET description = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 320)) WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) SELECT n, 99, 49 FROM generate_series(1, {VOTES}) AS n;"
    ));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    let description = portal.sql("SELECT description FROM posts WHERE id = 99");
    let before = portal.sql("SELECT pg_current_wal_lsn()");
    portal.sql("DELETE FROM posts WHERE id = 99");
    receiver.wait_for("every vote", |received| received.len() > VOTES);
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.len(), VOTES + 1);
    for event in &events {
        assert_eq!(event.data("/post/description"), description.as_str());
    }
    let size: usize = portal
        .sql(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
             WHERE inhparent IN ('portalhook.events'::regclass, 'portalhook.parts'::regclass)",
        )
        .parse()
        .expect("a number");
    let wal = portal.sql(&format!("SELECT (pg_current_wal_lsn() - '{before}') / {VOTES}"));
    println!("{} bytes of ledger and {wal} of WAL in all an event", size / VOTES);
    assert!(size / VOTES <= 1024, "{} bytes of ledger an event", size / VOTES);
}
