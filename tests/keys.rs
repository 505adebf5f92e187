//! A table's key changes and columns of it go: which row was which is told by what is left.

use serde_json::Value;

use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::process::Process;
use crate::support::receiver::{Received, Receiver};

/// A part of `data`; null where there is none.
fn maybe(event: &Received, pointer: &str) -> Value {
    event.json()["data"].pointer(pointer).cloned().unwrap_or_default()
}

fn names(events: &[Received]) -> Vec<String> {
    events.iter().map(name_and_id).collect()
}

#[track_caller]
fn has_no_faults(daemon: &Process) {
    let faults: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("starting again")).collect();
    assert_eq!(faults, [""; 0]);
}

/// Votes that are known by post, user and kind.
fn liked(rows: &str) -> Portal {
    let schema = format!(
        "{}
         DROP TABLE votes;
         CREATE TABLE likes (post_id int, user_id int, kind text, created_at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (post_id, user_id, kind));
         INSERT INTO likes (post_id, user_id, kind) VALUES (98, 48, 'up'), (98, 49, 'up'), (99, 48, 'up'){rows};",
        include_str!("../sql/demo/portal.sql")
    );
    let views = include_str!("../sql/demo/views.sql");
    let (start, rest) = views.split_once("CREATE VIEW portalhook.votes").expect("votes");
    let (_, end) = rest.split_once(';').expect("an end");
    let votes = "SELECT post_id || '-' || user_id || '-' || kind AS id, post_id AS post, user_id AS voter, created_at FROM public.likes";
    Portal::new(&schema, &format!("{start}CREATE VIEW portalhook.votes AS {votes};{end}"))
}

/// Changes the mapping once the stream is paused.
#[track_caller]
fn remap_votes(portal: &Portal, daemon: &Process, id: &str) {
    daemon.wait_for_line("column kind of public.likes, which the mapping reads, is gone");
    portal.sql(&format!(
        "UPDATE portalhook.mapping SET query = $$SELECT {id} AS id, post_id AS post, user_id AS voter, created_at FROM public.likes$$ WHERE entity = 'votes'"
    ));
}

/// Nothing is on its way any more.
const ALL_DONE: &str = "SELECT bool_and(state = 'done') FROM portalhook.switches";

#[track_caller]
fn is_exact(portal: &Portal, daemon: &Process) {
    portal.wait_for_outcome(ALL_DONE);
    assert_eq!(mirror::differences(portal), "");
    let counted = portal.sql("SELECT user_id, votes FROM portalhook_mirror.counters WHERE votes > 0 ORDER BY 1");
    assert_eq!(counted, portal.sql("SELECT user_id::text, count(*) FROM likes GROUP BY 1 ORDER BY 1"), "counters");
    has_no_faults(daemon);
}

#[test]
fn a_column_of_the_key_that_is_dropped_costs_no_event_its_place() {
    let portal = liked("");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "ALTER TABLE likes DROP COLUMN kind; ALTER TABLE likes ADD PRIMARY KEY (post_id, user_id);
         DELETE FROM likes WHERE post_id = 98 AND user_id = 48; UPDATE posts SET title = 'After' WHERE id = 99;
         INSERT INTO likes (post_id, user_id) VALUES (99, 49);",
    );
    remap_votes(&portal, &daemon, "post_id || '-' || user_id");
    portal.sql("DELETE FROM likes WHERE post_id = 99 AND user_id = 48");
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["vote.deleted 98-48", "post.updated 99", "vote.created 99-49", "vote.deleted 99-48"]
    );
    is_exact(&portal, &daemon);
}

/// What was two votes is one: which of them is gone can be told only by what else they say.
#[test]
fn a_key_that_is_shortened_after_its_doubles_were_removed_loses_nothing() {
    let portal = liked(", (98, 48, 'down')");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "BEGIN; DELETE FROM likes WHERE kind = 'down'; ALTER TABLE likes DROP COLUMN kind; ALTER TABLE likes ADD PRIMARY KEY (post_id, user_id);
         INSERT INTO likes (post_id, user_id) VALUES (99, 49); COMMIT;
         DELETE FROM likes WHERE post_id = 99 AND user_id = 48;",
    );
    remap_votes(&portal, &daemon, "post_id || '-' || user_id");
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("DELETE FROM likes WHERE post_id = 98 AND user_id = 48");
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["vote.deleted 98-48-down", "vote.deleted 99-48-up", "vote.created 99-49", "vote.deleted 98-48"]
    );
    is_exact(&portal, &daemon);
}

/// With every transaction a large one, or with a daemon that dies on its way.
fn replaces_its_key(is_large: bool, death: Option<&str>) {
    let portal = liked("");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let mut daemon = match death {
        Some(point) => portal.spawn(&[("PORTALHOOK_FAILPOINT", point)]),
        None => portal.spawn(&[("PORTALHOOK_LIMITS", if is_large { "part:1,page:2" } else { "" })]),
    };
    portal.sql(
        "ALTER TABLE likes ADD COLUMN id int GENERATED ALWAYS AS IDENTITY (START WITH 501);
         ALTER TABLE likes DROP COLUMN kind, ADD PRIMARY KEY (id);
         DELETE FROM likes WHERE post_id = 98 AND user_id = 48; INSERT INTO likes (post_id, user_id) VALUES (99, 49), (97, 49);
         UPDATE likes SET created_at = '2020-01-01' WHERE post_id = 99 AND user_id = 48;
         DELETE FROM likes WHERE post_id = 97;",
    );
    remap_votes(&portal, &daemon, "id");
    if let Some(point) = death {
        assert!(!daemon.wait_for_end().success(), "{point} was passed");
        daemon = portal.run();
    }
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("DELETE FROM likes WHERE post_id = 99 AND user_id = 48");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["vote.deleted 98-48-up", "vote.created 504", "vote.deleted 503"]);
    let counters: Vec<Value> = events.iter().map(|event| maybe(event, "/vote/voter/counter_votes")).collect();
    assert_eq!(counters, [1, 2, 0], "of user 48, 49, 48");
    assert_eq!(maybe(&events[0], "/vote/voter/id"), 48);
    is_exact(&portal, &daemon);
}

#[test]
fn a_key_that_is_replaced_by_a_new_column_loses_nothing() {
    replaces_its_key(false, None);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_key_that_is_replaced_by_a_new_column_under_large_transactions_loses_nothing() {
    replaces_its_key(true, None);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_death_while_a_key_is_replaced_loses_nothing() {
    for point in ["copied", "caught_up", "switched", "committed:3"] {
        replaces_its_key(false, Some(point));
    }
}

#[test]
fn posts_that_get_another_key_and_lose_a_column_are_updated_and_not_made_anew() {
    let portal = Portal::sample_with(
        "ALTER TABLE posts ADD COLUMN code text; UPDATE posts SET code = 'p' || id; ALTER TABLE posts ALTER code SET NOT NULL;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "ALTER TABLE posts DROP CONSTRAINT posts_pkey CASCADE, ADD PRIMARY KEY (code), DROP COLUMN description;
         UPDATE posts SET title = 'After' WHERE id = 99; INSERT INTO posts (id, code, title, user_id, portal_id) VALUES (200, 'p200', 'New', 48, 4);
         DELETE FROM posts WHERE id = 98;",
    );
    daemon.wait_for_line("column description of public.posts, which the mapping reads, is gone");
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'description,', 'code AS description,') WHERE entity = 'posts'");
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("UPDATE posts SET status = 'planned' WHERE id = 200");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.deleted 98", "post.updated 99", "post.created 200", "post.status_changed 200"]);
    assert_eq!(maybe(&events[1], "/changes/title/to"), "After");
    assert_eq!(maybe(&events[1], "/post/description"), "Wow. This is the best idea I have ever seen!");
    assert_eq!(maybe(&events[2], "/post/description"), "p200");
    assert_eq!(mirror::differences(&portal), "");
    has_no_faults(&daemon);
}

/// A table that nobody has mirrored yet is copied while the stream is paused; the one whose key is shorter cannot be made from its
/// mirror there.
#[test]
fn a_shortened_key_and_a_newly_named_table_at_one_pause_lose_nothing() {
    let portal = liked(", (98, 48, 'down')");
    portal.sql("CREATE TABLE labels (post_id int PRIMARY KEY, label text); INSERT INTO labels VALUES (98, 'Keys'), (99, 'Ideas');");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "BEGIN; DELETE FROM likes WHERE kind = 'down'; ALTER TABLE likes DROP COLUMN kind; ALTER TABLE likes ADD PRIMARY KEY (post_id, user_id);
         INSERT INTO likes (post_id, user_id) VALUES (99, 49); COMMIT;",
    );
    daemon.wait_for_line("column kind of public.likes, which the mapping reads, is gone");
    portal.sql(
        "UPDATE portalhook.mapping SET query = CASE entity
             WHEN 'votes' THEN $$SELECT post_id || '-' || user_id AS id, post_id AS post, user_id AS voter, created_at FROM public.likes$$
             ELSE replace(query, 'created_at', 'created_at, (SELECT label FROM public.labels AS l WHERE l.post_id = posts.id) AS label') END
         WHERE entity IN ('posts', 'votes')",
    );
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("DELETE FROM likes WHERE post_id = 98 AND user_id = 48");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["vote.deleted 98-48-down", "vote.created 99-49", "vote.deleted 98-48"]);
    assert_eq!(maybe(&events[2], "/post/label"), "Keys");
    is_exact(&portal, &daemon);
}

#[test]
fn a_shortened_key_behind_a_table_that_has_lost_a_column_does_not_hold_the_stream() {
    let portal = liked(", (98, 48, 'down')");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "BEGIN; ALTER TABLE posts DROP COLUMN description; UPDATE posts SET title = 'After' WHERE id = 99; COMMIT;
         BEGIN; DELETE FROM likes WHERE kind = 'down'; ALTER TABLE likes DROP COLUMN kind; ALTER TABLE likes ADD PRIMARY KEY (post_id, user_id);
         INSERT INTO likes (post_id, user_id) VALUES (99, 49); COMMIT;",
    );
    daemon.wait_for_line("column description of public.posts, which the mapping reads, is gone");
    portal.sql(
        "UPDATE portalhook.mapping SET query = CASE entity
             WHEN 'votes' THEN $$SELECT post_id || '-' || user_id AS id, post_id AS post, user_id AS voter, created_at FROM public.likes$$
             ELSE replace(query, 'description,', 'status AS description,') END
         WHERE entity IN ('posts', 'votes')",
    );
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("DELETE FROM likes WHERE post_id = 98 AND user_id = 48");
    let mut told = portal.event_names(&receiver, endpoint);
    assert_eq!(told.pop().as_deref(), Some("vote.deleted 98-48"));
    told.sort_unstable();
    assert_eq!(told, ["post.updated 99", "vote.created 99-49", "vote.deleted 98-48-down"]);
    is_exact(&portal, &daemon);
}
