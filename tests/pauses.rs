//! The stream stands still where the mapping cannot be evaluated any more, and goes on by itself once it can.

use serde_json::Value;

use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::process::Process;
use crate::support::receiver::{Received, Receiver};
use crate::support::session::Holder;

/// A part of `data`; null where there is none.
fn maybe(event: &Received, pointer: &str) -> Value {
    event.json()["data"].pointer(pointer).cloned().unwrap_or_default()
}

fn names(events: &[Received]) -> Vec<String> {
    events.iter().map(name_and_id).collect()
}

/// The daemon, with every transaction a large one, or as it is.
fn run(portal: &Portal, is_large: bool) -> Process {
    let limits = if is_large { "part:1,page:2" } else { "" };
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", limits)]);
    daemon.wait_for_line("streaming");
    daemon
}

#[track_caller]
fn has_no_faults(daemon: &Process) {
    let faults: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("starting again")).collect();
    assert_eq!(faults, [""; 0]);
}

/// Rows before and after ALTER TABLE in one transaction.
const RENAMED: &str = "
    BEGIN;
    UPDATE posts SET title = 'Before' WHERE id = 98;
    INSERT INTO posts (id, title, user_id, portal_id) VALUES (200, 'Old', 48, 4), (201, 'Gone', 48, 4);
    ALTER TABLE posts RENAME title TO middle;
    UPDATE posts SET middle = 'Between' WHERE id = 200;
    ALTER TABLE posts RENAME middle TO headline;
    UPDATE posts SET headline = 'After' WHERE id = 99;
    DELETE FROM posts WHERE id = 201;
    COMMIT;";

fn renames_between_rows(is_large: bool) {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = run(&portal, is_large);
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    portal.sql(RENAMED);
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49)");
    daemon.wait_for_line("is called headline now");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'title,', 'headline AS title,') WHERE entity = 'posts'",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(
        names(&events),
        ["vote.created 1", "post.updated 98", "post.created 200", "post.updated 99", "vote.created 2"]
    );
    let titles: Vec<Value> = events.iter().map(|event| maybe(event, "/post/title")).collect();
    assert_eq!(titles, ["This is a great idea", "Before", "Between", "After", "After"]);
    assert_eq!(mirror::differences(&portal), "");
    has_no_faults(&daemon);
}

#[test]
fn a_column_that_is_renamed_between_rows_of_one_transaction_pauses_and_is_followed() {
    renames_between_rows(false);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_column_that_is_renamed_in_the_middle_of_a_large_transaction_pauses_and_is_followed() {
    renames_between_rows(true);
}

fn retypes_between_rows(is_large: bool) {
    let portal = Portal::sample_with("ALTER TABLE posts ALTER status DROP DEFAULT;");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = run(&portal, is_large);
    portal.sql(
        "BEGIN;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         ALTER TABLE votes ALTER id TYPE bigint;
         INSERT INTO votes (id, post_id, user_id) VALUES (5000000000, 99, 49);
         ALTER TABLE votes ALTER id TYPE numeric;
         DELETE FROM votes WHERE id = 1;
         INSERT INTO votes (id, post_id, user_id) VALUES (1.5, 99, 49);
         COMMIT;
         BEGIN;
         UPDATE posts SET title = 'Kept', status = 'planned' WHERE id = 98;
         ALTER TABLE posts ALTER status TYPE int USING length(status);
         UPDATE posts SET status = 70 WHERE id = 99;
         COMMIT;",
    );
    daemon.wait_for_line("in force from here on");
    let events = portal.events(&receiver, endpoint);
    let expected = [
        "vote.created 5000000000",
        "vote.created 1.5",
        "post.status_changed 98",
        "post.updated 98",
        "post.status_changed 99",
    ];
    let told = names(&events);
    // What the status of post 98 was meanwhile is not known: it may have stayed, as far as anybody can tell.
    assert!(told == expected || told == [&expected[..2], &expected[3..]].concat(), "{told:?}");
    assert_eq!(maybe(events.last().expect("an event"), "/post/status"), 70);
    portal.wait_for_outcome(
        "SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches WHERE kind = 'copy'",
    );
    assert_eq!(mirror::differences(&portal), "");
    has_no_faults(&daemon);
}

#[test]
fn a_type_that_changes_between_rows_of_one_transaction_is_followed() {
    retypes_between_rows(false);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_type_that_changes_in_the_middle_of_a_large_transaction_is_followed() {
    retypes_between_rows(true);
}

fn rekeys_between_rows(is_large: bool) {
    let portal = Portal::sample_with(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 99, 48), (3, 98, 49);
         ALTER TABLE votes ADD COLUMN code uuid;
         UPDATE votes SET code = ('00000000-0000-0000-0000-00000000000' || id)::uuid;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = run(&portal, is_large);
    // Rows are known by id, then by code, which nobody has mirrored; then the id is another thing.
    portal.sql(
        "BEGIN;
         UPDATE votes SET user_id = 48 WHERE id = 1;
         ALTER TABLE votes DROP CONSTRAINT votes_pkey; ALTER TABLE votes ALTER code SET NOT NULL; ALTER TABLE votes ADD PRIMARY KEY (code);
         DELETE FROM votes WHERE id = 2;
         COMMIT;",
    );
    portal.sql("DELETE FROM votes WHERE id = 3; UPDATE posts SET title = 'After' WHERE id = 99;");
    daemon.wait_for_line("what differs then gives events");
    portal.wait_for_outcome("SELECT count(*) FILTER (WHERE skipped <> '{}') > 0 AND bool_and(state = 'done') FROM portalhook.switches WHERE kind = 'copy'");
    portal.sql("UPDATE votes SET user_id = 49 WHERE id = 1;");
    let mut told = portal.event_names(&receiver, endpoint);
    let last = told.split_off(told.len().saturating_sub(2));
    assert_eq!(last, ["vote.deleted 1", "vote.created 1"]);
    told.sort_unstable();
    assert_eq!(told, ["post.updated 99", "vote.created 1", "vote.deleted 1", "vote.deleted 2", "vote.deleted 3"]);
    assert_eq!(mirror::differences(&portal), "");
    has_no_faults(&daemon);
}

#[test]
fn a_key_that_changes_between_rows_of_one_transaction_loses_nothing() {
    rekeys_between_rows(false);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_key_that_changes_in_the_middle_of_a_large_transaction_loses_nothing() {
    rekeys_between_rows(true);
}

#[test]
fn at_a_pause_the_mapping_may_name_tables_that_nobody_has_mirrored() {
    let portal = Portal::sample_with(
        "CREATE SCHEMA boards; CREATE TABLE boards.board (id int PRIMARY KEY, name text);
         INSERT INTO boards.board VALUES (1, 'Ideas'), (2, 'Bugs'); ALTER TABLE posts ADD COLUMN board int DEFAULT 1;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id) VALUES (200, 'Before', 48, 4)");
    portal.sql("ALTER TABLE posts RENAME title TO headline");
    portal.sql("UPDATE posts SET headline = 'After' WHERE id = 200");
    daemon.wait_for_line("is called headline now");
    portal.sql("UPDATE posts SET status = 'planned', board = 2 WHERE id = 99; DELETE FROM boards.board WHERE id = 1;");
    portal.sql(
        "UPDATE portalhook.mapping SET query = $$SELECT p.id, headline AS title, description, status, user_id AS author, portal_id AS portal,
             created_at, b.name AS board FROM public.posts p LEFT JOIN boards.board b ON b.id = p.board WHERE deleted_at IS NULL$$
         WHERE entity = 'posts'",
    );
    portal.sql("UPDATE boards.board SET name = 'Faults' WHERE id = 2; UPDATE posts SET status = 'done' WHERE id = 99;");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events)[..2], ["post.created 200", "post.updated 200"]);
    let last = events.last().expect("an event");
    assert_eq!((name_and_id(last), maybe(last, "/post/board")), ("post.status_changed 99".to_owned(), "Faults".into()));
    assert_eq!(maybe(&events[1], "/post/title"), "After");
    assert_eq!(mirror::differences(&portal), "");
    // What was committed meanwhile is in the copy, and does not come a second time.
    portal
        .sql("INSERT INTO boards.board VALUES (1, 'New'); UPDATE posts SET board = 1, status = 'open' WHERE id = 99;");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(maybe(events.last().expect("an event"), "/post/board"), "New");
    assert_eq!(mirror::differences(&portal), "");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE state <> 'done'"), "0");
    has_no_faults(&daemon);
}

/// The copy has its rows of now, also where the stream, which comes to the pause only then, says how they became so.
#[test]
fn what_a_copy_for_the_pause_has_seen_is_not_done_to_it_again() {
    let portal = Portal::sample_with(
        "CREATE TABLE labels (post_id int PRIMARY KEY, label text); INSERT INTO labels VALUES (98, 'a'), (99, 'a');",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    portal.sql("ALTER TABLE posts RENAME title TO headline; UPDATE posts SET headline = 'One' WHERE id = 99");
    daemon.wait_for_line("is called headline now");
    // Its table is published, and the copy waits for this transaction before it looks.
    let open = Holder::of(&portal, "UPDATE users SET name = name");
    portal.sql(
        "UPDATE portalhook.mapping SET query = $$SELECT id, headline AS title, description, status, user_id AS author, portal_id AS portal,
             created_at, (SELECT l.label FROM public.labels l WHERE l.post_id = posts.id) AS label FROM public.posts WHERE deleted_at IS NULL$$
         WHERE entity = 'posts'",
    );
    daemon.wait_for_line("copying public.labels beside the mirror");
    portal.sql(
        "UPDATE labels SET label = 'b' WHERE post_id = 99; UPDATE posts SET headline = 'Two' WHERE id = 99;
         UPDATE labels SET label = 'c' WHERE post_id = 99; UPDATE labels SET label = 'd' WHERE post_id = 98; DELETE FROM labels WHERE post_id = 98;",
    );
    drop(open);
    daemon.wait_for_line("in force from here on");
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.updated 99", "post.updated 99"]);
    for (event, title) in events.iter().zip(["One", "Two"]) {
        assert_eq!((maybe(event, "/post/title"), maybe(event, "/post/label")), (title.into(), "c".into()));
    }
    assert_eq!(mirror::differences(&portal), "");
    has_no_faults(&daemon);
}

/// Where a column stands does not tell which one it was, if another one came beside it.
#[test]
fn the_last_column_is_renamed_and_another_one_added_between_rows_of_one_transaction() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{vote.*}'");
    let daemon = run(&portal, false);
    portal.sql(
        "BEGIN;
         INSERT INTO votes (id, post_id, user_id, created_at) VALUES (1, 99, 49, '2020-01-01 00:00:00Z');
         ALTER TABLE votes RENAME created_at TO made_at; ALTER TABLE votes ADD COLUMN changed_at timestamptz DEFAULT '2021-01-01 00:00:00Z';
         INSERT INTO votes (id, post_id, user_id, made_at) VALUES (2, 99, 49, '2022-01-01 00:00:00Z');
         COMMIT;",
    );
    daemon.wait_for_line("is called made_at now");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'created_at', 'made_at AS created_at') WHERE entity = 'votes'",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["vote.created 1", "vote.created 2"]);
    let years: Vec<Value> = events.iter().map(|event| maybe(event, "/vote/created_at")).collect();
    assert_eq!(years, ["2020-01-01T00:00:00.000000Z", "2022-01-01T00:00:00.000000Z"]);
    assert_eq!(mirror::differences(&portal), "");
    // All of it was known: nothing has to be copied.
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE kind = 'copy'"), "0");
    has_no_faults(&daemon);
}

/// A mapping that calls a function of the operator's.
fn shouting() -> Portal {
    let portal = Portal::sample_with(
        "CREATE FUNCTION public.shout(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)'; GRANT USAGE ON SCHEMA public TO public;",
    );
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'title,', 'public.shout(title) AS title,') WHERE entity = 'posts'");
    portal
}

const VOTE: &str = "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);";

/// The pause is there; nothing but its one line says so.
#[track_caller]
fn is_paused_quietly(portal: &Portal, daemon: &Process) {
    daemon.wait_for_line("the mapping cannot be run any more");
    for command in ["status", "check"] {
        let said = String::from_utf8_lossy(&portal.command(&[command]).stdout).into_owned();
        assert!(said.contains("shout") && said.to_lowercase().contains("paused"), "{command}: {said}");
    }
}

#[track_caller]
fn was_quiet(daemon: &Process) {
    let errors: Vec<String> =
        daemon.said().into_iter().filter(|line| line.contains("ERROR") || line.contains("WARN")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn a_mapping_that_cannot_be_run_pauses_with_one_line_until_it_is_changed() {
    let portal = shouting();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql("UPDATE posts SET title = 'one' WHERE id = 99");
    assert_eq!(maybe(&portal.events(&receiver, endpoint)[0], "/post/title"), "ONE");
    portal.sql("ALTER FUNCTION public.shout(text) RENAME TO whisper");
    portal.sql("UPDATE posts SET title = 'two' WHERE id = 99");
    is_paused_quietly(&portal, &daemon);
    portal.sql(VOTE);
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'public.shout(title)', 'title') WHERE entity = 'posts'",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.updated 99", "post.updated 99", "vote.created 1"]);
    assert_eq!(maybe(&events[1], "/post/title"), "two");
    was_quiet(&daemon);
}

#[test]
fn a_mapping_that_cannot_be_run_goes_on_when_what_it_calls_is_there_again() {
    let portal = shouting();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    daemon.wait_for_line("in force from here on");
    portal.sql("ALTER FUNCTION public.shout(text) RENAME TO whisper");
    portal.sql("UPDATE posts SET title = 'two' WHERE id = 99");
    is_paused_quietly(&portal, &daemon);
    // Another death changes nothing.
    portal.kill(daemon);
    let daemon = portal.run();
    is_paused_quietly(&portal, &daemon);
    portal.sql("ALTER FUNCTION public.whisper(text) RENAME TO shout");
    portal.sql(VOTE);
    let events = portal.events(&receiver, endpoint);
    assert_eq!(names(&events), ["post.updated 99", "vote.created 1"]);
    assert_eq!(maybe(&events[0], "/post/title"), "TWO");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE state <> 'done'"), "0");
    was_quiet(&daemon);
}
