//! The commands of an operator: what they say, and how they end.

use std::process::Output;

use serde_json::Value;

use crate::support::cluster::Database;
use crate::support::portal::{Portal, SECRET};
use crate::support::process::{self, Process};
use crate::support::receiver::{Answer, Receiver};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The command ended with `code`, and said `part`: on stdout, or on one line on stderr.
#[track_caller]
fn says(output: &Output, code: i32, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = stdout(output);
    assert_eq!(output.status.code(), Some(code), "{said}{errors}");
    assert!(errors.lines().count() <= 1, "{errors}");
    assert!(said.contains(part) || errors.contains(part), "no {part:?} in {said}{errors}");
}

fn vote(number: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({number}, 99, 49);")
}

#[test]
fn every_command_explains_itself_and_its_exit_codes() {
    for command in ["status", "check", "test", "redeliver", "replay", "listen"] {
        let output = process::output(&[command, "--help"]);
        says(&output, 0, "Exit codes: 0 ");
        says(&process::output(&[command, "--loud"]), 64, "unexpected argument '--loud'");
    }
}

#[test]
fn without_a_database_or_a_setup_the_commands_say_so() {
    let commands: [&[&str]; 5] =
        [&["status"], &["check"], &["test", "1"], &["redeliver", "x"], &["replay", "1", "--since", "1h"]];
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
    let url = format!("postgres://portalhook:never-send@127.0.0.1:{free}/portal");
    let portal = Portal::without_setup(Database::create(), include_str!("../sql/demo/portal.sql"));
    portal.sql(&format!("CREATE ROLE {} LOGIN REPLICATION", portal.database.role()));
    for command in commands {
        let output = process::output(&[&["--database-url", &url], command].concat());
        says(&output, 69, "connect to database");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("never-send"));
        if command[0] == "check" {
            says(
                &portal.command(command),
                1,
                "fail  schema portalhook is not there  — fix: portalhook setup --views FILE",
            );
        } else {
            says(&portal.command(command), 64, "is not set up: run portalhook setup first");
        }
    }
}

#[test]
fn status_tells_how_everything_does_to_people_and_to_scripts() {
    let portal = Portal::sample();
    let down = portal.command(&["status"]);
    says(&down, 0, "daemon     NOT RUNNING (start portalhook run)");
    says(&down, 0, "no endpoints: INSERT INTO portalhook.endpoints (url)");
    let (well, broken) = (Receiver::start(), Receiver::scripted(|_| Answer::Status(503)));
    portal.endpoint(&well);
    portal.endpoint_with(&broken, "retries", "'{}'");
    let _daemon = portal.run();
    portal.sql(&vote(1));
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.failures");
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    let up = portal.command(&["status"]);
    says(&up, 0, "daemon     running for ");
    // Other tests write to this server too: how much of that was passed over is not known.
    says(&up, 0, "\nstream     ");
    says(&up, 0, "ledger     1 event; 0 deliveries pending, 1 failed");
    says(&up, 0, "ENDPOINT  STATE  WAITING  RETRYING  FAILED  LAST SUCCESS  URL");
    says(&up, 0, "failed: the endpoint answered 503 Service Unavailable");
    says(&up, 0, "delivered, 200 in ");

    let json: Value = serde_json::from_str(&stdout(&portal.command(&["status", "--json"]))).expect("JSON");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&json),
        [
            "portalhook",
            "migrations",
            "copy",
            "time",
            "daemon",
            "slot",
            "position",
            "gap",
            "mirror",
            "switches",
            "pending",
            "failed",
            "rows_not_evaluated",
            "endpoints",
            "failures",
            "recent_deliveries"
        ]
    );
    assert_eq!(keys(&json["daemon"]), ["streaming", "streaming_since", "last_written_at"]);
    assert_eq!(keys(&json["slot"]), ["name", "state", "lag_bytes", "lag_seconds", "held_bytes"]);
    assert_eq!(
        keys(&json["endpoints"][0]),
        [
            "id",
            "url",
            "state",
            "waiting",
            "retrying",
            "failed",
            "next_attempt_seconds",
            "last_success_at",
            "last_failure_at",
            "last_error",
            "disabled_reason",
            "portal",
            "description"
        ]
    );
    assert_eq!(
        keys(&json["recent_deliveries"][0]),
        [
            "at",
            "event",
            "status",
            "endpoint",
            "url",
            "attempts",
            "http_status",
            "duration_ms",
            "error",
            "event_id",
            "sequence"
        ]
    );
    assert_eq!((&json["daemon"]["streaming"], &json["failed"]), (&true.into(), &1.into()));
    assert_eq!((&json["endpoints"][0]["state"], &json["endpoints"][0]["url"]), (&"ok".into(), &well.url().into()));
    assert_eq!(json["failures"][0]["error"], "the endpoint answered 503 Service Unavailable");
    assert_eq!(json["mirror"]["tables"].as_array().map(Vec::len), Some(5));
}

#[test]
fn check_finds_what_is_broken_and_its_fix_mends_it() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    portal.endpoint(&receiver);
    let daemon = portal.run();
    let well = portal.command(&["check", "--admin-url", &portal.database.owner_url()]);
    // It would mend some of what follows.
    daemon.terminate();
    says(&well, 0, "failures: 0");
    assert!(!stdout(&well).contains("fail  "), "{}", stdout(&well));
    says(&well, 0, "pass  PostgreSQL runs the mapping, and it comes to what the daemon runs");

    let role = portal.database.role();
    let grant = format!("GRANT SELECT (\"title\") ON public.posts TO \"{role}\"");
    let cases = [
        (
            "ALTER PUBLICATION portalhook DROP TABLE votes",
            "fail  publication portalhook lacks public.votes",
            "ALTER PUBLICATION \"portalhook\" ADD TABLE \"public\".\"votes\"",
        ),
        (
            "CREATE TABLE other (id int PRIMARY KEY); ALTER PUBLICATION portalhook ADD TABLE other",
            "warn  publication portalhook has public.other, which the mapping does not read",
            "ALTER PUBLICATION \"portalhook\" DROP TABLE public.other",
        ),
        (
            "ALTER PUBLICATION portalhook SET (publish = 'insert')",
            "fail  publication portalhook does not publish everything",
            "ALTER PUBLICATION \"portalhook\" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
        ),
        (
            "ALTER TABLE comments REPLICA IDENTITY NOTHING",
            "fail  public.comments has REPLICA IDENTITY NOTHING",
            "ALTER TABLE public.comments REPLICA IDENTITY DEFAULT",
        ),
        (
            &format!("REVOKE SELECT (title) ON posts FROM {role}"),
            &format!("fail  {role} may not read \"title\" of public.posts"),
            &grant,
        ),
        (
            "UPDATE portalhook.endpoints SET enabled = false",
            "is disabled, 0 events wait",
            "UPDATE portalhook.endpoints SET enabled = true WHERE id = 1",
        ),
        (
            "INSERT INTO portalhook.row_failures VALUES (now(), '0/1', 'posts', 'public.posts', '7', '22012', 'division by zero')",
            "warn  1 rows of the last day could not be evaluated and gave no event; the last: posts, row 7 of public.posts: division by zero",
            "DELETE FROM portalhook.row_failures",
        ),
    ];
    for (harm, finding, mend) in cases {
        portal.sql(harm);
        let output = portal.command(&["check"]);
        says(&output, i32::from(finding.starts_with("fail")), finding);
        if !mend.starts_with("DELETE") {
            says(&output, i32::from(finding.starts_with("fail")), &format!("— fix: {mend}"));
        }
        portal.sql(mend);
        let output = portal.command(&["check"]);
        assert!(!stdout(&output).contains(finding) && output.status.success(), "{}", stdout(&output));
    }
}

#[test]
fn check_sees_what_migrations_of_the_application_broke() {
    let portal = Portal::sample();
    for (harm, finding) in [
        (
            "ALTER TABLE users RENAME COLUMN email TO mail",
            "fail  column email of public.users, which the mapping reads, is called mail now  — fix: change the SELECT of users",
        ),
        (
            "ALTER TABLE comments DROP CONSTRAINT comments_pkey",
            "fail  public.comments has no primary key, so PostgreSQL refuses",
        ),
        (
            "ALTER TABLE posts ALTER COLUMN title TYPE varchar(500)",
            "warn  public.posts.title is of type character varying(500) now (mirrored as text)",
        ),
        (
            "ALTER TABLE votes RENAME TO likes; DROP TABLE likes",
            "fail  public.votes was dropped: its mirror stays as it was",
        ),
        (
            "UPDATE portalhook.mapping SET query = query || ' AND true' WHERE entity = 'posts'",
            "warn  posts was changed in portalhook.mapping, and the text before it still runs",
        ),
        (
            "ALTER TABLE portalhook_mirror.\"public.users\" DROP COLUMN name",
            "fail  the mirror portalhook_mirror.\"public.users\" lacks columns of the plan",
        ),
        ("SELECT pg_drop_replication_slot(slot) FROM portalhook.checkpoint", "is not there  — fix: portalhook run"),
    ] {
        portal.sql(harm);
        says(&portal.command(&["check"]), 1, finding);
    }
}

#[test]
fn a_test_shows_what_the_receiver_answers() {
    let portal = Portal::sample();
    let (well, broken) = (Receiver::start(), Receiver::scripted(|_| Answer::Status(503)));
    let (one, two) = (portal.endpoint(&well).to_string(), portal.endpoint(&broken).to_string());
    says(&portal.command(&["test", &one]), 1, "the daemon is not running, so nothing would be sent");
    let _daemon = portal.run();
    says(&portal.command(&["test", &one]), 0, "delivered, answered 200 in ");
    says(&portal.command(&["test", &two]), 1, "the endpoint answered 503 Service Unavailable; it will be tried again");
    let address = well.url();
    says(
        &portal.command(&["test", address.trim_start_matches("http://")]),
        0,
        &format!("endpoint {one} ({address}): delivered"),
    );
    says(&portal.command(&["test", "nowhere"]), 1, "there is no endpoint nowhere");
    says(&portal.command(&["test", &one, "--wait", "soon"]), 64, "expected a duration");
    assert_eq!(well.distinct(), 2);
}

#[test]
fn redeliver_and_replay_say_what_goes_where_and_what_stands_in_the_way() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver).to_string();
    let daemon = portal.run();
    portal.sql(&vote(1));
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.successes");
    let id = receiver.received()[0].id().to_owned();
    says(
        &portal.command(&["redeliver", &id]),
        0,
        &format!("vote.created {id} goes to endpoint {endpoint} ({}), sequence 1", receiver.url()),
    );
    receiver.wait_for("the vote again", |received| received.len() == 2);
    portal.wait_for_outcome("SELECT count(*) = 1 FROM portalhook.deliveries WHERE status = 'delivered'");
    daemon.terminate();

    says(&portal.command(&["replay", &endpoint, "--since", "1h"]), 0, "1 delivery goes again to endpoint ");
    says(&portal.command(&["replay", &endpoint, "--since", "1h"]), 0, "nothing to send again: ");
    says(&portal.command(&["redeliver", &id, "--endpoint", &endpoint]), 0, "the daemon is not running");
    says(
        &portal.command(&["replay", &endpoint, "--since", "2024-01-01", "--until", "2024-01-02 03:00+03"]),
        0,
        "from 2024-01-01 00:00:00Z to 2024-01-02 00:00:00Z",
    );
    says(
        &portal.command(&["replay", &endpoint, "--since", "yesterdayy"]),
        64,
        "--since yesterdayy: expected how long ago",
    );
    says(&portal.command(&["replay", "77", "--since", "1h"]), 1, "there is no endpoint 77");
    says(
        &portal.command(&["redeliver", "nothing"]),
        1,
        "there is no event 'nothing' in the ledger (Events are kept for ledger.retention",
    );
    let _daemon = portal.run();
    receiver.wait_for("the vote a third time", |received| received.len() == 3);
    portal.sql("UPDATE portalhook.endpoints SET enabled = false");
    says(&portal.command(&["redeliver", &id]), 1, "can go nowhere: endpoint ");
    says(
        &portal.command(&["replay", &endpoint, "--since", "1h"]),
        1,
        &format!("UPDATE portalhook.endpoints SET enabled = true WHERE id = {endpoint}"),
    );
}

#[test]
fn a_tester_that_is_told_to_fail_answers_so_and_ends_after_its_count() {
    let portal = Portal::sample();
    let mut command = process::portalhook();
    command.args(["listen", "--listen", "127.0.0.1:0", "--secret", SECRET, "--count", "2"]);
    command.args(["--fail-rate", "1", "--status", "503"]);
    let mut tester = Process::start(command);
    tester.wait_for_line("listening on ");
    let said = tester.said().join("\n");
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).expect("an address").to_owned();
    portal.sql(&format!("INSERT INTO portalhook.endpoints (url, secret) VALUES ('{url}', '{SECRET}')"));
    let _daemon = portal.run();
    portal.sql(&vote(1));
    assert_eq!(tester.wait_for_end().code(), Some(0));
    let said = tester.said().join("\n");
    assert!(said.contains("attempt 1  answered 503") && said.contains("attempt 2  answered 503"), "{said}");
    assert!(said.contains("2 verified, 0 not verified, 1 duplicates"), "{said}");
}

#[test]
fn a_tester_to_which_nothing_comes_ends_with_one_when_its_time_is_over() {
    let arguments = ["listen", "--listen", "127.0.0.1:0", "--secret", SECRET, "--count", "1", "--timeout", "10ms"];
    says(&process::output(&arguments), 1, "0 verified");
    says(&process::output(&["listen", "--secret", SECRET, "--fail-rate", "2"]), 64, "expected a number from 0 to 1");
    says(&process::output(&["listen", "--secret", SECRET, "--status", "99"]), 64, "expected an HTTP status");
}
