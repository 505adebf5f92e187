//! From an operator's SELECTs to a plan, with PostgreSQL as the judge: everything happens in a transaction that is rolled
//! back, so nothing of it stays.

use tokio_postgres::Client;

use super::mirrors::Mirrors;
use super::stored::Source;

use super::catalog::{self, Dependencies, Facts, ViewColumn};
use super::layout::{MIRROR_SCHEMA, quote};
use super::plan::{Entity, EntityPlan, Output, Plan, Table};
use super::rewrite::{self, Rewriter};
use super::select::Variant;
use super::uses::{self, Parsed, Uses};
use super::{chance, check, ids, prove, syntax};
use crate::error::{Context, Error, Result};

/// Checks the mapping and rewrites it; gives what the operator should hear of it, too. `client` is the owner's, outside of a
/// transaction, with our pinned settings; a wrong mapping is a usage error that names the view and says what to do.
pub(crate) async fn read_with_warnings(client: &Client, queries: &[(Entity, String)]) -> Result<(Plan, Vec<String>)> {
    read_again(client, queries, None).await
}

/// The same where mirrors stand already.
pub(crate) async fn read_again(
    client: &Client,
    queries: &[(Entity, String)],
    before: Option<&Plan>,
) -> Result<(Plan, Vec<String>)> {
    let sources: Vec<Source> = queries.iter().map(|(entity, query)| Source::new(*entity, query.clone())).collect();
    tried(client, &selects(&sources)?, &Mirrors { before, ..Mirrors::default() }, &TRANSACTION).await
}

/// The same for the daemon's role, which may create nothing outside of our schemas, and for mirrors that are there already.
pub(crate) async fn read_over(client: &Client, sources: &[Source], mirrors: &Mirrors<'_>) -> Result<Plan> {
    Ok(tried(client, &selects(sources)?, mirrors, &TRANSACTION).await?.0)
}

/// The same inside a transaction that is open, and that goes on whatever comes of it.
pub(crate) async fn read_within(client: &Client, sources: &[Source], mirrors: &Mirrors<'_>) -> Result<Plan> {
    Ok(tried(client, &selects(sources)?, mirrors, &SAVEPOINT).await?.0)
}

fn selects(sources: &[Source]) -> Result<Vec<Select>> {
    check::entities(sources.iter().map(|source| source.entity))?;
    let mut selects: Vec<Select> = sources
        .iter()
        .map(|source| Select {
            entity: source.entity,
            title: format!("portalhook.{}", source.entity.name()),
            query: source.query.clone(),
            text: source.text.clone().unwrap_or_else(|| source.query.clone()),
            search_path: source.search_path.clone(),
            complete: true,
        })
        .collect();
    selects.sort_by_key(|select| select.entity);
    Ok(selects)
}

/// One SELECT alone, of any shape: what the mapping makes of it, without asking for an entity's columns.
#[cfg(test)]
pub(super) async fn read_select(client: &Client, name: &str, query: &str) -> Result<(Plan, Vec<String>)> {
    let select = Select {
        entity: Entity::Posts,
        title: name.to_owned(),
        query: query.to_owned(),
        text: query.to_owned(),
        search_path: None,
        complete: false,
    };
    tried(client, &[select], &Mirrors::default(), &TRANSACTION).await
}

struct Select {
    entity: Entity,
    /// For messages.
    title: String,
    /// As the operator wrote it.
    query: String,
    /// What PostgreSQL is given.
    text: String,
    /// Where its names are looked up; `None`: where this session's role has them looked up.
    search_path: Option<String>,
    /// All that an entity needs is asked for.
    complete: bool,
}

/// Reading the mapping takes weak locks on all its tables, one after another. A migration that locks them in another order must not
/// be the one that PostgreSQL ends: we let go before its `deadlock_timeout` (1s) is over.
const PATIENCE: &str = "SET LOCAL lock_timeout = '300ms'";

/// What leaves nothing of the trial.
struct Frame {
    begin: &'static str,
    undo: &'static str,
}

const TRANSACTION: Frame = Frame { begin: "BEGIN", undo: "ROLLBACK" };
const SAVEPOINT: Frame =
    Frame { begin: "SAVEPOINT reading", undo: "ROLLBACK TO SAVEPOINT reading; RELEASE SAVEPOINT reading" };

async fn tried(
    client: &Client,
    selects: &[Select],
    mirrors: &Mirrors<'_>,
    frame: &Frame,
) -> Result<(Plan, Vec<String>)> {
    let version: String = client.query_one("SHOW server_version_num", &[]).await.context("read the version")?.get(0);
    let major = version.parse::<u32>().unwrap_or(u32::MAX) / 10_000;
    if major > syntax::GRAMMAR {
        return Err(Error::failed(format!(
            "PostgreSQL {major} is newer than the grammar of this version, which is {}'s; install a newer portalhook",
            syntax::GRAMMAR
        )));
    }
    client.batch_execute(frame.begin).await.context("begin")?;
    if mirrors.by_daemon {
        client.batch_execute(PATIENCE).await.context("begin")?;
    }
    let result = match Reader::new(client, selects, mirrors).await {
        Ok(reader) => reader.read().await,
        Err(error) => Err(error),
    };
    let rolled_back = client.batch_execute(frame.undo).await.context("roll back");
    // Where the session itself broke, what it broke at says more than that it cannot roll back.
    let read = result?;
    rolled_back?;
    Ok(read)
}

/// The work inside the transaction.
struct Reader<'a> {
    client: &'a Client,
    selects: &'a [Select],
    mirrors: &'a Mirrors<'a>,
    /// A schema of our own, so that no name of the application or of ours is in the way.
    schema: String,
    search_path: String,
}

/// A SELECT on its way to a plan.
struct Reading<'a> {
    select: &'a Select,
    canonical: String,
    outputs: Vec<ViewColumn>,
    parsed: Parsed,
    uses: Uses,
}

impl<'a> Reader<'a> {
    async fn new(client: &'a Client, selects: &'a [Select], mirrors: &'a Mirrors<'a>) -> Result<Self> {
        let row = client.query_one(SEARCH_PATH, &[]).await.context("read the default search_path")?;
        let mut reader = Self { client, selects, mirrors, schema: row.get(0), search_path: row.get(1) };
        if mirrors.by_daemon {
            // The daemon's role may not create a schema; in this one of its own nothing has a name like ours here.
            reader.schema = DAEMON_SCHEMA.to_owned();
            return Ok(reader);
        }
        client
            .batch_execute(&format!("CREATE SCHEMA {}", quote(&reader.schema)))
            .await
            .context("create a schema to try the mapping in (rolled back afterwards)")?;
        Ok(reader)
    }

    async fn read(&self) -> Result<(Plan, Vec<String>)> {
        let mut facts = Facts::default();
        let mut warnings = Vec::new();
        let mut readings = Vec::new();
        for (index, select) in self.selects.iter().enumerate() {
            let reading = self.one(index, select, &mut facts, &mut warnings).await;
            readings.push(reading.map_err(|error| named(select, &error))?);
        }
        let uses: Vec<&Uses> = readings.iter().map(|reading| &reading.uses).collect();
        let mut tables = uses::tables(&facts, &uses)?;
        self.mirrors.name(&mut tables);
        prove::mirrors(self.client, &self.schema, &tables).await?;
        let mut entities = Vec::new();
        for reading in &readings {
            let plan = self.plan(reading, &facts, &tables).await;
            let plan = plan.map_err(|error| named(reading.select, &error))?;
            warnings.extend(check::lookup(&plan).map(|warning| format!("{} {warning}", reading.select.title)));
            entities.push(plan);
        }
        Ok((Plan { tables, entities }, warnings))
    }

    /// Lets PostgreSQL check and print one SELECT, and checks what we ask of it.
    async fn one(
        &self,
        index: usize,
        select: &'a Select,
        facts: &mut Facts,
        warnings: &mut Vec<String>,
    ) -> Result<Reading<'a>> {
        let view = format!("{}.\"portalhook view {index}\"", quote(&self.schema));
        self.set_search_path(select.search_path.as_ref().unwrap_or(&self.search_path)).await?;
        let create = format!("CREATE VIEW {view} AS ");
        self.client
            .execute(&format!("{create}{}", select.text), &[])
            .await
            .map_err(|error| refusal(error, &select.text, create.chars().count()))?;
        self.set_search_path("").await?;
        let row = self
            .client
            .query_one("SELECT v::oid, pg_get_viewdef(v, false) FROM (SELECT $1::text::regclass AS v) v", &[&view])
            .await
            .context("read what PostgreSQL made of it")?;
        let (oid, canonical): (u32, String) = (row.get(0), row.get(1));
        let outputs = catalog::view_columns(self.client, oid).await?;
        let dependencies = catalog::dependencies_of(self.client, oid).await?;
        let all: Dependencies = facts.load(self.client, dependencies).await?;
        let title = &select.title;
        warnings.extend(check::dependencies(facts, &all)?.into_iter().map(|warning| format!("{title} {warning}")));
        let parsed = Parsed::of(&canonical)?;
        let calls = check::builtin_calls(&parsed.statement);
        check::syntax(facts, &parsed, &catalog::volatile_builtins(self.client, &calls).await?)?;
        warnings.extend(chance::choices(&parsed.statement).into_iter().map(|warning| format!("{title} {warning}")));
        let uses = uses::uses(facts, &parsed)?;
        if uses.clock {
            warnings.push(format!(
                "{title} asks what time it is, which means the commit time: transactions are evaluated one at a time, \
                 and what only time changes makes no event"
            ));
        }
        check::names(&outputs)?;
        if select.complete {
            check::columns(select.entity, &outputs)?;
            warnings
                .extend(check::joins(select.entity, &parsed).into_iter().map(|warning| format!("{title} {warning}")));
        }
        let canonical = canonical.trim().trim_end_matches(';').to_owned();
        Ok(Reading { select, canonical, outputs, parsed, uses })
    }

    /// Rewrites one SELECT, and has the server prove it.
    async fn plan(&self, reading: &Reading<'_>, facts: &Facts, tables: &[Table]) -> Result<EntityPlan> {
        let Reading { select, canonical, outputs, parsed, uses } = reading;
        let place = |oid: u32| tables.iter().position(|table| table.oid == oid);
        let base = uses.base.and_then(place);
        let mut id_column = None;
        if select.complete {
            check::base(select.entity, uses, tables)?;
        }
        if outputs.iter().any(|output| output.name == "id") {
            match rewrite::id_column(facts, parsed, tables) {
                Ok(column) => id_column = column,
                Err(reason) if select.complete => {
                    return Err(Error::usage(format!(
                        "its id must be made of columns of the base table (the first in FROM) alone, but {reason}"
                    )));
                }
                Err(_) => {}
            }
        }
        let (id_is_unique, id_function) = match base {
            Some(base) => {
                let unique = rewrite::unique_columns(facts, &tables[base]);
                ids::settle(select.entity, parsed, &tables[base], id_column, &unique)
            }
            None => (true, None),
        };
        let proof = Rewriter { facts, tables, schema: &self.schema };
        for variant in [Variant::Live, Variant::Any] {
            let template = proof.template(parsed, variant)?;
            prove::template(self.client, &self.schema, &template, base.map(|base| &tables[base]), outputs).await?;
        }
        if let Some(base) = base.filter(|&base| tables[base].key.is_empty()) {
            // With the key among the columns the server refuses an aggregate, which makes one row of many. Here any column will do.
            let mut keyed = tables.to_vec();
            keyed[base].key = vec![0];
            let template = Rewriter { tables: &keyed, ..proof }.template(parsed, Variant::Live)?;
            prove::template(self.client, &self.schema, &template, Some(&keyed[base]), outputs).await?;
        }
        let rewriter = Rewriter { schema: MIRROR_SCHEMA, ..proof };
        let mut kinds = Vec::new();
        for output in outputs {
            let kind = catalog::value_kind(self.client, output.type_oid).await?;
            kinds.push(Output { name: output.name.clone(), kind });
        }
        Ok(EntityPlan {
            entity: select.entity,
            query: select.query.clone(),
            canonical: canonical.clone(),
            base,
            outputs: kinds,
            reads: uses.reads.iter().copied().filter_map(place).collect(),
            id_column,
            id_is_unique,
            id_function,
            reads_clock: uses.clock,
            live: rewriter.template(parsed, Variant::Live)?,
            any: rewriter.template(parsed, Variant::Any)?,
        })
    }

    async fn set_search_path(&self, path: &str) -> Result<()> {
        self.client
            .execute("SELECT set_config('search_path', $1, true)", &[&path])
            .await
            .context("set the search_path")?;
        Ok(())
    }
}

/// A schema that the daemon's role owns; it holds the ledger's day partitions.
const DAEMON_SCHEMA: &str = "portalhook_ledger";

/// Our schema's name, and the search_path that the operator's own sessions have in this database: ours is pinned. It means the
/// same as that of `portalhook.mapping_search_path()`, which may not be there yet.
const SEARCH_PATH: &str = "\
SELECT 'portalhook check ' || pg_backend_pid(),
       CASE WHEN session_user IN ('portalhook', 'portalhook_mirror', 'portalhook_ledger')
            THEN regexp_replace(regexp_replace(path, '(, *)?\"\\$user\"', '', 'g'), '^ *, *', '')
            ELSE replace(path, '\"$user\"', quote_ident(session_user)) END
  FROM coalesce((SELECT substr(setting, length('search_path=') + 1)
                   FROM pg_db_role_setting, unnest(setconfig) AS setting
                  WHERE setting LIKE 'search\\_path=%'
                    AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                    AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
                  ORDER BY setrole = 0, setdatabase = 0 LIMIT 1),
                (SELECT boot_val FROM pg_settings WHERE name = 'search_path')) AS path";

/// PostgreSQL's refusal of a SELECT, with the line if it says where.
fn refusal(error: tokio_postgres::Error, query: &str, before: usize) -> Error {
    let Some(db) = error.as_db_error() else {
        return match Err::<(), _>(error).context("let PostgreSQL check the mapping") {
            Err(error) => error,
            Ok(()) => Error::failed("let PostgreSQL check the mapping"),
        };
    };
    let mut message = db.message().to_owned();
    if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = db.position() {
        let offset = usize::try_from(*position).unwrap_or(0).saturating_sub(before + 1);
        let line = query.chars().take(offset).filter(|character| *character == '\n').count() + 1;
        let text = query.lines().nth(line - 1).unwrap_or_default().trim();
        message.push_str(&format!(" (line {line} of its SELECT: {text})"));
    }
    if let Some(way_out) = way_out(db.code()) {
        message.push_str(&format!(": {way_out}"));
    }
    if let Some(hint) = db.hint() {
        message.push_str(&format!(" (hint: {hint})"));
    }
    Error::usage(message)
}

/// What to do where a SELECT is larger than PostgreSQL can take.
pub(super) fn way_out(code: &tokio_postgres::error::SqlState) -> Option<&'static str> {
    match code.code() {
        "54011" => Some(
            "a SELECT has at most 1,600 columns, those of the table's key included; leave out what no body needs, \
             or gather it: to_jsonb(ROW(…)) AS more",
        ),
        "54001" => Some("write it with fewer levels"),
        _ => None,
    }
}

/// The error, with the view's name in front.
fn named(select: &Select, error: &Error) -> Error {
    Error::new(error.kind(), format!("view {}: {error:?}", select.title))
}
