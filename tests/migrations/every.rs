//! Each migration of the table, with the daemon following, started later, or late.

mod table;

use self::table::{MIGRATIONS, Migration, Then};
use super::PATIENCE;
use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

impl Migration {
    /// Runs it with the daemon following, or before the daemon is started; gives what went wrong.
    fn run(&self, live: bool) -> Result<(), String> {
        let portal = Portal::sample_with(&format!(
            "{} INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);",
            self.schema
        ));
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
        let early = live.then(|| portal.run());
        portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (3, 99, 49)");
        if live {
            assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 3"]);
        }
        portal.sql(&format!("{PATIENCE} {}", self.migration));
        let daemon = early.unwrap_or_else(|| portal.run());
        if matches!(self.then, Then::Copied | Then::Compared) {
            daemon.wait_for_line("in force from here on");
        }
        portal.sql(&format!("{PATIENCE} {}", self.writes));
        if let Then::Paused(mapping) | Then::PausedAndCompared(mapping) = self.then {
            daemon.wait_for_line("UPDATE portalhook.mapping");
            portal.sql(mapping);
        }
        if let Then::PausedAndCompared(_) = self.then {
            portal.wait_for_outcome("SELECT bool_and(state = 'done') FROM portalhook.switches");
        }
        let events = portal.events(&receiver, endpoint);
        let names: Vec<String> = events.iter().skip(1).map(crate::support::portal::name_and_id).collect();
        if names != self.events {
            return Err(format!("{names:?} for {:?}\n{}", self.events, daemon.said().join("\n")));
        }
        let (place, text) = self.says;
        let said = events.last().map(|event| event.data(place)).unwrap_or_default();
        if said.as_str().map_or_else(|| said.to_string(), str::to_owned) != text {
            return Err(format!("{place} is {said} for {text}"));
        }
        let failures = portal.sql("SELECT table_name || ' ' || key || ': ' || message FROM portalhook.row_failures");
        if !failures.is_empty() {
            return Err(failures);
        }
        let faults: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("starting again")).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// A daemon that comes late meets the migration and what was written after it at once: it follows without a fault, and in the
/// end its mirrors are the tables.
impl Migration {
    fn run_late(&self) -> Result<(), String> {
        let portal = Portal::sample_with(&format!(
            "{} INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49), (3, 99, 49);",
            self.schema
        ));
        let receiver = Receiver::start();
        let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*,vote.*}'");
        portal.run().terminate();
        portal.sql(&format!("{PATIENCE} {}; {}", self.migration, self.writes));
        let daemon = portal.run();
        if let Then::Paused(mapping) | Then::PausedAndCompared(mapping) = self.then {
            daemon.wait_for_line("UPDATE portalhook.mapping");
            portal.sql(mapping);
        }
        if matches!(self.then, Then::Copied | Then::Compared) {
            portal.wait_for_outcome(
                "SELECT count(*) FILTER (WHERE kind = 'copy') > 0 AND bool_and(state = 'done') FROM portalhook.switches",
            );
        }
        portal.events(&receiver, endpoint);
        let gone = "SELECT count(*) FROM portalhook.plan AS p, jsonb_array_elements(p.plan -> 'tables') AS t
                    LEFT JOIN pg_class AS c ON c.oid = (t ->> 'oid')::oid WHERE c.oid IS NULL";
        if portal.sql(gone) == "0" {
            portal.wait_for_outcome("SELECT coalesce(bool_and(state = 'done'), true) FROM portalhook.switches");
            let differences = mirror::differences(&portal);
            if !differences.is_empty() {
                return Err(format!("{differences}\n{}", daemon.said().join("\n")));
            }
        }
        let faults: Vec<String> = daemon.said().into_iter().filter(|line| line.contains("starting again")).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }
}

/// The server's major version.
fn version() -> u32 {
    let number: u32 = Database::create().sql("SHOW server_version_num").parse().expect("a number");
    number / 10_000
}

/// All of them in turn, so that one run says everything that does not hold.
#[track_caller]
fn all(run: impl Fn(&Migration) -> Result<(), String> + std::panic::RefUnwindSafe) {
    let version = version();
    let only = std::env::var("PORTALHOOK_MIGRATION").unwrap_or_default();
    let mut wrong = Vec::new();
    for migration in MIGRATIONS.iter().filter(|one| one.from <= version && one.name.contains(&only)) {
        let ended = std::panic::catch_unwind(|| run(migration));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => wrong.push(format!("{}: {problem}", migration.name)),
            Err(panic) => {
                let problem = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                wrong.push(format!("{}: {problem}", migration.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), MIGRATIONS.len(), wrong.join("\n\n"));
}

#[test]
fn every_migration_succeeds_and_is_followed_while_the_daemon_runs() {
    all(|migration| migration.run(true));
}

#[test]
fn every_migration_succeeds_and_is_followed_by_a_daemon_that_starts_later() {
    all(|migration| migration.run(false));
}

#[test]
fn every_migration_is_followed_by_a_daemon_that_comes_late() {
    all(Migration::run_late);
}
