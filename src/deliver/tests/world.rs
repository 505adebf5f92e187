//! A database with the ledger's tables, a stand-in for the writer, receivers, and a running dispatcher.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::deliver::{self, Settings};
use crate::error::Result;
use crate::ledger::feed::{Committed, Feed, FeedReceiver, feed};
use crate::session::{self, Database, Session};
use crate::throwaway::Throwaway;

/// Nothing in these tests takes this long unless it is broken.
const BROKEN: Duration = Duration::from_secs(60);

pub(super) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The settings and their secrets as the real schema has them, and notifications that tests wait on.
const SETTINGS: &str = r"
CREATE TABLE portalhook.endpoints (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, url text NOT NULL, events text[] NOT NULL DEFAULT '{*}', portal text,
    enabled boolean NOT NULL DEFAULT true, disabled_reason text, disabled_at timestamptz, secret text, max_in_flight int,
    timeout_ms int, headers jsonb NOT NULL DEFAULT '{}', signature_header text NOT NULL DEFAULT 'Signature',
    signature_encoding text NOT NULL DEFAULT 'hex', signature_prefix text NOT NULL DEFAULT '',
    ordering text NOT NULL DEFAULT 'causal', retries text[]);
CREATE TABLE portalhook.secrets (
    portal text PRIMARY KEY, secret text NOT NULL, previous text, previous_until timestamptz);
CREATE FUNCTION portalhook.secret(p text) RETURNS text LANGUAGE sql AS $$
    INSERT INTO portalhook.secrets (portal, secret) VALUES (p, 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD')
    ON CONFLICT (portal) DO NOTHING;
    SELECT secret FROM portalhook.secrets WHERE portal = p $$;
CREATE FUNCTION portalhook.hint() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify(TG_ARGV[0], ''); RETURN NULL; END $$;
CREATE TRIGGER hint AFTER INSERT OR UPDATE OR DELETE ON portalhook.endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION portalhook.hint('portalhook');
";

const PARTITIONS: &str = r"
CREATE SCHEMA portalhook_ledger;
SELECT portalhook.prepare_partitions('2026-01-31', 1);
CREATE TABLE portalhook.successes_default PARTITION OF portalhook.successes DEFAULT;
";

/// One server for all tests that run at the same time; it goes with the last of them.
fn server() -> Arc<Throwaway> {
    static SHARED: Mutex<Weak<Throwaway>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().expect("no test panics while it starts the server");
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Throwaway::start(&[]).expect("start PostgreSQL"));
        *shared = Arc::downgrade(&server);
        server
    })
}

async fn session(url: String) -> Result<Session> {
    session::connect(&Database::parse(&url)?, "test").await
}

/// An event to commit: name, entity, post, endpoints.
pub(super) type Spec<'a> = (&'a str, &'a str, Option<&'a str>, &'a [i64]);

pub(super) struct World {
    server: Arc<Throwaway>,
    database: String,
    pub(super) client: Session,
    changes: mpsc::Receiver<()>,
    feed: Feed,
    pub(super) settings: Settings,
    position: i64,
    sequences: HashMap<i64, i64>,
    receiver: Option<FeedReceiver>,
}

impl World {
    pub(super) async fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let database = format!("deliver_{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let server = server();
        server.psql("postgres", &format!("CREATE DATABASE {database}")).expect("create a database");
        let mut client = session(server.url(Throwaway::SUPERUSER, &database)).await.expect("connect");
        let changes = client.hints();
        let mut script = format!(
            "CREATE SCHEMA portalhook;{}{}{SETTINGS}{PARTITIONS}",
            include_str!("../../../sql/migrations/V1__ledger.sql"),
            include_str!("../../../sql/migrations/V11__parts.sql")
        );
        for table in ["endpoints", "deliveries", "successes", "cursors", "settled_ranges"] {
            script.push_str(&format!(
                "CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON portalhook.{table}
                     FOR EACH STATEMENT EXECUTE FUNCTION portalhook.hint('seen');\n"
            ));
        }
        client.batch_execute(&script).await.expect("create the tables");
        client.batch_execute("LISTEN seen").await.expect("listen");
        let settings = Settings {
            retries: deliver::Policy { pauses: vec![Duration::from_millis(20); 3], ..Default::default() },
            allow_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            ..Settings::default()
        };
        let (feed, receiver) = feed(0);
        let receiver = Some(receiver);
        Self { server, database, client, changes, feed, settings, position: 0, sequences: HashMap::new(), receiver }
    }

    pub(super) fn url(&self) -> String {
        self.server.url(Throwaway::SUPERUSER, &self.database)
    }

    /// Adds an endpoint; `columns` are further ones with their values, as SQL.
    pub(super) async fn endpoint(&self, url: &str, columns: &[(&str, &str)]) -> i64 {
        let names: String = columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let values: String = columns.iter().map(|(_, value)| format!(", {value}")).collect();
        let sql = format!("INSERT INTO portalhook.endpoints (url{names}) VALUES ($1{values}) RETURNING id");
        let id = self.client.query_one(&sql, &[&url]).await.expect("add an endpoint").get(0);
        let sql = "INSERT INTO portalhook.routes (endpoint, events) VALUES ($1, '{*}')";
        self.client.execute(sql, &[&id]).await.expect("add a route");
        id
    }

    /// A group commit whose offer is lost.
    pub(super) async fn commit_silently(&mut self, events: &[Spec<'_>]) -> Vec<Committed> {
        let mut committed = Vec::new();
        for (event, entity, post, endpoints) in events {
            self.position += 1;
            let routes: Vec<(i64, i64)> = endpoints
                .iter()
                .map(|endpoint| {
                    let sequence = self.sequences.entry(*endpoint).or_default();
                    *sequence += 1;
                    (*endpoint, *sequence)
                })
                .collect();
            let id = format!("{:016}", self.position);
            let body = format!(r#"{{"id":"{id}","event":"{event}","data":{{"entity":"{entity}"}}}}"#);
            committed.push(Committed {
                position: self.position,
                recorded_on: "2026-01-31".into(),
                id: id.into(),
                event: (*event).into(),
                entity: (*entity).into(),
                post: post.map(Into::into),
                portal: Some("4".into()),
                routes,
                body: Some(bytes::Bytes::from(body).into()),
            });
        }
        if committed.is_empty() {
            return committed;
        }
        let rows: Vec<String> = committed.iter().map(row).collect();
        self.client
            .batch_execute(&format!(
                "INSERT INTO portalhook.events (position, recorded_on, id, event, occurred_at, xid, lsn, portal, post, entity,
                                                endpoints, sequences, body) VALUES {}",
                rows.join(", ")
            ))
            .await
            .expect("commit events");
        committed
    }

    /// A group commit, told to the dispatcher.
    pub(super) async fn commit(&mut self, events: &[Spec<'_>]) {
        let committed = self.commit_silently(events).await;
        self.feed.offer(committed, self.position);
    }

    /// Makes the feed drop the offer of what was committed silently: it gets more bytes than it takes.
    pub(super) fn lose(&mut self, mut committed: Vec<Committed>) {
        committed[0].body = Some(bytes::Bytes::from(vec![b'x'; 32 << 20]).into());
        self.feed.offer(committed, self.position);
    }

    /// Commits votes, each of its own, told in one offer.
    pub(super) async fn votes(&mut self, count: usize, endpoints: &[i64]) {
        let names: Vec<String> = (0..count).map(|_| format!("vote:{}", self.position)).collect();
        let names: Vec<String> = names.iter().enumerate().map(|(index, name)| format!("{name}.{index}")).collect();
        let events: Vec<Spec<'_>> = names.iter().map(|name| ("vote.created", name.as_str(), None, endpoints)).collect();
        self.commit(&events).await;
    }

    pub(super) fn start(&mut self) -> Running {
        let mut feed = self.receiver.take().expect("one dispatcher at a time");
        let (stop, shutdown) = watch::channel(false);
        let (settings, url) = (self.settings.clone(), self.url());
        let task = tokio::spawn(async move {
            let result = deliver::run(settings, || session(url.clone()), &mut feed, shutdown).await;
            (result, feed)
        });
        Running { task, stop }
    }

    /// Stops the dispatcher in order: afterwards the ledger holds every outcome.
    pub(super) async fn stop(&mut self, running: Running) {
        running.stop.send(true).expect("running");
        let (result, feed) = in_time("the dispatcher stops", running.task).await.expect("no panic");
        result.expect("a clean end");
        self.receiver = Some(feed);
    }

    /// How the dispatcher ended by itself. Its feed lives on.
    pub(super) async fn ended(&mut self, running: Running) -> Result<()> {
        let (result, feed) = in_time("the dispatcher ends", running.task).await.expect("no panic");
        self.receiver = Some(feed);
        result
    }

    /// Ends the dispatcher as a kill would; its feed is lost, and the next one starts with a new one.
    pub(super) async fn kill(&mut self, running: Running) {
        running.task.abort();
        assert!(running.task.await.is_err_and(|error| error.is_cancelled()));
        let (writer, receiver) = feed(self.position);
        self.feed = writer;
        self.receiver = Some(receiver);
    }

    /// One value.
    pub(super) async fn value(&self, sql: &str) -> String {
        let row = self.client.query_one(&format!("SELECT ({sql})::text"), &[]).await.expect(sql);
        row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned())
    }

    /// Waits until a condition on the ledger or the settings holds.
    pub(super) async fn until(&mut self, condition: &str) {
        in_time(condition, async {
            while self.value(condition).await != "true" {
                self.changes.recv().await.expect("connected");
            }
        })
        .await;
    }
}

fn row(event: &Committed) -> String {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or("NULL".to_owned(), |text| format!("'{text}'"));
    let list = |part: fn(&(i64, i64)) -> i64| {
        let parts: Vec<String> = event.routes.iter().map(|route| part(route).to_string()).collect();
        format!("'{{{}}}'", parts.join(","))
    };
    let body =
        event.body.as_ref().map_or("NULL".to_owned(), |body| format!("'{}'", String::from_utf8_lossy(body.head())));
    format!(
        "({}, '{}', '{}', '{}', now(), 1, '0/1', {}, {}, '{}', {}, {}, {body})",
        event.position,
        event.recorded_on,
        event.id,
        event.event,
        text(&event.portal),
        text(&event.post),
        event.entity,
        list(|route| route.0),
        list(|route| route.1),
    )
}

pub(super) struct Running {
    task: JoinHandle<(Result<()>, FeedReceiver)>,
    stop: watch::Sender<bool>,
}

pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BROKEN, future).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// A request that arrived.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().expect("text")
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.header(name).parse().expect("a number")
    }
}

struct Desk {
    received: mpsc::UnboundedSender<Received>,
    answers: Mutex<VecDeque<StatusCode>>,
    /// Requests are answered while this has permits.
    gate: Semaphore,
    gated: bool,
}

/// An HTTP receiver: 200 to everything, unless told otherwise.
pub(super) struct Receiver {
    pub(super) url: String,
    requests: mpsc::UnboundedReceiver<Received>,
    desk: Arc<Desk>,
    server: JoinHandle<()>,
}

impl Receiver {
    pub(super) async fn new() -> Self {
        Self::with(false).await
    }

    /// Answers a request only when `release` says so.
    pub(super) async fn gated() -> Self {
        Self::with(true).await
    }

    async fn with(gated: bool) -> Self {
        let (received, requests) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk { received, answers: Mutex::default(), gate: Semaphore::new(0), gated });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}/hooks", listener.local_addr().expect("bound"));
        let app = axum::Router::new().fallback(answer).with_state(desk.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("serve") });
        Self { url, requests, desk, server }
    }

    /// The next answers; 200 once they are used up.
    pub(super) fn answer_with(&self, statuses: &[u16]) {
        let statuses = statuses.iter().map(|status| StatusCode::from_u16(*status).expect("a status"));
        self.desk.answers.lock().expect("nothing panics under this lock").extend(statuses);
    }

    pub(super) fn release(&self, count: usize) {
        self.desk.gate.add_permits(count);
    }

    pub(super) async fn next(&mut self) -> Received {
        in_time("a request arrives", self.requests.recv()).await.expect("running")
    }

    pub(super) async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.next().await);
        }
        all
    }

    /// Nothing has arrived that was not taken. Ask after the dispatcher has stopped.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 10 << 20).await.expect("a body");
    let status = desk.answers.lock().expect("nothing panics under this lock").pop_front().unwrap_or(StatusCode::OK);
    desk.received.send(Received { headers: parts.headers, body }).expect("the test listens");
    if desk.gated {
        desk.gate.acquire().await.expect("open").forget();
    }
    (status, [("location", "http://127.0.0.1:1/elsewhere")], format!("answer {status}")).into_response()
}
