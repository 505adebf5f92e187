//! The application's migrations, while portalhook is set up and runs: all of them succeed, and what the mapping reads is
//! followed.

mod every;

use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::{Portal, name_and_id};
use crate::support::process;
use crate::support::receiver::Receiver;
use crate::support::session::Holder;

const SCHEMA: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");

/// What an application's migration tool sets: a statement that waits for a lock of ours longer than this fails.
const PATIENCE: &str = "SET lock_timeout = '1s';";

/// Setup with `--event-trigger`.
fn with_event_trigger(portal: &Portal) {
    let config = portal.config().display().to_string();
    let admin = portal.database.owner_url();
    let output = process::output(&["--config", &config, "setup", "--admin-url", &admin, "--event-trigger"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("event trigger portalhook_mend: mends mapped tables"));
}

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
fn with_the_event_trigger_no_update_fails_whatever_becomes_of_the_key() {
    let portal = Portal::sample_with(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         CREATE ROLE owner_of_the_portal; GRANT owner_of_the_portal TO CURRENT_USER;
         GRANT CREATE ON SCHEMA public TO owner_of_the_portal; ALTER TABLE votes OWNER TO owner_of_the_portal; GRANT SELECT ON posts, users TO owner_of_the_portal;",
    );
    assert!(check(&portal).contains("pass  no event trigger: after a migration that drops a primary key"));
    with_event_trigger(&portal);
    assert!(check(&portal).contains("pass  the event trigger portalhook_mend mends what migrations do at once"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    // As the application's owner, who may nothing of ours.
    portal.sql(
        "SET ROLE owner_of_the_portal; SET client_min_messages = error;
         BEGIN; ALTER TABLE votes DROP CONSTRAINT votes_pkey; UPDATE votes SET user_id = 48 WHERE id = 1; COMMIT;
         UPDATE votes SET user_id = 49 WHERE id = 1;
         ALTER TABLE votes ADD PRIMARY KEY (id);
         UPDATE votes SET user_id = 48 WHERE id = 1;
         BEGIN; ALTER TABLE votes DROP CONSTRAINT votes_pkey; ALTER TABLE votes ADD PRIMARY KEY (id); COMMIT;
         DELETE FROM votes;",
    );
    let [there, back] = [["vote.deleted 1", "vote.created 1"]; 2].map(|pair| pair.to_vec());
    assert_eq!(portal.event_names(&receiver, endpoint), [there, back.clone(), back, vec!["vote.deleted 1"]].concat());
    assert_eq!(portal.sql("SELECT relreplident FROM pg_class WHERE oid = 'votes'::regclass"), "d");
    portal.sql("RESET ROLE; DROP EVENT TRIGGER portalhook_mend; REASSIGN OWNED BY owner_of_the_portal TO CURRENT_USER; DROP OWNED BY owner_of_the_portal; DROP ROLE owner_of_the_portal;");
}

#[test]
fn with_the_event_trigger_no_update_fails_when_the_index_that_was_the_identity_goes() {
    let portal = Portal::sample_with(
        "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2, 99, 49);
         CREATE UNIQUE INDEX votes_by_id ON votes (id); ALTER TABLE votes REPLICA IDENTITY USING INDEX votes_by_id;",
    );
    with_event_trigger(&portal);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql("BEGIN; DROP INDEX votes_by_id; UPDATE votes SET user_id = 48 WHERE id = 1; COMMIT; DELETE FROM votes WHERE id = 2;");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.deleted 1", "vote.created 1", "vote.deleted 2"]);
}

/// A migration has many statements, and few of them are about mapped tables.
#[test]
fn the_event_trigger_looks_only_at_tables_that_a_statement_was_about() {
    let portal = Portal::sample_with(
        "CREATE TABLE asked (of text);
         ALTER TABLE votes RENAME TO votes_1; CREATE TABLE votes (LIKE votes_1 INCLUDING ALL) PARTITION BY RANGE (id);
         ALTER TABLE votes ATTACH PARTITION votes_1 FOR VALUES FROM (0) TO (1000);",
    );
    with_event_trigger(&portal);
    portal.sql(
        "CREATE OR REPLACE FUNCTION portalhook.mend_identity(of regclass) RETURNS text LANGUAGE plpgsql
             AS $$ BEGIN INSERT INTO public.asked VALUES (of::text); RETURN ''; END $$;",
    );
    for (statement, asked) in [
        ("CREATE TABLE other (id int PRIMARY KEY, post_id int REFERENCES posts)", ""),
        (
            "CREATE TABLE another (id int PRIMARY KEY); ALTER TABLE another ADD COLUMN a int; CREATE INDEX gone ON posts (title); DROP INDEX gone;",
            "",
        ),
        ("CREATE TEMP TABLE votes_2 (id int)", ""),
        ("ALTER TABLE users ADD COLUMN a int", "public.users"),
        ("CREATE TABLE votes_2 PARTITION OF votes FOR VALUES FROM (1000) TO (2000)", "votes"),
        ("ALTER TABLE votes_1 ADD CHECK (id > 0)", "votes"),
    ] {
        portal.sql(&format!("TRUNCATE asked; SET client_min_messages = error; {statement};"));
        let told = portal.sql("SELECT string_agg(DISTINCT replace(of, 'public.', ''), ' ' ORDER BY replace(of, 'public.', '')) FROM asked");
        assert_eq!(told, asked.replace("public.", ""), "{statement}");
    }
}

#[test]
fn an_event_trigger_that_cannot_work_fails_no_migration() {
    let portal = Portal::sample();
    with_event_trigger(&portal);
    for harm in [
        "DROP PUBLICATION portalhook; ALTER TABLE votes DROP CONSTRAINT votes_pkey",
        "DROP TABLE portalhook.mapped_tables CASCADE; ALTER TABLE comments DROP CONSTRAINT comments_pkey",
        "DROP FUNCTION portalhook.mend_identity; ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE",
        "DROP SCHEMA portalhook CASCADE; CREATE TABLE another (id int)",
    ] {
        portal.sql(&format!("SET client_min_messages = error; {harm}; UPDATE posts SET views = views + 1;"));
    }
    assert_eq!(portal.sql("SELECT count(*) FROM pg_event_trigger"), "0");
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
fn mending_waits_behind_nobody_for_long_and_touches_only_the_mapping() {
    let portal = Portal::sample_with("CREATE TABLE private (id int); CREATE ROLE nobody_at_all;");
    let role = portal.database.role();
    for (sql, why) in [
        ("SELECT portalhook.mend_publication('private')", "private is not a table of the mapping"),
        ("SELECT portalhook.mend_identity('pg_class')", "pg_class is not a table of the mapping"),
        (
            "INSERT INTO portalhook.mapped_tables VALUES ('public', 'private', 'private'::regclass, '{id}', '{}', 'portalhook')",
            "permission denied",
        ),
        ("UPDATE portalhook.mapped_tables SET table_name = 'private'", "permission denied"),
    ] {
        let error = portal.database.sql_error(&format!("SET ROLE {role}; {sql}"));
        assert!(error.contains(why), "{sql}: {error}");
    }
    let error = portal.database.sql_error("SET ROLE nobody_at_all; SELECT portalhook.mend_publication('votes')");
    assert!(error.contains("permission denied"), "{error}");
    portal.sql("DROP ROLE nobody_at_all");
    let daemon = portal.run();
    // A reader holds the table: mending would need to wait for it, and everybody else would wait for the mending.
    let reader = Holder::of(&portal, "SELECT FROM votes");
    portal.sql("ALTER PUBLICATION portalhook DROP TABLE comments");
    daemon.wait_for_line("mended by ALTER PUBLICATION portalhook ADD TABLE ONLY public.comments");
    portal.sql(&format!("{PATIENCE} SELECT count(*) FROM votes;"));
    drop(reader);
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

#[test]
fn a_copy_gives_way_to_a_migration_that_waits_for_it_and_is_made_again() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    // The copy cannot end while this is locked, and holds posts meanwhile. (ACCESS EXCLUSIVE would give the session a transaction
    // id, for whose end a copy waits before it begins.)
    let ours = Holder::of(&portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE");
    portal.sql(
        "SELECT portalhook.request_copy(ARRAY['posts'::regclass::oid], 'the test wants it') \\g /dev/null
         DO $$ BEGIN
             WHILE NOT EXISTS (SELECT FROM pg_locks AS w JOIN pg_locks AS h USING (pid)
                               WHERE w.relation = 'portalhook.catalog'::regclass AND NOT w.granted AND h.relation = 'posts'::regclass AND h.granted) LOOP
                 PERFORM pg_sleep(0.01);
             END LOOP;
         END $$;
         SET lock_timeout = '10s'; ALTER TABLE posts ADD COLUMN late int;",
    );
    daemon.wait_for_line("waited for a table that was being copied, and the copy gave way");
    drop(ours);
    daemon.wait_for_line("the test wants it: in force from here on");
    portal.sql("UPDATE posts SET title = 'After' WHERE id = 99");
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.updated 99"]);
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

/// Everything has to be copied.
const DROP_SLOT: &str = "SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint \\g /dev/null";

/// A migration of posts, once somebody who reads them waits for the locked catalog: ours, which `Holder` has.
const MIGRATED: &str = "
    DO $$ BEGIN
        WHILE NOT EXISTS (SELECT FROM pg_locks AS w JOIN pg_locks AS h USING (pid)
                          WHERE w.relation = 'portalhook.catalog'::regclass AND NOT w.granted AND h.relation = 'posts'::regclass AND h.granted) LOOP
            PERFORM pg_sleep(0.01);
        END LOOP;
    END $$;
    SET lock_timeout = '10s';";

/// Setup's copy ends with what the catalog says, where it waits for this.
fn held_catalog(portal: &Portal) -> Holder {
    Holder::of(portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE")
}

#[test]
fn the_first_copy_gives_way_to_a_migration_and_setup_begins_anew() {
    let portal = Portal::sample();
    portal.sql(DROP_SLOT);
    let ours = held_catalog(&portal);
    let output = std::thread::scope(|scope| {
        let setup = scope.spawn(|| portal.setup_with(&["--afresh"]));
        // The second attempt has another mapping to copy.
        portal.sql(&format!("{MIGRATED} ALTER TABLE posts ALTER status TYPE varchar(100), ADD COLUMN late int;"));
        drop(ours);
        setup.join().expect("setup")
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let again = "again         a statement of the application waited for a table that was being copied, and the copy gave way: \
                 beginning anew (2 of 5)";
    assert!(said.contains(again) && said.contains("done"), "{said}");
    assert_eq!(crate::support::mirror::differences(&portal), "");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let _daemon = portal.run();
    portal.sql("UPDATE posts SET title = 'After', status = 'a status' WHERE id = 99");
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.status_changed 99", "post.updated 99"]);
}

#[test]
fn a_first_copy_that_never_gets_to_its_end_says_what_to_do_and_leaves_no_slot() {
    let portal = Portal::sample();
    portal.sql(DROP_SLOT);
    let ours = held_catalog(&portal);
    let output = std::thread::scope(|scope| {
        let setup = scope.spawn(|| portal.setup_with(&["--afresh"]));
        for number in 0..5 {
            portal.sql(&format!("{MIGRATED} ALTER TABLE posts ADD COLUMN late_{number} int;"));
        }
        setup.join().expect("setup")
    });
    drop(ours);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("for the 5th time: run portalhook setup again while no migration runs"), "{said}");
    assert_eq!(portal.sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"), "0");
    assert!(portal.setup_with(&["--afresh"]).status.success());
    assert_eq!(crate::support::mirror::differences(&portal), "");
}

#[test]
fn the_comparison_that_closes_a_gap_gives_way_to_a_migration() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.sql(&format!("{DROP_SLOT}\nDELETE FROM votes;"));
    let ours = held_catalog(&portal);
    let daemon = portal.spawn(&[]);
    portal.sql(&format!("{MIGRATED} ALTER TABLE posts ADD COLUMN late int;"));
    daemon.wait_for_line("waited for a table that was being copied, and the copy gave way");
    drop(ours);
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.deleted 1"]);
}

/// Each attempt would be in the way of the next migration, and takes a slot. What is in the ledger does not wait for it.
#[test]
fn a_gap_that_gives_way_again_and_again_is_tried_less_and_less_often_and_deliveries_go_on() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    let id = receiver.wait_for_distinct(1)[0].id().to_owned();
    daemon.terminate();
    portal.sql(&format!("{DROP_SLOT}\nDELETE FROM votes;"));
    let ours = held_catalog(&portal);
    let daemon = portal.spawn(&[]);
    for (number, pause) in ["500ms", "1s", "2s"].into_iter().enumerate() {
        portal.sql(&format!("{MIGRATED} ALTER TABLE posts ADD COLUMN late_{number} int;"));
        daemon.wait_for_line(&format!(
            "the copy gave way; the gap stays open and deliveries go on, trying again in {pause}"
        ));
    }
    portal.sql(&format!("SELECT portalhook.redeliver('{id}') \\g /dev/null"));
    receiver.wait_for("the vote again", |received| received.iter().filter(|one| one.id() == id).count() == 2);
    drop(ours);
    daemon.wait_for_line("is closed: 1 events");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "vote.deleted 1"]);
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

/// What the mapping names is looked up while a migration holds the table: before it has another name, and after it has.
#[test]
fn a_table_that_is_swapped_just_when_the_mapping_is_read_is_not_forgotten() {
    let portal = Portal::sample();
    let role = portal.database.role();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            portal.sql(
                "BEGIN; CREATE TABLE votes_new (LIKE votes INCLUDING ALL); ALTER TABLE votes RENAME TO votes_old; ALTER TABLE votes_new RENAME TO votes;
                 DO $$ BEGIN
                     WHILE NOT EXISTS (SELECT FROM pg_locks AS w WHERE w.relation = 'votes_old'::regclass AND NOT w.granted) LOOP
                         PERFORM pg_sleep(0.01);
                     END LOOP;
                 END $$;
                 COMMIT;",
            )
        });
        portal.sql(&format!(
            "DO $$ BEGIN
                 WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'votes'::regclass AND mode = 'AccessExclusiveLock' AND granted) LOOP
                     PERFORM pg_sleep(0.01);
                 END LOOP;
             END $$;
             SET ROLE {role}; SELECT portalhook.forget_tables() \\g /dev/null"
        ));
    });
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.mapped_tables WHERE table_name = 'votes'"), "1");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.mapped_tables"), "5");
}

/// The mirror keeps the name that the table had when it was copied; what the mapping says now is what counts.
#[test]
fn a_table_that_was_renamed_and_mapped_anew_is_followed_when_it_is_swapped() {
    let portal = Portal::sample_with("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(
        "ALTER TABLE votes RENAME TO likes;
         INSERT INTO likes (id, post_id, user_id) VALUES (2, 99, 49);",
    );
    daemon.wait_for_line("is called");
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'votes', 'likes') WHERE entity = 'votes'");
    portal.sql("INSERT INTO likes (id, post_id, user_id) VALUES (3, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 2", "vote.created 3"]);
    daemon.wait_for_line("portalhook.votes shows");
    assert!(!check(&portal).contains("is called"), "{}", check(&portal));
    portal.sql(&format!(
        "{PATIENCE} BEGIN; CREATE TABLE likes_new (LIKE likes INCLUDING ALL); INSERT INTO likes_new SELECT * FROM likes;
         ALTER TABLE likes RENAME TO likes_old; ALTER TABLE likes_new RENAME TO likes; COMMIT;
         INSERT INTO likes (id, post_id, user_id) VALUES (4, 99, 49); DELETE FROM likes WHERE id = 1;"
    ));
    daemon.wait_for_line("public.likes is another table than before");
    portal.wait_for_outcome(
        "SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches WHERE kind = 'copy'",
    );
    portal.sql("INSERT INTO likes (id, post_id, user_id) VALUES (5, 99, 49)");
    let mut told = portal.event_names(&receiver, endpoint).split_off(2);
    told[..2].sort_unstable();
    assert_eq!(told, ["vote.created 4", "vote.deleted 1", "vote.created 5"]);
    assert_eq!(mirror::differences(&portal), "");
}

/// A key's column that has another name is the same key: nothing has to be mended or copied.
#[test]
fn a_column_of_the_key_that_is_renamed_with_its_table_is_the_same_key() {
    let portal = Portal::new(
        &format!(
            "{SCHEMA} CREATE TABLE supports (user_id int, idea_id int REFERENCES posts, created_on timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, idea_id));
             INSERT INTO supports VALUES (48, 99), (49, 99);"
        ),
        &VIEWS.replace(
            "SELECT id, post_id AS post, user_id AS voter, created_at\nFROM public.votes",
            "SELECT s.idea_id || '-' || s.user_id AS id, s.idea_id AS post, s.user_id AS voter, created_on AS created_at\nFROM supports s",
        ),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
    let daemon = portal.run();
    portal.sql(&format!(
        "{PATIENCE} BEGIN; ALTER TABLE supports RENAME idea_id TO post_id; ALTER TABLE supports RENAME TO likes;
         ALTER TABLE likes RENAME created_on TO created_at; ALTER TABLE posts RENAME title TO headline; COMMIT;
         DELETE FROM likes WHERE user_id = 48; UPDATE likes SET user_id = 48; UPDATE posts SET headline = 'After' WHERE id = 99;"
    ));
    daemon.wait_for_line("Change the mapping: ");
    let said = daemon.said();
    let line = said.iter().find_map(|line| line.split_once("Change the mapping: "));
    // As the line says it, character for character.
    let statements = line.expect("what to type").1;
    for command in ["check", "status"] {
        let said = String::from_utf8_lossy(&portal.command(&[command]).stdout).into_owned();
        assert!(said.contains(statements), "{command}: {said}");
    }
    portal.sql(statements);
    assert_eq!(
        portal.event_names(&receiver, endpoint),
        ["vote.deleted 99-48", "vote.deleted 99-49", "vote.created 99-48", "post.updated 99"]
    );
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.switches WHERE kind = 'copy'"), "0");
    assert_eq!(portal.sql("SELECT relreplident FROM pg_class WHERE oid = 'likes'::regclass"), "d");
    assert_eq!(mirror::differences(&portal), "");
    assert!(check(&portal).contains("failures: 0"), "{}", check(&portal));
}

/// Names that need quotes, a table that moves, a column that is given and asked for under its old name, and one that is gone.
#[test]
fn what_is_renamed_in_several_places_is_mended_by_the_statements_that_the_pause_says() {
    let portal = Portal::new(
        &format!(r#"{SCHEMA} ALTER TABLE posts RENAME title TO "postTitle"; ALTER TABLE posts RENAME TO "Post"; CREATE SCHEMA app;"#),
        &VIEWS.replace(
            "SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at\nFROM public.posts\nWHERE deleted_at IS NULL",
            r#"SELECT p.id, p."postTitle" AS title, description, status, user_id AS author, portal_id AS portal, created_at
               FROM public."Post" p WHERE deleted_at IS NULL AND coalesce(description, status) <> status"#,
        ),
    );
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*,comment.*}'");
    let daemon = portal.run();
    portal.sql(
        r#"ALTER TABLE "Post" RENAME "postTitle" TO "headLine"; ALTER TABLE "Post" RENAME description TO text; ALTER TABLE "Post" SET SCHEMA app;
           ALTER TABLE app."Post" RENAME TO "Topic"; ALTER TABLE comments DROP body;
           UPDATE app."Topic" SET "headLine" = 'After' WHERE id = 99; INSERT INTO comments (id, post_id, user_id) VALUES (1, 99, 49);"#,
    );
    let statements = |text: &str| {
        daemon.wait_for_line(text);
        let said = daemon.said();
        let line =
            said.iter().rfind(|line| line.contains(text)).and_then(|line| line.split_once("Change the mapping: "));
        line.expect("what to type").1.to_owned()
    };
    let said = statements("postTitle");
    // Of what is gone nobody knows the meaning, but which SELECT it is about.
    let (renamed, gone) = said.split_once("; ").expect("two statements");
    assert_eq!(gone, "UPDATE portalhook.mapping SET query = 'SELECT …' WHERE entity = 'comments';");
    portal.sql(renamed);
    assert_eq!(statements("of no help"), gone);
    daemon.wait_for_line("column \"body\" does not exist");
    portal.sql(
        "UPDATE portalhook.mapping SET query = replace(query, 'body AS comment', $$'gone' AS comment$$) WHERE entity = 'comments'",
    );
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.updated 99", "comment.created 1"]);
    assert_eq!(mirror::differences(&portal), "");
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

/// Whoever reads the mapping has weak locks on several tables: a migration that locks them in another order must not be the victim.
#[test]
fn a_migration_that_locks_tables_in_another_order_than_the_mapping_is_read_goes_first() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            portal.sql(
                "SET deadlock_timeout = '600ms'; BEGIN; LOCK TABLE comments IN ACCESS EXCLUSIVE MODE;
                 DO $$ BEGIN
                     WHILE NOT EXISTS (SELECT FROM pg_locks AS w JOIN pg_locks AS h USING (pid)
                                       WHERE w.relation = 'comments'::regclass AND NOT w.granted AND h.relation = 'posts'::regclass AND h.granted) LOOP
                         PERFORM pg_sleep(0.01);
                     END LOOP;
                 END $$;
                 LOCK TABLE posts IN ACCESS EXCLUSIVE MODE; COMMIT;",
            )
        });
        portal.sql(
            "DO $$ BEGIN
                 WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'comments'::regclass AND mode = 'AccessExclusiveLock' AND granted) LOOP
                     PERFORM pg_sleep(0.01);
                 END LOOP;
             END $$;
             UPDATE portalhook.mapping SET query = query || ' WHERE id < 1000' WHERE entity = 'votes'",
        );
    });
    portal.wait_for_outcome("SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2000, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
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
