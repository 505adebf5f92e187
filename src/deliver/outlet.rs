//! An enabled endpoint at work: its lane, how far it has read the ledger, and what the ledger does not know yet.
//!
//! The reading mark is what makes catching up free of races: everything routed to the endpoint up to the mark is in the
//! lane or settled. News that continues from the mark is taken; any other is ignored, and the ledger is read instead. It
//! does not matter why the outlet is behind (it just started, its lane was full, an offer was dropped).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::health::Health;
use super::lanes::{Lane, MOST_RESTING, Place};
use crate::ledger::backlog::{Backlog, Cursor, Pending, Standing, Window};
use crate::ledger::content::Content;
use crate::ledger::feed::{Committed, Offer};

/// Events that may wait in a lane with their bodies; what is more stays in the ledger.
const WAITING_EVENTS: usize = 1000;
/// Bytes of their bodies.
const WAITING_BYTES: usize = 8 << 20;
/// Positions that one read of the ledger looks at.
const READ_POSITIONS: i64 = 100_000;
/// Bytes of bodies of one read.
const READ_BYTES: usize = 2 << 20;

/// Where the bytes of a delivery are.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Here(Content),
    InLedger,
    /// The ledger has none: a visible failure.
    Missing,
}

/// What an attempt needs to know of an event.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: Arc<str>,
    pub(crate) recorded_on: Arc<str>,
    pub(crate) portal: Option<Arc<str>>,
    pub(crate) sequence: i64,
    /// It has a row in `deliveries`.
    pub(crate) has_row: bool,
    pub(crate) body: Body,
}

pub(crate) struct Outlet {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) lane: Lane<Delivery>,
    /// Everything routed here up to this position is known.
    read_mark: i64,
    /// Settled past the cursor before this outlet opened.
    settled: HashSet<i64>,
    /// Known positions past the cursor that the ledger has no outcome of, with their sequence.
    unrecorded: BTreeMap<i64, i64>,
    last_sequence: i64,
    /// As the ledger has it, or is about to.
    cursor: Cursor,
    waiting: usize,
    waiting_bytes: usize,
    pub(crate) reading: bool,
    /// Disabled or deleted: nothing starts any more, and the outlet goes once nothing is in flight.
    pub(crate) closing: bool,
    /// Outcomes on their way into the ledger.
    pub(crate) recording: usize,
    /// Deliveries in a row that used up their attempts.
    pub(crate) exhausted: u32,
    pub(crate) failing_since: Option<Instant>,
    pub(crate) health: Health,
    /// The ledger has more deliveries that are due than it gave.
    pub(crate) more_due: bool,
    /// When the dispatcher looks at this outlet again by itself.
    pub(crate) wake: Option<Instant>,
}

impl Outlet {
    pub(crate) fn open(endpoint: Arc<Endpoint>, max_in_flight: usize, standing: Standing, now: Instant) -> Self {
        Self {
            lane: Lane::new(endpoint.ordering, endpoint.max_in_flight.unwrap_or(max_in_flight)),
            endpoint,
            read_mark: standing.cursor.position,
            settled: standing.settled,
            unrecorded: BTreeMap::new(),
            last_sequence: standing.cursor.sequence,
            cursor: standing.cursor,
            waiting: 0,
            waiting_bytes: 0,
            reading: false,
            closing: false,
            recording: 0,
            exhausted: standing.exhausted,
            failing_since: standing.failing_for.and_then(|time| now.checked_sub(time)),
            health: Health::default(),
            more_due: false,
            wake: None,
        }
    }

    pub(crate) fn adjust(&mut self, endpoint: Arc<Endpoint>, max_in_flight: usize, now: Instant) {
        self.lane.adjust(endpoint.ordering, endpoint.max_in_flight.unwrap_or(max_in_flight), now);
        self.endpoint = endpoint;
    }

    /// Takes what continues from the reading mark, as far as there is room.
    pub(crate) fn offer(&mut self, offer: &Offer, now: Instant) {
        if offer.after <= self.read_mark && !self.closing && !self.reading {
            self.take(offer.to(self.endpoint.id), offer.through, now);
        }
    }

    /// Takes what was read from the ledger.
    pub(crate) fn backlog(&mut self, backlog: &Backlog, window: Window, now: Instant) {
        self.reading = false;
        let read = match backlog.events.last() {
            _ if backlog.complete => window.through,
            Some(last) => last.position,
            None => window.after,
        };
        let own =
            backlog.events.iter().filter_map(|event| event.routes.first().map(|(_, sequence)| (event, *sequence)));
        self.take(own, read, now);
    }

    /// Events in order, which are all of this endpoint's from the reading mark up to `through`.
    fn take<'a>(&mut self, events: impl Iterator<Item = (&'a Committed, i64)>, through: i64, now: Instant) {
        for (event, sequence) in events {
            if event.position <= self.read_mark {
                continue;
            }
            if self.waiting >= WAITING_EVENTS || self.waiting_bytes >= WAITING_BYTES {
                self.read_mark = event.position - 1;
                return;
            }
            self.read_mark = event.position;
            self.last_sequence = self.last_sequence.max(sequence);
            // A delivery that waits for a retry counts as settled here: it has a row.
            if !self.settled.remove(&event.position) && self.lane.get(event.position).is_none() {
                self.unrecorded.insert(event.position, sequence);
                self.admit(event, sequence, now);
            }
        }
        self.read_mark = self.read_mark.max(through);
    }

    fn admit(&mut self, event: &Committed, sequence: i64, now: Instant) {
        let body = match &event.body {
            Some(content) => Body::Here(content.clone()),
            None => Body::Missing,
        };
        self.waiting += 1;
        self.waiting_bytes += event.body.as_ref().map_or(0, Content::len);
        self.lane.admit(event.position, place(event), 0, delivery(event, sequence, false, body), now);
    }

    /// Takes deliveries that wait for an attempt.
    pub(crate) fn pending(&mut self, row: &Pending, now: Instant) {
        let position = row.event.position;
        if self.closing {
        } else if self.lane.is_resting(position) {
            self.lane.rest(position, now + row.due_in);
        } else if self.lane.get(position).is_none() {
            let delivery = delivery(&row.event, row.sequence, true, Body::InLedger);
            self.lane.admit_resting(position, place(&row.event), row.attempts, delivery, now + row.due_in);
        }
    }

    /// Deliveries from the ledger that are due, or in flight.
    pub(crate) fn due(&self) -> usize {
        self.lane.awake().filter(|(_, delivery)| delivery.has_row).count()
    }

    /// Lets go of the bodies of what waits for earlier events, where nothing else could fly: a post that fails must not
    /// hold up the others. The bodies are read again when their turn comes.
    pub(crate) fn make_room(&mut self, committed: i64) {
        let full = self.waiting > WAITING_EVENTS / 2 || self.waiting_bytes > WAITING_BYTES / 2;
        if !full || self.read_mark >= committed || !self.lane.is_hungry() || self.lane.len() >= MOST_RESTING {
            return;
        }
        let blocked: Vec<i64> = self.lane.blocked().collect();
        for position in blocked {
            let here = self.lane.get(position).is_some_and(|(_, delivery)| matches!(delivery.body, Body::Here(_)));
            if here {
                self.release(position);
            }
        }
    }

    /// Everything routed here up to this position is known.
    pub(crate) fn read_mark(&self) -> i64 {
        self.read_mark
    }

    /// What to read next, if the outlet is behind `committed` and has room.
    pub(crate) fn wants(&self, committed: i64) -> Option<Window> {
        let room = WAITING_EVENTS.saturating_sub(self.waiting);
        let bytes = WAITING_BYTES.saturating_sub(self.waiting_bytes);
        if self.reading || self.closing || self.read_mark >= committed {
            return None;
        }
        // Half-empty first: reading in small pieces would cost a round trip for a few events.
        (room >= WAITING_EVENTS / 2 && bytes >= WAITING_BYTES / 2).then(|| Window {
            after: self.read_mark,
            through: committed.min(self.read_mark.saturating_add(READ_POSITIONS)),
            events: room,
            bytes: bytes.min(READ_BYTES),
        })
    }

    /// The body of a delivery that starts; it no longer counts as waiting.
    pub(crate) fn start(&mut self, position: i64) -> Option<(u32, Delivery)> {
        let (attempts, delivery) = self.lane.get(position).map(|(attempts, delivery)| (attempts, delivery.clone()))?;
        if !matches!(delivery.body, Body::InLedger) {
            self.release(position);
        }
        Some((attempts, delivery))
    }

    fn release(&mut self, position: i64) {
        let Some(delivery) = self.lane.get_mut(position) else { return };
        let body = std::mem::replace(&mut delivery.body, Body::InLedger);
        if !delivery.has_row {
            self.waiting = self.waiting.saturating_sub(1);
        }
        if let (Body::Here(content), false) = (body, delivery.has_row) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(content.len());
        }
    }

    /// The outcome of a position is about to be recorded.
    pub(crate) fn recorded(&mut self, position: i64) {
        self.unrecorded.remove(&position);
    }

    /// Somebody else has moved the cursor further than we have: what lies before it was given up (retention).
    pub(crate) fn is_overtaken(&self, cursor: i64) -> bool {
        cursor > self.cursor.position
    }

    /// The cursor that the outcomes so far allow, if it is further than the ledger's by at least `step` positions.
    pub(crate) fn advance(&mut self, step: i64) -> Option<Cursor> {
        let cursor = match self.unrecorded.first_key_value() {
            Some((position, sequence)) => Cursor { position: position - 1, sequence: sequence - 1 },
            None => Cursor { position: self.read_mark, sequence: self.last_sequence },
        };
        (cursor.position - self.cursor.position >= step).then(|| {
            self.cursor = cursor;
            cursor
        })
    }

    /// A success ends every count of failures.
    pub(crate) fn succeeded(&mut self) {
        self.exhausted = 0;
        self.failing_since = None;
    }

    /// How long attempts have failed without a success in between, this failure included.
    pub(crate) fn failing_for(&mut self, now: Instant) -> Duration {
        now - *self.failing_since.get_or_insert(now)
    }

    /// Nothing is in flight, being read or on its way into the ledger.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lane.in_flight() == 0 && self.recording == 0 && !self.reading
    }
}

fn place(event: &Committed) -> Place {
    Place { entity: event.entity.clone(), post: event.post.clone(), of_the_post: event.event.starts_with("post.") }
}

fn delivery(event: &Committed, sequence: i64, has_row: bool, body: Body) -> Delivery {
    Delivery {
        id: event.id.clone(),
        recorded_on: event.recorded_on.clone(),
        portal: event.portal.clone(),
        sequence,
        has_row,
        body,
    }
}
