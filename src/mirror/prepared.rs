//! The write session with its statements prepared once, and counted.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::error::{Context as _, Error, Result};

/// A session and the statements that it has prepared, by their text.
pub(crate) struct Prepared<'a> {
    client: &'a Client,
    statements: Mutex<HashMap<String, Statement>>,
    sent: AtomicU64,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client, statements: Mutex::default(), sent: AtomicU64::new(0) }
    }

    /// How many statements were sent so far: batches are worth what this number says.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Runs a statement; `what` says in an error what was being done ("apply posts").
    pub(crate) async fn query(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.statement(what, sql).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.client.query(&statement, parameters).await.context(what)
    }

    /// Runs a statement that returns nothing; gives the number of rows that it touched.
    pub(crate) async fn execute(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let statement = self.statement(what, sql).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.client.execute(&statement, parameters).await.context(what)
    }

    /// Prepares a statement ahead of sending it together with others.
    pub(crate) async fn prepare(&self, what: &str, sql: &str) -> Result<()> {
        self.statement(what, sql).await.map(drop)
    }

    /// Runs statements without parameters as they are: BEGIN, SAVEPOINT, COMMIT.
    pub(crate) async fn run(&self, what: &str, sql: &str) -> Result<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.client.batch_execute(sql).await.context(what)
    }

    async fn statement(&self, what: &str, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.known(sql)? {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await.context(what)?;
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
