//! The tables of one large transaction. They are temporary: they cost no write-ahead log, our walsender decodes none of
//! them, nothing of them is left after a crash, and they go with the transaction. The values in them are read by us alone,
//! so they are not compressed.

use crate::error::Result;
use crate::mirror::prepared::Prepared;

/// Rows are worked on page by page. `at` names a row: see `writes::at`. `h` is the hash of a mapped id.
const CREATE: &str = "
    CREATE TEMPORARY TABLE staged_writes (
        at text COLLATE \"C\" PRIMARY KEY, page bigint NOT NULL, tab int NOT NULL, key text NOT NULL, existed bool NOT NULL,
        alters bool NOT NULL, place bigint NOT NULL, origin text, image text
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_rows (
        at text COLLATE \"C\" PRIMARY KEY, page bigint NOT NULL, tab int NOT NULL, more bigint NOT NULL, place bigint NOT NULL,
        image text NOT NULL
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_operations (place bigint NOT NULL, number bigint NOT NULL) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_states (
        entity int NOT NULL, h bigint NOT NULL, before bool NOT NULL, live bool NOT NULL, place bigint NOT NULL, id text NOT NULL,
        bytes bigint NOT NULL, entry text NOT NULL
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_counts (
        user_id text NOT NULL, posts bigint NOT NULL, votes bigint NOT NULL, comments bigint NOT NULL, comment_votes bigint NOT NULL
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE staged_events (
        place bigint NOT NULL, what int NOT NULL, entity int NOT NULL, id text COLLATE \"C\" NOT NULL, bytes bigint NOT NULL,
        entry text NOT NULL, before text, changed text NOT NULL
    ) ON COMMIT DROP;
    ALTER TABLE pg_temp.staged_writes ALTER image SET STORAGE EXTERNAL;
    ALTER TABLE pg_temp.staged_rows ALTER image SET STORAGE EXTERNAL;
    ALTER TABLE pg_temp.staged_states ALTER entry SET STORAGE EXTERNAL;
    ALTER TABLE pg_temp.staged_events ALTER entry SET STORAGE EXTERNAL, ALTER before SET STORAGE EXTERNAL";

const REMOVE: &str = "
    CLOSE ALL;
    DROP TABLE IF EXISTS pg_temp.staged_writes, pg_temp.staged_rows, pg_temp.staged_operations, pg_temp.staged_states, pg_temp.staged_counts,
        pg_temp.staged_events, pg_temp.staged_sums";

/// Begins the group that a large transaction is.
pub(super) async fn begin(sql: &Prepared<'_>) -> Result<()> {
    sql.run("begin a large transaction", "BEGIN").await?;
    create(sql).await
}

/// Within a transaction that is open.
pub(super) async fn create(sql: &Prepared<'_>) -> Result<()> {
    sql.run("create the tables of a large transaction", CREATE).await
}

/// What was staged in the open transaction is done with.
pub(super) async fn remove(sql: &Prepared<'_>) -> Result<()> {
    sql.run("remove the tables of a large transaction", REMOVE).await
}

/// Reads a query's rows in parts, within memory's bounds. What the transaction does after the beginning is not seen.
pub(super) struct Cursor<'s, 'a> {
    sql: &'s Prepared<'a>,
    name: String,
    rows: usize,
}

impl<'s, 'a> Cursor<'s, 'a> {
    /// `name` is unique among the cursors of a transaction; `rows` is how many a part has.
    pub(super) async fn open(sql: &'s Prepared<'a>, name: String, query: &str, rows: usize) -> Result<Self> {
        sql.run("read what is staged", &format!("DECLARE \"{name}\" NO SCROLL CURSOR FOR {query}")).await?;
        Ok(Self { sql, name, rows })
    }

    /// The next rows; none at the end.
    pub(super) async fn next(&self) -> Result<Vec<tokio_postgres::Row>> {
        let fetch = format!("FETCH {} FROM \"{}\"", self.rows, self.name);
        self.sql.query("read what is staged", &fetch, &[]).await
    }

    pub(super) async fn close(self) -> Result<()> {
        self.sql.run("read what is staged", &format!("CLOSE \"{}\"", self.name)).await
    }
}
