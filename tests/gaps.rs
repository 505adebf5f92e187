//! A stream that was interrupted: what it did not bring is found by the mirror, told once, and everything goes on.

use serde_json::json;

use crate::support::mirror;
use crate::support::portal::Portal;
#[cfg(feature = "failpoints")]
use crate::support::process::Process;
use crate::support::receiver::{Received, Receiver};

/// The sample portal, whose posts also look into a table without a key.
fn portal() -> Portal {
    let schema = format!(
        "{}
         CREATE TABLE tags (post_id integer, name text);
         INSERT INTO tags VALUES (98, 'ui'), (98, 'ui'), (99, NULL);
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 98, 48);
         INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 98, 49, 'Yes'), (2, 99, 49, 'No');",
        include_str!("../sql/demo/portal.sql")
    );
    let views = include_str!("../sql/demo/views.sql").replace(
        "portal_id AS portal, created_at\nFROM public.posts\n",
        "portal_id AS portal, created_at,
                (SELECT string_agg(t.name, ' ') FROM public.tags t WHERE t.post_id = posts.id) AS tags
         FROM public.posts\n",
    );
    assert!(views.contains("public.tags"), "the sample's views changed");
    Portal::new(&schema, &views)
}

const DROP_SLOT: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                         WHERE database = current_database() \\g /dev/null";

/// What the portal does while nobody reads. Vote 2 gets another key, vote 7 comes and goes.
const MISSED: &str = "
    INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published');
    SELECT portalhook.emit('roadmap.published', '{\"roadmap\": {\"id\": 5}}') \\g /dev/null
    UPDATE users SET name = 'Mara B.' WHERE id = 49;
    INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'New', 49, 4);
    UPDATE posts SET status = 'planned' WHERE id = 98;
    UPDATE posts SET views = 1 WHERE id = 99;
    DELETE FROM votes WHERE id = 1;
    UPDATE votes SET id = 20 WHERE id = 2;
    INSERT INTO votes (id, post_id, user_id) VALUES (3, 100, 49), (7, 99, 49);
    DELETE FROM votes WHERE id = 7;
    UPDATE comments SET body = 'Yes!' WHERE id = 1;
    DELETE FROM comments WHERE id = 2;
    DELETE FROM tags WHERE ctid = (SELECT min(ctid) FROM tags WHERE name = 'ui');
    INSERT INTO tags VALUES (99, 'api');";

const FOUND: [&str; 9] = [
    "roadmap.published 5",
    "post.status_changed 98",
    "post.created 100",
    "vote.deleted 1",
    "vote.deleted 2",
    "vote.created 3",
    "vote.created 20",
    "comment.updated 1",
    "comment.deleted 2",
];

fn names(events: &[Received]) -> Vec<String> {
    events.iter().map(crate::support::portal::name_and_id).collect()
}

#[test]
fn a_slot_that_was_dropped_is_made_anew_and_what_was_missed_arrives() {
    let portal = portal();
    let receivers = [Receiver::start(), Receiver::start(), Receiver::start()];
    let everything = "'{*,comment.updated}'";
    let endpoint = portal.endpoint_with(&receivers[0], "events", everything);
    let leaver = portal.endpoint_with(&receivers[1], "events", everything);
    let daemon = portal.run();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (50, 98, 49)");
    assert_eq!(portal.event_names(&receivers[0], endpoint), ["vote.created 50"]);
    receivers[1].wait_for_distinct(1);
    daemon.terminate();

    portal.sql(MISSED);
    portal.sql(&format!("DELETE FROM portalhook.endpoints WHERE id = {leaver}"));
    let newcomer = portal.endpoint_with(&receivers[2], "events", everything);
    portal.sql(DROP_SLOT);
    let daemon = portal.run();
    // The tenth is a post.updated, which nobody wants.
    let said = daemon.said().join("\n");
    for part in ["ERROR", "is gone: what was committed after ", "closing the gap", " is closed: 10 events"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let events = portal.events(&receivers[0], endpoint);
    assert_eq!(names(&events[1..]), FOUND);
    assert_eq!(names(&portal.events(&receivers[2], newcomer)), FOUND, "added in the gap, so before its events");
    assert_eq!(receivers[1].distinct(), 1, "nothing for an endpoint that was deleted in the gap");
    for event in &events[2..] {
        assert_eq!(event.json()["creation_time"], events[2].json()["creation_time"], "one transaction");
    }
    let mara = json!({"id": 49, "name": "Mara B.", "email": "mara@example.com", "role": "user",
        "counter_votes": 2, "counter_comments": 1, "counter_posts": 2, "counter_comment_votes": 0});
    assert_eq!(events[3].data("/post/author"), mara, "as of after the gap");
    assert_eq!(events[4].data("/vote/voter"), mara, "also at what was deleted");
    assert_eq!(events[4].data("/post/tags"), "api");
    assert_eq!(mirror::differences(&portal), "");

    // The stream goes on where the new slot began.
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (51, 100, 49); DELETE FROM tags");
    let events = portal.events(&receivers[0], endpoint);
    assert_eq!(names(&events[10..]), ["vote.created 51"]);
    assert_eq!(events[10].data("/vote/voter/counter_votes"), 3);
    assert_eq!(mirror::differences(&portal), "");
    daemon.terminate();
    let daemon = portal.run();
    assert!(!daemon.said().iter().any(|line| line.contains("closing the gap")), "once is enough");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_death_while_the_gap_is_closed_loses_nothing_and_tells_nothing_twice() {
    for point in ["recreated", "bridged", "closed"] {
        let portal = portal();
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{*,comment.updated}'");
        portal.run().terminate();
        portal.sql(&format!("{MISSED} {DROP_SLOT}"));
        let mut daemon = portal.spawn(&[("PORTALHOOK_FAILPOINT", point)]);
        assert!(!daemon.wait_for_end().success(), "{point} was passed");
        assert!(died_there(&daemon, point), "{:?}", daemon.said());
        // Not seen by the snapshot in which the first daemon compared.
        portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (51, 98, 48)");
        let _daemon = portal.run();
        let found = portal.event_names(&receiver, endpoint);
        let mut expected: Vec<&str> = FOUND.to_vec();
        // Where nothing was committed, it is part of what was missed.
        expected.insert(if point == "closed" { 9 } else { 7 }, "vote.created 51");
        assert_eq!(found, expected, "{point}");
        assert_eq!(mirror::differences(&portal), "", "{point}");
    }
}

#[cfg(feature = "failpoints")]
fn died_there(daemon: &Process, point: &str) -> bool {
    daemon.said().iter().any(|line| line.contains(&format!("`{point}` reached")))
}
