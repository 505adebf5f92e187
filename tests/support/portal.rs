//! A portal's database with portalhook set up in it, and what a test does with it.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::LIMIT;
use super::cluster::Database;
use super::process::{self, Process};
use super::receiver::{Received, Receiver, by_sequence, summary};
use super::verify::verify;

/// The secret of every endpoint that `Portal::endpoint` makes.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

pub(crate) struct Portal {
    pub(crate) database: Database,
    directory: tempfile::TempDir,
    /// What daemons that are gone have said.
    said: Mutex<Vec<String>>,
}

impl Portal {
    /// The sample portal of `portalhook demo`, with its views.
    pub(crate) fn sample() -> Self {
        Self::sample_with("")
    }

    /// The same, with rows that are there before setup.
    pub(crate) fn sample_with(rows: &str) -> Self {
        let script = format!("{}\n{rows}", include_str!("../../sql/demo/portal.sql"));
        Self::new(&script, include_str!("../../sql/demo/views.sql"))
    }

    /// A database in which `script` has run, and `portalhook setup` with these views.
    pub(crate) fn new(script: &str, views: &str) -> Self {
        let portal = Self::without_setup(Database::create(), script);
        portal.setup(views);
        portal
    }

    /// A database in which only `script` has run.
    pub(crate) fn without_setup(database: Database, script: &str) -> Self {
        database.sql(script);
        let portal =
            Self { database, directory: tempfile::tempdir().expect("a temporary directory"), said: Mutex::default() };
        portal.configure(&portal.database.role_url());
        portal
    }

    /// Writes the configuration file, with this `database.url`.
    pub(crate) fn configure(&self, url: &str) {
        let retries = vec!["\"20ms\""; 40].join(", ");
        let text = format!(
            "[database]\nurl = \"{url}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n\n\
             [deliver]\nallow_networks = [\"127.0.0.0/8\"]\nretries = [{retries}]\n"
        );
        std::fs::write(self.config(), text).expect("write the configuration");
    }

    /// Runs `portalhook setup`, which must succeed.
    #[track_caller]
    pub(crate) fn setup(&self, views: &str) {
        let output = self.try_setup(views);
        assert!(output.status.success(), "setup: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn try_setup(&self, views: &str) -> Output {
        let file = self.directory.path().join("views.sql");
        std::fs::write(&file, views).expect("write the views");
        let (config, file) = (self.config().display().to_string(), file.display().to_string());
        let admin = self.database.owner_url();
        process::output(&["--config", &config, "setup", "--admin-url", &admin, "--views", &file])
    }

    /// Runs `portalhook setup` with the mapping that is there and these flags.
    pub(crate) fn setup_with(&self, flags: &[&str]) -> Output {
        let (config, admin) = (self.config().display().to_string(), self.database.owner_url());
        process::output(&[&["--config", &config, "setup", "--admin-url", &admin], flags].concat())
    }

    /// Runs a command of an operator to its end, as the daemon's role.
    #[track_caller]
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config().display().to_string();
        process::output(&[&["--config", &config], arguments].concat())
    }

    /// Changes the configuration file.
    #[track_caller]
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("read the configuration");
        assert!(text.contains(from), "no {from} in {text}");
        std::fs::write(self.config(), text.replace(from, to)).expect("write the configuration");
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("portalhook.toml")
    }

    /// What the application does: statement by statement.
    #[track_caller]
    pub(crate) fn sql(&self, script: &str) -> String {
        self.database.sql(script)
    }

    /// Waits until a query answers true; it is asked again whenever the daemon has recorded outcomes, or noted a switch.
    #[track_caller]
    pub(crate) fn wait_for_outcome(&self, query: &str) {
        self.sql(
            "CREATE OR REPLACE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN NOTIFY outcome; RETURN NULL; END $$;
             CREATE OR REPLACE TRIGGER tell AFTER INSERT OR UPDATE ON portalhook.deliveries EXECUTE FUNCTION public.tell();
             CREATE OR REPLACE TRIGGER tell AFTER INSERT OR UPDATE ON portalhook.successes EXECUTE FUNCTION public.tell();
             CREATE OR REPLACE TRIGGER tell AFTER INSERT OR UPDATE ON portalhook.switches EXECUTE FUNCTION public.tell();",
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
        let waited =
            runtime.block_on(async { tokio::time::timeout(LIMIT, until(self.database.owner_url(), query)).await });
        assert!(waited.is_ok(), "waited {LIMIT:?} for: {query}");
    }

    /// Adds an endpoint for all events of all portals; returns its id.
    #[track_caller]
    pub(crate) fn endpoint(&self, receiver: &Receiver) -> i64 {
        self.endpoint_with(receiver, "", "")
    }

    /// The same with further columns, such as `("portal", "'4'")`.
    #[track_caller]
    pub(crate) fn endpoint_with(&self, receiver: &Receiver, column: &str, value: &str) -> i64 {
        let comma = if column.is_empty() { "" } else { ", " };
        let id = self.sql(&format!(
            "INSERT INTO portalhook.endpoints (url, secret{comma}{column}) \
             VALUES ('{}', '{SECRET}'{comma}{value}) RETURNING id",
            receiver.url()
        ));
        id.parse().expect("an id")
    }

    /// Starts the daemon and waits until it reads the stream.
    #[track_caller]
    pub(crate) fn run(&self) -> Process {
        let daemon = self.spawn(&[]);
        daemon.wait_for_line("streaming");
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn spawn(&self, variables: &[(&str, &str)]) -> Process {
        let mut command = process::portalhook();
        command.arg("--config").arg(self.config()).arg("run").envs(variables.iter().copied());
        Process::start(command)
    }

    /// SIGKILL, keeping what the daemon said.
    pub(crate) fn kill(&self, daemon: Process) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).extend(daemon.said());
        daemon.kill();
    }

    /// What the daemons that `kill` ended have said.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every event that was committed before this call and that the endpoint must get, in its order (`webhook-sequence`).
    ///
    /// To know that nothing more comes it emits a marker, `portalhook.test()`, whose sequence number tells how many
    /// deliveries there are before it. Every request is verified on the way, and duplicates must be equal.
    #[track_caller]
    pub(crate) fn events(&self, receiver: &Receiver, endpoint: i64) -> Vec<Received> {
        let markers: usize = self
            .sql(&format!(
                "SELECT portalhook.test({endpoint}) \\g /dev/null\n\
                 SELECT count(*) FROM portalhook.operations WHERE kind = 'test' AND (payload ->> 'endpoint')::bigint = {endpoint}"
            ))
            .parse()
            .expect("a number");
        let complete = |received: &[Received]| {
            let all = by_sequence(received);
            let tests = all.iter().filter(|(_, requests)| requests[0].event() == "webhook.test");
            let last = tests.map(|(sequence, _)| *sequence).nth(markers - 1);
            last.is_some_and(|last| (1..=last).all(|sequence| all.contains_key(&sequence)))
        };
        let received = receiver.wait_for(&format!("{markers} markers and all before them"), complete);
        distinct(&received).into_iter().filter(|request| request.event() != "webhook.test").collect()
    }

    /// The names of those events, with the changed thing's id: `vote.created 500`.
    #[track_caller]
    pub(crate) fn event_names(&self, receiver: &Receiver, endpoint: i64) -> Vec<String> {
        self.events(receiver, endpoint).iter().map(name_and_id).collect()
    }
}

/// `vote.created 500`.
pub(crate) fn name_and_id(request: &Received) -> String {
    let event = request.event();
    let entity = event.split('.').next().unwrap_or_default().to_owned();
    let id = request.data(&format!("/{entity}/id"));
    format!("{event} {}", id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

/// One request for each delivery, in order; all are verified, and those of one delivery must be the same but for the
/// attempt's number and time.
#[track_caller]
pub(crate) fn distinct(received: &[Received]) -> Vec<Received> {
    let mut ids = std::collections::BTreeSet::new();
    let mut firsts = Vec::new();
    for (position, (sequence, requests)) in by_sequence(received).into_iter().enumerate() {
        assert_eq!(sequence, position as u64 + 1, "webhook-sequence has a gap");
        let first = requests[0];
        for request in &requests {
            verify(request, SECRET);
            assert_eq!(
                request.id(),
                first.id(),
                "a duplicate has another id\n{}\n{}",
                summary(first),
                summary(request)
            );
            assert_eq!(
                request.body,
                first.body,
                "a duplicate has other bytes\n{}\n{}",
                summary(first),
                summary(request)
            );
        }
        assert!(ids.insert(first.id().to_owned()), "two deliveries have the same id: {}", summary(first));
        firsts.push(first.clone());
    }
    firsts
}

/// Asks, and asks again at each notification.
async fn until(url: String, query: &str) {
    let (client, mut connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connect");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if matches!(message, tokio_postgres::AsyncMessage::Notification(_)) && tell.send(()).is_err() {
                return;
            }
        }
    });
    client.batch_execute("LISTEN outcome").await.expect("listen");
    while !client.query_one(query, &[]).await.expect("ask").get::<_, bool>(0) {
        told.recv().await.expect("the connection is there");
    }
}
