//! A session of somebody else, and waiting for what sessions do.

use super::LIMIT;
use super::portal::Portal;

/// SQL that goes on once this query gives a row. What sessions wait for, and what they hold, PostgreSQL announces to nobody: it can
/// only be asked, and the loop that asks is in the server.
pub(crate) fn once(query: &str) -> String {
    format!(
        "SET statement_timeout = '{}s';
         DO $$ BEGIN WHILE NOT EXISTS ({query}) LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$;
         RESET statement_timeout;",
        LIMIT.as_secs()
    )
}

/// A reader of posts waits for the catalog of portalhook, by which copies and comparisons end.
pub(crate) const CATALOG_IS_WAITED_FOR: &str = "
    SELECT FROM pg_locks AS w JOIN pg_locks AS h USING (pid)
    WHERE w.relation = 'portalhook.catalog'::regclass AND NOT w.granted AND h.relation = 'posts'::regclass AND h.granted";

/// A session that holds what it has locked until it is dropped.
pub(crate) struct Holder {
    runtime: tokio::runtime::Runtime,
    client: Option<tokio_postgres::Client>,
}

impl Holder {
    /// Begins a transaction and runs `sql` in it.
    pub(crate) fn of(portal: &Portal, sql: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let url = portal.database.owner_url();
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connect");
            tokio::spawn(connection);
            client.batch_execute(&format!("BEGIN; {sql}")).await.expect("read");
            client
        });
        Self { runtime, client: Some(client) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.client.take());
        let _entered = self.runtime.enter();
    }
}
