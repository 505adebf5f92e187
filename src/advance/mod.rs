//! The heart: committed transactions → the mirror, and the events that they are.
//!
//! Transactions that have arrived are taken together: netted, filtered, cut into batches, and written in one group commit
//! that also moves the checkpoint. So at every commit the mirror is the database as of the checkpoint, and after a crash
//! the same stream gives the same events. After an error nothing here is worth keeping: the daemon starts it anew from
//! the checkpoint.

mod batch;
mod cut;
mod durable;
mod gap;
mod group;
mod gulp;
mod operations;
mod rivals;
mod server;
mod staged;
mod states;
mod surroundings;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::cut::Cuts;
use self::durable::Durable;
pub(crate) use self::gap::Gap;
use self::group::Group;
use self::gulp::{gulp, next};
use self::operations::Operation;
use crate::capture;
use crate::change::{Arrival, Transaction};
use crate::error::{Context as _, Error, Kind, Result};
use crate::event::body::Shapes;
use crate::failpoint;
use crate::ledger::checkpoint::{self, Checkpoint};
use crate::ledger::content::Parts;
use crate::ledger::feed::{Committed, Feed};
use crate::ledger::partitions;
use crate::ledger::record::{self, Recorded};
use crate::lsn::Lsn;
use crate::mapping::plan::{Entity, Plan};
use crate::mirror::apply::MirrorSql;
use crate::mirror::cache::Cache;
use crate::mirror::counters::CounterRows;
use crate::mirror::evaluate::Select;
use crate::mirror::filter::filter;
use crate::mirror::net::{Net, Netting};
use crate::mirror::prepared::Prepared;
use crate::route::{Route, Routes};
use crate::session::Session;

/// How often a commit is asked for that PostgreSQL has not flushed yet.
const FLUSH_LOOK: Duration = Duration::from_millis(100);

/// The same while transactions arrive without a pause.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);

/// Plans must not be made from what an empty mirror looked like; the stream redelivers what a crash takes back.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off; \
                        SET synchronous_commit = off";

/// What the heart needs to know of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes of evaluated rows in memory (`mirror.cache`).
    pub(crate) cache: usize,
    /// Bytes (`deliver.max_body`).
    pub(crate) max_body: usize,
    /// `mapping.cascades = "fold"`
    pub(crate) fold_cascades: bool,
}

/// What a group commit came to.
struct Advanced {
    /// Past its last transaction in the stream.
    end: Lsn,
    /// Its events; `None` where they are too many to be told.
    events: Option<Vec<Recorded>>,
    /// Where its commit lies in the write-ahead log; `None`: nothing was written.
    written: Option<Lsn>,
}

/// The mirror's state in memory, and what it is made from.
pub(crate) struct Advance {
    settings: Settings,
    plan: Plan,
    mirrors: Vec<MirrorSql>,
    selects: Vec<Select>,
    shapes: Shapes,
    cuts: Cuts,
    netting: Netting,
    cache: Cache,
    counters: CounterRows,
    routes: Routes,
    checkpoint: Checkpoint,
    /// Of `day`.
    parts: Parts,
    day: String,
}

impl Advance {
    /// Takes the capture and loads what it goes on from. The session is the write session from here on.
    pub(crate) async fn load(session: &Session, settings: Settings) -> Result<Self> {
        session.batch_execute(SETTINGS).await.context("prepare the write session")?;
        let checkpoint = Checkpoint::take(session).await?;
        let plan = load_plan(session).await?;
        let day = partitions::prepare(session, 2).await?;
        let rows = session
            .query("SELECT endpoint, events, portal, sequence FROM portalhook.routes", &[])
            .await
            .context("load routes")?;
        let routes = Routes::new(
            rows.iter().map(|row| (row.get(0), Route { events: row.get(1), portal: row.get(2), sequence: row.get(3) })),
        );
        // The JSON of a value has at least two thirds of its bytes (bytea): beyond this, no body fits.
        let limit = settings.max_body.saturating_mul(2);
        let selects: Vec<Select> = plan.entities.iter().map(|entity| Select::new(&plan, entity, limit)).collect();
        Ok(Self {
            settings,
            mirrors: plan.tables.iter().map(MirrorSql::new).collect(),
            shapes: shapes(&selects)?,
            selects,
            cuts: Cuts::new(&plan),
            netting: Netting::new(&plan),
            cache: Cache::new(settings.cache),
            counters: CounterRows::default(),
            routes,
            checkpoint,
            parts: Parts::default(),
            day,
            plan,
        })
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Takes transactions until `shutdown`, or until capture ends (its own error says why).
    pub(crate) async fn run(
        mut self,
        session: &Session,
        transactions: &mut capture::Receiver,
        confirmed: &watch::Sender<Lsn>,
        feed: &mut Feed,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        let sql = Prepared::new(session);
        let mut durable = Durable::default();
        let mut looked = Instant::now();
        let mut left: Option<Arrival> = None;
        loop {
            // In this order: an end is an end; flushed commits free the slot; then the stream.
            let first = tokio::select! {
                biased;
                _ = shutdown.wait_for(|now| *now) => return Ok(()),
                () = tokio::time::sleep(FLUSH_LOOK), if durable.is_waiting() && left.is_none() => {
                    durable.look(&sql, confirmed).await?;
                    continue;
                }
                next = next(&mut left, transactions) => next,
            };
            let advanced = match first {
                None => return Ok(()),
                Some((Arrival::Whole(first), bytes)) => {
                    let taken = gulp(first, bytes, transactions, &mut left).await;
                    failpoint::hit("received");
                    self.group(&sql, session, taken).await?
                }
                Some((Arrival::Part(first), _)) => {
                    failpoint::hit("received");
                    // Nobody waits minutes for its end: it comes again.
                    let advanced = tokio::select! {
                        biased;
                        _ = shutdown.wait_for(|now| *now) => return Ok(()),
                        advanced = Box::pin(self.large(&sql, session, first, transactions)) => advanced?,
                    };
                    let Some(advanced) = advanced else { return Ok(()) };
                    advanced
                }
                Some((Arrival::Last(_), _)) => return Err(Error::failed("a transaction ended that had not begun")),
            };
            durable.add(advanced.end, advanced.written);
            match advanced.events {
                Some(events) => {
                    let committed = events.into_iter().map(|event| offer(event, &self.day)).collect();
                    feed.offer(committed, self.checkpoint.position);
                }
                None => feed.pass(self.checkpoint.position),
            }
            // Also while behind: what is done must not hold the write-ahead log until all is.
            if transactions.queued() == 0 || looked.elapsed() >= LOOK_AT_LEAST {
                looked = Instant::now();
                durable.look(&sql, confirmed).await?;
            }
        }
    }

    /// One group commit of whole transactions.
    async fn group(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        transactions: Vec<Transaction>,
    ) -> Result<Advanced> {
        let nets: Vec<Net> =
            transactions.into_iter().map(|transaction| self.netting.net(transaction)).collect::<Result<_>>()?;
        let nothing = |end| Advanced { end, events: Some(Vec::new()), written: None };
        let Some(last) = nets.last() else { return Ok(nothing(self.checkpoint.lsn)) };
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.lsn = last.end_lsn;
        checkpoint.xid = last.xid;
        let silent =
            nets.iter().all(|net| net.writes.is_empty() && net.operations.is_empty() && net.truncated.is_empty());
        if silent {
            // The slot moves on; the checkpoint can stay, since reading these again would give nothing again.
            return Ok(nothing(last.end_lsn));
        }
        if partitions::is_another_day(&self.day) {
            // Retention made it yesterday: this only makes sure, and locks nothing.
            self.day = partitions::prepare(session, 1).await?;
            self.parts.forget();
        }
        let started_at = self.checkpoint.position;
        let mut group = Group::new(checkpoint);
        group.parts = std::mem::take(&mut self.parts);
        group.transactions = nets.len();
        sql.post_plain("begin a group", "BEGIN").await?;
        let wanted: Vec<(i64, u64)> =
            nets.iter().flat_map(|net| net.operations.iter().map(|at| (at.number, net.xid))).collect();
        let operations = operations::read(sql, &wanted).await?;
        for part in parts(nets) {
            self.part(sql, part, &operations, &mut group).await?;
        }
        operations::take(sql, operations.into_keys().collect()).await?;
        self.commit(sql, group, started_at).await
    }

    /// Writes what a group has come to since position `started_at`, and commits it.
    async fn commit(&mut self, sql: &Prepared<'_>, group: Group, started_at: i64) -> Result<Advanced> {
        failpoint::hit("evaluated");
        // From here on everything is sent at once, COMMIT included: after an error, the fence's too, COMMIT rolls back.
        record::events(sql, &self.day, &group.events).await?;
        self.counters.write(sql).await?;
        if group.routes_changed {
            record::routes(sql, &self.routes, started_at).await?;
        } else {
            record::sequences(sql, &group.sequences).await?;
        }
        record::failures(sql, &self.plan, &group.failures).await?;
        group.checkpoint.advance(sql).await?;
        sql.post_plain("commit a group", "COMMIT").await?;
        let written = durable::written(sql).await.map_err(checkpoint::fenced)?;
        sql.settle().await.map_err(checkpoint::fenced)?;
        failpoint::hit("committed");
        tracing::debug!(
            transactions = group.transactions,
            batches = group.batches,
            events = group.checkpoint.position - started_at,
            statements = sql.sent(),
            lsn = %group.checkpoint.lsn,
            "advanced"
        );
        self.checkpoint = group.checkpoint;
        self.parts = group.parts;
        let events = if group.is_split { None } else { Some(group.events) };
        Ok(Advanced { end: self.checkpoint.lsn, events, written: Some(written) })
    }

    /// Transactions that the mirror can be asked about together.
    async fn part(
        &mut self,
        sql: &Prepared<'_>,
        mut nets: Vec<Net>,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) -> Result<()> {
        if let [net] = nets.as_mut_slice() {
            for (table, place) in net.truncated.clone() {
                let keys = self.mirrors[table].keys(sql).await?;
                net.truncate(table, place, keys);
            }
        }
        filter(sql, &self.plan, &self.mirrors, &mut nets).await?;
        nets.retain(|net| !net.writes.is_empty() || !net.operations.is_empty());
        for batch in self.cuts.batches(nets) {
            group.batches += 1;
            self.batch(sql, batch, operations, group).await?;
        }
        Ok(())
    }
}

/// A TRUNCATE stands alone: it has to ask the mirror, as it is then, what it removes.
fn parts(nets: Vec<Net>) -> Vec<Vec<Net>> {
    let mut parts: Vec<Vec<Net>> = Vec::new();
    let mut open = false;
    for net in nets {
        let alone = !net.truncated.is_empty();
        if !open || alone {
            parts.push(Vec::new());
        }
        open = !alone;
        if let Some(part) = parts.last_mut() {
            part.push(net);
        }
    }
    parts
}

async fn load_plan(session: &Session) -> Result<Plan> {
    let row = session
        .query_opt("SELECT plan::text FROM portalhook.plan", &[])
        .await
        .context("load the plan")?
        .ok_or_else(|| Error::usage("this database has no mapping yet: run portalhook setup --views FILE"))?;
    serde_json::from_str(row.get(0)).map_err(|error| {
        Error::new(
            Kind::Usage,
            format!("the plan in portalhook.plan is of another version ({error}): run portalhook setup again"),
        )
    })
}

fn shapes(selects: &[Select]) -> Result<Shapes> {
    let shape = |entity: Entity| {
        selects.iter().find(|select| select.entity() == entity).map(|select| select.shape.clone()).ok_or_else(|| {
            Error::usage(format!("the mapping has no {}: run portalhook setup --views FILE", entity.name()))
        })
    };
    Ok(Shapes {
        posts: shape(Entity::Posts)?,
        votes: shape(Entity::Votes)?,
        comments: shape(Entity::Comments)?,
        users: shape(Entity::Users)?,
        portals: shape(Entity::Portals)?,
    })
}

/// A recorded event as delivery hears of it.
fn offer(event: Recorded, day: &str) -> Committed {
    Committed {
        position: event.position,
        recorded_on: Arc::from(day),
        id: event.id.into(),
        event: event.event.into(),
        entity: event.entity.into(),
        post: event.post.map(Into::into),
        portal: event.portal.map(Into::into),
        routes: event.routes,
        body: event.body,
    }
}
