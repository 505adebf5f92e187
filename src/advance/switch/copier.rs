//! The task that makes copies: it hears of open switches, copies what they need beside the old mirrors, and has the heart
//! switch to the copies where the stream reaches their commit.
//!
//! It has a session of its own. Whatever fails here is told in `portalhook.switches`, and tried again with growing pauses; the
//! stream goes on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::Client;

use super::job::Job;
use super::place::needs_copies;
use super::snapshot::Snapshot;
use super::{Adoption, Command, OUTRUN, load_plan, pause};
use crate::error::{Context as _, Error, Kind, Result};
use crate::failpoint;
use crate::lsn::Lsn;
use crate::mapping::layout::quote;
use crate::mapping::mirrors::Mirrors;
use crate::mapping::plan::{Plan, Table};
use crate::mapping::read;
use crate::mapping::stored::{self, Source};
use crate::mirror::courtesy::giving_way;
use crate::mirror::show::Show;
use crate::mirror::{catalog, copy};
use crate::session::{self, Database, Session};

/// A notification is a hint; the table is looked at as often all the same.
const LOOK: Duration = Duration::from_secs(2);
/// Pauses after something failed: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How often transactions that were under way are asked for.
const STILL_THERE: Duration = Duration::from_millis(20);

const OPEN: &str = "SELECT id, kind, tables, why, compared FROM portalhook.switches WHERE state <> 'done' AND kind <> 'pause' ORDER BY id";
const MARK: &str =
    "UPDATE portalhook.switches SET state = $2, problem = $3, snapshot = $4 WHERE id = ANY ($1) AND state <> 'done'";

/// Runs until `stop`; ends with an error only if the heart is gone.
pub(crate) async fn run(
    database: &Database,
    commands: mpsc::Sender<Command>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let work = async {
        let mut pause = FIRST_PAUSE;
        let mut copier = Copier { database, commands, told: None };
        loop {
            let Err(error) = copier.work(&mut pause).await;
            // The parts that stop the daemon say so themselves; a copy can always be made later.
            tracing::warn!("copies are not made at the moment: {error:?}; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|now| *now) => Ok(()),
        () = work => Ok(()),
    }
}

struct Copier<'a> {
    database: &'a Database,
    commands: mpsc::Sender<Command>,
    /// The problem that was told last.
    told: Option<String>,
}

/// A row of `portalhook.switches` that is not done.
struct Request {
    id: i64,
    is_mapping: bool,
    tables: Vec<u32>,
    /// Those of the tables whose differences are events.
    compared: Vec<u32>,
    why: String,
}

impl Copier<'_> {
    /// Takes open switches, one set after another, until something fails that is not about them.
    async fn work(&mut self, pause: &mut Duration) -> Result<std::convert::Infallible> {
        let mut session = session::connect(self.database, "portalhook switch").await?;
        let mut hints = session.hints();
        session.batch_execute("LISTEN portalhook_switch").await.context("listen")?;
        tidy(&mut session).await?;
        loop {
            let requests = open(&session).await?;
            if requests.is_empty() {
                *pause = FIRST_PAUSE;
                self.told = None;
                // A hint may also mean that the heart has changed the plan in place.
                if let Ok(Some(())) = tokio::time::timeout(LOOK, hints.recv()).await {
                    tidy(&mut session).await?;
                }
                continue;
            }
            match self.take(&session, &requests).await {
                Ok(()) => {
                    forget_kept(&session).await?;
                    tidy(&mut session).await?;
                }
                Err(error) if session.is_closed() => return Err(error),
                Err(error) => {
                    self.put_off(&session, &requests, &error, *pause).await?;
                    tokio::time::sleep(*pause).await;
                    *pause = (*pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Notes why it did not happen; the log has a line for each new reason.
    async fn put_off(&mut self, session: &Session, requests: &[Request], error: &Error, pause: Duration) -> Result<()> {
        self.tell_heart(Command::Forget).await?;
        let problem = format!("{error:?}");
        mark(session, requests, "waiting", Some(&problem), None).await?;
        // Of a mapping that cannot be run the pause says what there is to say; what the heart was faster with comes by itself.
        let is_paused = pause::is_paused(session).await?;
        let is_told = problem == OUTRUN || error.kind() == Kind::Usage && is_paused;
        if !is_told && self.told.as_ref() != Some(&problem) {
            tracing::warn!("{}: not in force yet: {problem}; tried again and again, next in {pause:?}", whys(requests));
            self.told = Some(problem);
        }
        Ok(())
    }

    async fn take(&self, session: &Session, requests: &[Request]) -> Result<()> {
        let (before, ..) = load_plan(session).await?;
        let afresh: Vec<u32> = requests.iter().flat_map(|request| request.tables.iter().copied()).collect();
        let mirrors = Mirrors { before: Some(&before), afresh: &afresh, by_daemon: true };
        let (plan, seen) = match newest(session, &mirrors).await {
            Ok((plan, seen)) => (plan, Some(seen)),
            // A mapping that cannot be run must not stand in the way of a copy for the one that is in force.
            Err(error) if session.is_closed() || requests.iter().all(|request| request.is_mapping) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!("the newest mapping cannot be run: {error:?}");
                (read::read_over(session, &Source::all_settled(&before), &mirrors).await?, None)
            }
        };
        let mut requests: Vec<&Request> =
            requests.iter().filter(|request| seen.is_some() || !request.is_mapping).collect();
        let mut copied = needs_copies(&before, &plan);
        // A paused stream takes the newest mapping where it stands, and only what nobody has mirrored is copied for that.
        let at_pause = requests.iter().any(|request| request.is_mapping) && pause::is_paused(session).await?;
        if at_pause {
            copied = pause::needs_tables(&before, &plan);
            requests.retain(|request| request.is_mapping);
            if copied.is_empty() {
                return Err(Error::failed("the stream is paused, and the mapping takes effect where it stands"));
            }
        }
        let ids = requests.iter().map(|request| request.id).collect();
        if copied.is_empty() {
            return self
                .ask(|answer| Command::Adopt(Box::new(Adoption { before, plan, seen, requests: ids }), answer))
                .await;
        }
        let (done, hears) = oneshot::channel();
        let snapshot = Arc::new(OnceLock::new());
        let attempt = attempt(session).await?;
        let earlier = current(session).await?;
        let job = Job {
            attempt: attempt.clone(),
            before,
            plan: plan.clone(),
            seen,
            copied: copied.clone(),
            compared: requests.iter().flat_map(|request| request.compared.iter().copied()).collect(),
            requests: ids,
            at_pause,
            earlier,
            snapshot: Arc::clone(&snapshot),
            done,
        };
        self.ask(|answer| Command::Record(Box::new(job), answer)).await?;
        failpoint::hit("recording");
        let names: Vec<&str> = copied.iter().map(|&table| plan.tables[table].called()).collect();
        tracing::info!("copying {} beside the mirror; the stream goes on", names.join(", "));
        settle(session).await?;
        session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.context("begin a copy")?;
        let copy = Copy { session, plan: &plan, copied: &copied, attempt: &attempt, snapshot: &snapshot };
        if let Err(error) =
            giving_way(self.database, "portalhook switch", session, copy.fill(self.database, &requests)).await
        {
            session.batch_execute("ROLLBACK").await.context("give a copy up")?;
            return Err(error);
        }
        session.batch_execute("COMMIT").await.context("commit a copy")?;
        failpoint::hit("copy_committed");
        if at_pause {
            self.tell_heart(Command::Landed(attempt)).await?;
        }
        let lsn: Lsn = hears.await.map_err(|_| Error::failed("the heart has stopped"))??;
        tracing::info!(%lsn, "{}: in force from here on", whys_of(&requests));
        Ok(())
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.tell_heart(command(answer)).await?;
        answered.await.map_err(|_| Error::failed("the heart has stopped"))?
    }

    async fn tell_heart(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| Error::failed("the heart has stopped"))
    }
}

/// A copy that is being made.
struct Copy<'a> {
    session: &'a Session,
    plan: &'a Plan,
    copied: &'a [usize],
    attempt: &'a str,
    snapshot: &'a OnceLock<Snapshot>,
}

impl Copy<'_> {
    /// Everything in the one transaction, its announcement included: either all of it is there, or nothing.
    async fn fill(&self, database: &Database, requests: &[&Request]) -> Result<()> {
        let seen: String = self
            .session
            .query_one("SELECT pg_current_snapshot()::text", &[])
            .await
            .context("take the snapshot of a copy")?
            .get(0);
        drop(self.snapshot.set(seen.parse()?));
        // The state is for people: it must be seen while this transaction is open.
        let ids: Vec<i64> = requests.iter().map(|request| request.id).collect();
        let told = session::connect(database, "portalhook switch").await?;
        told.execute(MARK, &[&ids, &"copying", &None::<&str>, &Some(&seen)]).await.context("note a copy")?;
        failpoint::hit("copying");
        let mut progress = |line: String| tracing::info!("{line}");
        for sql in self.plan.id_functions_sql() {
            self.session.batch_execute(&sql).await.context("create the functions that compute ids")?;
        }
        for &table in self.copied {
            let table = &self.plan.tables[table];
            // One that an earlier attempt has left.
            let drop = format!("DROP TABLE IF EXISTS {}", table.mirror_name());
            self.session.batch_execute(&drop).await.context("remove an old copy")?;
            copy::copy(self.session, table, &mut progress).await?;
        }
        for (table, sql) in copy::indexes(self.session, self.plan).await? {
            if self.copied.contains(&table) {
                copy::patiently(self.session.batch_execute(&sql), &mut progress, "indexes")
                    .await
                    .context("index a copy")?;
            }
        }
        for &table in self.copied {
            let sql = copy::analyze_sql(&self.plan.tables[table]);
            self.session.batch_execute(&sql).await.context("analyze a copy")?;
        }
        let oids: Vec<u32> = self.copied.iter().map(|&table| self.plan.tables[table].oid).collect();
        catalog::check_files(self.session, &oids).await?;
        let publication = "SELECT publication FROM portalhook.checkpoint";
        let publication = self.session.query_one(publication, &[]).await.context("read the publication's name")?;
        catalog::remember_all(self.session, self.plan, publication.get(0)).await?;
        let announce = "SELECT portalhook.announce_switch($1)";
        self.session.query_one(announce, &[&self.attempt]).await.context("announce a copy")?;
        failpoint::hit("announced");
        Ok(())
    }
}

/// What the newest mapping comes to, and when it was read. What it names is made readable first.
async fn newest(session: &Session, mirrors: &Mirrors<'_>) -> Result<(Plan, String)> {
    let row = session.query_one("SELECT portalhook.follow_mapping()", &[]).await;
    let done: Vec<String> = row.context("follow the mapping to its tables")?.get(0);
    for one in done {
        tracing::info!("{one}");
    }
    let stored = stored::read(session).await?;
    let plan = read::read_over(session, &stored.sources, mirrors).await?;
    Ok((plan, stored.seen))
}

async fn open(session: &Session) -> Result<Vec<Request>> {
    let rows = session.query(OPEN, &[]).await.context("look for open switches")?;
    let request = |row: &tokio_postgres::Row| Request {
        id: row.get(0),
        is_mapping: row.get::<_, &str>(1) == "mapping",
        tables: row.get(2),
        why: row.get(3),
        compared: row.get(4),
    };
    Ok(rows.iter().map(request).collect())
}

async fn mark(
    session: &Client,
    requests: &[Request],
    state: &str,
    problem: Option<&str>,
    snapshot: Option<&str>,
) -> Result<()> {
    let ids: Vec<i64> = requests.iter().map(|request| request.id).collect();
    session.execute(MARK, &[&ids, &state, &problem, &snapshot]).await.context("note how a switch is").map(drop)
}

fn whys(requests: &[Request]) -> String {
    whys_of(&requests.iter().collect::<Vec<_>>())
}

fn whys_of(requests: &[&Request]) -> String {
    let mut whys: Vec<&str> = requests.iter().map(|request| request.why.as_str()).collect();
    whys.dedup();
    whys.join("; ")
}

async fn attempt(session: &Session) -> Result<String> {
    let row = session.query_one("SELECT gen_random_uuid()::text", &[]).await.context("name a copy")?;
    Ok(row.get(0))
}

async fn current(session: &Session) -> Result<Snapshot> {
    let row = session.query_one("SELECT pg_current_snapshot()::text", &[]).await.context("look at transactions")?;
    row.get::<_, &str>(0).parse()
}

/// Waits until every transaction of this database that runs now has ended.
///
/// One that wrote a table before that was published is in the stream without those writes: only a copy that sees it has them.
/// And one that the heart has taken already may not be visible yet.
async fn settle(session: &Session) -> Result<()> {
    const RUNNING: &str = "SELECT pg_snapshot_xip(pg_current_snapshot())::text";
    // Other databases' transactions write none of our tables; who runs in which database is no secret, prepared ones aside.
    const STAY: &str = "
        SELECT x.xid::text, (SELECT l.pid FROM pg_locks AS l WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
                             AND l.transactionid::text::bigint = x.xid::text::bigint & 4294967295 LIMIT 1)
        FROM (SELECT pg_snapshot_xip(pg_current_snapshot()) AS xid) AS x
        WHERE x.xid::text = ANY ($1) AND NOT EXISTS (
            SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
            WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
              AND l.transactionid::text::bigint = x.xid::text::bigint & 4294967295
              AND a.datid <> (SELECT oid FROM pg_database WHERE datname = current_database()))";
    let rows = session.query(RUNNING, &[]).await.context("look at transactions")?;
    let mut wait: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut told = tokio::time::Instant::now();
    while !wait.is_empty() {
        let rows = session.query(STAY, &[&wait]).await.context("wait for transactions")?;
        wait = rows.iter().map(|row| row.get(0)).collect();
        if let Some(row) = rows.first() {
            if told.elapsed() > Duration::from_secs(5) {
                let pid: Option<i32> = row.get(1);
                let who = pid.map_or_else(|| "a prepared one".to_owned(), |pid| format!("process {pid}"));
                tracing::info!("the copy waits for transactions that were under way before it ({who})");
                told = tokio::time::Instant::now() + Duration::from_secs(25);
            }
            tokio::time::sleep(STILL_THERE).await;
        }
    }
    Ok(())
}

/// After a switch: what was kept for the copy may be much. Where somebody reads it (a backup), the next copy removes it.
async fn forget_kept(session: &Session) -> Result<()> {
    let sql = "SET LOCAL lock_timeout = '2s'; DROP TABLE IF EXISTS portalhook_mirror.recorded";
    match session.batch_execute(sql).await {
        Err(error) if session.is_closed() => Err(error).context("remove what was kept for a copy"),
        _ => Ok(()),
    }
}

/// Removes what no plan names any more, and shows the plan in force in the operator's views.
async fn tidy(session: &mut Session) -> Result<()> {
    // An earlier version kept large values in the last one.
    const TABLES: &str = "SELECT relname::text FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace
        AND relkind = 'r' AND (relname LIKE '%.%' AND relname <> ALL ($1) OR relname = 'portalhook pieces')";
    const FUNCTIONS: &str =
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'portalhook_mirror'::regnamespace
        AND proname LIKE 'id\\_of\\_%' AND proname <> ALL ($1)";
    let (plan, ..) = load_plan(session).await?;
    follow_names(session, &plan).await?;
    if let Err(error) = Show::renew(session, &plan).await {
        // Where the mapping cannot be run, the pause says so: that one may be there, or come with the next event.
        let is_of_the_mapping = pause::is_of_the_mapping(&error);
        if session.is_closed() || !is_of_the_mapping && !pause::is_paused(session).await? {
            return Err(error);
        }
        tracing::debug!("{error:?}");
    }
    let named = Named::of(&plan);
    let tables = session.query(TABLES, &[&named.mirrors]).await.context("look for old mirrors")?;
    let functions = session.query(FUNCTIONS, &[&named.functions]).await.context("look for old functions")?;
    let tables = tables.iter().map(|row| (row.get::<_, String>(0), true));
    let functions = functions.iter().map(|row| (row.get::<_, String>(0), false));
    for (name, is_table) in tables.chain(functions).collect::<Vec<_>>() {
        // Whoever reads an old mirror may finish: it goes the next time.
        if let Err(error) = remove(session, &name, is_table).await {
            if session.is_closed() {
                return Err(Error::because(Kind::Unavailable, "remove old mirrors", error));
            }
            session.batch_execute("ROLLBACK").await.context("remove old mirrors")?;
            tracing::info!("{error:?}; later");
        }
    }
    Ok(())
}

/// A mapping that took effect where it stood may say a table under the name that it has by now, by which it is known to whoever
/// looks for what became of it.
async fn follow_names(session: &Session, plan: &Plan) -> Result<()> {
    const FOLLOW: &str = "SELECT portalhook.follow_mapping() WHERE EXISTS (
        SELECT FROM unnest($1::text[]) AS said
        WHERE said NOT IN (SELECT m.schema_name || '.' || m.table_name FROM portalhook.mapped_tables AS m))";
    let said: Vec<&str> = plan.tables.iter().map(Table::called).collect();
    match session.query(FOLLOW, &[&said]).await {
        Err(error) if session.is_closed() => Err(error).context("follow the mapping to its tables"),
        Err(error) => {
            tracing::debug!(%error, "follow the mapping to its tables");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// What a plan names in the mirror's schema.
struct Named {
    mirrors: Vec<String>,
    functions: Vec<String>,
}

impl Named {
    fn of(plan: &Plan) -> Self {
        let functions = plan.entities.iter().filter_map(|entity| Some(entity.id_function.as_ref()?.name.clone()));
        Self { mirrors: plan.tables.iter().map(|table| table.mirror.clone()).collect(), functions: functions.collect() }
    }
}

/// Removes a table or function that no plan names. The heart may have made it for another plan since that was looked at: none
/// takes effect while the plan's row is locked.
async fn remove(session: &Session, name: &str, is_table: bool) -> Result<()> {
    let begin = "BEGIN; SET LOCAL lock_timeout = '2s'; SELECT FROM portalhook.plan FOR SHARE";
    session.batch_execute(begin).await.context("wait for a switch")?;
    let named = Named::of(&load_plan(session).await?.0);
    let drop = if is_table {
        let is_named = named.mirrors.iter().any(|mirror| mirror == name);
        (!is_named).then(|| format!("DROP TABLE IF EXISTS portalhook_mirror.{}", quote(name)))
    } else {
        let is_named = named.functions.iter().any(|function| name.contains(&format!(".{function}(")));
        (!is_named).then(|| format!("DROP FUNCTION IF EXISTS {name}"))
    };
    if let Some(drop) = drop {
        session.batch_execute(&drop).await.context(&drop)?;
    }
    session.batch_execute("COMMIT").await.context("remove old mirrors")
}
