//! The stream of a real server: what the tests of this folder stand on.

mod content;
mod feedback;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::wal::{self, Start};
use super::{Positions, Receiver, channel, slot};
use crate::change::{Arrival, Change, Transaction, TupleData};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::session::{Database, Session, connect, until};
use crate::throwaway::Throwaway;

const SLOT: &str = "portalhook_test";
const LIMIT: Duration = Duration::from_secs(60);

/// A server with a database `portal`, a publication `portalhook` of its table `posts`, and an unpublished `other`.
struct Portal {
    server: Throwaway,
    database: Database,
    admin: Session,
}

impl Portal {
    async fn start(settings: &[&str]) -> Self {
        let server = Throwaway::start(settings).expect("start");
        server.psql("postgres", "CREATE DATABASE portal").expect("create");
        let script = "
            CREATE TABLE posts (id int PRIMARY KEY, title text);
            CREATE TABLE other (id int);
            CREATE PUBLICATION portalhook FOR TABLE posts;";
        server.psql("portal", script).expect("prepare");
        let database = Database::parse(&server.url(Throwaway::SUPERUSER, "portal")).expect("a URL");
        let admin = connect(&database, "test").await.expect("connect");
        Self { server, database, admin }
    }

    /// Creates the slot; where its stream begins.
    async fn create_slot(&self) -> Lsn {
        slot::create(&self.database, SLOT).await.expect("create the slot").consistent_point
    }

    /// Runs statements in public.
    async fn sql(&self, script: &str) {
        self.admin.batch_execute(&format!("SET search_path = public; {script}")).await.expect(script);
    }

    async fn text(&self, query: &str) -> String {
        self.admin.query_one(query, &[]).await.expect(query).get(0)
    }

    async fn lsn(&self, expression: &str) -> Lsn {
        self.text(&format!("SELECT ({expression})::text")).await.parse().expect("an LSN")
    }

    async fn confirmed_flush(&self) -> Lsn {
        let slot = slot::read(&self.admin, SLOT).await.expect("read").expect("a slot");
        slot.confirmed_flush.expect("a position")
    }

    async fn until_confirmed(&self, lsn: Lsn) {
        let query = "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots".replace("{}", &lsn.to_string());
        until(&self.admin, &query).await;
    }

    fn capture(&self, lsn: Lsn, budget: usize) -> Capture {
        self.capture_of("portalhook", lsn, budget)
    }

    fn capture_of(&self, publication: &str, lsn: Lsn, budget: usize) -> Capture {
        let start =
            Start { slot: SLOT.to_owned(), publication: publication.to_owned(), lsn, xid_reference: 0x5_0000_0000 };
        let database = self.database.clone();
        let (sender, transactions) = channel(budget);
        let (durable, confirmed) = watch::channel(lsn);
        let (stop, shutdown) = watch::channel(false);
        let (started, streaming) = oneshot::channel();
        let positions = Arc::new(Positions::default());
        let shared = Arc::clone(&positions);
        let task = tokio::spawn(async move {
            let streaming = || started.send(()).expect("somebody waits or has waited");
            wal::run(&database, &start, sender, confirmed, &shared, streaming, shutdown).await
        });
        Capture { transactions, durable, stop, streaming, positions, task }
    }
}

/// A running `wal::run` and all its other ends.
struct Capture {
    transactions: Receiver,
    durable: watch::Sender<Lsn>,
    stop: watch::Sender<bool>,
    streaming: oneshot::Receiver<()>,
    positions: Arc<Positions>,
    task: JoinHandle<Result<()>>,
}

impl Capture {
    async fn streaming(&mut self) {
        tokio::time::timeout(LIMIT, &mut self.streaming).await.expect("in time").expect("it streams");
    }

    async fn next(&mut self) -> Transaction {
        let next = tokio::time::timeout(LIMIT, self.transactions.recv()).await.expect("in time");
        match next.expect("a transaction").0 {
            Arrival::Whole(transaction) => transaction,
            other => panic!("in parts: {other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.send(true).expect("it runs");
        tokio::time::timeout(LIMIT, self.task).await.expect("in time").expect("no panic").expect("no error");
    }

    /// The error with which it ends.
    async fn error(self) -> crate::error::Error {
        tokio::time::timeout(LIMIT, self.task).await.expect("in time").expect("no panic").expect_err("an error")
    }
}

/// The ids of inserted rows, as text, transaction by transaction.
fn inserted(transaction: &Transaction) -> Vec<String> {
    let id = |change: &Change| match change {
        Change::Insert { new, .. } => match &new[0] {
            TupleData::Text(id) => String::from_utf8(id.to_vec()).expect("text"),
            other => panic!("an id is {other:?}"),
        },
        other => panic!("not an insert: {other:?}"),
    };
    transaction.changes.iter().map(id).collect()
}
