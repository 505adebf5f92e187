//! The last offers, so that an outlet that had no room when they came need not read their bodies back from the ledger.

use std::collections::VecDeque;

use crate::ledger::feed::Offer;

/// Bytes of bodies that are remembered: a burst of some thousand events. A longer backlog is read back, which costs PostgreSQL
/// 3 to 5 µs an event (`make bench`); 16 MiB here were measured, saved nothing, and cost 22 MiB of resident memory.
const BYTES: usize = 4 << 20;
/// Offers that are remembered.
const OFFERS: usize = 512;

/// Offers that continue one another, the oldest first.
#[derive(Default)]
pub(super) struct Recent {
    offers: VecDeque<Offer>,
    bytes: usize,
}

impl Recent {
    /// Remembers an offer, and forgets the oldest ones past the limits.
    pub(super) fn push(&mut self, offer: Offer) {
        if self.offers.back().is_some_and(|last| last.through != offer.after) {
            // One was dropped in between: what is older is not followed by this one.
            self.offers.clear();
            self.bytes = 0;
        }
        self.bytes += offer.bytes();
        self.offers.push_back(offer);
        while self.bytes > BYTES || self.offers.len() > OFFERS {
            let Some(oldest) = self.offers.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// The offers that continue from a position, in order; none where they do not reach back to it.
    pub(super) fn after(&self, position: i64) -> impl Iterator<Item = &Offer> {
        let reaches = self.first().is_some_and(|first| first <= position);
        self.offers.iter().filter(move |offer| reaches && offer.through > position)
    }

    /// Where the oldest one begins.
    pub(super) fn first(&self) -> Option<i64> {
        self.offers.front().map(|offer| offer.after)
    }
}
