//! Follows the application's migrations: looks at the catalog every few seconds, and whenever the stream describes a table
//! anew; says each difference once, has mended what stands in the application's way, and has copied afresh what changed
//! without a word in the stream.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::met::{Follower as Server, Following};
use crate::error::{Context as _, Error, Kind, Result};
use crate::failpoint;
use crate::figures::Figures;
use crate::mapping::plan::{Plan, Table};
use crate::mirror::catalog::{self, Difference, Follow, Look, differences};
use crate::session::Session;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// The same while somebody's lock is in the way of mending.
const SOON: Duration = Duration::from_secs(1);

/// The look takes no lock; what it asks about sizes must not wait behind a migration.
/// Shorter than PostgreSQL's deadlock_timeout: of two who wait for each other it is we who let go.
const SETTINGS: &str = "SET lock_timeout = '300ms'";

/// Never ends; a fault is told at debug level and tried again: the parts that work meet the same fault, and tell it.
pub(super) async fn follow(server: &Server, figures: &Figures) {
    if failpoint::limit("looks", 1) == 0 {
        return;
    }
    let mut follower = Follower::default();
    loop {
        figures.flow().await;
        let wait = match follower.look(server).await {
            Ok(blocked) => {
                if blocked {
                    SOON
                } else {
                    EVERY
                }
            }
            Err(error) => {
                tracing::debug!("{error:?}");
                follower.session = None;
                EVERY
            }
        };
        tokio::select! {
            () = figures.positions.described() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What is kept between two looks.
#[derive(Default)]
struct Follower {
    session: Option<Following>,
    plan: Option<(String, Plan)>,
    /// Lines that were written and still hold.
    told: HashSet<String>,
    /// What the stream says by itself once it comes to it, and since when that is so.
    ahead: HashMap<String, Instant>,
}

const UNLESS: &str =
    "the stream pauses where it brings the next row of that table, unless the mapping is changed before";

const IS_PAUSED: &str = "SELECT EXISTS (SELECT FROM portalhook.switches WHERE kind = 'pause' AND state <> 'done')";

impl Follower {
    /// One look and what follows from it; whether somebody's lock was in the way.
    async fn look(&mut self, server: &Server) -> Result<bool> {
        let session = match server.keep(self.session.take()) {
            Some(session) => session,
            None => {
                let session = server.connect("portalhook catalog").await?;
                session.batch_execute(SETTINGS).await.context("prepare the session")?;
                session
            }
        };
        let publication = self.load(&session).await?;
        let Some((_, plan)) = &self.plan else { return Ok(false) };
        let mut round = Round {
            session: &session,
            publication: &publication,
            told: Vec::new(),
            ahead: HashSet::new(),
            blocked: false,
        };
        for look in catalog::look(&session, plan, &publication).await? {
            round.table(&plan.tables[look.table], &look).await?;
        }
        let Round { mut told, ahead, blocked, .. } = round;
        // A table that nobody writes is not described anew: what the mapping reads of it stays as it was, which nobody else says.
        self.ahead.retain(|what, _| ahead.contains(what));
        for what in ahead {
            self.ahead.entry(what).or_insert_with(Instant::now);
        }
        let mut still =
            self.ahead.iter().filter(|(_, since)| since.elapsed() >= EVERY).map(|(what, _)| what).peekable();
        if still.peek().is_some()
            && !session.query_one(IS_PAUSED, &[]).await.context("look for a pause")?.get::<_, bool>(0)
        {
            told.extend(still.map(|what| (true, format!("{what}: {UNLESS}"))));
        }
        for (is_bad, line) in &told {
            if !self.told.contains(line) {
                if *is_bad { tracing::warn!("{line}") } else { tracing::info!("{line}") }
            }
        }
        self.told = told.into_iter().map(|(_, line)| line).collect();
        self.session = Some(session);
        Ok(blocked)
    }

    /// The plan that runs, read again only where it is another; gives the publication.
    async fn load(&mut self, session: &Session) -> Result<String> {
        let known = self.plan.as_ref().map_or("", |(version, _)| version.as_str());
        let row = session
            .query_one(
                "SELECT p.xmin::text, CASE WHEN p.xmin::text <> $1 THEN p.plan::text END, c.publication
                 FROM portalhook.plan AS p, portalhook.checkpoint AS c",
                &[&known],
            )
            .await
            .context("read the plan")?;
        if let Some(json) = row.get::<_, Option<&str>>(1) {
            let plan =
                serde_json::from_str(json).map_err(|error| Error::because(Kind::Failed, "read the plan", error))?;
            self.plan = Some((row.get(0), plan));
            self.mapped(session).await;
        }
        Ok(row.get(2))
    }

    /// Which tables may be mended, and by which keys the mirrors know their rows. A mapping that cannot be read at the moment
    /// leaves them as they are.
    async fn mapped(&self, session: &Session) {
        const KEY: &str = "UPDATE portalhook.mapped_tables SET key = $2 WHERE oid = $1 AND key <> $2";
        if let Err(error) =
            session.execute("SELECT portalhook.forget_tables()", &[]).await.context("follow the mapping")
        {
            tracing::debug!("{error:?}");
        }
        let Some((_, plan)) = &self.plan else { return };
        for table in &plan.tables {
            let key: Vec<&str> = table.key.iter().map(|&place| table.columns[place].name.as_str()).collect();
            if let Err(error) = session.execute(KEY, &[&table.oid, &key]).await.context("write down a key") {
                tracing::debug!("{error:?}");
            }
        }
    }
}

/// One look at all tables.
struct Round<'a> {
    session: &'a Session,
    publication: &'a str,
    /// Lines, and whether somebody should look.
    told: Vec<(bool, String)>,
    /// What the stream says where it comes to it.
    ahead: HashSet<String>,
    blocked: bool,
}

impl Round<'_> {
    async fn table(&mut self, table: &Table, look: &Look) -> Result<()> {
        let mut found = differences(table, look);
        let mut kept = Vec::with_capacity(found.len());
        for difference in found.drain(..) {
            if !self.is_empty_partition(&difference).await? {
                kept.push(difference);
            }
        }
        for difference in &kept {
            match difference.follow() {
                Follow::Mend => self.mend(table, look, difference).await?,
                Follow::Compare | Follow::Refresh => self.copy(table, look, difference).await?,
                Follow::Operator => self.tell(table, difference, true, ""),
                Follow::Remember => self.tell(table, difference, false, ""),
                // Where it comes to it, and with what to type.
                Follow::Stream => {
                    if !matches!(difference, Difference::ColumnType { .. }) {
                        self.ahead.insert(difference.what(table));
                    }
                }
            }
        }
        let harmless = kept.iter().all(|difference| matches!(difference.follow(), Follow::Remember | Follow::Mend));
        if harmless && look.before.as_ref() != Some(&look.now) {
            catalog::remember(self.session, &table.mirror, &look.now).await?;
        }
        Ok(())
    }

    /// New partitions that hold nothing change nothing: what is written into them is in the stream.
    async fn is_empty_partition(&self, difference: &Difference) -> Result<bool> {
        let Difference::Partitions { attached, detached } = difference else { return Ok(false) };
        if !detached.is_empty() {
            return Ok(false);
        }
        let oids: Vec<u32> = attached.iter().map(|member| member.oid).collect();
        let row = self
            .session
            .query_one(
                "SELECT coalesce(sum(coalesce(pg_relation_size(oid), 1)), 0) = 0 FROM unnest($1::oid[]) AS oid",
                &[&oids],
            )
            .await
            .context("look at new partitions")?;
        Ok(row.get(0))
    }

    async fn mend(&mut self, table: &Table, look: &Look, difference: &Difference) -> Result<()> {
        let function = if *difference == Difference::Unpublished { "mend_publication" } else { "mend_identity" };
        match self.call(function, look.now.oid).await? {
            Mended::Done(sql) if sql.is_empty() => {}
            Mended::Done(sql) => self.tell(table, difference, false, &format!("; mended by {sql}")),
            Mended::Blocked => {
                self.blocked = true;
                self.tell(table, difference, true, "; a lock is in the way of mending it, trying again");
            }
            Mended::Refused(why) => self.tell(table, difference, true, &format!(" ({why})")),
        }
        Ok(())
    }

    async fn copy(&mut self, table: &Table, look: &Look, difference: &Difference) -> Result<()> {
        let (oid, function) = match difference {
            Difference::Replaced { by } => (*by, Some("mend_publication")),
            Difference::Partitions { .. } => (look.now.oid, Some("mend_attached")),
            _ => (look.now.oid, None),
        };
        if let Some(function) = function {
            match self.call(function, oid).await? {
                Mended::Done(_) => {}
                Mended::Blocked => {
                    self.blocked = true;
                    return Ok(());
                }
                Mended::Refused(why) => {
                    self.tell(table, difference, true, &format!(" ({why})"));
                    return Ok(());
                }
            }
        }
        let compared = difference.follow() == Follow::Compare;
        request(self.session, oid, &difference.what(table), compared).await?;
        let more = if compared { "; copied afresh, and what differs gives events" } else { "; copied afresh" };
        self.tell(table, difference, false, more);
        Ok(())
    }

    /// Calls a function that mends; what it says is for people.
    async fn call(&self, function: &str, oid: u32) -> Result<Mended> {
        let sql = format!("SELECT portalhook.{function}($1::oid::regclass)");
        match self.session.query_one(&sql, &[&oid]).await {
            Ok(row) => Ok(Mended::Done(row.get(0))),
            Err(error) => match error.as_db_error() {
                Some(said) if *said.code() == SqlState::LOCK_NOT_AVAILABLE => Ok(Mended::Blocked),
                Some(said) => Ok(Mended::Refused(said.message().to_owned())),
                None => Err(error).context("mend a table of the application"),
            },
        }
    }

    fn tell(&mut self, table: &Table, difference: &Difference, is_bad: bool, more: &str) {
        let fix = if is_bad { difference.fix(table, self.publication) } else { None };
        let fix = fix.map(|fix| format!(": {fix}")).unwrap_or_default();
        self.told.push((is_bad, format!("{}{more}{fix}", difference.what(table))));
    }
}

/// Asks for a fresh copy of a table, unless one is on its way.
async fn request(session: &Session, table: u32, why: &str, compared: bool) -> Result<()> {
    const REQUEST: &str = "
        WITH asked AS (
            INSERT INTO portalhook.switches (kind, tables, compared, why)
            SELECT 'copy', ARRAY[$1::oid], CASE WHEN $3 THEN ARRAY[$1::oid] ELSE '{}' END, $2
            WHERE NOT EXISTS (SELECT FROM portalhook.switches AS s WHERE s.kind = 'copy' AND s.state <> 'done' AND $1 = ANY (s.tables)
                              AND ($1 = ANY (s.compared) OR NOT $3))
            RETURNING id
        ) SELECT pg_notify('portalhook_switch', id::text) FROM asked";
    session.execute(REQUEST, &[&table, &why, &compared]).await.context("ask for a fresh copy").map(drop)
}

/// What came of mending.
enum Mended {
    /// The statements that were run.
    Done(String),
    /// By somebody's lock.
    Blocked,
    /// By PostgreSQL, which says why.
    Refused(String),
}
