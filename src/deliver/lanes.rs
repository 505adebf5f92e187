//! The order in which one endpoint's events fly. Pure: time is a parameter, nothing is awaited.
//!
//! A lane knows every delivery of its endpoint that is not settled (delivered or given up), including those that rest
//! until a retry. Causal order: an event waits for earlier `post.*` events of its post and for earlier events of its own
//! entity. The lowest position waits for nobody, so a lane never locks itself up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::Breaker;

/// `endpoints.ordering`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// Everything flies at once.
    None,
    /// What belongs together keeps its order, for at most `LONGEST_WAIT`.
    Causal,
    /// All events of a post keep their order, however long that takes.
    Strict,
}

/// An event waits for earlier ones at most this long in causal order.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Deliveries of an endpoint that may rest in memory until their retry; past this, no first attempt starts.
pub(crate) const MOST_RESTING: usize = 10_000;

/// What decides whom an event waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `vote:500`
    pub(crate) entity: Arc<str>,
    /// The post that it belongs to.
    pub(crate) post: Option<Arc<str>>,
    /// It is a `post.*` event: the post's other events wait for it.
    pub(crate) of_the_post: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// May fly.
    Ready,
    /// Waits for earlier events, until then at the latest (in causal order).
    Blocked(Instant),
    InFlight,
    /// Failed, and the ledger does not know it yet.
    Recording,
    /// Waits for its next attempt.
    Resting(Instant),
}

struct Entry<D> {
    place: Place,
    /// Attempts made so far.
    attempts: u32,
    state: State,
    delivery: D,
}

/// One endpoint's unsettled deliveries, by position.
pub(crate) struct Lane<D> {
    ordering: Ordering,
    max_in_flight: usize,
    breaker: Breaker,
    entries: BTreeMap<i64, Entry<D>>,
    /// The entries of an entity, of a post, and those of a post that are `post.*`.
    by_entity: HashMap<Arc<str>, BTreeSet<i64>>,
    by_post: HashMap<Arc<str>, BTreeSet<i64>>,
    of_post: HashMap<Arc<str>, BTreeSet<i64>>,
    fresh: BTreeSet<i64>,
    again: BTreeSet<i64>,
    blocked: BTreeSet<(Instant, i64)>,
    resting: BTreeSet<(Instant, i64)>,
    in_flight: usize,
}

impl<D> Lane<D> {
    pub(crate) fn new(ordering: Ordering, max_in_flight: usize) -> Self {
        Self {
            ordering,
            max_in_flight,
            breaker: Breaker::default(),
            entries: BTreeMap::new(),
            by_entity: HashMap::new(),
            by_post: HashMap::new(),
            of_post: HashMap::new(),
            fresh: BTreeSet::new(),
            again: BTreeSet::new(),
            blocked: BTreeSet::new(),
            resting: BTreeSet::new(),
            in_flight: 0,
        }
    }

    /// New limits; they apply from the next attempt.
    pub(crate) fn adjust(&mut self, ordering: Ordering, max_in_flight: usize, now: Instant) {
        self.max_in_flight = max_in_flight;
        if self.ordering != ordering {
            self.ordering = ordering;
            let waiting: Vec<i64> = self
                .entries
                .iter()
                .filter(|(_, entry)| matches!(entry.state, State::Ready | State::Blocked(_)))
                .map(|(position, _)| *position)
                .collect();
            for position in waiting {
                self.queue(position, now);
            }
        }
    }

    /// An event that was never attempted, or whose retry is due. The position must be new to the lane.
    pub(crate) fn admit(&mut self, position: i64, place: Place, attempts: u32, delivery: D, now: Instant) {
        self.enter(position, place, attempts, delivery, State::Recording);
        self.queue(position, now);
    }

    /// A delivery whose next attempt is due at `due`. The position must be new to the lane.
    pub(crate) fn admit_resting(&mut self, position: i64, place: Place, attempts: u32, delivery: D, due: Instant) {
        self.enter(position, place, attempts, delivery, State::Recording);
        self.rest(position, due);
    }

    /// The next delivery that may fly now; it counts as in flight from here on.
    pub(crate) fn next(&mut self, now: Instant) -> Option<i64> {
        self.wake(now);
        if self.in_flight >= self.max_in_flight {
            return None;
        }
        let fresh =
            self.fresh.first().copied().filter(|_| self.breaker.allows(now) && self.resting.len() < MOST_RESTING);
        let position = match (fresh, self.again.first().copied()) {
            (Some(fresh), Some(again)) => fresh.min(again),
            (fresh, again) => fresh.or(again)?,
        };
        if self.entries.get(&position).is_some_and(|entry| entry.attempts == 0) {
            self.breaker.probe(now);
        }
        self.set(position, State::InFlight);
        Some(position)
    }

    /// When `next` may have more to give without any outcome in between.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        // Where there is no place for it, a probe that is due waits for an outcome, not for the time.
        let may_probe = !self.fresh.is_empty() && self.is_hungry() && self.resting.len() < MOST_RESTING;
        let probe = if may_probe { self.breaker.waits_until() } else { None };
        let expiry = match self.ordering {
            Ordering::Causal => self.blocked.first().map(|(until, _)| *until),
            Ordering::None | Ordering::Strict => None,
        };
        [probe, expiry, self.resting.first().map(|(due, _)| *due)].into_iter().flatten().min()
    }

    /// The attempt succeeded: whoever waited for it may fly.
    pub(crate) fn delivered(&mut self, position: i64, now: Instant) -> Option<D> {
        self.breaker.succeeded();
        self.settle(position, now)
    }

    /// The attempt failed. The entry still holds back others until `rest` or `given_up`.
    pub(crate) fn failed(&mut self, position: i64, now: Instant) {
        self.breaker.failed(now);
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.attempts += 1;
            self.set(position, State::Recording);
        }
    }

    /// There will be no other attempt: whoever waited for it may fly.
    pub(crate) fn given_up(&mut self, position: i64, now: Instant) -> Option<D> {
        self.settle(position, now)
    }

    /// The failure is recorded, and the next attempt is due at `due`. Also moves the due time of a resting entry.
    pub(crate) fn rest(&mut self, position: i64, due: Instant) {
        self.set(position, State::Resting(due));
    }

    pub(crate) fn get(&self, position: i64) -> Option<(u32, &D)> {
        self.entries.get(&position).map(|entry| (entry.attempts, &entry.delivery))
    }

    pub(crate) fn get_mut(&mut self, position: i64) -> Option<&mut D> {
        self.entries.get_mut(&position).map(|entry| &mut entry.delivery)
    }

    /// True if the position waits for a retry that is not due.
    pub(crate) fn is_resting(&self, position: i64) -> bool {
        matches!(self.entries.get(&position), Some(Entry { state: State::Resting(_), .. }))
    }

    /// Entries that are not resting: in flight, or waiting for others or for a place.
    pub(crate) fn awake(&self) -> impl Iterator<Item = (i64, &D)> {
        let awake = self.entries.iter().filter(|(_, entry)| !matches!(entry.state, State::Resting(_)));
        awake.map(|(position, entry)| (*position, &entry.delivery))
    }

    /// The deliveries that wait for earlier ones.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = i64> {
        self.blocked.iter().map(|(_, position)| *position)
    }

    /// Another delivery could fly if there were one.
    pub(crate) fn is_hungry(&self) -> bool {
        self.in_flight < self.max_in_flight
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn enter(&mut self, position: i64, place: Place, attempts: u32, delivery: D, state: State) {
        self.by_entity.entry(place.entity.clone()).or_default().insert(position);
        if let Some(post) = &place.post {
            self.by_post.entry(post.clone()).or_default().insert(position);
            if place.of_the_post {
                self.of_post.entry(post.clone()).or_default().insert(position);
            }
        }
        let replaced = self.entries.insert(position, Entry { place, attempts, state, delivery });
        debug_assert!(replaced.is_none(), "position {position} entered the lane twice");
    }

    /// Makes an entry ready or blocked, whatever it was.
    fn queue(&mut self, position: i64, now: Instant) {
        let Some(entry) = self.entries.get(&position) else { return };
        let state = match entry.state {
            _ if !self.waits(position, &entry.place) => State::Ready,
            State::Blocked(until) => State::Blocked(until),
            _ => State::Blocked(now + LONGEST_WAIT),
        };
        self.set(position, state);
    }

    /// True if an earlier unsettled event has to be settled first.
    fn waits(&self, position: i64, place: &Place) -> bool {
        let before = |index: &HashMap<Arc<str>, BTreeSet<i64>>, key: &str| {
            index.get(key).and_then(BTreeSet::first).is_some_and(|first| *first < position)
        };
        let post = place.post.as_deref();
        match self.ordering {
            Ordering::None => false,
            Ordering::Causal => {
                before(&self.by_entity, &place.entity) || post.is_some_and(|post| before(&self.of_post, post))
            }
            Ordering::Strict => {
                before(&self.by_entity, &place.entity) || post.is_some_and(|post| before(&self.by_post, post))
            }
        }
    }

    /// Retries that are due and waits that are over.
    fn wake(&mut self, now: Instant) {
        while let Some((_, position)) = self.resting.first().copied().filter(|(due, _)| *due <= now) {
            self.queue(position, now);
        }
        if self.ordering == Ordering::Causal {
            while let Some((_, position)) = self.blocked.first().copied().filter(|(until, _)| *until <= now) {
                self.set(position, State::Ready);
            }
        }
    }

    /// Takes an entry out, and queues those that it may have held back.
    fn settle(&mut self, position: i64, now: Instant) -> Option<D> {
        self.set(position, State::Recording);
        let Entry { place, delivery, .. } = self.entries.remove(&position)?;
        let mut freed: Vec<i64> = remove(&mut self.by_entity, &place.entity, position).into_iter().collect();
        if let Some(post) = &place.post {
            let first = remove(&mut self.by_post, post, position);
            let first_of_the_post = if place.of_the_post { remove(&mut self.of_post, post, position) } else { None };
            match self.ordering {
                Ordering::Strict => freed.extend(first),
                Ordering::Causal if place.of_the_post => {
                    // Up to the post's next `post.*` event, included: what comes after waits for that one.
                    let until = first_of_the_post.unwrap_or(i64::MAX);
                    freed.extend(self.by_post.get(post).into_iter().flat_map(|all| all.range(..=until)));
                }
                Ordering::Causal | Ordering::None => {}
            }
        }
        for position in freed {
            if matches!(self.entries.get(&position), Some(Entry { state: State::Blocked(_), .. })) {
                self.queue(position, now);
            }
        }
        Some(delivery)
    }

    /// The one place where a state changes, so that the sets and counts always agree with it.
    fn set(&mut self, position: i64, state: State) {
        let Some(entry) = self.entries.get_mut(&position) else { return };
        let ready = if entry.attempts == 0 { &mut self.fresh } else { &mut self.again };
        match std::mem::replace(&mut entry.state, state) {
            State::Ready => drop(ready.remove(&position)),
            State::Blocked(until) => drop(self.blocked.remove(&(until, position))),
            State::Resting(due) => drop(self.resting.remove(&(due, position))),
            State::InFlight => self.in_flight -= 1,
            State::Recording => {}
        }
        match state {
            State::Ready => drop(ready.insert(position)),
            State::Blocked(until) => drop(self.blocked.insert((until, position))),
            State::Resting(due) => drop(self.resting.insert((due, position))),
            State::InFlight => self.in_flight += 1,
            State::Recording => {}
        }
    }
}

/// Takes a position out of an index; gives the first one that is left under the key.
fn remove(index: &mut HashMap<Arc<str>, BTreeSet<i64>>, key: &str, position: i64) -> Option<i64> {
    let positions = index.get_mut(key)?;
    positions.remove(&position);
    let first = positions.first().copied();
    if first.is_none() {
        index.remove(key);
    }
    first
}

#[cfg(test)]
mod tests;
