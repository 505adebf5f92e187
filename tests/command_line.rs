//! What a shell sees of a command: its exit code, and one line that says why.

use std::process::Output;

use crate::support::cluster::Database;
use crate::support::portal::Portal;
use crate::support::process::output;
use crate::support::receiver::Receiver;

#[track_caller]
fn says(output: &Output, code: i32, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.starts_with("portalhook: ") && errors.contains(part), "no {part:?} in {errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn wrong_usage_and_configuration_exit_64() {
    says(&output(&["dance"]), 64, "unrecognized subcommand 'dance'");
    says(&output(&["run", "--loud"]), 64, "unexpected argument '--loud'");
    says(&output(&["--config", "/nowhere.toml", "run"]), 64, "/nowhere.toml");
    says(&output(&["--set", "deliver.timout=5s", "run"]), 64, "did you mean `deliver.timeout`?");
    says(&output(&["run"]), 64, "database.url is not set");
    says(&output(&["--set", "capture.mode=trigger", "run"]), 64, "not available yet");
}

#[test]
fn help_and_version_exit_0() {
    for flag in ["--help", "--version"] {
        let output = output(&[flag]);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains("portalhook"));
    }
}

#[test]
fn a_database_that_cannot_be_reached_exits_69() {
    // A port that was free a moment ago; nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
    let url = format!("postgres://portalhook:never-send@127.0.0.1:{free}/portal");
    for command in ["run", "setup"] {
        let output = output(&["--database-url", &url, command]);
        assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("never-send"));
    }
}

#[test]
fn run_without_setup_says_what_to_type() {
    let portal = Portal::without_setup(Database::create(), include_str!("../sql/demo/portal.sql"));
    portal.sql(&format!("CREATE ROLE {} LOGIN REPLICATION", portal.database.role()));
    let mut daemon = portal.spawn(&[]);
    assert_eq!(daemon.wait_for_end().code(), Some(64));
    assert!(daemon.said().iter().any(|line| line.contains("portalhook setup")), "{:?}", daemon.said());
}

#[test]
fn setup_can_run_again_and_keeps_what_is_there() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);");
    portal.setup(include_str!("../sql/demo/views.sql"));
    let _daemon = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
}

#[test]
fn a_mapping_that_postgresql_cannot_run_is_refused_and_nothing_is_left() {
    let portal = Portal::without_setup(Database::create(), include_str!("../sql/demo/portal.sql"));
    let views = include_str!("../sql/demo/views.sql").replace("user_id AS voter", "nobody AS voter");
    let output = portal.try_setup(&views);
    says(&output, 64, "nobody");
    assert_eq!(portal.sql("SELECT count(*) FROM pg_publication"), "0");
    assert_eq!(portal.sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"), "0");
}

#[test]
fn a_wrong_endpoint_is_refused_by_the_insert_itself() {
    let portal = Portal::sample();
    let refused = |values: &str| portal.database.sql_error(&format!("INSERT INTO portalhook.endpoints {values}"));
    for (values, part) in [
        ("(url) VALUES ('ftp://example.com')", "https://"),
        ("(url, events) VALUES ('https://example.com', '{vote.craeted}')", "vote.created"),
        ("(url, max_in_flight) VALUES ('https://example.com', -1)", "max_in_flight"),
    ] {
        let error = refused(values);
        assert!(error.contains(part), "no {part} in {error}");
    }
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.endpoints"), "0");
}
