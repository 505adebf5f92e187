//! The write session with its statements prepared once, and counted.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::room::Room;
use crate::error::{Context as _, Error, Result};

/// A session and the statements that it has prepared, by their text.
pub(crate) struct Prepared<'a> {
    client: &'a Client,
    statements: Mutex<HashMap<String, Statement>>,
    /// Posted statements that nobody has heard the answer of, in order.
    posted: Mutex<Vec<BoxFuture<'a, Result<()>>>>,
    sent: AtomicU64,
    /// The session holds values (`held`).
    pub(super) holds: AtomicBool,
}

/// A parameter of a posted statement, which lives as long as that.
pub(crate) type Owned = Box<dyn ToSql + Sync + Send>;

impl<'a> Prepared<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self {
            client,
            statements: Mutex::default(),
            posted: Mutex::default(),
            sent: AtomicU64::new(0),
            holds: AtomicBool::new(false),
        }
    }

    /// How many statements were sent so far: batches are worth what this number says.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Runs a statement; `what` says in an error what was being done ("apply posts").
    pub(crate) async fn query(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.statement(what, sql).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.cause(what, self.client.query(&statement, parameters).await).await
    }

    /// The same for rows that need room.
    pub(crate) async fn query_within(
        &self,
        what: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        room: &Room,
    ) -> Result<Vec<Row>> {
        let statement = self.statement(what, sql).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        let stream = self.cause(what, self.client.query_raw(&statement, parameters.iter().copied()).await).await?;
        let mut stream = std::pin::pin!(stream);
        let mut rows = Vec::new();
        while let Some(row) = self.cause(what, stream.try_next().await).await? {
            // Whoever reads no further has the rest dropped as it comes.
            room.take(row.raw_size_bytes())?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Sends a statement without waiting for its answer; what is sent after it need not wait either. PostgreSQL runs them
    /// in order and, once one fails, none of the transaction, so COMMIT can stand behind them. `settle` has the answers.
    pub(crate) async fn post(&self, what: impl Into<String>, sql: &str, parameters: Vec<Owned>) -> Result<()> {
        let what = what.into();
        let statement = self.statement(&what, sql).await?;
        let client = self.client;
        self.send(Box::pin(async move {
            let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|owned| &**owned as _).collect();
            client.execute(&statement, &parameters).await.context(what).map(drop)
        }))
        .await
    }

    /// Posts statements without parameters as they are: BEGIN, COMMIT.
    pub(crate) async fn post_plain(&self, what: &'static str, sql: &'static str) -> Result<()> {
        let client = self.client;
        self.send(Box::pin(async move { client.batch_execute(sql).await.context(what) })).await
    }

    /// tokio-postgres sends a request when its future is first polled.
    async fn send(&self, mut answer: BoxFuture<'a, Result<()>>) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            Poll::Ready(answered) => answered,
            Poll::Pending => {
                self.posted.lock().map_err(|_| Error::failed("a statement could not be kept"))?.push(answer);
                Ok(())
            }
        }
    }

    /// Waits for the answers of all posted statements.
    ///
    /// # Errors
    /// That of the first one that failed: the others failed for it.
    pub(crate) async fn settle(&self) -> Result<()> {
        let posted = std::mem::take(
            &mut *self.posted.lock().map_err(|_| Error::failed("the answers of statements could not be kept"))?,
        );
        for answer in posted {
            answer.await?;
        }
        Ok(())
    }

    /// Runs a statement that returns nothing; gives the number of rows that it touched.
    pub(crate) async fn execute(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let statement = self.statement(what, sql).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.cause(what, self.client.execute(&statement, parameters).await).await
    }

    /// A query whose text hardly comes again.
    pub(crate) async fn query_once(
        &self,
        what: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.cause(what, self.client.query(sql, parameters).await).await
    }

    /// Behind a posted statement that failed, every other one fails for that.
    async fn cause<T>(&self, what: &str, answer: std::result::Result<T, tokio_postgres::Error>) -> Result<T> {
        if answer.is_err() {
            self.settle().await?;
        }
        answer.context(what)
    }

    /// Prepares a statement ahead of sending it together with others.
    pub(crate) async fn prepare(&self, what: &str, sql: &str) -> Result<()> {
        self.statement(what, sql).await.map(drop)
    }

    /// Runs statements without parameters as they are: BEGIN, SAVEPOINT, COMMIT.
    pub(crate) async fn run(&self, what: &str, sql: &str) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.cause(what, self.client.batch_execute(sql).await).await
    }

    /// Drops all prepared statements: what they read has changed.
    pub(crate) fn forget(&self) -> Result<()> {
        self.lock()?.clear();
        Ok(())
    }

    async fn statement(&self, what: &str, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.known(sql)? {
            return Ok(statement);
        }
        let statement = self.cause(what, self.client.prepare(sql).await).await?;
        self.lock()?.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn known(&self, sql: &str) -> Result<Option<Statement>> {
        Ok(self.lock()?.get(sql).cloned())
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, HashMap<String, Statement>>> {
        self.statements.lock().map_err(|_| Error::failed("a statement could not be kept"))
    }
}

/// A name as SQL reads it back.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
