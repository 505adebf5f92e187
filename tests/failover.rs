//! A standby that keeps our slot (PostgreSQL 17) takes over: the stream goes on, without a gap.

use crate::support::cluster::Database;
use crate::support::ids::is_of_source;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::receiver::{Received, Receiver};

/// A portal on a server whose standbys can keep slots; none where it is too old, which is said.
fn production() -> Option<Portal> {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), include_str!("../sql/demo/portal.sql"));
    if portal.sql("SELECT current_setting('server_version_num')::int < 170000") == "t" {
        eprintln!("skipped: slots that standbys keep came with PostgreSQL 17 (PORTALHOOK_PG_BIN names another)");
        return None;
    }
    portal.setup(include_str!("../sql/demo/views.sql"));
    Some(portal)
}

fn vote(id: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 99, 49);")
}

fn votes(events: &[Received]) -> Vec<u64> {
    events.iter().map(|event| event.data("/vote/id").as_u64().expect("a vote")).collect()
}

const IS_KEPT: &str = "SELECT failover FROM pg_replication_slots WHERE database = current_database()";

#[test]
fn a_slot_that_a_standby_keeps_goes_on_after_a_failover_and_loses_and_doubles_nothing() {
    let Some(portal) = production() else { return };
    assert_eq!(portal.sql(IS_KEPT), "t");
    let source = portal.sql("SELECT source FROM portalhook.checkpoint");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let standby = portal.database.standby_that_keeps_slots();
    let url = portal.database.role_url_with(&standby);
    portal.configure(&url);
    let daemon = portal.run();
    portal.sql(&vote(1));
    assert_eq!(votes(&portal.events(&receiver, endpoint)), [1]);
    standby.keep_slots(&portal.database);
    portal.sql(&vote(2));
    assert_eq!(votes(&portal.events(&receiver, endpoint)), [1, 2]);
    // Not read by the daemon any more on the primary, but replicated.
    daemon.signal("STOP");
    portal.sql(&vote(3));
    standby.follow(&portal.database);
    portal.database.stop_at_once();
    standby.promote();
    let promoted = Portal::without_setup(standby, "");
    promoted.configure(&url);
    promoted.sql(&vote(4));
    daemon.signal("CONT");
    daemon.wait_for_line("is on timeline 2 and was on 1");
    let events = promoted.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3, 4]);
    // Vote 3 is older than the fork: whoever read it on the old primary would have given it the same id.
    let sources = promoted.sql("SELECT source, source_after_fork FROM portalhook.checkpoint");
    let (before, after) = sources.split_once('|').expect("two");
    assert_eq!(before, source);
    for (event, source) in events.iter().zip([before, before, before, after]) {
        is_of_source(&promoted, event, source);
    }
    assert!(!daemon.said().iter().any(|line| line.contains("closing the gap")), "{:?}", daemon.said());
    let mut ids: Vec<String> = receiver.received().iter().map(|one| one.id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    let recorded = promoted.sql("SELECT count(*) FROM portalhook.events");
    assert_eq!(ids.len().to_string(), recorded, "whatever came twice has one id");
    assert_eq!(mirror::differences(&promoted), "");
    // The new primary's slot is kept in turn.
    assert_eq!(promoted.sql(IS_KEPT), "t");
    assert_eq!(promoted.sql("SELECT active FROM pg_replication_slots WHERE database = current_database()"), "t");
}

/// What the standby's slot has passed and its checkpoint has not is in no stream, and a source for what lies between two forks
/// is not noted: then the mirror is compared.
#[test]
fn a_kept_slot_that_has_passed_the_checkpoint_or_a_second_fork_in_a_row_is_a_gap() {
    for change in [
        "SELECT pg_replication_slot_advance(slot, pg_current_wal_lsn()) FROM portalhook.checkpoint \\g /dev/null",
        "UPDATE portalhook.checkpoint SET fork = pg_current_wal_lsn(), source_after_fork = 'between'",
    ] {
        let Some(portal) = production() else { return };
        let receiver = Receiver::start();
        let endpoint = portal.endpoint(&receiver);
        let standby = portal.database.standby_that_keeps_slots();
        let url = portal.database.role_url_with(&standby);
        portal.configure(&url);
        let mut daemon = portal.run();
        portal.sql(&vote(1));
        portal.events(&receiver, endpoint);
        standby.keep_slots(&portal.database);
        // The checkpoint is past what the standby keeps.
        portal.sql(&vote(2));
        portal.events(&receiver, endpoint);
        daemon.interrupt();
        portal.sql(&vote(3));
        standby.follow(&portal.database);
        portal.database.stop_at_once();
        standby.promote();
        let promoted = Portal::without_setup(standby, "");
        promoted.configure(&url);
        promoted.sql(change);
        let daemon = promoted.run();
        assert!(
            daemon.said().iter().any(|line| line.contains("is of another timeline")),
            "{change}: {:?}",
            daemon.said()
        );
        promoted.sql(&vote(4));
        assert_eq!(votes(&promoted.events(&receiver, endpoint)), [1, 2, 3, 4], "{change}");
        assert_eq!(mirror::differences(&promoted), "", "{change}");
    }
}

/// Nobody kept what it needs: the primary may have removed it.
#[test]
fn a_slot_that_came_with_the_files_of_a_standby_does_not_go_on_after_a_failover() {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), include_str!("../sql/demo/portal.sql"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let standby = portal.database.standby_with_stale_slots();
    let url = portal.database.role_url_with(&standby);
    portal.configure(&url);
    let mut daemon = portal.run();
    portal.sql(&vote(1));
    assert_eq!(votes(&portal.events(&receiver, endpoint)), [1]);
    daemon.interrupt();
    portal.sql(&vote(2));
    standby.follow(&portal.database);
    portal.database.stop_at_once();
    standby.promote();
    let promoted = Portal::without_setup(standby, "");
    promoted.configure(&url);
    // It looks as if it could.
    let could = "SELECT s.confirmed_flush_lsn <= c.lsn AND s.wal_status = 'reserved' FROM pg_replication_slots AS s, portalhook.checkpoint AS c";
    assert_eq!(promoted.sql(could), "t");
    let daemon = promoted.run();
    assert!(daemon.said().iter().any(|line| line.contains("is of another timeline")), "{:?}", daemon.said());
    promoted.sql(&vote(3));
    assert_eq!(votes(&promoted.events(&receiver, endpoint)), [1, 2, 3]);
    assert_eq!(mirror::differences(&promoted), "");
}

#[test]
fn setup_has_standbys_keep_a_slot_that_they_did_not() {
    let Some(portal) = production() else { return };
    portal.sql(
        "SELECT pg_drop_replication_slot(slot), pg_create_logical_replication_slot(slot, 'pgoutput') FROM portalhook.checkpoint \\g /dev/null",
    );
    assert_eq!(portal.sql(IS_KEPT), "f");
    let check = String::from_utf8_lossy(&portal.command(&["check"]).stdout).into_owned();
    assert!(check.contains("warn  standbys do not keep the slot"), "{check}");
    assert!(portal.setup_with(&[]).status.success());
    assert_eq!(portal.sql(IS_KEPT), "t");
}
