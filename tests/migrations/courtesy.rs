//! Who waits for whom: copies, comparisons and whatever mends or reads give way to the application.

use super::*;

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
fn a_copy_gives_way_to_a_migration_that_waits_for_it_and_is_made_again() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    // The copy cannot end while this is locked, and holds posts meanwhile. (ACCESS EXCLUSIVE would give the session a transaction
    // id, for whose end a copy waits before it begins.)
    let ours = Holder::of(&portal, "LOCK portalhook.catalog IN EXCLUSIVE MODE");
    portal.sql("SELECT portalhook.request_copy(ARRAY['posts'::regclass::oid], 'the test wants it') \\g /dev/null");
    migrate(&portal, "ALTER TABLE posts ADD COLUMN late int");
    daemon.wait_for_line("waited for a table that was being copied, and the copy gave way");
    drop(ours);
    daemon.wait_for_line("the test wants it: in force from here on");
    portal.sql("UPDATE posts SET title = 'After' WHERE id = 99");
    assert_eq!(portal.event_names(&receiver, endpoint), ["post.updated 99"]);
}

/// Everything has to be copied.
const DROP_SLOT: &str = "SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint \\g /dev/null";

/// A migration of posts, once somebody who reads them waits for the locked catalog: ours, which `Holder` has.
fn migrate(portal: &Portal, sql: &str) {
    portal.sql(&format!("{} SET lock_timeout = '10s'; {sql};", once(CATALOG_IS_WAITED_FOR)));
}

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
        migrate(&portal, "ALTER TABLE posts ALTER status TYPE varchar(100), ADD COLUMN late int");
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
            migrate(&portal, &format!("ALTER TABLE posts ADD COLUMN late_{number} int"));
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
    migrate(&portal, "ALTER TABLE posts ADD COLUMN late int");
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
        migrate(&portal, &format!("ALTER TABLE posts ADD COLUMN late_{number} int"));
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

/// Whoever reads the mapping has weak locks on several tables: a migration that locks them in another order must not be the victim.
#[test]
fn a_migration_that_locks_tables_in_another_order_than_the_mapping_is_read_goes_first() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            portal.sql(&format!(
                "SET deadlock_timeout = '600ms'; BEGIN; LOCK TABLE comments IN ACCESS EXCLUSIVE MODE;
                 {}
                 LOCK TABLE posts IN ACCESS EXCLUSIVE MODE; COMMIT;",
                once(
                    "SELECT FROM pg_locks AS w JOIN pg_locks AS h USING (pid)
                     WHERE w.relation = 'comments'::regclass AND NOT w.granted AND h.relation = 'posts'::regclass AND h.granted"
                )
            ))
        });
        portal.sql(&format!(
            "{} UPDATE portalhook.mapping SET query = query || ' WHERE id < 1000' WHERE entity = 'votes'",
            once("SELECT FROM pg_locks WHERE relation = 'comments'::regclass AND mode = 'AccessExclusiveLock' AND granted")
        ));
    });
    portal.wait_for_outcome("SELECT count(*) > 0 AND bool_and(state = 'done') FROM portalhook.switches");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (2000, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
}
