//! What the comparison of a mirror with its table finds: every row that prints otherwise, as often as it is there, no other.

use serde_json::json;

use super::{DROP_SLOT, names};
use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

const SCHEMA: &str = include_str!("../../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../../sql/demo/views.sql");

/// The sample's views with further columns.
fn views_with(entity: &str, columns: &str) -> String {
    let from = format!("\nFROM public.{entity}");
    let views = VIEWS.replacen(&from, &format!(", {columns}{from}"), 1);
    assert_ne!(views, VIEWS, "the sample's views changed");
    views
}

const EVERYTHING: &str = "'{*,post.updated,comment.updated}'";

#[test]
fn what_is_equal_but_prints_otherwise_is_told_and_what_prints_alike_is_not() {
    let schema = format!(
        "{SCHEMA}
         CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TYPE size AS (width integer, height integer);
         CREATE DOMAIN code AS char(5);
         ALTER TABLE posts ADD price numeric, ADD size size, ADD code code, ADD label text COLLATE either_case;
         INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'Also', 49, 4);
         UPDATE posts SET price = 1.0, size = (NULL, NULL), code = 'ab', label = 'yes';"
    );
    let portal = Portal::new(&schema, &views_with("posts", "price, size, code, label"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", EVERYTHING);
    portal.run().terminate();
    portal.sql("UPDATE posts SET price = 1.00 WHERE id = 98; UPDATE posts SET label = 'YES' WHERE id = 99");
    portal.sql("UPDATE posts SET size = NULL WHERE id = 100");
    portal.sql(DROP_SLOT);
    let daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.updated 98", "post.updated 99", "post.updated 100"]);
    assert!(events[0].text().contains(r#""changes":{"price":{"from":1.0,"to":1.00}}"#), "{}", events[0].text());
    assert_eq!(events[1].data("/changes"), json!({"label": {"from": "yes", "to": "YES"}}));
    assert_eq!(events[2].data("/changes"), json!({"size": {"from": "(,)", "to": null}}));
    assert_eq!(mirror::differences(&portal), "");
    daemon.terminate();

    // Nothing differs any more.
    portal.sql(DROP_SLOT);
    let daemon = portal.run();
    assert!(daemon.said().iter().any(|line| line.contains("is closed: 0 events")), "{:?}", daemon.said());
}

#[test]
fn equal_rows_of_a_table_without_a_key_are_as_many_as_they_are() {
    let schema = format!(
        "{SCHEMA}
         CREATE TABLE tags (post_id integer, name text);
         INSERT INTO tags VALUES (98, 'ui'), (98, 'ui'), (98, 'ui'), (99, NULL);
         CREATE TABLE likes (user_id integer);
         INSERT INTO likes VALUES (49), (49), (49), (48);"
    );
    let tags = "(SELECT count(*) FROM public.tags t WHERE t.post_id = posts.id) AS tags";
    let likes = "(SELECT count(*) FROM public.likes l WHERE l.user_id = users.id) AS counter_comment_votes";
    let views = views_with("posts", tags).replace("\nFROM public.users", &format!(", {likes}\nFROM public.users"));
    assert!(views.contains("public.likes"), "the sample's views changed");
    let portal = Portal::new(&schema, &views);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", EVERYTHING);
    portal.run().terminate();
    // Two of three equal rows go, and of one there are three.
    let two = "WHERE ctid IN (SELECT ctid FROM {} LIMIT 2)";
    portal.sql(&format!(
        "DELETE FROM tags {};
         INSERT INTO tags VALUES (99, NULL), (99, NULL);
         DELETE FROM likes {};
         INSERT INTO likes VALUES (48), (48);
         UPDATE posts SET status = 'planned';",
        two.replace("{}", "tags WHERE post_id = 98"),
        two.replace("{}", "likes WHERE user_id = 49"),
    ));
    portal.sql(DROP_SLOT);
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(
        names(&events),
        ["post.status_changed 98", "post.updated 98", "post.status_changed 99", "post.updated 99"]
    );
    for (event, tags, before, likes) in [(&events[1], 1, 3, 1), (&events[3], 3, 1, 3)] {
        assert_eq!(event.data("/changes/tags"), json!({"from": before, "to": tags}));
        assert_eq!(event.data("/post/tags"), tags);
        assert_eq!(event.data("/post/author/counter_comment_votes"), likes);
    }
    assert_eq!(mirror::differences(&portal), "");
    // One of each left: the stream removes them in turn.
    portal.sql("DELETE FROM tags WHERE post_id = 98; DELETE FROM likes WHERE user_id = 49");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49)");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events[4].data("/vote/voter/counter_comment_votes"), 0);
    assert_eq!(events[4].data("/post/tags"), 0);
    assert_eq!(mirror::differences(&portal), "");
}

#[test]
fn rows_of_a_table_that_inherits_are_not_found_in_the_one_that_it_inherits_from() {
    let schema = format!(
        "{SCHEMA} CREATE TABLE votes_old () INHERITS (votes); INSERT INTO votes_old (id, post_id, user_id) VALUES (7, 99, 49);"
    );
    let views = VIEWS.replace("FROM public.votes", "FROM ONLY public.votes");
    assert_ne!(views, VIEWS);
    let portal = Portal::new(&schema, &views);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49)");
    portal.sql(DROP_SLOT);
    let _daemon = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    assert_eq!(mirror::differences(&portal), "");
}

/// They may have drifted (a WHERE over joined rows), or been meddled with.
#[test]
fn counters_are_counted_anew_for_all_that_comes_after_the_gap() {
    let portal = Portal::new(
        &format!("{SCHEMA} INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49), (2, 99, 49);"),
        VIEWS,
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql("UPDATE portalhook_mirror.counters SET votes = 40");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (3, 99, 49)");
    portal.sql(DROP_SLOT);
    let _daemon = portal.run();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (4, 99, 49)");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["vote.created 3", "vote.created 4"]);
    assert_eq!(events[1].data("/vote/voter/counter_votes"), 4);
}

#[test]
fn what_the_gap_held_is_not_pending_in_another_gap_and_a_table_that_was_compared_is_not_copied_too() {
    let portal = Portal::new(SCHEMA, VIEWS);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql(
        "INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published');
         SELECT portalhook.emit('roadmap.published', '{\"roadmap\": {\"id\": 5}}') \\g /dev/null
         ALTER TABLE posts ALTER COLUMN description TYPE text USING description || '!';",
    );
    let other = portal.endpoint(&Receiver::start());
    portal.sql(DROP_SLOT);
    let daemon = portal.run();
    let found = ["roadmap.published 5", "post.updated 98", "post.updated 99"];
    let told = "SELECT string_agg(event || coalesce(' ' || split_part(entity, ':', 2), ''), ',' ORDER BY position)
                FROM portalhook.events WHERE event LIKE 'post.%'";
    assert_eq!(portal.sql(told), found[1..].join(","));
    // The catalog as of the comparison is known: there is nothing to follow.
    let files = "SELECT bool_and((seen -> 'table' -> 'members' -> 0 ->> 'storage')::oid = pg_relation_filenode(replace(mirror, 'public.', '')::regclass))
                 FROM portalhook.catalog";
    assert_eq!(portal.sql(files), "t");
    portal.sql(&format!("DELETE FROM portalhook.endpoints WHERE id = {other}"));
    portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49)");
    portal.sql(DROP_SLOT);
    let _daemon = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["roadmap.published 5", "vote.created 1"]);
    let routes = portal.sql("SELECT string_agg(endpoint::text, ' ') FROM portalhook.routes");
    assert_eq!(routes, endpoint.to_string(), "the other one is not added again");
}

/// The operator made the table fit the mapping, not the mapping the table.
#[test]
fn a_pause_in_the_gap_is_over_where_the_tables_fit_again() {
    let portal = Portal::new(SCHEMA, VIEWS);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql("ALTER TABLE posts RENAME title TO headline");
    portal.sql(DROP_SLOT);
    let daemon = portal.spawn(&[]);
    daemon.wait_for_line("is called headline now: the stream is paused");
    portal
        .sql("ALTER TABLE posts RENAME headline TO title; INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49)");
    daemon.wait_for_line("is closed: 1 events");
    // Before the stream brings anything, which would end it, too.
    assert_eq!(portal.sql("SELECT kind, state FROM portalhook.switches"), "pause|done");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    let status = String::from_utf8_lossy(&portal.command(&["status"]).stdout).into_owned();
    assert!(!status.contains("PAUSED"), "{status}");
}

/// It would keep the log for nobody, perhaps for long.
#[test]
fn a_gap_that_cannot_be_closed_leaves_no_slot_behind() {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), SCHEMA);
    portal.setup(VIEWS);
    portal.run().terminate();
    portal.sql(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON portalhook.events EXECUTE FUNCTION public.refuse();
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49)",
    );
    portal.sql(DROP_SLOT);
    let mut daemon = portal.spawn(&[]);
    assert!(!daemon.wait_for_end().success());
    assert!(daemon.said().iter().any(|line| line.contains("No space left on device")), "{:?}", daemon.said());
    assert_eq!(portal.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_row_that_an_event_of_the_gap_needs_and_that_cannot_be_evaluated_is_a_visible_failure() {
    let portal = Portal::new(SCHEMA, &views_with("users", "100 / (id - 49) AS share"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 99, 48)");
    portal.sql(DROP_SLOT);
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["vote.created 1", "vote.created 2"]);
    assert_eq!((events[0].data("/vote/voter"), events[1].data("/vote/voter/share")), (json!(null), json!(-100)));
    assert_eq!(portal.sql("SELECT entity, key, sqlstate FROM portalhook.row_failures"), "users|49|22012");
}

/// The comparison meets it, and so does whoever counts afterwards.
#[test]
fn a_row_that_cannot_be_evaluated_is_one_failure_however_often_the_gap_meets_it() {
    let schema = format!("{SCHEMA} INSERT INTO votes (id, post_id, user_id) VALUES (7, 99, 49), (8, 99, 49);");
    let portal = Portal::new(&schema, &views_with("votes", "100 / (id - 8) AS share"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql(
        "DELETE FROM portalhook.row_failures; UPDATE votes SET id = 9 WHERE id = 7; UPDATE votes SET user_id = 48 WHERE id = 8",
    );
    portal.sql(DROP_SLOT);
    let daemon = portal.run();
    let failures = "SELECT entity, key, sqlstate, message FROM portalhook.row_failures";
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.deleted 7", "vote.created 9"]);
    assert_eq!(portal.sql(failures), "votes|8|22012|division by zero");
    // Nor is it two where the row raises before its transaction and after it.
    portal.sql("DELETE FROM portalhook.row_failures; UPDATE votes SET user_id = 49 WHERE id = 8");
    assert_eq!(portal.event_names(&receiver, endpoint).len(), 2);
    assert_eq!(portal.sql(failures), "votes|8|22012|division by zero");
    drop(daemon);
}

/// More than are written at once, before the transaction and after it.
#[test]
fn many_rows_of_one_transaction_that_cannot_be_evaluated_are_one_failure_each() {
    let schema = format!(
        "{SCHEMA} INSERT INTO votes (id, post_id, user_id) SELECT n, 99, 49 FROM generate_series(1, 700) AS n;"
    );
    let portal = Portal::new(&schema, &views_with("votes", "100 / (post_id - 99) AS share"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.sql("DELETE FROM portalhook.row_failures");
    let _daemon = portal.spawn(&[("PORTALHOOK_LIMITS", "part:1")]);
    portal.sql("UPDATE votes SET user_id = 48; INSERT INTO votes (id, post_id, user_id) VALUES (701, 98, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 701"]);
    assert_eq!(portal.sql("SELECT count(*), count(DISTINCT key) FROM portalhook.row_failures"), "700|700");
}

/// Whoever took the capture
/// Whoever took the capture meanwhile may have made a slot, which is not there for us to drop.
#[test]
fn a_daemon_that_lost_the_capture_while_the_gap_was_open_leaves_the_slot_alone() {
    let portal = Portal::new(SCHEMA, VIEWS);
    portal.run().terminate();
    portal.sql("ALTER TABLE posts RENAME title TO headline");
    portal.sql(DROP_SLOT);
    let mut daemon = portal.spawn(&[]);
    daemon.wait_for_line("is called headline now: the stream is paused");
    portal.sql(
        "UPDATE portalhook.checkpoint SET epoch = epoch + 1;
         SELECT pg_create_logical_replication_slot(slot, 'pgoutput') FROM portalhook.checkpoint \\g /dev/null
         ALTER TABLE posts RENAME headline TO title;",
    );
    assert!(!daemon.wait_for_end().success());
    assert!(daemon.said().iter().any(|line| line.contains("took over the capture")), "{:?}", daemon.said());
    assert_eq!(portal.sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"), "1");
}
