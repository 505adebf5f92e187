//! What one transaction does, and the events that come of it.

use serde_json::json;

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::{Received, Receiver};

/// Plays a script on the sample portal and returns what arrived.
#[track_caller]
fn played(rows_before: &str, script: &str) -> Vec<Received> {
    let portal = Portal::sample_with(rows_before);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(script);
    portal.events(&receiver, endpoint)
}

fn names(events: &[Received]) -> Vec<String> {
    events.iter().map(name_and_id).collect()
}

const VOTED_AND_COMMENTED: &str = "
    INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
    INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 99, 49, 'Yes');";

#[test]
fn all_seven_events_arrive() {
    let events = played(
        "",
        "INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'Dark mode', 48, 4);
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 100, 49);
         INSERT INTO comments (id, post_id, user_id, body) VALUES (1, 100, 49, 'Yes');
         UPDATE posts SET status = 'planned' WHERE id = 100;
         DELETE FROM comments WHERE id = 1;
         DELETE FROM votes WHERE id = 1;
         UPDATE posts SET deleted_at = now() WHERE id = 100;",
    );
    assert_eq!(
        names(&events),
        [
            "post.created 100",
            "vote.created 1",
            "comment.created 1",
            "post.status_changed 100",
            "comment.deleted 1",
            "vote.deleted 1",
            "post.deleted 100",
        ]
    );
}

#[test]
fn a_rolled_back_transaction_delivers_nothing() {
    let events = played(
        "",
        "BEGIN;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 48);
         UPDATE posts SET status = 'planned' WHERE id = 99;
         DELETE FROM posts WHERE id = 98;
         ROLLBACK;",
    );
    assert_eq!(names(&events), [""; 0]);
}

#[test]
fn a_rolled_back_savepoint_delivers_nothing() {
    let events = played(
        "",
        "BEGIN;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 48);
         SAVEPOINT risky;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);
         UPDATE posts SET status = 'planned' WHERE id = 99;
         ROLLBACK TO SAVEPOINT risky;
         INSERT INTO votes (id, post_id, user_id) VALUES (3, 99, 49);
         COMMIT;",
    );
    assert_eq!(names(&events), ["vote.created 1", "vote.created 3"]);
    assert_eq!(events[1].data("/vote/voter/counter_votes"), 1, "the vote that was undone does not count");
}

#[test]
fn what_comes_back_to_where_it_was_is_silent() {
    let events = played(
        VOTED_AND_COMMENTED,
        "BEGIN;
         UPDATE posts SET status = 'planned' WHERE id = 99;
         UPDATE posts SET status = 'open' WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 48);
         DELETE FROM votes WHERE id = 2;
         DELETE FROM votes WHERE id = 1;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         UPDATE posts SET views = views + 1;
         COMMIT;",
    );
    assert_eq!(names(&events), [""; 0]);
}

#[test]
fn a_post_is_deleted_softly_and_restored() {
    let events = played(
        VOTED_AND_COMMENTED,
        "UPDATE posts SET deleted_at = now(), status = 'closed' WHERE id = 99;
         UPDATE posts SET status = 'planned' WHERE id = 99;
         DELETE FROM votes WHERE id = 1;
         UPDATE posts SET deleted_at = NULL WHERE id = 99;",
    );
    assert_eq!(names(&events), ["post.deleted 99", "vote.deleted 1", "post.created 99"]);
    assert_eq!(events[0].data("/post/status"), "open", "a deleted event shows the post as just before it");
    assert_eq!(events[1].data("/post/title"), "This is a great idea", "a vote carries its post, live or not");
    assert_eq!(events[2].data("/post/status"), "planned");
}

#[test]
fn a_vote_that_moves_to_another_post_leaves_one_and_enters_the_other() {
    let events = played(VOTED_AND_COMMENTED, "UPDATE votes SET post_id = 98 WHERE id = 1;");
    assert_eq!(names(&events), ["vote.deleted 1", "vote.created 1"]);
    assert_eq!([events[0].data("/post/id"), events[1].data("/post/id")], [json!(99), json!(98)]);
}

#[test]
fn a_long_text_that_an_update_did_not_touch_is_still_there() {
    // Random text of 20,000 characters does not compress: it is stored apart, and the stream leaves it out.
    let long = "UPDATE posts SET description = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 625) AS n) WHERE id = 99;";
    let events = played(
        long,
        "UPDATE posts SET status = 'planned' WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         BEGIN;
         UPDATE posts SET status = 'done' WHERE id = 99;
         UPDATE posts SET views = 3 WHERE id = 99;
         COMMIT;
         UPDATE posts SET id = 199 WHERE id = 98;
         DELETE FROM votes;
         UPDATE posts SET id = 100 WHERE id = 99;
         UPDATE posts SET deleted_at = now() WHERE id = 100;",
    );
    assert_eq!(
        names(&events),
        [
            "post.status_changed 99",
            "vote.created 1",
            "post.status_changed 99",
            "post.deleted 98",
            "post.created 199",
            "vote.deleted 1",
            "post.deleted 99",
            "post.created 100",
            "post.deleted 100",
        ]
    );
    for event in events.iter().filter(|event| !["98", "199"].iter().any(|id| name_and_id(event).ends_with(id))) {
        let description = event.data("/post/description");
        assert_eq!(description.as_str().map(str::len), Some(20_000), "{}", name_and_id(event));
    }
}

#[test]
fn a_key_of_two_columns_is_a_key() {
    let portal = Portal::new(
        &format!(
            "{}\nDROP TABLE votes;
             CREATE TABLE votes (post_id int REFERENCES posts, user_id int REFERENCES users, weight int NOT NULL DEFAULT 1,
                                 PRIMARY KEY (user_id, post_id));",
            include_str!("../sql/demo/portal.sql")
        ),
        &include_str!("../sql/demo/views.sql").replace(
            "SELECT id, post_id AS post, user_id AS voter, created_at\nFROM public.votes;",
            "SELECT post_id || ':' || user_id AS id, post_id AS post, user_id AS voter, NULL::timestamptz AS created_at\nFROM public.votes;",
        ),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(
        "INSERT INTO votes VALUES (99, 48), (99, 49), (98, 48);
         UPDATE votes SET weight = 2;
         UPDATE votes SET post_id = 98 WHERE post_id = 99 AND user_id = 49;
         BEGIN;
         DELETE FROM votes WHERE post_id = 99 AND user_id = 48;
         INSERT INTO votes VALUES (99, 48, 7);
         COMMIT;
         DELETE FROM votes WHERE post_id = 99;",
    );
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        [
            "vote.created 99:48",
            "vote.created 99:49",
            "vote.created 98:48",
            "vote.deleted 99:49",
            "vote.created 98:49",
            "vote.deleted 99:48",
        ]
    );
}

#[test]
fn an_anonymous_author_or_voter_is_null() {
    let events = played(
        "",
        "INSERT INTO posts (id, title, portal_id) VALUES (100, 'Nobody said this', 4);
         INSERT INTO votes (id, post_id) VALUES (1, 100);
         INSERT INTO comments (id, post_id, body) VALUES (1, 100, 'Me neither');",
    );
    assert_eq!(names(&events), ["post.created 100", "vote.created 1", "comment.created 1"]);
    for (event, pointer) in [(0, "/post/author"), (1, "/vote/voter"), (1, "/post/author"), (2, "/comment/author")] {
        assert_eq!(events[event].data(pointer), json!(null), "{pointer}");
    }
}

#[test]
fn votes_and_comments_that_a_cascade_removes_still_carry_their_post() {
    let events = played(VOTED_AND_COMMENTED, "DELETE FROM posts WHERE id = 99;");
    let mut found = names(&events);
    assert_eq!(found[0], "post.deleted 99", "the post's row goes first, then the cascade");
    found.sort();
    assert_eq!(found, ["comment.deleted 1", "post.deleted 99", "vote.deleted 1"]);
    for event in &events {
        assert_eq!(event.data("/post/title"), "This is a great idea", "{}", name_and_id(event));
        assert_eq!(event.data("/post/author/counter_posts"), 0, "counters are those after the transaction");
        assert_eq!(event.data("/portal/title"), "Test Portal");
    }
}

#[test]
fn votes_and_comments_removed_before_their_post_still_carry_it() {
    let events = played(
        VOTED_AND_COMMENTED,
        "BEGIN;
         DELETE FROM comments WHERE post_id = 99;
         DELETE FROM votes WHERE post_id = 99;
         DELETE FROM posts WHERE id = 99;
         COMMIT;",
    );
    assert_eq!(names(&events), ["comment.deleted 1", "vote.deleted 1", "post.deleted 99"]);
    for event in &events {
        assert_eq!(event.data("/post/title"), "This is a great idea", "{}", name_and_id(event));
    }
}

#[test]
fn a_post_its_votes_its_users_and_its_portal_removed_at_once_are_all_shown_as_they_were() {
    let events = played(
        VOTED_AND_COMMENTED,
        "BEGIN;
         DELETE FROM votes;
         DELETE FROM comments;
         DELETE FROM posts;
         DELETE FROM users;
         DELETE FROM portals;
         COMMIT;",
    );
    assert_eq!(names(&events), ["vote.deleted 1", "comment.deleted 1", "post.deleted 98", "post.deleted 99"]);
    for event in &events {
        assert_eq!(event.data("/portal/title"), "Test Portal", "{}", name_and_id(event));
        assert!(event.data("/post/author/name").is_string(), "{}", name_and_id(event));
    }
    assert_eq!(events[0].data("/vote/voter/name"), "Mara");
    // A user whose row is gone is shown as just before, counters too.
    assert_eq!(events[0].data("/vote/voter/counter_votes"), 1);
}

#[test]
fn an_author_renamed_in_the_same_transaction_has_the_new_name() {
    let events = played(
        "",
        "BEGIN;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         UPDATE users SET name = 'Mara B.' WHERE id = 49;
         COMMIT;
         UPDATE users SET name = 'Someone' WHERE id = 49;",
    );
    assert_eq!(names(&events), ["vote.created 1"]);
    assert_eq!(events[0].data("/vote/voter/name"), "Mara B.");
}

/// The sample portal with its statuses in a table of their own, as rows that can come and go.
fn with_statuses() -> Portal {
    Portal::new(
        &format!(
            "{}\nCREATE TABLE statuses (id int PRIMARY KEY, name text NOT NULL);
             INSERT INTO statuses VALUES (1, 'Open'), (2, 'Planned');
             ALTER TABLE posts ADD COLUMN status_id int DEFAULT 1;",
            include_str!("../sql/demo/portal.sql")
        ),
        &include_str!("../sql/demo/views.sql").replace(
            "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at\nFROM public.posts\n",
            "SELECT p.id, p.title, p.description, s.name AS status, p.user_id AS author, p.portal_id AS portal, p.created_at\n\
             FROM public.posts p LEFT JOIN public.statuses s ON s.id = p.status_id\n",
        ),
    )
}

#[test]
fn a_joined_row_that_the_same_transaction_writes_later_counts() {
    let portal = with_statuses();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal
        .sql("BEGIN; UPDATE posts SET status_id = 3 WHERE id = 99; INSERT INTO statuses VALUES (3, 'Doing'); COMMIT;");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.status_changed 99"]);
    assert_eq!(events[0].data("/changes/status"), json!({"from": "Open", "to": "Doing"}));
}

#[test]
fn a_joined_row_that_the_same_transaction_removed_earlier_counts_for_the_state_before() {
    let portal = with_statuses();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql("BEGIN; DELETE FROM statuses WHERE id = 1; UPDATE posts SET status_id = 2 WHERE id = 99; COMMIT;");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.status_changed 99"]);
    assert_eq!(events[0].data("/changes/status"), json!({"from": "Open", "to": "Planned"}));
}

#[test]
fn a_renamed_status_touches_no_post_and_is_silent() {
    let portal = with_statuses();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(
        "UPDATE statuses SET name = 'New' WHERE id = 1;
         UPDATE posts SET views = 1 WHERE id = 99;
         UPDATE posts SET status_id = 2 WHERE id = 99;",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.status_changed 99"]);
    assert_eq!(events[0].data("/changes/status"), json!({"from": "New", "to": "Planned"}));
}
