//! The first copy: every mirror filled from one snapshot, server-side, and all that starts with it, in one transaction.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{catalog, count, counters};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lsn::Lsn;
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Column, Entity, Plan, Table};

/// Ours beside the mirrors; `{…}` are filled in.
const CHECKPOINT: &str = include_str!("../../sql/queries/first_checkpoint.sql");
const ROUTES: &str = include_str!("../../sql/queries/first_routes.sql");

/// Said while a step takes longer than this, and again as often.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the first copy is made of.
pub(crate) struct FirstCopy<'a> {
    pub(crate) plan: &'a Plan,
    /// The plan whose mirrors stand there and go.
    pub(crate) replaced: Option<&'a Plan>,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    pub(crate) system_identifier: &'a str,
    pub(crate) database_oid: u32,
    /// The server's timeline, and where it is found (`Database::home`).
    pub(crate) timeline: i32,
    pub(crate) home: &'a str,
    /// Event ids are unlike those of the database that this is a copy of.
    pub(crate) new_source: bool,
}

/// Rows copied of a table.
pub(crate) struct Copied {
    pub(crate) table: String,
    pub(crate) rows: u64,
}

impl FirstCopy<'_> {
    /// Copies as the daemon's role, in the snapshot that the slot's creation exported; commits all or nothing.
    /// `progress` gets a line whenever a step takes longer than a second.
    pub(crate) async fn run(
        &self,
        client: &Client,
        snapshot: &str,
        consistent_point: Lsn,
        progress: &mut (dyn FnMut(String) + Send),
    ) -> Result<Vec<Copied>> {
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {}", literal(snapshot));
        client.batch_execute(&begin).await.context("begin the first copy in the slot's snapshot")?;
        let copied = self.fill(client, consistent_point, progress).await;
        let end = if copied.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = client.batch_execute(end).await.context("commit the first copy");
        let copied = copied?;
        ended?;
        Ok(copied)
    }

    /// All of its statements but those that need an answer first, for people to read.
    pub(crate) fn sql(&self) -> Vec<String> {
        let mut sql = self.removals();
        for table in &self.plan.tables {
            sql.extend([table.create_sql(), copy_sql(table), analyze_sql(table)]);
        }
        sql.extend(self.plan.id_functions_sql());
        sql.extend(self.plan.id_indexes().into_iter().map(|(_, sql)| sql));
        sql.extend([counters::CREATE.to_owned(), count::count_sql(self.plan), ROUTES.to_owned()]);
        sql
    }

    async fn fill(&self, client: &Client, lsn: Lsn, progress: &mut (dyn FnMut(String) + Send)) -> Result<Vec<Copied>> {
        for sql in self.removals() {
            client.batch_execute(&sql).await.context("remove the old mirror")?;
        }
        let mut copied = Vec::with_capacity(self.plan.tables.len());
        for table in &self.plan.tables {
            copied.push(copy(client, table, progress).await?);
        }
        let oids: Vec<u32> = self.plan.tables.iter().map(|table| table.oid).collect();
        catalog::check_files(client, &oids).await?;
        for sql in self.plan.id_functions_sql() {
            client.batch_execute(&sql).await.context("create the functions that compute ids")?;
        }
        for (_, sql) in indexes(client, self.plan).await? {
            patiently(client.batch_execute(&sql), progress, "indexes").await.context("index the mirror")?;
        }
        for table in &self.plan.tables {
            client.batch_execute(&analyze_sql(table)).await.context("analyze the mirror")?;
        }
        client.batch_execute(counters::CREATE).await.context("create the counters")?;
        count(client, self.plan, lsn, progress).await?;
        client.batch_execute(ROUTES).await.context("take in the endpoints")?;
        self.record(client, lsn).await?;
        Ok(copied)
    }

    fn removals(&self) -> Vec<String> {
        let Some(replaced) = self.replaced else { return Vec::new() };
        let mut sql: Vec<String> =
            replaced.tables.iter().map(|table| format!("DROP TABLE IF EXISTS {}", table.mirror_name())).collect();
        sql.push("DROP TABLE IF EXISTS portalhook_mirror.counters".to_owned());
        sql.extend(replaced.drop_id_functions_sql());
        sql
    }

    /// The plan, and where the stream begins.
    async fn record(&self, client: &Client, lsn: Lsn) -> Result<()> {
        store_plan(client, self.plan).await?;
        client.batch_execute("DELETE FROM portalhook.catalog").await.context("forget the old mirror's tables")?;
        catalog::remember_all(client, self.plan, self.publication).await?;
        client
            .execute(
                CHECKPOINT,
                &[
                    &lsn.to_string(),
                    &self.system_identifier,
                    &i64::from(self.database_oid),
                    &self.slot,
                    &self.publication,
                    &self.timeline,
                    &self.home,
                    &self.new_source,
                ],
            )
            .await
            .context("store the checkpoint")?;
        Ok(())
    }
}

/// Counts what users have done, in one statement; if a row's data makes that fail, row by row. The counters are empty.
pub(crate) async fn count(
    client: &Client,
    plan: &Plan,
    lsn: Lsn,
    progress: &mut (dyn FnMut(String) + Send),
) -> Result<()> {
    client.batch_execute("SAVEPOINT counting").await.context("set a savepoint")?;
    let lsn = lsn.to_string();
    let mut in_one = count::failures_sql(plan, &lsn);
    in_one.push(count::count_sql(plan));
    let in_one = in_one.join(";\n");
    let Err(error) = patiently(client.batch_execute(&in_one), progress, "counters").await else {
        return client.batch_execute(count::FAILURES_ONCE).await.context("note rows that cannot be evaluated");
    };
    let of_a_row = |code: &SqlState| ["21", "22", "23"].iter().any(|class| code.code().starts_with(class));
    if !error.code().is_some_and(of_a_row) {
        return Err(error).context("count what users have done");
    }
    let problem = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    progress(format!("a row cannot be evaluated ({problem}): counting row by row"));
    client.batch_execute("ROLLBACK TO counting").await.context("go back to the savepoint")?;
    for sql in count::count_one_by_one_sql(plan, &lsn) {
        patiently(client.batch_execute(&sql), progress, "counters").await.context("count what users have done")?;
    }
    client.batch_execute(count::FAILURES_ONCE).await.context("note rows that cannot be evaluated")
}

/// Writes the active plan.
pub(crate) async fn store_plan(client: &Client, plan: &Plan) -> Result<()> {
    let plan =
        serde_json::to_string(plan).map_err(|error| Error::because(Kind::Failed, "write the plan as json", error))?;
    client
        .execute(
            "INSERT INTO portalhook.plan (plan) VALUES ($1::text::jsonb)
             ON CONFLICT (one) DO UPDATE SET plan = excluded.plan, made_at = now(), ahead = NULL",
            &[&plan],
        )
        .await
        .context("store the plan")?;
    Ok(())
}

pub(crate) async fn copy(client: &Client, table: &Table, progress: &mut (dyn FnMut(String) + Send)) -> Result<Copied> {
    let name = format!("{}.{}", table.schema, table.name);
    client.batch_execute(&table.create_sql()).await.context(format!("create the mirror of {name}"))?;
    let estimate: f32 = client
        .query_one("SELECT reltuples FROM pg_class WHERE oid = $1", &[&table.oid])
        .await
        .context(format!("look at {name}"))?
        .get(0);
    let label =
        if estimate > 0.0 { format!("{name}: copying, about {estimate:.0} rows") } else { format!("{name}: copying") };
    let started = Instant::now();
    let sql = copy_sql(table);
    let rows = patiently(client.execute(&sql, &[]), progress, &label).await.context(format!("copy {name}"))?;
    if started.elapsed() >= PATIENCE {
        progress(format!("{name}: {rows} rows copied in {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(Copied { table: name, rows })
}

/// Waits for a statement, and says what it is about while it takes long: after a second, then every five.
pub(crate) async fn patiently<T>(
    work: impl Future<Output = T>,
    progress: &mut (dyn FnMut(String) + Send),
    what: &str,
) -> T {
    tokio::pin!(work);
    let started = Instant::now();
    let mut wait = PATIENCE;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(wait) => progress(format!("{what} … {:.0} s", started.elapsed().as_secs_f64())),
        }
        wait = PATIENCE * 5;
    }
}

fn copy_sql(table: &Table) -> String {
    let stored: Vec<&Column> = table.columns.iter().filter(|column| column.is_stored()).collect();
    let names: Vec<String> = stored.iter().map(|column| quote(&column.name)).collect();
    let values: Vec<String> = stored.iter().map(|column| value(column)).collect();
    format!(
        "INSERT INTO {} ({}) SELECT {} FROM {}",
        table.mirror_name(),
        names.join(", "),
        values.join(", "),
        table.source()
    )
}

/// What is kept as text is output text: a cast to text prints some types differently.
fn value(column: &Column) -> String {
    let name = quote(&column.name);
    if column.mirror_type == column.source_type {
        name
    } else {
        format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END")
    }
}

pub(crate) fn analyze_sql(table: &Table) -> String {
    format!("ANALYZE {}", table.mirror_name())
}

fn index_sql(table: &Table, column: &Column) -> String {
    format!("CREATE INDEX ON {} ({})", table.mirror_name(), quote(&column.name))
}

impl Plan {
    /// Indexes that find a post, user or portal by its mapped id where the key does not, and rows that have no key. Each
    /// with its table.
    fn id_indexes(&self) -> Vec<(usize, String)> {
        let found_by_id = |table: &Table| {
            self.entities.iter().any(|plan| {
                plan.id_column.is_some()
                    && plan.id_column == table.probe()
                    && plan.base.is_some_and(|base| self.tables[base].oid == table.oid)
            })
        };
        let probes = self.tables.iter().enumerate().filter(|(_, table)| !found_by_id(table));
        let probes = probes.filter_map(|(place, table)| Some((place, table.probe_index_sql()?)));
        let ids = [Entity::Posts, Entity::Users, Entity::Portals].into_iter().filter_map(|entity| {
            let plan = self.entity(entity)?;
            let base = plan.base?;
            let table = &self.tables[base];
            let column = plan.id_column?;
            (table.key != [column] && table.columns[column].mirror_type == table.columns[column].source_type)
                .then(|| (base, index_sql(table, &table.columns[column])))
        });
        probes.chain(ids).chain(self.id_function_indexes()).collect()
    }
}

/// All indexes of the mirrors but those of their keys, each with its table.
pub(crate) async fn indexes(client: &Client, plan: &Plan) -> Result<Vec<(usize, String)>> {
    let mut all = plan.id_indexes();
    all.extend(source_indexes(client, plan).await?);
    Ok(all)
}

/// The source's own plain indexes on mirrored columns of tables that a SELECT joins or looks into.
async fn source_indexes(client: &Client, plan: &Plan) -> Result<Vec<(usize, String)>> {
    let mut sql = Vec::new();
    for (place, table) in plan.tables.iter().enumerate() {
        if !plan.entities.iter().any(|entity| entity.reads.contains(&place)) {
            continue;
        }
        let rows = client
            .query(
                "SELECT DISTINCT a.attname::text
                 FROM pg_index AS i
                 JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
                 JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = $1 AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL AND m.amname = 'btree'
                 ORDER BY 1",
                &[&table.oid],
            )
            .await
            .context("look for the indexes that joins use")?;
        for row in rows {
            let name: &str = row.get(0);
            let found = table.columns.iter().position(|column| column.name == name);
            let Some(index) = found.filter(|&index| table.key != [index]) else { continue };
            let column = &table.columns[index];
            let one = (place, index_sql(table, column));
            if column.is_stored() && column.mirror_type == column.source_type && !plan.id_indexes().contains(&one) {
                sql.push(one);
            }
        }
    }
    Ok(sql)
}
