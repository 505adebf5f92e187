//! A mirror against its table, in one snapshot: what the stream should have brought and did not.

use bytes::Bytes;
use tokio_postgres::Client;

use super::held;
use super::net::{Key, Write, stored_columns};
use crate::change::Row;
use crate::error::{Context as _, Result};
use crate::mapping::layout::quote;
use crate::mapping::plan::{Column, Table};
use crate::mapping::record;

/// A mirrored table, and where its rows are now.
pub(crate) struct Comparison<'t> {
    /// Index into `Plan::tables`.
    pub(crate) index: usize,
    pub(crate) table: &'t Table,
    /// Schema and name, quoted.
    pub(crate) source: String,
}

/// The table with this oid by its present name; `None`: it is not there any more.
pub(crate) async fn source(client: &Client, table: &Table) -> Result<Option<String>> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let name = format!("{}.{}", table.schema, table.name);
    let row = client.query_opt(sql, &[&table.oid]).await.context(format!("look for {name}"))?;
    Ok(row.map(|row| format!("{}{}.{}", table.only(), quote(row.get(0)), quote(row.get(1)))))
}

impl Comparison<'_> {
    /// The query for what has to be done to the mirror to make it the table, in the order of the key: `read` reads its rows,
    /// `image` and `held` are what is large in them (`held::prepare` comes first). The transaction that runs it sees both as of
    /// one moment; the server joins them on disk.
    pub(crate) fn sql(&self) -> String {
        let stored = stored_columns(self.table).count();
        let (rows, what) =
            if self.table.key.is_empty() { (self.by_row(), "more") } else { (self.by_key(), "existed, key") };
        format!("SELECT {what}, {} FROM ({rows} OFFSET 0) AS r", held::columns(stored, "record"))
    }

    /// What a row of the query says: a write, and how often it is to be made.
    pub(crate) fn read(&self, row: &tokio_postgres::Row, place: usize) -> Result<(Write, u64)> {
        let what = || format!("compare {} with its mirror", self.source);
        let text = |name: &str| row.try_get::<_, Option<&str>>(name).context(what());
        let image = held::read(text("image")?, text("held")?)?;
        if self.table.key.is_empty() {
            let more: i64 = row.try_get("more").context(what())?;
            return Ok((Write::whole(self.index, image.unwrap_or_default(), more > 0, place), more.unsigned_abs()));
        }
        let key = key(text("key")?.unwrap_or_default())?;
        let existed = row.try_get("existed").context(what())?;
        Ok((self.write(key, existed, image, place), 1))
    }

    fn write(&self, key: Key, existed: bool, image: Option<Row>, place: usize) -> Write {
        Write { table: self.index, key, existed, image, gone: None, moved_from: None, place, alters: true }
    }

    /// Gives whether the mirror has the row, the key, and the row of the table. Rows belong together whose keys print
    /// alike, as in the stream.
    fn by_key(&self) -> String {
        let stored: Vec<&Column> = stored_columns(self.table).map(|(_, column)| column).collect();
        let key: Vec<&Column> = self.table.key.iter().map(|&index| &self.table.columns[index]).collect();
        let list = |count: usize, each: &dyn Fn(usize) -> String, separator: &str| {
            (0..count).map(each).collect::<Vec<_>>().join(separator)
        };
        let side = |from: &str, order: &dyn Fn(&Column) -> String| {
            format!(
                "SELECT {}, {} FROM {from}",
                list(stored.len(), &|at| format!("{} AS c{at}", output(stored[at])), ", "),
                list(key.len(), &|at| format!("{} AS k{at}, {} AS s{at}", output(key[at]), order(key[at])), ", "),
            )
        };
        let natural = |column: &Column| quote(&column.name);
        let cast = |column: &Column| column.cast().unwrap_or_else(|| quote(&column.name));
        format!(
            "SELECT m.k0 IS NOT NULL AS existed, ROW({keys})::text AS key, \
             CASE WHEN t.k0 IS NOT NULL THEN ROW({row})::text END AS record, {values} \
             FROM ({mirror}) AS m FULL JOIN ({source}) AS t ON {same} \
             WHERE m.k0 IS NULL OR t.k0 IS NULL OR {differs} ORDER BY {order}",
            keys = list(key.len(), &|at| format!("coalesce(m.k{at}, t.k{at})"), ", "),
            row = list(stored.len(), &|at| format!("t.c{at}"), ", "),
            values = list(stored.len(), &|at| format!("t.c{at} AS c{at}"), ", "),
            mirror = side(&self.table.mirror_name(), &cast),
            source = side(&self.source, &natural),
            same = list(key.len(), &|at| format!("m.k{at} = t.k{at}"), " AND "),
            differs = list(stored.len(), &|at| format!("m.c{at} IS DISTINCT FROM t.c{at}"), " OR "),
            order = list(key.len(), &|at| format!("coalesce(t.s{at}, m.s{at})"), ", "),
        )
    }

    /// Without a key: gives each whole row of which there is another number, and how many more there are.
    fn by_row(&self) -> String {
        let stored: Vec<&Column> = stored_columns(self.table).map(|(_, column)| column).collect();
        let list = |each: &dyn Fn(usize) -> String| (0..stored.len()).map(each).collect::<Vec<_>>().join(", ");
        let columns = list(&|at| format!("{} AS c{at}", output(stored[at])));
        let names = list(&|at| format!("c{at}"));
        format!(
            "SELECT ROW({names})::text AS record, sum(more)::bigint AS more, {names} FROM (\
                 SELECT {columns}, 1 AS more FROM {} UNION ALL SELECT {columns}, -1 FROM {}) AS u \
             GROUP BY {names} HAVING sum(more) <> 0 ORDER BY {names}",
            self.source,
            self.table.mirror_name(),
        )
    }
}

/// Output text decides, whatever the type and its collation call equal. (`IS NOT NULL` is false for a composite value
/// with a null in it.)
fn output(column: &Column) -> String {
    format!("({}) COLLATE \"C\"", held::output(&quote(&column.name)))
}

fn key(text: &str) -> Result<Key> {
    let parts = record::parse(text)?;
    Ok(parts.into_iter().map(|part| Bytes::copy_from_slice(part.unwrap_or_default().as_bytes())).collect())
}
