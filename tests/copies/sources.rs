//! The source in events' ids, and the slot that is believed, where a server or a database takes another's place.

use super::{SCHEMA, VIEWS, at, production, stays_silent, stopped_before_the_second_vote, succeeds, vote, votes};
use crate::support::cluster::Database;
use crate::support::ids::is_of_source;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

const SOURCE: &str = "SELECT source FROM portalhook.checkpoint";

#[test]
fn what_commits_past_a_fork_has_that_ones_source_from_then_on_also_after_a_gap() {
    let portal = production();
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    let before = portal.sql(SOURCE);
    // As after a failover whose slot goes on: vote 2 was committed before it.
    portal.sql("UPDATE portalhook.checkpoint SET fork = pg_current_wal_lsn(), source_after_fork = 'after'");
    portal.sql(&vote(3));
    let daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3]);
    for (event, source) in events.iter().zip([&*before, &before, "after"]) {
        is_of_source(&portal, event, source);
    }
    daemon.terminate();

    portal.sql(&vote(4));
    portal.sql("SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint \\g /dev/null");
    // The place is noted, too.
    let dead = portal.database.beside("dead");
    let url = portal.database.role_url();
    let more = url.replace(&format!(":{}/", dead.port()), &format!(":{},127.0.0.1:1/", dead.port()));
    assert_ne!(more, url);
    portal.configure(&more);
    let daemon = portal.run();
    portal.sql(&vote(5));
    let events = portal.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3, 4, 5]);
    is_of_source(&portal, &events[3], "after gap");
    is_of_source(&portal, &events[4], "after");
    let noted = "SELECT source, fork, source_after_fork, position(':1' IN split_part(home, ',', 1) || split_part(home, ',', 2)) > 0, home LIKE '%,%'
                 FROM portalhook.checkpoint";
    assert_eq!(portal.sql(noted), "after|||t|t");
    daemon.terminate();
    let _daemon = portal.run();
    portal.sql(&vote(6));
    is_of_source(&portal, &portal.events(&receiver, endpoint)[5], "after");
}

#[test]
fn a_copy_within_the_cluster_that_is_adopted_has_a_source_of_its_own() {
    let portal = production();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let staging = portal.database.beside("staging");
    portal.database.beside("postgres").sql(&format!("CREATE DATABASE staging TEMPLATE {}", portal.database.name()));
    let copy = at(staging);
    copy.configure(&copy.database.url_of(&portal.database.role()));
    copy.sql(&vote(1));
    let said = succeeds(&copy.setup_with(&["--adopt"]));
    assert!(said.contains("portalhook run tells what the mirror lacks first"), "{said}");
    assert_ne!(copy.sql(SOURCE), portal.sql(SOURCE));
    let _daemon = copy.run();
    let events = copy.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1]);
    is_of_source(&copy, &events[0], &format!("{} gap", copy.sql(SOURCE)));
    assert_eq!(mirror::differences(&copy), "");
    assert_eq!(portal.sql("SELECT count(*) FROM pg_replication_slots"), "2", "each has its own");
}

/// There is a slot of the right name where the dump was restored, of an earlier life: it knows nothing of what the dump
/// holds and the mirror lacks. Nor does a fork of the other server's mean anything here.
#[test]
fn an_adopted_dump_is_compared_although_there_is_a_slot_and_its_fork_is_forgotten() {
    // A column that was dropped is not in a dump: those after it have other numbers there.
    let schema = SCHEMA.replace("CREATE TABLE votes (", "CREATE TABLE votes (early integer,");
    let schema = format!("{schema} ALTER TABLE votes DROP COLUMN early;");
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), &schema);
    portal.setup(VIEWS);
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    portal.sql("UPDATE portalhook.checkpoint SET fork = '0/1', source_after_fork = 'of the other'");
    let copy = at(portal.database.restored_elsewhere(&portal.database.dump(), Some(&portal.database.role())));
    copy.sql(
        "SELECT pg_create_logical_replication_slot('portalhook_' || oid, 'pgoutput') FROM pg_database
         WHERE datname = current_database() \\g /dev/null",
    );
    succeeds(&copy.setup_with(&["--adopt"]));
    let _daemon = copy.run();
    copy.sql(&vote(3));
    let events = copy.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3]);
    let source = copy.sql(SOURCE);
    assert!(source != "of the other" && source != portal.sql(SOURCE));
    is_of_source(&copy, &events[1], &format!("{source} gap"));
    is_of_source(&copy, &events[2], &source);
    assert_eq!(mirror::differences(&copy), "");
}

#[test]
fn adopting_a_server_that_was_moved_fences_whoever_reads_it_and_keeps_its_fork() {
    let portal = production();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let mut daemon = portal.run();
    portal.sql(
        "UPDATE portalhook.checkpoint SET home = 'elsewhere:5432', fork = pg_current_wal_lsn(), source_after_fork = 'after'",
    );
    succeeds(&portal.setup_with(&["--adopt"]));
    portal.sql(&vote(1));
    assert_eq!(daemon.wait_for_end().code(), Some(1));
    assert!(daemon.said().iter().any(|line| line.contains("took over the capture")), "{:?}", daemon.said());
    let _daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1]);
    is_of_source(&portal, &events[0], "after");
}

#[test]
fn a_slot_of_the_right_name_that_somebody_made_after_the_promotion_is_not_believed() {
    let portal = production();
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    let standby = portal.database.standby();
    let url = portal.database.role_url_with(&standby);
    portal.database.stop();
    standby.promote();
    let promoted = at(standby);
    promoted.configure(&url);
    // Vote 2 is not in the mirror, and before the slot.
    promoted
        .sql("SELECT pg_create_logical_replication_slot(slot, 'pgoutput') FROM portalhook.checkpoint \\g /dev/null");
    let daemon = promoted.run();
    assert!(daemon.said().iter().any(|line| line.contains("is of another timeline")), "{:?}", daemon.said());
    promoted.sql(&vote(3));
    assert_eq!(votes(&promoted.events(&receiver, endpoint)), [1, 2, 3]);
    assert_eq!(mirror::differences(&promoted), "");
}

#[test]
fn setup_leaves_somebody_s_slot_alone() {
    let portal = Portal::sample();
    let slot = portal.sql("SELECT slot FROM portalhook.checkpoint");
    for (plugin, at) in [("test_decoding", portal.database.clone()), ("pgoutput", portal.database.beside("postgres"))] {
        portal.sql("SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint \\g /dev/null");
        at.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}') \\g /dev/null"));
        for flags in [&[][..], &["--afresh"], &["--adopt"]] {
            let refused = portal.setup_with(flags);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(64), "{said}");
            assert!(said.contains("is not ours"), "{said}");
        }
        let there = format!("SELECT plugin FROM pg_replication_slots WHERE slot_name = '{slot}'");
        assert_eq!(portal.sql(&there), plugin);
    }
}

/// After an upgrade only the system identifier is another.
#[test]
fn another_identifier_is_an_upgrade_only_where_everything_else_is_as_it_was() {
    let portal = production();
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    portal.sql("CREATE TABLE kept AS SELECT * FROM portalhook.checkpoint; CREATE TABLE kept_tables AS SELECT * FROM portalhook.mapped_tables");
    for difference in [
        "UPDATE portalhook.checkpoint SET home = 'elsewhere:5432'",
        "UPDATE portalhook.checkpoint SET database_oid = database_oid + 1",
        "UPDATE portalhook.checkpoint SET xid = xid + 1000000",
        "UPDATE portalhook.mapped_tables SET oid = oid::bigint + 100000 WHERE table_name = 'votes'",
    ] {
        portal.sql(&format!("UPDATE portalhook.checkpoint SET system_identifier = '1'; {difference}"));
        stays_silent(&portal, &receiver);
        portal.sql(
            "UPDATE portalhook.checkpoint AS c SET home = k.home, database_oid = k.database_oid, xid = k.xid FROM kept AS k;
             UPDATE portalhook.mapped_tables AS m SET oid = k.oid FROM kept_tables AS k WHERE k.table_name = m.table_name",
        );
    }
    let source = portal.sql(SOURCE);
    let daemon = portal.run();
    assert!(daemon.said().iter().any(|line| line.contains("the server was upgraded")), "{:?}", daemon.said());
    portal.sql(&vote(3));
    let events = portal.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3]);
    is_of_source(&portal, &events[1], &format!("{source} gap"));
    is_of_source(&portal, &events[2], &source);
}
