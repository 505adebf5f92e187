//! A session of somebody else.

use super::portal::Portal;

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
