//! The application's migrations, while portalhook is set up and runs: all of them succeed, and what the mapping reads is
//! followed.

mod courtesy;
mod every;
mod renames;
mod trigger;

use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::process;
use crate::support::receiver::Receiver;
use crate::support::session::{CATALOG_IS_WAITED_FOR, Holder, once};

const SCHEMA: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");

/// What an application's migration tool sets: a statement that waits for a lock of ours longer than this fails.
const PATIENCE: &str = "SET lock_timeout = '1s';";

fn check(portal: &Portal) -> String {
    String::from_utf8_lossy(&portal.command(&["check"]).stdout).into_owned()
}

#[test]
fn a_dropped_primary_key_is_mended_by_the_daemon_and_its_return_too() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql("ALTER TABLE votes DROP CONSTRAINT votes_pkey");
    daemon.wait_for_line("mended by ALTER TABLE public.votes REPLICA IDENTITY FULL");
    portal.sql(
        "UPDATE votes SET user_id = 48 WHERE id = 1;
         INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);
         DELETE FROM votes WHERE id = 1;",
    );
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["vote.deleted 1", "vote.created 1", "vote.created 2", "vote.deleted 1"]
    );
    portal.sql("ALTER TABLE votes ADD PRIMARY KEY (id)");
    daemon.wait_for_line("mended by ALTER TABLE public.votes REPLICA IDENTITY DEFAULT");
    portal.sql("UPDATE votes SET user_id = 48 WHERE id = 2; DELETE FROM votes;");
    assert_eq!(portal.event_names(&receiver, endpoint)[4..], ["vote.deleted 2", "vote.created 2", "vote.deleted 2"]);
}

#[test]
fn a_table_that_left_the_publication_is_put_back_and_what_was_missed_is_told() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(
        "ALTER PUBLICATION portalhook DROP TABLE votes; INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)",
    );
    daemon.wait_for_line("mended by ALTER PUBLICATION portalhook ADD TABLE ONLY public.votes");
    daemon.wait_for_line(
        "was out of the publication for a while: changes of that time were not seen: in force from here on",
    );
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "vote.created 2"]);
    assert_eq!(mirror::differences(&portal), "");
}

#[test]
fn an_enum_value_that_is_renamed_stops_no_event_not_even_the_next_one() {
    let portal = Portal::sample_with(
        "CREATE TYPE state AS ENUM ('open', 'done'); ALTER TABLE posts ALTER status DROP DEFAULT, ALTER status TYPE state USING status::state;",
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    // The value as the stream has it, and as the mirror has it, is not known to the server when it is evaluated.
    portal.sql(
        "INSERT INTO posts (id, title, status, user_id, portal_id) VALUES (100, 'New', 'open', 48, 4);
         ALTER TYPE state RENAME VALUE 'open' TO 'new';
         UPDATE posts SET title = 'After' WHERE id = 99; UPDATE posts SET status = 'done' WHERE id = 100;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 98, 49);",
    );
    let events = portal.events(&receiver, endpoint);
    let names: Vec<String> = events.iter().map(crate::support::portal::name_and_id).collect();
    assert_eq!(names, ["post.created 100", "post.updated 99", "post.status_changed 100", "vote.created 1"]);
    assert_eq!(events[1].data("/post/status"), "new");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.row_failures"), "0");
    drop(daemon);
}

/// A copy notes what the catalog says of its own table: what happened to another one is still to be found.
#[cfg(feature = "failpoints")]
#[test]
fn a_table_that_is_rewritten_before_another_one_is_copied_is_copied_too() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    // Nobody looks at the catalog.
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", "looks:0")]);
    daemon.wait_for_line("streaming");
    portal.sql(
        "ALTER TABLE votes ALTER created_at TYPE timestamptz USING '2020-01-01 00:00:00Z';
         SELECT portalhook.request_copy(ARRAY['posts'::regclass::oid], 'the test wants it') \\g /dev/null",
    );
    daemon.wait_for_line("the test wants it: in force from here on");
    daemon.terminate();
    let daemon = portal.run();
    daemon.wait_for_line("public.votes was rewritten, which may have changed any of its rows: in force from here on");
    assert_eq!(crate::support::mirror::differences(&portal), "");
}

/// That copy is no refreshing one then: what the stream did not bring has to be told.
#[cfg(feature = "failpoints")]
#[test]
fn what_is_committed_out_of_the_publication_while_the_table_is_copied_is_told() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 99, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    // Nobody looks at the catalog in between.
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", "looks:0")]);
    daemon.wait_for_line("streaming");
    // The copy waits for this transaction before it looks.
    let open = Holder::of(&portal, "UPDATE users SET name = name");
    portal.sql("SELECT portalhook.request_copy(ARRAY['votes'::regclass::oid], 'the test wants it') \\g /dev/null");
    daemon.wait_for_line("copying public.votes beside the mirror");
    portal.sql(
        "ALTER PUBLICATION portalhook DROP TABLE votes; DELETE FROM votes WHERE id = 1; ALTER PUBLICATION portalhook ADD TABLE votes;",
    );
    drop(open);
    daemon.wait_for_line("the test wants it: in force from here on");
    portal.sql("DELETE FROM votes WHERE id = 2");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.deleted 1", "vote.deleted 2"]);
    assert_eq!(crate::support::mirror::differences(&portal), "");
}

#[test]
fn many_tables_and_columns_beside_ours_slow_nothing_down() {
    let many = "
        SELECT format('CREATE TABLE other_%s (id int PRIMARY KEY, a text, b text)', n) FROM generate_series(1, 2000) AS n \\gexec
        SELECT format('ALTER TABLE posts %s', string_agg(format('ADD COLUMN c%s int', n), ', ')) FROM generate_series(1, 1500) AS n \\gexec
        VACUUM ANALYZE pg_class, pg_attribute, pg_index;";
    let portal = Portal::without_setup(Database::create(), &format!("{SCHEMA}\n{many}"));
    portal.setup(VIEWS);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         ALTER TABLE other_7 RENAME TO other; ALTER TABLE posts DROP COLUMN c7; UPDATE posts SET c8 = 1, title = 'Wide' WHERE id = 99;",
    );
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "post.updated 99"]);
    assert!(check(&portal).contains("failures: 0"), "{}", check(&portal));
    daemon.terminate();
    // What the look at the catalog costs, as the server has counted it.
    let slow = portal.sql(
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
         SELECT round(min_exec_time), left(query, 60) FROM pg_stat_statements
         WHERE query LIKE '%What the catalog said%' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND min_exec_time > 50",
    );
    assert_eq!(slow, "", "milliseconds of a look");
}

/// Boards, statuses and portals are seldom written: until then the stream says nothing of their columns.
#[test]
fn a_column_that_is_gone_from_a_table_that_nobody_writes_is_told_all_the_same() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    portal.sql("ALTER TABLE portals RENAME title TO label");
    daemon.wait_for_line(
        "public.portals: column title, which the mapping reads, is called label now: the stream pauses where",
    );
    portal.sql("UPDATE posts SET title = 'Before' WHERE id = 99");
    assert_eq!(portal.events(&receiver, endpoint)[0].data("/portal/title"), "Test Portal");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'title', 'label AS title') WHERE entity = 'portals'",
    );
    portal.sql("UPDATE portals SET label = 'Renamed'; UPDATE posts SET title = 'After' WHERE id = 99;");
    assert_eq!(portal.events(&receiver, endpoint)[1].data("/portal/title"), "Renamed");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE kind = 'pause'"), "0");
}

/// What was followed is over: nothing of it stays in `status` or `check`.
#[test]
fn types_that_were_followed_and_tables_that_are_gone_are_told_as_what_they_are() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    let status = || String::from_utf8_lossy(&portal.command(&["status"]).stdout).into_owned();
    portal.sql("ALTER TABLE posts ALTER title TYPE varchar(400)");
    assert!(
        status()
            .contains("migration  public.posts: column title is of type character varying(400) now, and was of text")
    );
    portal.sql("UPDATE posts SET title = 'After' WHERE id = 99; DROP TABLE comments;");
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.updated 99"]);
    assert!(!status().contains("column title"), "{}", status());
    daemon.wait_for_line("public.comments was dropped");
    let said = check(&portal);
    assert!(said.contains("fail  public.comments was dropped: its mirror stays as it was"), "{said}");
    assert!(said.contains("failures: 1"), "the publication cannot have it: {said}");
}

/// Who comes late meets rows of both kinds: what an update leaves alone has not changed.
#[test]
fn a_text_that_a_migration_makes_json_of_is_converted_and_tells_no_change() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    portal.run().terminate();
    portal.sql(
        "ALTER TABLE posts ALTER description TYPE jsonb USING to_jsonb(description);
         UPDATE posts SET views = views + 1;
         UPDATE posts SET title = 'After' WHERE id = 99;",
    );
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.iter().map(name_and_id).collect::<Vec<_>>(), ["post.updated 99"]);
    assert_eq!(events[0].data("/post/description"), "Wow. This is the best idea I have ever seen!");
}
