//! Clones stay silent, and what goes on in the place of another loses nothing (DESIGN §2, Source).

mod sources;

use std::process::Output;

use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::receiver::{Answer, Gate, Received, Receiver};

const SCHEMA: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");

/// The sample portal on a server of its own.
fn production() -> Portal {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), SCHEMA);
    portal.setup(VIEWS);
    portal
}

/// What was copied, with a configuration that leads to it.
fn at(database: Database) -> Portal {
    Portal::without_setup(database, "")
}

fn vote(id: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 99, 49);")
}

/// Votes by their ids.
fn votes(events: &[Received]) -> Vec<u64> {
    events.iter().map(|event| event.data("/vote/id").as_u64().expect("a vote")).collect()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The daemon ends with one line that names both ways, and nothing arrives. (What was recorded would be sent at the next
/// start, so that nothing was recorded is what counts.)
#[track_caller]
fn stays_silent(copy: &Portal, receiver: &Receiver) {
    let (arrived, recorded) = (receiver.received().len(), copy.sql("SELECT position FROM portalhook.checkpoint"));
    let mut daemon = copy.spawn(&[]);
    assert_eq!(daemon.wait_for_end().code(), Some(64));
    let said = daemon.said();
    let error: Vec<&String> = said.iter().filter(|line| line.starts_with("portalhook: ")).collect();
    assert_eq!(error.len(), 1, "{said:?}");
    for part in ["copy", "portalhook setup --adopt", "portalhook setup --new-source"] {
        assert!(error[0].contains(part), "no {part:?} in {}", error[0]);
    }
    let setup = copy.setup_with(&[]);
    assert_eq!(setup.status.code(), Some(64), "nor does setup go on as if nothing were");
    let says = |arguments: &[&str]| String::from_utf8_lossy(&copy.command(arguments).stdout).into_owned();
    let said = says(&["check"]);
    let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("fail") && line.contains("copy")).collect();
    assert!(failed.len() == 1 && failed[0].contains("portalhook setup --adopt"), "{said}");
    assert!(says(&["status"]).starts_with("COPY  "), "{}", says(&["status"]));
    let json: serde_json::Value = serde_json::from_str(&says(&["status", "--json"])).expect("a document");
    assert!(json["copy"].as_str().is_some_and(|what| what.contains("nothing is delivered")), "{json}");
    assert_eq!(receiver.received().len(), arrived);
    assert_eq!(copy.sql("SELECT position FROM portalhook.checkpoint"), recorded);
}

/// The first vote was delivered, the daemon stopped, and then there was a second one.
fn stopped_before_the_second_vote(portal: &Portal) -> (Receiver, i64) {
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.sql(&vote(2));
    (receiver, endpoint)
}

#[test]
fn a_dump_that_is_restored_elsewhere_is_silent_until_it_is_adopted_and_then_goes_on() {
    let portal = production();
    let gate = Gate::closed();
    let held = gate.clone();
    let receiver = Receiver::scripted(move |_| Answer::Hold(held.clone()));
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    receiver.wait_for("the request", |received| !received.is_empty());
    daemon.kill();
    // Vote 2 is in the tables and not yet in the mirror.
    portal.sql(&vote(2));
    let copy = at(portal.database.restored_elsewhere(&portal.database.dump(), Some(&portal.database.role())));
    copy.sql(&vote(3));
    stays_silent(&copy, &receiver);

    let source = "SELECT source FROM portalhook.checkpoint";
    let said = succeeds(&copy.setup_with(&["--adopt"]));
    assert!(said.contains("adopted"), "{said}");
    assert_ne!(copy.sql(source), portal.sql(source), "transaction ids of another cluster may be the same");
    gate.open();
    let _daemon = copy.run();
    copy.sql(&vote(4));
    let events = copy.events(&receiver, endpoint);
    assert_eq!(votes(&events), [1, 2, 3, 4], "what was pending, what was missed, what is new");
    assert_eq!(mirror::differences(&copy), "");
}

#[test]
fn a_dump_that_is_restored_elsewhere_becomes_a_source_of_its_own_that_calls_nobody_until_told() {
    let portal = production();
    let receiver = Receiver::scripted(|request| if request.arrival == 0 { Answer::Status(500) } else { Answer::Hang });
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    receiver.wait_for("an attempt", |received| received.len() == 2);
    portal.sql(&vote(2));
    receiver.wait_for("another event", |received| received.len() == 3);
    daemon.kill();
    // Without the role: the mirror belongs to whoever restored it.
    let copy = at(portal.database.restored_elsewhere(&portal.database.dump(), None));
    assert_eq!(copy.setup_with(&[]).status.code(), Some(64), "setup says that it is a copy");
    let said = succeeds(&copy.setup_with(&["--new-source"]));
    assert!(said.contains("1 endpoints disabled, 2 pending deliveries cancelled"), "{said}");
    assert_eq!(
        copy.sql("SELECT status, first_sequence, error FROM portalhook.failures ORDER BY first_sequence"),
        "cancelled|1|the endpoint answered 500 Internal Server Error\n\
         not sent|2|cancelled: of the database that this is a copy of"
    );
    let daemon = copy.run();
    copy.sql(&vote(3));
    let newcomer = Receiver::start();
    let added = copy.endpoint(&newcomer);
    copy.sql(&vote(4));
    let events = copy.events(&newcomer, added);
    assert_eq!(votes(&events), [4]);
    assert_eq!(receiver.received().len(), 3, "nothing arrives at production's endpoint");
    // Enabled again, it gets what happened here since.
    copy.sql(&format!(
        "UPDATE portalhook.endpoints SET url = '{}', enabled = true WHERE id = {endpoint}",
        newcomer.url()
    ));
    let received = newcomer.wait_for("vote 3", |received| received.iter().any(|one| one.text().contains("\"id\":3,")));
    let three = received.iter().find(|one| one.text().contains("\"id\":3,")).expect("vote 3");
    assert_eq!(three.sequence(), 3);
    daemon.terminate();
    assert_eq!(mirror::differences(&copy), "");
}

#[test]
fn a_database_that_was_copied_within_its_cluster_is_silent() {
    let portal = production();
    let receiver = Receiver::start();
    portal.endpoint(&receiver);
    let database = portal.database.beside("staging");
    portal.database.beside("postgres").sql(&format!("CREATE DATABASE staging TEMPLATE {}", portal.database.name()));
    let copy = at(database);
    copy.configure(&copy.database.url_of(&portal.database.role()));
    copy.sql(&vote(1));
    stays_silent(&copy, &receiver);
}

#[test]
fn a_copy_of_a_stopped_server_s_files_is_silent_and_goes_on_where_it_stood_when_adopted() {
    let portal = production();
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    portal.database.stop();
    let copy = at(portal.database.copied_files());
    copy.sql(&vote(3));
    // Identifier, oid, timeline and even the slot are the same: only the place differs.
    stays_silent(&copy, &receiver);
    succeeds(&copy.setup_with(&["--adopt"]));
    let daemon = copy.run();
    assert!(!daemon.said().iter().any(|line| line.contains("closing the gap")), "the slot goes on");
    assert_eq!(votes(&copy.events(&receiver, endpoint)), [1, 2, 3]);
}

#[test]
fn a_promoted_standby_in_the_same_place_goes_on_with_ids_of_its_own() {
    let portal = production();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let standby = portal.database.standby();
    // One URL for both: the daemon follows whichever accepts writes.
    let url = portal.database.role_url_with(&standby);
    portal.configure(&url);
    let mut daemon = portal.run();
    portal.sql(&vote(1));
    portal.events(&receiver, endpoint);
    daemon.interrupt();
    portal.sql(&vote(2));
    standby.follow(&portal.database);
    portal.database.stop();
    standby.promote();
    let promoted = at(standby);
    promoted.configure(&url);
    promoted.sql(&vote(3));
    let source = "SELECT source FROM portalhook.checkpoint";
    let before = promoted.sql(source);
    let daemon = promoted.run();
    let said = daemon.said().join("\n");
    for part in ["is on timeline 2 and was on 1", "is gone: what was committed after", "is closed: 2 events"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    promoted.sql(&vote(4));
    assert_eq!(votes(&promoted.events(&receiver, endpoint)), [1, 2, 3, 4]);
    assert_eq!(mirror::differences(&promoted), "");
    assert_ne!(promoted.sql(source), before, "transaction ids may come a second time");
    daemon.terminate();
    // And that is that: the timeline is known now.
    let daemon = promoted.run();
    assert!(!daemon.said().iter().any(|line| line.contains("timeline")), "{:?}", daemon.said());
}

#[test]
fn a_promoted_standby_in_another_place_is_silent_until_somebody_says_what_it_is() {
    let portal = production();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let standby = portal.database.standby();
    standby.promote();
    let copy = at(standby);
    copy.sql(&vote(1));
    stays_silent(&copy, &receiver);
    succeeds(&copy.setup_with(&["--adopt"]));
    let _daemon = copy.run();
    assert_eq!(votes(&copy.events(&receiver, endpoint)), [1]);
}

#[test]
fn a_restore_to_an_earlier_point_goes_on_from_there_and_no_id_comes_twice() {
    let portal = production();
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    portal.database.back_up();
    let daemon = portal.run();
    for id in [3, 4] {
        portal.sql(&vote(id));
    }
    portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.database.restore_backup();
    // The server gives the ids of transactions that were undone a second time.
    for id in [3, 4] {
        portal.sql(&vote(id));
    }
    let daemon = portal.run();
    assert!(daemon.said().iter().any(|line| line.contains("is on timeline 2 and was on 1")), "{:?}", daemon.said());
    for id in [5, 6] {
        portal.sql(&vote(id));
    }
    let told = "SELECT string_agg(entity, ' ' ORDER BY position) FROM portalhook.events WHERE event = 'vote.created'";
    portal.sql(&format!("SELECT portalhook.test({endpoint})"));
    receiver.wait_for("the marker", |received| {
        received.iter().any(|one| one.event() == "webhook.test" && one.sequence() > 6)
    });
    assert_eq!(portal.sql(told), "vote:1 vote:2 vote:3 vote:4 vote:5 vote:6");
    let received = receiver.received();
    let mut ids: Vec<&str> = received.iter().map(Received::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), received.len(), "what happened after the restore is another event, whatever it looks like");
    assert_eq!(mirror::differences(&portal), "");
}

#[test]
fn a_recovery_that_ends_at_a_point_in_the_past_goes_on_from_there_and_tells_what_is_undone() {
    let portal = Portal::without_setup(
        Database::on_its_own_server(&["archive_mode = on", "archive_command = 'cp %p ../%f'"]),
        SCHEMA,
    );
    portal.setup(VIEWS);
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.database.back_up();
    portal.sql(&vote(2));
    portal.events(&receiver, endpoint);
    // The daemon's commit is in the log before the point, and so is one that it has not seen.
    daemon.terminate();
    portal.sql(&vote(3));
    portal.sql("SELECT pg_create_restore_point('before') \\g /dev/null");
    let daemon = portal.run();
    portal.sql(&vote(4));
    portal.sql("DELETE FROM votes WHERE id = 2");
    portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.sql("SELECT pg_switch_wal() \\g /dev/null");
    portal.database.restore_to("before");
    assert_eq!(portal.sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM votes"), "1 2 3");
    portal.sql(&vote(5));
    let daemon = portal.run();
    let said = daemon.said().join("\n");
    assert!(said.contains("is on timeline 2 and was on 1"), "{said}");
    portal.sql(&vote(6));
    let received = receiver.wait_for("vote 6", |received| received.iter().any(|one| one.text().contains("\"id\":6,")));
    // Vote 3 was told before the restore, and is told again: the restored ledger does not know of it. What was undone was told.
    let told =
        portal.sql("SELECT string_agg(entity, ' ' ORDER BY position) FROM portalhook.events WHERE event LIKE 'vote.%'");
    assert_eq!(told, "vote:1 vote:2 vote:3 vote:5 vote:6");
    let mut bodies: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
    for one in &received {
        let before = bodies.insert(one.id(), one.text());
        assert!(before.is_none_or(|before| before == one.text()), "one id, two events: {}", one.id());
    }
    assert_eq!(mirror::differences(&portal), "");
}

#[test]
fn files_that_were_put_back_go_on_and_a_new_source_gives_new_ids() {
    let portal = production();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.run().terminate();
    portal.database.stop();
    portal.database.set_files_aside();
    portal.database.start();
    let daemon = portal.run();
    portal.sql(&vote(1));
    let first = portal.events(&receiver, endpoint);
    daemon.terminate();
    portal.database.put_files_back();
    let refused = portal.setup_with(&["--new-source"]);
    assert_eq!(refused.status.code(), Some(64), "this is no copy");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("add --here"), "{refused:?}");
    assert_eq!(portal.sql("SELECT bool_and(enabled) FROM portalhook.endpoints"), "t");
    succeeds(&portal.setup_with(&["--new-source", "--here"]));
    let daemon = portal.run();
    portal.sql("UPDATE portalhook.endpoints SET enabled = true");
    portal.sql(&vote(1));
    let received = receiver.wait_for("the vote again", |received| {
        received.iter().filter(|one| one.event() == "vote.created").count() == 2
    });
    let again = received.iter().rfind(|one| one.event() == "vote.created").expect("the vote");
    assert_ne!(again.id(), first[0].id());
    daemon.terminate();
}

#[test]
fn a_server_that_was_upgraded_in_its_place_goes_on_with_the_ids_that_it_would_have_given() {
    let portal = production();
    if !portal.database.can_be_upgraded() {
        eprintln!("skipped: this server comes without pg_upgrade");
        return;
    }
    let (receiver, endpoint) = stopped_before_the_second_vote(&portal);
    let identity = "SELECT source, system_identifier = (SELECT system_identifier::text FROM pg_control_system()) FROM portalhook.checkpoint";
    let before = portal.sql(identity);
    portal.database.upgrade();
    assert_eq!(portal.sql(identity), before.replace("|t", "|f"), "another server");
    portal.sql(&vote(3));
    let check = String::from_utf8_lossy(&portal.command(&["check"]).stdout).into_owned();
    assert!(!check.contains("copy of"), "{check}");
    let daemon = portal.run();
    assert!(daemon.said().iter().any(|line| line.contains("the server was upgraded")), "{:?}", daemon.said());
    portal.sql(&vote(4));
    assert_eq!(votes(&portal.events(&receiver, endpoint)), [1, 2, 3, 4]);
    assert_eq!(mirror::differences(&portal), "");
    assert_eq!(portal.sql(identity), before, "transaction ids go on");
    daemon.terminate();
    assert!(portal.setup_with(&[]).status.success());
    let daemon = portal.run();
    assert!(!daemon.said().iter().any(|line| line.contains("upgraded")), "{:?}", daemon.said());
}

#[test]
fn setup_refuses_an_administrator_who_is_at_another_server() {
    let portal = production();
    let other = Database::on_its_own_server(&[]).beside(portal.database.name());
    other.beside("postgres").sql(&format!("CREATE DATABASE {}", portal.database.name()));
    let other = at(other);
    other.sql(SCHEMA);
    // Of the other's administrator, with the way into this one.
    other.configure(&portal.database.role_url());
    let refused = other.try_setup(VIEWS);
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("leads to another server than database.url") && said.lines().count() == 1, "{said}");
    assert_eq!(other.sql("SELECT to_regnamespace('portalhook') IS NULL"), "t", "nothing was changed");
}

#[test]
fn two_databases_of_one_cluster_each_have_their_own() {
    let first = production();
    let name = "other_portal";
    first.database.beside("postgres").sql(&format!("CREATE DATABASE {name}"));
    let second = Portal::without_setup(first.database.beside(name), SCHEMA);
    // Roles are the cluster's: one for both.
    second.configure(&second.database.url_of(&first.database.role()));
    second.setup(VIEWS);
    let receivers = [Receiver::start(), Receiver::start()];
    let endpoints = [first.endpoint(&receivers[0]), second.endpoint(&receivers[1])];
    let _daemons = [first.run(), second.run()];
    for id in [1, 2, 3] {
        first.sql(&vote(id));
        second.sql(&vote(id + 10));
    }
    assert_eq!(votes(&first.events(&receivers[0], endpoints[0])), [1, 2, 3]);
    assert_eq!(votes(&second.events(&receivers[1], endpoints[1])), [11, 12, 13]);
    assert_eq!(first.sql("SELECT count(DISTINCT slot_name) FROM pg_replication_slots WHERE active"), "2");
    for portal in [&first, &second] {
        assert_eq!(mirror::differences(portal), "");
    }
}
