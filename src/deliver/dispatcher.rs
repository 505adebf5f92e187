//! The one task that decides what is sent when. It owns all state of delivery; attempts and questions to the ledger run
//! beside it and come back as values. Everything in its memory can be lost: what is due stands in the ledger.

mod landing;
mod reload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::endpoint::Endpoint;
use super::flight::Flights;
use super::lanes::MOST_RESTING;
use super::network;
use super::outlet::{Body, Outlet};
use super::recent::Recent;
use super::secrets::Secrets;
use super::send::Sender;
use super::{Load, Settings};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ledger::backlog::{Backlog, Cursor, Ledger, Pending, Standing, Window};
use crate::ledger::content::Content;
use crate::ledger::feed::{FeedReceiver, News, Offer};
use crate::ledger::finish::{Batch, Recorder};
use crate::session::Session;

/// Outcomes are recorded together: this long after the first one, or when there are this many.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
const FLUSH_AT: usize = 500;
/// Settings and due deliveries are read at least this often; a notification makes it sooner.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Attempts that one turn of the loop takes back.
const LANDINGS_AT_ONCE: usize = 64;
/// A cursor that has nothing to record follows the stream in steps of this many positions.
const IDLE_STEP: i64 = 10_000;
/// What waits is counted for others to look at so soon after it changed.
const COUNT_AFTER: Duration = Duration::from_secs(1);
/// Deliveries that one look at the ledger finds due, of each endpoint.
const DUE_AT_ONCE: usize = 1000;

/// Delivers until `shutdown` turns true; then waits for attempts in flight and records them.
///
/// `connect` gives a session with pinned settings. An error of kind `Unavailable` means that the database went away:
/// calling again with the same feed goes on where the ledger stands.
pub(crate) async fn run<C>(
    settings: Settings,
    connect: impl Fn() -> C,
    feed: &mut FeedReceiver,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()>
where
    C: Future<Output = Result<Session>>,
{
    let mut reader = connect().await.context("connect to read the ledger")?;
    let mut notices = reader.hints();
    reader.batch_execute("LISTEN portalhook").await.context("listen for changes of settings")?;
    let ledger = Arc::new(Ledger::new(reader).await?);
    let recorder = Arc::new(Recorder::new(connect().await.context("connect to record outcomes")?).await?);
    let policy = network::Policy::new(settings.allow_networks.clone());
    let sender = Sender::new(policy, settings.timeout, settings.max_body)?;
    let secrets = Arc::new(Secrets::default());
    let flights = Flights::new(sender, secrets.clone(), ledger.clone());
    let mut dispatcher = Dispatcher::new(settings, ledger, recorder, secrets, flights, feed.committed());
    dispatcher.serve(feed, &mut notices, &mut shutdown).await
}

/// An answer of the ledger.
enum Answer {
    Reloaded(Vec<Endpoint>, Vec<Pending>, Vec<(i64, i64)>),
    Opened(Arc<Endpoint>, Standing, Vec<Pending>),
    Backlog(i64, Window, Backlog),
    Bodies(i64, Vec<(i64, Option<Content>)>),
    Recorded(Batch),
    Disabled(i64),
}

struct Dispatcher {
    settings: Settings,
    ledger: Arc<Ledger>,
    recorder: Arc<Recorder>,
    secrets: Arc<Secrets>,
    flights: Flights,
    asked: FuturesUnordered<BoxFuture<'static, Result<Answer>>>,
    outlets: HashMap<i64, Outlet>,
    opening: BTreeSet<i64>,
    /// Endpoints that events were routed to and that have no outlet: added, disabled or deleted a moment ago.
    strays: BTreeMap<i64, Cursor>,
    /// Those that a reload has looked into.
    absent: BTreeSet<i64>,
    /// Attempts that came back, and whether the ledger knows: until it is asked again what is due, its answer is older.
    landed: HashMap<(i64, i64), bool>,
    /// Everything up to here is committed.
    committed: i64,
    recent: Recent,
    /// Outcomes that wait to be recorded, and since when.
    batch: Batch,
    flush_at: Option<Instant>,
    flushing: bool,
    reload_at: Instant,
    reloading: bool,
    /// When to look at which outlet again.
    wakes: BTreeSet<(Instant, i64)>,
    draining: Option<Instant>,
    /// When to count what waits; `None`: nothing has changed.
    count_at: Option<Instant>,
}

impl Dispatcher {
    fn new(
        settings: Settings,
        ledger: Arc<Ledger>,
        recorder: Arc<Recorder>,
        secrets: Arc<Secrets>,
        flights: Flights,
        committed: i64,
    ) -> Self {
        Self {
            settings,
            ledger,
            recorder,
            secrets,
            flights,
            asked: FuturesUnordered::new(),
            outlets: HashMap::new(),
            opening: BTreeSet::new(),
            strays: BTreeMap::new(),
            absent: BTreeSet::new(),
            landed: HashMap::new(),
            committed,
            recent: Recent::default(),
            batch: Batch::default(),
            flush_at: None,
            flushing: false,
            reload_at: Instant::now(),
            reloading: false,
            wakes: BTreeSet::new(),
            draining: None,
            count_at: None,
        }
    }

    async fn serve(
        &mut self,
        feed: &mut FeedReceiver,
        notices: &mut mpsc::Receiver<()>,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        while !self.is_drained() {
            let timer = self.next_timer();
            // The order is the priority: a shutdown waits behind nothing; what the ledger answers is bounded by what was
            // asked; news comes a few times a second, is cheap to remember and dear to read back; what attempts bring back
            // makes room, and is bounded by what was started; settings and time can wait a moment.
            tokio::select! { biased;
                changed = shutdown.wait_for(|stop| *stop), if self.draining.is_none() => {
                    // A sender that is gone wants us gone.
                    drop(changed);
                    self.draining = Some(Instant::now() + self.settings.drain);
                }
                Some(answer) = self.asked.next() => self.answered(answer?),
                news = feed.next(), if self.draining.is_none() => self.heard(news),
                Some(landed) = self.flights.next() => {
                    let mut touched: BTreeSet<i64> = self.landed(landed?).into_iter().collect();
                    // Those that came back with it: a turn of the loop for each would cost as much as landing it.
                    for _ in 0..LANDINGS_AT_ONCE {
                        let Some(landed) = self.flights.try_next() else { break };
                        touched.extend(self.landed(landed?));
                    }
                    let now = Instant::now();
                    touched.into_iter().for_each(|endpoint| self.pump(endpoint, now));
                }
                notice = notices.recv() => match notice {
                    Some(()) => self.reload_at = Instant::now(),
                    None => return Err(Error::new(Kind::Unavailable, "the connection that reads the ledger was lost")),
                },
                () = sleep_until(timer.into()) => {}
            }
            self.on_time(Instant::now());
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        self.draining.is_some() && self.flights.is_empty() && self.batch.is_empty() && !self.flushing
    }

    fn next_timer(&self) -> Instant {
        let reload = (!self.reloading && self.draining.is_none()).then_some(self.reload_at);
        let flush = self.flush_at.filter(|_| !self.flushing);
        let wake = self.wakes.first().map(|(at, _)| *at).filter(|_| self.draining.is_none());
        let deadline = self.draining.filter(|_| !self.flights.is_empty());
        let latest = Instant::now() + RELOAD_EVERY;
        [reload, flush, wake, deadline, self.count_at].into_iter().flatten().fold(latest, Instant::min)
    }

    /// Tells others what waits here.
    fn count(&mut self) {
        self.count_at = None;
        let mut load = Load::default();
        for outlet in self.outlets.values() {
            load.endpoints += 1;
            load.failing += usize::from(outlet.failing_since.is_some());
            load.queued += outlet.lane.len();
            load.in_flight += outlet.lane.in_flight();
        }
        self.settings.tally.set_load(load);
    }

    /// Whatever is due by now.
    fn on_time(&mut self, now: Instant) {
        if self.count_at.is_some_and(|at| at <= now) {
            self.count();
        }
        if let Some(deadline) = self.draining {
            if now >= deadline {
                self.flights.abort();
            }
            if self.flights.is_empty() {
                self.flush_at = Some(now);
            }
        } else {
            if now >= self.reload_at && !self.reloading {
                self.reload(now);
            }
            let later = self.wakes.split_off(&(now, i64::MAX));
            for (_, endpoint) in std::mem::replace(&mut self.wakes, later) {
                if let Some(outlet) = self.outlets.get_mut(&endpoint) {
                    outlet.wake = None;
                }
                self.pump(endpoint, now);
            }
        }
        if !self.flushing && (self.flush_at.is_some_and(|at| at <= now) || self.batch.len() >= FLUSH_AT) {
            self.flush();
        }
    }

    fn ask(&mut self, question: impl Future<Output = Result<Answer>> + Send + 'static) {
        self.asked.push(Box::pin(question));
    }

    fn answered(&mut self, answer: Answer) {
        let now = Instant::now();
        self.count_at.get_or_insert(now + COUNT_AFTER);
        match answer {
            Answer::Reloaded(endpoints, due, cursors) => self.reloaded(endpoints, &due, &cursors, now),
            Answer::Opened(endpoint, standing, pending) => {
                let id = endpoint.id;
                self.opening.remove(&id);
                let mut outlet = Outlet::open(endpoint, self.settings.max_in_flight, standing, now);
                outlet.more_due = pending.len() >= MOST_RESTING;
                pending.iter().for_each(|row| outlet.pending(row, now));
                self.outlets.insert(id, outlet);
                self.count_at = Some(now);
                self.pump(id, now);
            }
            Answer::Backlog(endpoint, window, backlog) => {
                if let Some(outlet) = self.outlets.get_mut(&endpoint) {
                    outlet.backlog(&backlog, window, now);
                    self.pump(endpoint, now);
                }
            }
            Answer::Bodies(endpoint, bodies) => self.launch(endpoint, bodies, now),
            Answer::Recorded(batch) => self.recorded(&batch, now),
            Answer::Disabled(id) => {
                if let Some(outlet) = self.outlets.get_mut(&id) {
                    outlet.recording -= 1;
                }
                self.close(id);
            }
        }
    }

    fn heard(&mut self, news: News) {
        let now = Instant::now();
        self.count_at.get_or_insert(now + COUNT_AFTER);
        match news {
            News::Through(position) => {
                self.committed = self.committed.max(position);
                let all: Vec<i64> = self.outlets.keys().copied().collect();
                all.into_iter().for_each(|endpoint| self.pump(endpoint, now));
            }
            News::Offer(offer) => {
                self.committed = self.committed.max(offer.through);
                self.note_strays(&offer, now);
                self.recent.push(offer);
                let all: Vec<i64> = self.outlets.keys().copied().collect();
                all.into_iter().for_each(|endpoint| self.pump(endpoint, now));
            }
        }
    }

    fn note_strays(&mut self, offer: &Offer, now: Instant) {
        for event in &offer.events {
            for (endpoint, sequence) in &event.routes {
                if self.outlets.contains_key(endpoint) || self.opening.contains(endpoint) {
                    continue;
                }
                let before = Cursor { position: event.position - 1, sequence: sequence - 1 };
                self.strays.entry(*endpoint).or_insert(before);
                if !self.absent.contains(endpoint) {
                    self.reload_at = now;
                }
            }
        }
    }

    /// Starts what may start at an endpoint, and reads on where it is behind.
    fn pump(&mut self, id: i64, now: Instant) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        if outlet.closing || self.draining.is_some() {
            return;
        }
        if outlet.wants(self.committed).is_some() {
            for offer in self.recent.after(outlet.read_mark()) {
                outlet.offer(offer, now);
            }
        }
        let mut absent = (Vec::new(), Vec::new());
        while let Some(position) = outlet.lane.next(now) {
            match outlet.start(position) {
                Some((_, delivery)) if matches!(delivery.body, Body::InLedger) => {
                    absent.0.push(position);
                    absent.1.push(delivery.recorded_on);
                }
                Some((attempts, delivery)) => {
                    self.flights.start(outlet.endpoint.clone(), position, attempts + 1, delivery);
                }
                None => {}
            }
        }
        if let Some(at) = outlet.lane.next_wake().filter(|at| outlet.wake.is_none_or(|wake| *at < wake)) {
            if let Some(wake) = outlet.wake.replace(at) {
                self.wakes.remove(&(wake, id));
            }
            self.wakes.insert((at, id));
        }
        outlet.make_room(self.committed);
        // From the ledger comes what is older than what we remember.
        let recent = self.recent.first().filter(|first| *first > outlet.read_mark());
        let window = outlet.wants(recent.unwrap_or(self.committed).min(self.committed));
        outlet.reading |= window.is_some();
        let ledger = self.ledger.clone();
        if let Some(window) = window {
            let ledger = ledger.clone();
            self.ask(async move { Ok(Answer::Backlog(id, window, ledger.backlog(id, window).await?)) });
        }
        if !absent.0.is_empty() {
            self.ask(async move { Ok(Answer::Bodies(id, ledger.bodies(&absent.0, &absent.1).await?)) });
        }
    }

    /// Starts attempts whose bodies were read from the ledger.
    fn launch(&mut self, id: i64, bodies: Vec<(i64, Option<Content>)>, now: Instant) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        for (position, body) in bodies {
            let Some((attempts, delivery)) = outlet.lane.get(position).map(|(made, entry)| (made, entry.clone()))
            else {
                continue;
            };
            if outlet.closing || self.draining.is_some() {
                // Never sent: it is due as it was.
                outlet.lane.rest(position, now);
                continue;
            }
            let body = body.map_or(Body::Missing, Body::Here);
            let delivery = super::outlet::Delivery { body, ..delivery };
            self.flights.start(outlet.endpoint.clone(), position, attempts + 1, delivery);
        }
        if outlet.closing {
            self.close(id);
        }
    }
}
