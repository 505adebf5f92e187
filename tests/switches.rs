//! The mapping changes while the daemon runs: by SQL, by setup, by the application's migrations.

#[cfg(feature = "failpoints")]
mod crashes;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;

use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::process::{self, Process};
use crate::support::receiver::{Received, Receiver};
use crate::support::session::{Holder, once};

const ALL_DONE: &str = "SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches";

fn vote(id: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 99, 49);")
}

/// An UPDATE of one SELECT of the mapping.
fn map(entity: &str, query: &str) -> String {
    format!("UPDATE portalhook.mapping SET query = $query${query}$query$ WHERE entity = '{entity}';")
}

const VOTES_DOUBLED: &str =
    "SELECT id, post_id AS post, user_id AS voter, created_at, id * 2 AS double FROM public.votes";

const POSTS_WITH_VIEWS: &str = "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at, views \
     FROM public.posts WHERE deleted_at IS NULL";

/// A part of `data`; null where there is none.
fn maybe(event: &Received, pointer: &str) -> Value {
    event.json()["data"].pointer(pointer).cloned().unwrap_or_default()
}

/// Mirrors and counters are those of the tables.
#[track_caller]
fn mirror_equals_tables(portal: &Portal) {
    assert_eq!(mirror::differences(portal), "");
    let counted = portal.sql("SELECT user_id, votes FROM portalhook_mirror.counters WHERE votes > 0 ORDER BY 1");
    let votes = "SELECT user_id::text, count(*) FROM votes WHERE user_id IS NOT NULL GROUP BY 1 ORDER BY 1";
    assert_eq!(counted, portal.sql(votes), "counters");
}

/// The daemon, with every transaction a large one, or as it is.
fn run(portal: &Portal, is_large: bool) -> Process {
    let limits = if is_large { "part:1,page:2" } else { "" };
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", limits)]);
    daemon.wait_for_line("streaming");
    daemon
}

#[test]
fn a_mapping_that_names_nothing_new_counts_from_its_own_commit_on() {
    counts_from_its_own_commit_on(false);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_mapping_that_is_changed_in_a_large_transaction_counts_from_its_commit_on() {
    counts_from_its_own_commit_on(true);
}

fn counts_from_its_own_commit_on(is_large: bool) {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = run(&portal, is_large);
    portal.sql(&vote(1));
    portal.sql(&format!("BEGIN; {} {} COMMIT;", map("votes", VOTES_DOUBLED), vote(2)));
    portal.sql(&vote(3));
    portal
        .sql(&map("votes", "SELECT id, post_id AS post, user_id AS voter, created_at FROM public.votes WHERE id <> 3"));
    // Not live any more, without an event; the counter knows.
    portal.sql(&vote(4));
    portal.sql("DELETE FROM votes WHERE id = 3");
    daemon.terminate();
    // The same while it is not there, two of them, and both at their own places.
    portal.sql(&map("votes", VOTES_DOUBLED));
    portal.sql(&vote(5));
    portal
        .sql(&map("votes", "SELECT id, post_id AS post, user_id AS voter, created_at, 'x' AS more FROM public.votes"));
    portal.sql(&vote(6));
    let daemon = run(&portal, is_large);
    let events = portal.events(&receiver, endpoint);
    let seen: Vec<(String, Value, Value)> = events
        .iter()
        .map(|event| (name_and_id(event), maybe(event, "/vote/double"), event.data("/vote/voter/counter_votes")))
        .collect();
    let expected = |name: &str, double: Value, count: u32| (name.to_owned(), double, Value::from(count));
    assert_eq!(
        seen,
        [
            expected("vote.created 1", Value::Null, 1),
            expected("vote.created 2", Value::Null, 2),
            expected("vote.created 3", Value::from(6), 3),
            expected("vote.created 4", Value::Null, 3),
            expected("vote.created 5", Value::from(10), 4),
            expected("vote.created 6", Value::Null, 5),
        ]
    );
    assert_eq!(events[5].data("/vote/more"), "x");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE state = 'done'"), "4");
    daemon.wait_for_line("portalhook.votes shows id, post, voter, created_at, more");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.votes WHERE more = 'x'"), "5", "the views follow");
    mirror_equals_tables(&portal);
}

/// Writes into the portal from several sessions until told to stop: votes come and go, posts change.
fn under_load<T>(portal: &Portal, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let next = AtomicU32::new(10_000);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    portal.sql(&format!(
                        "INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 99, 49);
                         BEGIN; UPDATE posts SET views = views + 1 WHERE id = 99; SAVEPOINT s;
                         INSERT INTO posts (id, title, user_id, portal_id, views) VALUES ({id}, 'Idea', 48, 4, {id}); COMMIT;
                         UPDATE posts SET title = title || '!', views = views + 1 WHERE id = {id} - 2;
                         DELETE FROM posts WHERE id = {id} - 5;"
                    ));
                }
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// From one position on every post has `views`, before it none; and the values are those of the event's own transaction.
#[track_caller]
fn views_from_one_position_on(events: &[Received]) {
    let of_posts: Vec<&Received> = events.iter().filter(|event| event.event().starts_with("post.")).collect();
    let first = of_posts.iter().position(|event| !maybe(event, "/post/views").is_null()).expect("a post with views");
    assert!(first > 0, "nothing came before the switch");
    for (place, event) in of_posts.iter().enumerate() {
        let views = maybe(event, "/post/views");
        assert_eq!(place >= first, !views.is_null(), "{} of {}: {views}", place, of_posts.len());
        if place >= first && event.event() == "post.created" {
            assert_eq!(views, event.data("/post/id"), "as of the event");
        }
    }
}

#[test]
fn a_new_column_is_in_every_body_from_an_exact_position_on() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let _daemon = portal.run();
    under_load(&portal, || {
        receiver.wait_for_distinct(20);
        portal.sql(&map("posts", POSTS_WITH_VIEWS));
        portal.wait_for_outcome(ALL_DONE);
        let there = receiver.received().len();
        receiver.wait_for("events after the switch", |received| received.len() > there + 20);
    });
    views_from_one_position_on(&portal.events(&receiver, endpoint));
    mirror_equals_tables(&portal);
    let status: Value = serde_json::from_slice(&portal.command(&["status", "--json"]).stdout).expect("JSON");
    let names: Vec<&str> =
        status["mirror"]["tables"].as_array().expect("tables").iter().filter_map(|one| one["table"].as_str()).collect();
    let expected = ["public.comments", "public.portals", "public.posts", "public.users", "public.votes"];
    assert_eq!(names, expected, "a copy is shown under the table's name");
}

/// It was kept before the copy had looked; what came after that, which undoes it, was not.
#[test]
fn what_a_copy_has_seen_is_not_done_to_it_again() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    // The copy waits for this transaction before it looks.
    let open = Holder::of(&portal, "UPDATE users SET name = name");
    portal.sql(&map("posts", POSTS_WITH_VIEWS));
    daemon.wait_for_line("copying public.posts beside the mirror");
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id) VALUES (300, 'New', 48, 4); UPDATE posts SET title = 'One' WHERE id = 98");
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.created 300", "post.updated 98"]);
    // The heart stands still in another transaction until the copy is complete.
    let ours = Holder::of(&portal, "LOCK portalhook.checkpoint IN EXCLUSIVE MODE");
    portal.sql(&vote(1));
    portal.sql(&once("SELECT FROM pg_locks WHERE relation = 'portalhook.checkpoint'::regclass AND NOT granted"));
    portal.sql("DELETE FROM posts WHERE id = 300; UPDATE posts SET title = 'Two' WHERE id = 98");
    drop(open);
    portal.sql(&once("SELECT FROM portalhook.operations WHERE kind = 'switch'"));
    drop(ours);
    daemon.wait_for_line("in force from here on");
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["post.created 300", "post.updated 98", "post.deleted 300", "post.updated 98"]
    );
    mirror_equals_tables(&portal);
}

#[test]
fn a_new_table_is_published_read_and_followed() {
    let portal = Portal::sample_with(
        "CREATE SCHEMA boards; CREATE TABLE boards.board (id int PRIMARY KEY, name text, secret text);
         INSERT INTO boards.board VALUES (1, 'Ideas', 'never-send'); ALTER TABLE posts ADD COLUMN board int DEFAULT 1;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id) VALUES (200, 'a', 48, 4)");
    portal.sql(&map(
        "posts",
        "SELECT p.id, title, description, status, user_id AS author, portal_id AS portal, created_at, b.name AS board \
         FROM public.posts p LEFT JOIN boards.board b ON b.id = p.board WHERE deleted_at IS NULL",
    ));
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id) VALUES (201, 'b', 48, 4)");
    portal.sql("UPDATE boards.board SET name = 'Plans'; UPDATE posts SET status = 'done' WHERE id = 201");
    let boards: Vec<Value> =
        portal.events(&receiver, endpoint).iter().map(|event| maybe(event, "/post/board")).collect();
    assert_eq!(boards, [Value::Null, "Ideas".into(), "Plans".into()]);
    mirror_equals_tables(&portal);
    let readable = "SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM information_schema.column_privileges \
                    WHERE table_name = 'board' AND grantee <> 'admin'";
    assert_eq!(portal.sql(readable), "id name", "only what the mapping names");
}

#[test]
fn setup_with_another_file_changes_the_mapping_of_a_running_daemon() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    let views = include_str!("../sql/demo/views.sql");
    let with_views = views.replace("portal_id AS portal, created_at", "portal_id AS portal, created_at, views");
    portal.setup(&with_views);
    portal.wait_for_outcome(ALL_DONE);
    portal.sql("UPDATE posts SET views = 7 WHERE id = 99;");
    portal.sql(&vote(2));
    daemon.terminate();
    portal.sql(&vote(3));
    // It waits for the daemon, at its place.
    portal.setup(&with_views.replace("id, post_id AS post", "id, -id AS minus, post_id AS post"));
    portal.sql(&vote(4));
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    let views: Vec<Value> = events.iter().map(|event| maybe(event, "/post/views")).collect();
    assert_eq!(views, [Value::Null, 7.into(), 7.into(), 7.into()]);
    assert_eq!(maybe(&events[2], "/vote/minus"), Value::Null);
    assert_eq!(maybe(&events[3], "/vote/minus"), Value::from(-4));
    mirror_equals_tables(&portal);
}

#[test]
fn what_the_mapping_does_not_name_may_change_as_it_likes() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.sql("ALTER TABLE votes ADD COLUMN weight int DEFAULT 3; ALTER TABLE posts RENAME COLUMN views TO seen; ALTER TABLE users DROP COLUMN password_hash");
    portal.sql(&vote(2));
    // A rewrite would have the table copied afresh, without events: the catalog's watch cannot tell what it changed.
    portal.sql("UPDATE posts SET seen = 5; UPDATE posts SET status = 'planned' WHERE id = 99");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "vote.created 2", "post.status_changed 99"]);
    // A table that was rewritten is copied afresh, whatever was rewritten in it.
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE kind <> 'copy'"), "0");
    assert!(!daemon.said().iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{:?}", daemon.said());
    mirror_equals_tables(&portal);
}

#[test]
fn a_column_of_another_type_is_converted_where_the_stream_says_so() {
    let portal = Portal::sample_with("ALTER TABLE posts ALTER COLUMN status TYPE varchar(10);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(&vote(1));
    // Key columns, a longer text, a text that is a number from now on, a table under another name.
    portal.sql(
        "ALTER TABLE votes ALTER COLUMN id TYPE bigint; ALTER TABLE posts ALTER COLUMN id TYPE bigint, ALTER COLUMN status TYPE varchar(30);
         ALTER TABLE users ALTER COLUMN role DROP DEFAULT; ALTER TABLE users ALTER COLUMN role TYPE int USING 7;
         UPDATE posts SET status = 'a status of many characters' WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (5000000000, 99, 49);
         UPDATE users SET role = 8 WHERE id = 49;
         ALTER TABLE votes RENAME TO likes; ALTER TABLE likes SET SCHEMA public;
         INSERT INTO likes (id, post_id, user_id) VALUES (5000000001, 99, 49);",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(
        events.iter().map(name_and_id).collect::<Vec<_>>(),
        ["vote.created 1", "post.status_changed 99", "vote.created 5000000000", "vote.created 5000000001"]
    );
    assert_eq!(events[1].data("/changes/status/to"), "a status of many characters");
    let roles: Vec<Value> = [0, 2, 3].map(|index: usize| maybe(&events[index], "/vote/voter/role")).to_vec();
    assert_eq!(roles[0], "user");
    assert_eq!(roles[2], 8);
    assert_eq!(maybe(&events[3], "/vote/voter/counter_votes"), 3);
}

#[test]
fn a_renamed_column_pauses_the_stream_until_the_mapping_names_it() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id) VALUES (200, 'Before', 48, 4)");
    portal.sql(
        "ALTER TABLE posts RENAME COLUMN title TO headline; ALTER TABLE posts ADD COLUMN board text DEFAULT 'ideas'",
    );
    portal.sql("UPDATE posts SET headline = 'After' WHERE id = 200");
    portal.sql("UPDATE posts SET status = 'planned' WHERE id = 99");
    portal.sql(&vote(1));
    daemon.wait_for_line("column title of public.posts, which the mapping reads, is called headline now");
    let status = String::from_utf8_lossy(&portal.command(&["status"]).stdout).into_owned();
    assert!(status.contains("headline") && status.contains("stream     PAUSED, "), "{status}");
    // Again after a death: it stands where it stood.
    portal.kill(daemon);
    let daemon = portal.run();
    daemon.wait_for_line("is called headline now");
    let said = daemon.said().join("\n");
    let advice = said.lines().find(|line| line.contains("is called headline now")).expect("a line");
    let statement = &advice[advice.find("UPDATE portalhook.mapping").expect("a statement")..];
    portal.sql(statement);
    portal.sql(&vote(2));
    let events = portal.events(&receiver, endpoint);
    assert_eq!(
        events.iter().map(name_and_id).collect::<Vec<_>>(),
        ["post.created 200", "post.status_changed 99", "vote.created 1", "vote.created 2"]
    );
    assert_eq!(events[0].data("/post/title"), "Before");
    assert_eq!(events[1].data("/post/title"), "This is a great idea", "a row that was not written since has its value");
    assert_eq!(portal.sql("SELECT title FROM portalhook.posts WHERE id = 200"), "After");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE state <> 'done'"), "0");
    mirror_equals_tables(&portal);
}

#[test]
fn a_dropped_column_pauses_the_stream_and_another_one_takes_its_place() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.sql("ALTER TABLE posts ADD COLUMN body text; UPDATE posts SET body = 'new'; ALTER TABLE posts DROP COLUMN description");
    portal.sql("UPDATE posts SET status = 'planned' WHERE id = 99");
    portal.sql(&vote(2));
    daemon.wait_for_line("column description of public.posts, which the mapping reads, is gone");
    // In one transaction, so that only the second counts at the pause; where the stream comes to them, both are known.
    portal.sql(&format!(
        "BEGIN; {} {} COMMIT;",
        map("posts", &POSTS_WITH_VIEWS.replace("description,", "'no'::text AS description,")),
        map("posts", &POSTS_WITH_VIEWS.replace("description,", "body AS description,").replace(", views", ""))
    ));
    portal.sql(&vote(3));
    let events = portal.events(&receiver, endpoint);
    let names: Vec<String> = events.iter().map(name_and_id).collect();
    assert_eq!(names, ["vote.created 1", "post.status_changed 99", "vote.created 2", "vote.created 3"]);
    assert_eq!(maybe(&events[3], "/post/description"), "new");
    assert_eq!(maybe(&events[3], "/post/views"), Value::Null);
    assert_eq!(
        portal.sql(
            "SELECT string_agg(kind || ' ' || state, ',' ORDER BY kind) FROM portalhook.switches WHERE kind <> 'copy'"
        ),
        "mapping done,pause done"
    );
    mirror_equals_tables(&portal);
}

/// A copy does not see vote 6, which stands in one group with the copy's own commit.
#[test]
fn a_copy_gets_what_its_own_group_did_to_its_table() {
    copy_gets_what_came_meanwhile(false);
}

/// The copy is made once: a large transaction is kept for it like any other.
#[cfg(feature = "failpoints")]
#[test]
fn a_copy_gets_what_large_transactions_did_to_its_table() {
    copy_gets_what_came_meanwhile(true);
}

fn copy_gets_what_came_meanwhile(is_large: bool) {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 98, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = run(&portal, is_large);
    let copies = Holder::of(&portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE");
    portal.sql("SELECT portalhook.request_copy(ARRAY['votes'::regclass::oid], 'the test wants it')");
    portal.wait_for_outcome("SELECT bool_or(state = 'copying') FROM portalhook.switches");
    // From here on the copy's snapshot is there; the heart cannot commit.
    let groups = Holder::of(&portal, "SELECT FROM portalhook.checkpoint FOR UPDATE");
    portal.sql("CREATE TRIGGER tell AFTER INSERT ON portalhook.operations EXECUTE FUNCTION public.tell()");
    portal.sql(
        "BEGIN; DELETE FROM votes WHERE id = 1; UPDATE votes SET id = 3 WHERE id = 2; INSERT INTO votes (id, post_id, user_id) VALUES (4, 99, 49);
         UPDATE votes SET user_id = 48 WHERE id = 4; COMMIT;",
    );
    portal.sql(&vote(5));
    portal.sql(&vote(6));
    drop(copies);
    portal.wait_for_outcome("SELECT count(*) > 0 FROM portalhook.operations WHERE kind = 'switch'");
    portal.sql(&vote(7));
    // By now the stream has brought all of them, mostly: this takes some round trips.
    assert!(portal.command(&["status"]).status.success());
    drop(groups);
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        [
            "vote.deleted 1",
            "vote.deleted 2",
            "vote.created 3",
            "vote.created 4",
            "vote.created 5",
            "vote.created 6",
            "vote.created 7"
        ]
    );
    portal.wait_for_outcome(ALL_DONE);
    mirror_equals_tables(&portal);
    let copies = daemon.said().iter().filter(|line| line.contains("copying public.votes")).count();
    assert_eq!(copies, 1, "{:?}", daemon.said());
}

#[test]
fn tables_of_an_earlier_version_that_nothing_uses_any_more_are_removed() {
    let portal = Portal::sample();
    // As its daemon made it.
    portal.sql(&format!(
        "SET ROLE {}; CREATE UNLOGGED TABLE portalhook_mirror.\"portalhook pieces\" (place int, number int, piece bytea); RESET ROLE;
         SELECT portalhook.request_copy(ARRAY['posts'::regclass::oid], 'the test wants it') \\g /dev/null",
        portal.database.role()
    ));
    let daemon = portal.run();
    // Whoever copies has tidied up before.
    daemon.wait_for_line("the test wants it: in force from here on");
    assert_eq!(portal.sql("SELECT to_regclass('portalhook_mirror.\"portalhook pieces\"')"), "");
}

/// The role's name of the README: its `"$user"` is our schema, where views have the commonest names of tables.
#[test]
fn names_without_a_schema_mean_the_applications_tables_also_where_the_role_is_called_portalhook() {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), include_str!("../sql/demo/portal.sql"));
    portal.configure(&portal.database.owner_url().replace("//admin@", "//portalhook@"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    // As somebody who may change the mapping and is called otherwise; then as one who is called as the role is.
    portal.sql(&map("votes", "SELECT id, post_id AS post, user_id AS voter, created_at, id * 2 AS double FROM votes"));
    portal.sql(
        "ALTER ROLE portalhook SUPERUSER; SET SESSION AUTHORIZATION portalhook;
         UPDATE portalhook.mapping SET query = 'SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at, length(title) AS long FROM posts'
         WHERE entity = 'posts';",
    );
    portal.sql(&vote(1));
    portal.sql("UPDATE posts SET title = 'Seven..' WHERE id = 98");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.iter().map(name_and_id).collect::<Vec<_>>(), ["vote.created 1", "post.updated 98"]);
    assert_eq!((maybe(&events[0], "/vote/double"), maybe(&events[1], "/post/long")), (2.into(), 7.into()));
    daemon.terminate();
    // And where setup itself works as that role.
    let views = portal.sql("SELECT string_agg(format('CREATE VIEW portalhook.%I AS %s;', entity, replace(query, 'public.', '')), E'\\n') FROM portalhook.mapping");
    let config = portal.config().display().to_string();
    let file = portal.config().with_file_name("unqualified.sql");
    std::fs::write(&file, views).expect("write the views");
    let output = process::output(&["--config", &config, "setup", "--views", &file.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.mapping WHERE query LIKE '%public.%'"), "0");
}

#[test]
fn a_mirror_that_has_more_than_the_mapping_names_by_now_is_no_fault() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let _daemon = portal.run();
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'description', 'NULL AS description') WHERE entity = 'posts'");
    portal.sql(
        "INSERT INTO posts (id, title, description, user_id, portal_id) VALUES (200, 'New', 'Nobody reads it', 48, 4)",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!((events.len(), maybe(&events[0], "/post/description")), (1, Value::Null));
    let said = String::from_utf8_lossy(&portal.command(&["check"]).stdout).into_owned();
    assert!(said.contains("failures: 0") && said.contains("pass  the 5 mirrors have the mapped columns"), "{said}");
}
