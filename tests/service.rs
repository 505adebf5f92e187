//! The daemon as a service: what its manager hears, signals, a new configuration, the admin port, retention.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::LIMIT;
use crate::support::portal::Portal;
use crate::support::process::{Process, kill, portalhook};
use crate::support::receiver::{Answer, Gate, Receiver, by_sequence};

fn vote(number: u32) -> String {
    format!("INSERT INTO votes (id, post_id, user_id) VALUES ({number}, 99, 49);")
}

/// A service manager's ear: `sd_notify(3)` over a socket of the test.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: RefCell<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        Self { socket, path, heard: RefCell::default(), _directory: directory }
    }

    fn start(&self, portal: &Portal) -> Process {
        portal.spawn(&[("NOTIFY_SOCKET", self.path.to_str().expect("UTF-8"))])
    }

    /// Waits for an assignment that begins with this, among those not asked for before; returns it.
    #[track_caller]
    fn wait_for(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut buffer = [0; 4096];
        loop {
            let mut heard = self.heard.borrow_mut();
            if let Some(at) = heard.iter().position(|line| fits(line)) {
                return heard.drain(..=at).next_back().expect("it is there");
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("never heard {what}, but {heard:?}"));
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("set the timeout");
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
                heard.extend(text.lines().map(str::to_owned));
            }
        }
    }

    #[track_caller]
    fn hears(&self, start: &str) -> String {
        self.wait_for(start, |line| line.starts_with(start))
    }
}

#[test]
fn the_manager_hears_ready_when_the_stream_flows_then_how_it_goes_then_that_it_stops() {
    let portal = Portal::sample();
    let (good, bad) = (Receiver::start(), Receiver::scripted(|_| Answer::Status(500)));
    let endpoint = portal.endpoint(&good);
    let manager = Manager::new();
    let mut daemon = manager.start(&portal);
    manager.hears("READY=1");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND active";
    assert_eq!(portal.sql(slots), "1", "ready means that the stream flows");
    manager.hears("WATCHDOG=1");
    portal.sql(&vote(1));
    portal.events(&good, endpoint);
    let status = manager.wait_for("two delivered", |line| {
        line.starts_with("STATUS=streaming, ") && line.ends_with("B behind; 2 delivered, 0 pending")
    });
    assert!(!status.contains("failing"), "{status}");

    portal.endpoint_with(&bad, "retries", "'{1h}'");
    portal.sql(&vote(2));
    manager.wait_for("a failing endpoint", |line| line.ends_with("; 3 delivered, 1 pending, 1 endpoint failing"));
    assert!(daemon.interrupt().success());
    manager.hears("STOPPING=1");
    let said = daemon.said();
    let failing = said.iter().filter(|line| line.contains("endpoint is failing: the endpoint answered 500"));
    assert_eq!(failing.count(), 1, "{said:?}");
    assert!(said.iter().any(|line| line.contains("stopped: 3 delivered")), "{said:?}");
    assert!(said.len() < 10, "a line for each notable thing, none for a delivery: {said:?}");
}

#[test]
fn a_changed_configuration_takes_effect_at_sighup_and_nothing_is_lost() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let manager = Manager::new();
    let daemon = manager.start(&portal);
    manager.hears("READY=1");
    portal.sql(&vote(1));
    receiver.wait_for_distinct(1);

    portal.reconfigure("[\"127.0.0.0/8\"]", "[]");
    daemon.signal("HUP");
    manager.hears("RELOADING=1");
    manager.hears("MONOTONIC_USEC=");
    portal.sql(&vote(2));
    manager.hears("READY=1");
    portal.wait_for_outcome(
        "SELECT count(*) > 0 FROM portalhook.deliveries WHERE status = 'pending' AND error_class = 'refused_address'",
    );
    assert_eq!(receiver.distinct(), 1);

    portal.reconfigure("allow_networks = []", "allow_networks = [\"127.0.0.0/8\"]");
    daemon.signal("HUP");
    manager.hears("READY=1");
    portal.sql(&vote(3));
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "vote.created 2", "vote.created 3"]);
    assert!(by_sequence(&receiver.received()).values().all(|requests| requests.len() == 1), "nothing came twice");
    daemon.terminate();
}

#[test]
fn a_wrong_configuration_is_reported_at_sighup_and_the_old_one_stays() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let manager = Manager::new();
    let daemon = manager.start(&portal);
    manager.hears("READY=1");
    portal.reconfigure("retries = ", "timout = \"5s\"\nretries = ");
    daemon.signal("HUP");
    daemon.wait_for_line("the old one stays: unknown setting `deliver.timout`");
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
    portal.sql(&vote(1));
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    daemon.terminate();
}

#[test]
fn the_log_s_level_and_what_waits_for_a_start() {
    let portal = Portal::sample();
    let daemon = portal.run();
    portal.reconfigure("[admin]", "[log]\nlevel = \"debug\"\nformat = \"json\"\n\n[admin]");
    daemon.signal("HUP");
    daemon.wait_for_line("log.format takes effect when the daemon is started again");
    portal.sql(&vote(1));
    daemon.wait_for_line("advanced");
    daemon.terminate();
}

#[test]
fn a_terminal_that_is_gone_ends_a_daemon_that_was_started_by_hand() {
    let portal = Portal::sample();
    let binary = portalhook().get_program().to_string_lossy().into_owned();
    let run = format!("echo pid=$$; exec {binary} --config {} run", portal.config().display());
    // script(1) gives it a terminal, and ends with its exit code.
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--return", "--command", &run, "/dev/null"]).env("SHELL", "/bin/sh");
    let mut by_hand = Process::start(command);
    by_hand.wait_for_line("streaming");
    let said = by_hand.said();
    let pid = said.iter().find_map(|line| line.trim().strip_prefix("pid=")).expect("a process").to_owned();
    kill("HUP", &pid);
    assert!(by_hand.wait_for_end().success());
}

#[test]
fn a_clean_stop_waits_for_what_is_in_flight_and_leaves_no_duplicate() {
    let portal = Portal::sample();
    let gate = Gate::closed();
    let held = gate.clone();
    let receiver = Receiver::scripted(move |_| Answer::Hold(held.clone()));
    let endpoint = portal.endpoint(&receiver);
    let mut daemon = portal.run();
    portal.sql(&vote(1));
    receiver.wait_for_distinct(1);
    daemon.signal("TERM");
    daemon.wait_for_line("stopping");
    portal.sql(&vote(2));
    gate.open();
    assert!(daemon.wait_for_end().success());
    assert_eq!(receiver.received().len(), 1, "nothing starts any more");
    let _daemon = portal.run();
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1", "vote.created 2"]);
    assert!(by_sequence(&receiver.received()).values().all(|requests| requests.len() == 1), "nothing came twice");
}

#[test]
fn a_second_signal_ends_at_once_and_what_was_in_flight_comes_again() {
    let portal = Portal::sample();
    let receiver = Receiver::scripted(|request| if request.arrival == 0 { Answer::Hang } else { Answer::Status(200) });
    portal.endpoint(&receiver);
    let mut daemon = portal.run();
    portal.sql(&vote(1));
    receiver.wait_for_distinct(1);
    daemon.signal("TERM");
    daemon.wait_for_line("stopping");
    daemon.signal("INT");
    assert_eq!(daemon.wait_for_end().code(), Some(1));
    assert!(daemon.said().iter().any(|line| line.contains("ended at once")), "{:?}", daemon.said());
    let _daemon = portal.run();
    let received = receiver.wait_for("it again", |received| received.len() == 2);
    let [first, again] = by_sequence(&received)[&1][..] else { panic!("it comes twice: {received:?}") };
    assert_eq!((first.id(), &first.body, again.attempt()), (again.id(), &again.body, 1), "a stop costs no attempt");
}

/// The answer to a GET at the admin port: status and body.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("set the timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

/// Where the admin port is.
fn admin(daemon: &Process) -> String {
    daemon.wait_for_line("health and metrics at");
    let said = daemon.said();
    let line = said.iter().find(|line| line.contains("health and metrics at")).expect("it was said");
    line.rsplit_once("http://").expect("an address").1.trim().to_owned()
}

#[test]
fn the_admin_port_tells_health_and_figures() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let manager = Manager::new();
    let daemon = manager.start(&portal);
    let address = admin(&daemon);
    portal.sql(&vote(1));
    portal.events(&receiver, endpoint);
    manager.wait_for("a look at the database", |line| line.ends_with("behind; 2 delivered, 0 pending"));
    let (status, body) = get(&address, "/health");
    assert_eq!(status, 200, "{body}");
    let (status, body) = get(&address, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "portalhook_streaming 1",
        "portalhook_events_recorded_total 2",
        "portalhook_deliveries_total{outcome=\"delivered\"} 2",
        "portalhook_endpoints{state=\"working\"} 1",
        "portalhook_deliveries_pending 0",
    ] {
        assert!(body.lines().any(|found| found == line), "no {line} in\n{body}");
    }
    assert_eq!(get(&address, "/").0, 404);

    // The database lets nobody in any more.
    let role = portal.database.role();
    portal.sql(&format!(
        "ALTER ROLE {role} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    ));
    manager.hears("STATUS=starting again after: ");
    let (status, body) = get(&address, "/health");
    assert_eq!((status, body.lines().count()), (503, 1), "{body}");
    assert!(body.starts_with("starting again after: "), "{body}");
    portal.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    manager.hears("STATUS=streaming, ");
    assert_eq!(get(&address, "/health").0, 200);
}

#[test]
fn a_paused_stream_is_said_at_the_admin_port_and_to_the_manager() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let manager = Manager::new();
    let daemon = manager.start(&portal);
    let address = admin(&daemon);
    portal.sql(
        "ALTER TABLE votes RENAME user_id TO voter_id; INSERT INTO votes (id, post_id, voter_id) VALUES (1, 99, 49);",
    );
    manager.hears("STATUS=PAUSED (portalhook status says why)");
    let (status, body) = get(&address, "/health");
    assert_eq!((status, body.lines().count()), (503, 1), "{body}");
    assert!(body.contains("is called voter_id now"), "{body}");
    portal.sql("UPDATE portalhook.mapping SET query = replace(query, 'user_id', 'voter_id') WHERE entity = 'votes'");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    manager.hears("STATUS=streaming, ");
    assert_eq!(get(&address, "/health").0, 200);
}

#[test]
fn an_admin_port_that_is_taken_is_a_warning() {
    let portal = Portal::sample();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    portal.reconfigure("127.0.0.1:0", &taken.local_addr().expect("an address").to_string());
    let daemon = portal.run();
    daemon.wait_for_line("cannot be had");
    daemon.terminate();
}

#[test]
fn days_past_the_retention_go_and_what_was_undelivered_is_visible() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let disabled = portal.endpoint_with(&receiver, "enabled", "false");
    let other = Receiver::start();
    portal.endpoint(&other);
    let daemon = portal.run();
    portal.sql(&vote(1));
    other.wait_for_distinct(1);
    daemon.terminate();
    // Eight days pass.
    let role = portal.database.role();
    portal.sql(&format!(
        "SET ROLE {role};
         SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date - 9, 1) \\g /dev/null
         UPDATE portalhook.events SET recorded_on = (now() AT TIME ZONE 'UTC')::date - 9;"
    ));
    let daemon = portal.run();
    daemon.wait_for_line("1 deliveries older than ledger.retention were given up undelivered");
    assert!(daemon.said().iter().any(|line| line.contains("dropped from the ledger")), "{:?}", daemon.said());
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.events"), "0");
    assert_eq!(
        portal.sql("SELECT endpoint, first_sequence, last_sequence, error FROM portalhook.failures"),
        format!("{disabled}|1|1|expired: not delivered within ledger.retention")
    );
    // The endpoint goes on after it.
    portal.sql(&format!("UPDATE portalhook.endpoints SET enabled = true WHERE id = {disabled}; {}", vote(2)));
    let received = receiver.wait_for_distinct(1);
    assert_eq!((received[0].sequence(), received[0].data("/vote/id")), (2, serde_json::json!(2)));
    daemon.terminate();
}

/// systemd's own opinion of our unit. `.ci/install test` installs its tools.
#[test]
fn the_unit_is_valid_and_its_sandbox_tight() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/portalhook.service");
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).output();
    let rated = match analyze(&["security", "--offline=true", "--threshold=15", unit]) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        rated => rated.expect("run systemd-analyze"),
    };
    let opinion = String::from_utf8_lossy(&rated.stdout);
    assert!(rated.status.success(), "above 1.5: {opinion}");

    // With our binary in place of the installed one, which verify looks for.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = directory.path().join("portalhook.service");
    let text = std::fs::read_to_string(unit).expect("the unit");
    assert!(text.contains("ExecStart=/usr/local/bin/portalhook run"));
    let text = text.replace("/usr/local/bin/portalhook run", &format!("{} run", env!("CARGO_BIN_EXE_portalhook")));
    std::fs::write(&copy, text).expect("write");
    let verified = analyze(&["verify", &copy.display().to_string()]).expect("run systemd-analyze");
    let remarks = String::from_utf8_lossy(&verified.stderr);
    let remarks: Vec<&str> = remarks.lines().filter(|line| line.contains("portalhook")).collect();
    assert!(verified.status.success() && remarks.is_empty(), "{remarks:?}");
}
