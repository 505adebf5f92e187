//! The server or the way to it is away for a while: the daemon comes back by itself, loses nothing and tells nothing in two ways.

use std::time::Instant;

use crate::support::LIMIT;
use crate::support::cluster::Database;
use crate::support::mirror;
use crate::support::portal::Portal;
use crate::support::process::Process;
use crate::support::proxy::{Proxy, Way};
use crate::support::random::Random;
use crate::support::receiver::Receiver;

/// A portal whose application casts one vote after another.
struct Voting {
    portal: Portal,
    receiver: Receiver,
    endpoint: i64,
    votes: usize,
}

impl Voting {
    fn begin(portal: Portal) -> Self {
        let receiver = Receiver::start();
        let endpoint = portal.endpoint(&receiver);
        Self { portal, receiver, endpoint, votes: 0 }
    }

    fn vote(&mut self) {
        self.votes += 1;
        let id = self.votes;
        self.portal
            .sql(&format!("INSERT INTO votes (id, post_id, user_id) VALUES ({id}, 98 + {id} % 2, 48 + {id} % 2)"));
    }

    /// All votes so far have arrived.
    #[track_caller]
    fn wait(&self) {
        self.receiver.wait_for_distinct(self.votes);
    }

    /// Each vote once, in order, whatever came twice in the same words.
    #[track_caller]
    fn check(&self) {
        let expected: Vec<String> = (1..=self.votes).map(|id| format!("vote.created {id}")).collect();
        assert_eq!(self.portal.event_names(&self.receiver, self.endpoint), expected);
        assert_eq!(mirror::differences(&self.portal), "");
    }

    /// Ends all of the daemon's sessions.
    fn cut_off(&self) {
        let role = self.portal.database.role();
        self.portal.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' \\g /dev/null"
        ));
    }
}

/// Never waits long for the next start.
fn run(portal: &Portal) -> Process {
    let daemon = portal.spawn(&[("PORTALHOOK_LIMITS", "wait:50")]);
    daemon.wait_for_line("streaming");
    daemon
}

#[test]
fn a_network_that_is_cut_anywhere_loses_nothing() {
    let portal = Portal::without_setup(Database::create(), include_str!("../sql/demo/portal.sql"));
    let proxy = Proxy::start(portal.database.port());
    let direct = portal.database.port().to_string();
    let url = portal.database.role_url().replace(&format!(":{direct}/"), &format!(":{}/", proxy.port));
    portal.configure(&format!("{url}?sslmode=disable"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let mut voting = Voting::begin(portal);
    let daemon = run(&voting.portal);
    let mut random = Random(7);
    for round in 0..30 {
        let application = ["portalhook advance", "portalhook capture", "portalhook deliver"][round % 3];
        let way = if random.below(2) == 0 { Way::ToServer } else { Way::ToDaemon };
        // The stream's reader has little to say.
        let most = if application.ends_with("capture") && way == Way::ToServer { 400 } else { 6000 };
        proxy.cut(application, way, random.below(most));
        while !proxy.has_cut() {
            voting.vote();
            voting.wait();
        }
    }
    voting.check();
    let starts = daemon.said().iter().filter(|line| line.contains("starting again in")).count();
    assert!(starts >= 15, "only {starts} of the cuts were felt");
}

#[test]
fn sessions_that_are_ended_one_after_another_under_load_come_back() {
    let mut voting = Voting::begin(Portal::sample());
    let _daemon = run(&voting.portal);
    let role = voting.portal.database.role();
    for round in 0..60 {
        voting.vote();
        voting.portal.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}' ORDER BY random() LIMIT 1 \\g /dev/null"
        ));
        if round % 5 == 0 {
            voting.wait();
        }
    }
    voting.check();
}

#[test]
fn a_server_that_refuses_the_role_for_a_while_is_waited_for() {
    let mut voting = Voting::begin(Portal::sample());
    let daemon = run(&voting.portal);
    let role = voting.portal.database.role();
    for (refuse, says, allow) in [
        ("NOLOGIN", "is not permitted to log in", "LOGIN"),
        ("CONNECTION LIMIT 0", "too many connections for role", "CONNECTION LIMIT -1"),
        ("NOREPLICATION", " to start ", "REPLICATION"),
    ] {
        voting.portal.sql(&format!("ALTER ROLE {role} {refuse}"));
        voting.cut_off();
        voting.vote();
        daemon.wait_for_line(says);
        voting.portal.sql(&format!("ALTER ROLE {role} {allow}"));
        voting.wait();
    }
    voting.check();
}

#[test]
fn a_server_whose_connections_are_used_up_is_waited_for() {
    let portal = Portal::without_setup(
        Database::on_its_own_server(&["max_connections = 20"]),
        include_str!("../sql/demo/portal.sql"),
    );
    portal.setup(include_str!("../sql/demo/views.sql"));
    // Superusers' places stay free for the test itself.
    portal.sql("CREATE ROLE crowd LOGIN");
    let mut voting = Voting::begin(portal);
    let daemon = run(&voting.portal);
    let url = voting.portal.database.url_of("crowd");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    runtime.block_on(async {
        let mut crowd = Vec::new();
        voting.cut_off();
        while let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            crowd.push(client);
            voting.cut_off();
        }
        voting.vote();
        daemon.wait_for_line("remaining connection slots are reserved");
    });
    // The crowd has gone with its runtime.
    drop(runtime);
    voting.wait();
    voting.check();
}

#[test]
fn a_server_that_is_restarted_in_order_is_waited_for() {
    let portal = Portal::without_setup(Database::on_its_own_server(&[]), include_str!("../sql/demo/portal.sql"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let mut voting = Voting::begin(portal);
    let daemon = run(&voting.portal);
    for restart in 1..=3 {
        voting.vote();
        if restart > 1 {
            voting.wait();
        }
        voting.portal.database.stop();
        voting.portal.database.start();
    }
    voting.vote();
    voting.check();
    assert!(!daemon.said().iter().any(|line| line.contains("closing the gap")), "{:?}", daemon.said());
}

#[test]
fn tables_of_ours_that_somebody_locks_are_waited_for() {
    let mut voting = Voting::begin(Portal::sample());
    let _daemon = run(&voting.portal);
    let url = voting.portal.database.owner_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    for table in [
        "portalhook.events",
        "portalhook.checkpoint",
        "portalhook.successes",
        "portalhook.cursors",
        "portalhook_mirror.\"public.votes\"",
    ] {
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connect");
            tokio::spawn(connection);
            client.batch_execute(&format!("BEGIN; LOCK TABLE {table}")).await.expect("lock");
            voting.vote();
            let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let deadline = Instant::now() + LIMIT;
            while voting.portal.sql(waits) != "t" {
                assert!(Instant::now() < deadline, "nobody waits for {table}");
            }
            client.batch_execute("COMMIT").await.expect("unlock");
        });
        voting.wait();
    }
    voting.check();
}

#[test]
fn a_slot_that_another_process_reads_is_waited_for() {
    let mut voting = Voting::begin(Portal::sample());
    let daemon = run(&voting.portal);
    let slot = voting.portal.sql("SELECT slot FROM portalhook.checkpoint");
    // Reading ahead by SQL keeps the slot for as long as the query takes, and moves nothing. Our reader has to go first.
    let steal = format!(
        "DO $$ BEGIN
             LOOP
                 PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active;
                 PERFORM pg_stat_clear_snapshot();
                 BEGIN
                     PERFORM count(pg_sleep(0.5)) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL,
                         'proto_version', '1', 'publication_names', 'portalhook', 'messages', 'true');
                     EXIT;
                 EXCEPTION WHEN object_in_use THEN
                 END;
             END LOOP;
         END $$"
    );
    for _ in 0..3 {
        voting.vote();
        voting.portal.sql(&steal);
    }
    voting.vote();
    voting.check();
    drop(daemon);
}
