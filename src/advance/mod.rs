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
mod labels;
mod operations;
mod part;
mod rivals;
mod server;
mod staged;
mod states;
mod surroundings;
pub(crate) mod switch;
mod values;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use self::cut::Cuts;
use self::durable::Durable;
pub(crate) use self::gap::Gap;
use self::group::Group;
use self::gulp::{gulp, next};
use self::operations::Operation;
use self::part::parts;
use self::switch::job::Recording;
use self::switch::pause::Meanwhile;
use self::switch::place::Piece;
use self::switch::relation::{Known, Unhelped};
use self::switch::turn::Adopted;
use self::switch::{Ahead, Command};
use self::values::Values;
use crate::capture;
use crate::change::{Arrival, Change, Relation, Transaction};
use crate::error::{Context as _, Error, Result};
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
use crate::mirror::net::Netting;
use crate::mirror::prepared::Prepared;
use crate::mirror::room::Fits;
use crate::mirror::select::Select;
use crate::route::{Route, Routes};
use crate::session::Session;

/// How often a commit is asked for that PostgreSQL has not flushed yet.
const FLUSH_LOOK: Duration = Duration::from_millis(100);

/// The same while transactions arrive without a pause.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);

/// Plans must not be made from what an empty mirror looked like; the stream redelivers what a crash takes back.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
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
    /// The `pg_snapshot` in which the mapping was read for the plan, if it was read apart from the stream.
    seen: Option<String>,
    /// Tables as the stream describes them, where that was held against the plan.
    known: HashMap<u32, Known>,
    /// How far the plan is ahead of the stream.
    ahead: Ahead,
    /// Tables whose changes are left out until they are copied afresh (`pg_class.oid`).
    skipped: HashSet<u32>,
    /// The most writes that a batch takes, where rows are so large that it matters.
    fits: Fits,
    /// A copy that is under way.
    recording: Option<Recording>,
    /// The pause that was told last.
    paused: Option<String>,
    /// Why that is so, where the mapping as it stands was tried.
    unhelped: Option<Unhelped>,
    /// A pause is noted in `portalhook.switches`.
    is_paused: bool,
    values: Values,
    /// The description at which a large transaction that was begun too early cannot go on.
    stopped: Option<Arc<Relation>>,
}

impl Advance {
    /// Takes the capture and loads what it goes on from. The session is the write session from here on.
    pub(crate) async fn load(session: &Session, settings: Settings) -> Result<Self> {
        session.batch_execute(SETTINGS).await.context("prepare the write session")?;
        let checkpoint = Checkpoint::take(session).await?;
        let (plan, seen, ahead) = switch::load_plan(session).await?;
        let day = partitions::prepare(session, 2).await?;
        let rows = session
            .query("SELECT endpoint, events, portal, sequence FROM portalhook.routes", &[])
            .await
            .context("load routes")?;
        let routes = Routes::new(
            rows.iter().map(|row| (row.get(0), Route { events: row.get(1), portal: row.get(2), sequence: row.get(3) })),
        );
        let selects = selects(&plan, settings.max_body);
        let mut loaded = Self {
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
            seen,
            known: HashMap::new(),
            ahead,
            skipped: switch::resync::skipped(session).await?,
            fits: Fits::default(),
            recording: None,
            paused: None,
            unhelped: None,
            is_paused: false,
            values: Values::default(),
            stopped: None,
        };
        loaded.follow_labels(session).await?;
        Ok(loaded)
    }

    /// Goes on with another plan, which is in force now; nothing that was made from the old one stays.
    fn adopt(&mut self, adopted: Adopted) -> Result<()> {
        let Adopted { plan, seen, ahead } = adopted;
        self.selects = selects(&plan, self.settings.max_body);
        self.shapes = shapes(&self.selects)?;
        self.mirrors = plan.tables.iter().map(MirrorSql::new).collect();
        self.cuts = Cuts::new(&plan);
        self.netting = self.netting.over(&plan);
        self.cache = Cache::new(self.settings.cache);
        self.counters = CounterRows::default();
        self.known.clear();
        (self.paused, self.is_paused) = (None, false);
        self.values.plan_is_another();
        (self.plan, self.ahead) = (plan, ahead);
        self.seen = seen.or_else(|| self.seen.take());
        Ok(())
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Takes transactions until `shutdown`, or until capture ends (its own error says why).
    pub(crate) async fn run(
        mut self,
        session: &Session,
        transactions: &mut capture::Receiver,
        commands: &mut mpsc::Receiver<Command>,
        confirmed: &watch::Sender<Lsn>,
        feed: &mut Feed,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        let sql = Prepared::new(session);
        let mut looked = Instant::now();
        let mut left: Option<Arrival> = None;
        let mut durable = Durable::default();
        let meanwhile =
            Meanwhile { commands: &mut *commands, shutdown: &mut shutdown, durable: &mut durable, confirmed };
        if self.resume(&sql, session, meanwhile).await? {
            return Ok(());
        }
        loop {
            // In this order: an end is an end; flushed commits free the slot; what a copy asks for is short; then the stream.
            let first = tokio::select! {
                biased;
                () = told(&mut shutdown) => return Ok(()),
                () = tokio::time::sleep(FLUSH_LOOK), if durable.is_waiting() && left.is_none() => {
                    durable.look(&sql, confirmed).await?;
                    continue;
                }
                Some(command) = commands.recv(), if left.is_none() => {
                    self.obey(&sql, session, command).await?;
                    continue;
                }
                next = next(&mut left, transactions) => next,
            };
            match first {
                None => return Ok(()),
                Some((Arrival::Whole(first), bytes)) => {
                    let mut taken = VecDeque::from(gulp(first, bytes, transactions, &mut left).await);
                    failpoint::hit("received");
                    let operations = operations::read(&sql, &announced(&taken)).await?;
                    while !taken.is_empty() {
                        self.values.are_there()?;
                        let piece = self.piece(session, &mut taken, &operations).await?;
                        let mut meanwhile =
                            Meanwhile { commands, shutdown: &mut shutdown, durable: &mut durable, confirmed };
                        if let Some(why) = &piece.pause {
                            if self.wait(&sql, session, why, &mut meanwhile).await? {
                                return Ok(());
                            }
                            continue;
                        }
                        let advanced = match self.group(&sql, session, piece, &operations).await {
                            Err(error) => return self.stand_still(&sql, session, error, meanwhile).await,
                            Ok(advanced) => advanced,
                        };
                        self.goes_on(session).await?;
                        self.pass_on(advanced, &mut durable, feed);
                    }
                    self.forget_held(&sql).await?;
                }
                Some((Arrival::Part(xid, first), _)) => {
                    failpoint::hit("received");
                    while let Some(why) = self.prepare_for(&sql, session, &first, xid).await? {
                        let mut meanwhile =
                            Meanwhile { commands, shutdown: &mut shutdown, durable: &mut durable, confirmed };
                        if self.wait(&sql, session, &why, &mut meanwhile).await? {
                            return Ok(());
                        }
                    }
                    self.values.are_there()?;
                    // Nobody waits minutes for its end: it comes again.
                    let advanced = tokio::select! {
                        biased;
                        () = told(&mut shutdown) => return Ok(()),
                        advanced = Box::pin(self.large(&sql, session, xid, first, transactions)) => advanced,
                    };
                    let advanced = match advanced {
                        Err(error) => {
                            let meanwhile =
                                Meanwhile { commands, shutdown: &mut shutdown, durable: &mut durable, confirmed };
                            return self.turn_before(&sql, session, error, meanwhile).await;
                        }
                        Ok(advanced) => advanced,
                    };
                    let Some(advanced) = advanced else { return Ok(()) };
                    self.goes_on(session).await?;
                    self.pass_on(advanced, &mut durable, feed);
                    self.forget_held(&sql).await?;
                }
                Some((value @ (Arrival::ValueOf(..) | Arrival::Value(_)), _)) => {
                    self.hold(&sql, session, value).await?;
                }
                Some((Arrival::Last(_), _)) => return Err(Error::failed("a transaction ended that had not begun")),
            }
            // Also while behind: what is done must not hold the write-ahead log until all is. Not within a large transaction: that
            // holds the log from its own beginning on, which is a second at most after what was not confirmed before it.
            if transactions.queued() == 0 || looked.elapsed() >= LOOK_AT_LEAST {
                looked = Instant::now();
                durable.look(&sql, confirmed).await?;
            }
        }
    }

    /// Has a group's commit confirmed once it is flushed, and delivery hear of its events.
    fn pass_on(&self, advanced: Advanced, durable: &mut Durable, feed: &mut Feed) {
        durable.add(advanced.end, advanced.written);
        match advanced.events {
            Some(events) => {
                let day = Arc::from(self.day.as_str());
                let committed = events.into_iter().map(|event| offer(event, &day)).collect();
                feed.offer(committed, self.checkpoint.position);
            }
            None => feed.pass(self.checkpoint.position),
        }
    }

    /// One group commit of whole transactions.
    async fn group(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        piece: Piece,
        operations: &HashMap<i64, Operation>,
    ) -> Result<Advanced> {
        let Piece { nets, kept, turn, pause: _ } = piece;
        let mut checkpoint = self.checkpoint.clone();
        let micros = nets.last().map_or(0, |last| last.commit_micros);
        if let Some(last) = nets.last() {
            checkpoint.lsn = last.end_lsn;
            checkpoint.xid = last.xid;
        }
        let silent =
            nets.iter().all(|net| net.writes.is_empty() && net.operations.is_empty() && net.truncated.is_empty());
        // Where the plan is ahead, nothing before this may come again: it would be read in words that are over.
        if silent && kept.is_empty() && turn.is_none() && !self.is_ahead() {
            // The slot moves on; the checkpoint can stay, since reading these again would give nothing again.
            let end = nets.last().map_or(self.checkpoint.lsn, |last| last.end_lsn);
            return Ok(Advanced { end, events: Some(Vec::new()), written: None });
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
        (group.kept, group.turn) = (kept, turn);
        let numbers = nets.iter().flat_map(|net| net.operations.iter().map(|at| at.number));
        let numbers: Vec<i64> = numbers.filter(|number| operations.contains_key(number)).collect();
        sql.post_plain("begin a group", "BEGIN").await?;
        for part in parts(nets) {
            self.part(sql, part, operations, &mut group).await?;
        }
        self.catch_up(sql, micros, &mut group).await?;
        operations::take(sql, numbers).await?;
        self.commit(sql, session, group, started_at).await
    }

    /// Writes what a group has come to since position `started_at`, and commits it.
    async fn commit(
        &mut self,
        sql: &Prepared<'_>,
        session: &Session,
        mut group: Group,
        started_at: i64,
    ) -> Result<Advanced> {
        let entered = self.let_in(sql, session, &mut group).await?;
        self.check_labels(session, &group).await?;
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
        if group.is_split {
            record::failures_once(sql).await?;
        }
        switch::job::keep(sql, std::mem::take(&mut group.kept)).await?;
        let adopted = match &group.turn {
            Some(turn) if entered.is_none() => self.turn(sql, session, turn, group.checkpoint.lsn).await?,
            _ => entered,
        };
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
        if let Some(turn) = group.turn {
            self.turned(sql, turn, adopted)?;
        }
        let events = if group.is_split { None } else { Some(group.events) };
        Ok(Advanced { end: self.checkpoint.lsn, events, written: Some(written) })
    }
}

/// The operations that these announce, each with its transaction.
fn announced(transactions: &VecDeque<Transaction>) -> Vec<(i64, u64)> {
    let of_one = |transaction: &'_ Transaction| {
        let xid = transaction.xid;
        transaction
            .changes
            .iter()
            .filter_map(move |change| match change {
                Change::Operation { number } => Some((*number, xid)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    transactions.iter().flat_map(of_one).collect()
}

/// `max_body` in bytes.
fn selects(plan: &Plan, max_body: usize) -> Vec<Select> {
    // The JSON of a value has at least two thirds of its bytes (bytea): beyond this, no body fits.
    let limit = max_body.saturating_mul(2);
    plan.entities.iter().map(|entity| Select::new(plan, entity, limit)).collect()
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
fn offer(event: Recorded, day: &Arc<str>) -> Committed {
    Committed {
        position: event.position,
        recorded_on: Arc::clone(day),
        id: event.id,
        event: event.event,
        entity: event.entity,
        post: event.post,
        portal: event.portal,
        routes: event.routes,
        body: event.body,
    }
}

/// Until shutdown is asked for.
async fn told(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|now| *now).await);
}
