//! How delivery hears of what was committed, without ever holding the writer up.
//!
//! An offer is a courtesy, the ledger is the truth: an offer that does not fit is dropped, and whoever needs its events
//! sees the gap between positions and reads them from the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};

use super::content::Content;

/// Offers that may lie unread.
const OFFERS: usize = 256;
/// Bytes of bodies that may lie unread.
const BYTES: usize = 8 << 20;

/// A recorded event and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) position: i64,
    /// The partition's day, `2026-01-31`.
    pub(crate) recorded_on: Arc<str>,
    pub(crate) id: Arc<str>,
    /// `vote.created`
    pub(crate) event: Arc<str>,
    /// `vote:500`
    pub(crate) entity: Arc<str>,
    /// The mapped id of the post that it belongs to.
    pub(crate) post: Option<Arc<str>>,
    pub(crate) portal: Option<Arc<str>>,
    /// Endpoint and sequence.
    pub(crate) routes: Vec<(i64, i64)>,
    /// `None`: the ledger holds no body.
    pub(crate) body: Option<Content>,
}

/// All events of the positions after `after` up to and including `through`.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) after: i64,
    pub(crate) through: i64,
    pub(crate) events: Vec<Committed>,
    bytes: usize,
}

impl Offer {
    /// Bytes of its bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The events that go to an endpoint, each with its sequence there.
    pub(crate) fn to(&self, endpoint: i64) -> impl Iterator<Item = (&Committed, i64)> {
        self.events.iter().filter_map(move |event| {
            let (_, sequence) = event.routes.iter().find(|(routed, _)| *routed == endpoint)?;
            Some((event, *sequence))
        })
    }
}

/// The writer's end.
pub(crate) struct Feed {
    offers: mpsc::Sender<Offer>,
    committed: watch::Sender<i64>,
    unread: Arc<AtomicUsize>,
    through: i64,
}

/// Delivery's end. It can outlive a failed dispatcher and serve the next one.
pub(crate) struct FeedReceiver {
    offers: mpsc::Receiver<Offer>,
    committed: watch::Receiver<i64>,
    unread: Arc<AtomicUsize>,
}

/// News of the ledger.
#[derive(Debug)]
pub(crate) enum News {
    Offer(Offer),
    /// Everything up to this position is committed, and no offer for it lies unread.
    Through(i64),
}

/// Both ends; everything up to `through` is committed already.
pub(crate) fn feed(through: i64) -> (Feed, FeedReceiver) {
    let (offers, unread_offers) = mpsc::channel(OFFERS);
    let (committed, last) = watch::channel(through);
    let unread = Arc::new(AtomicUsize::new(0));
    (
        Feed { offers, committed, unread: unread.clone(), through },
        FeedReceiver { offers: unread_offers, committed: last, unread },
    )
}

impl Feed {
    /// Tells of a group commit, after it: all its events, and the last position that it took. Never blocks.
    pub(crate) fn offer(&mut self, events: Vec<Committed>, through: i64) {
        debug_assert!(through >= self.through, "positions only move forward");
        let bytes = events.iter().filter_map(|event| event.body.as_ref()).map(Content::len).sum();
        let offer = Offer { after: self.through, through, events, bytes };
        self.through = through;
        if self.unread.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES || self.offers.try_send(offer).is_err() {
            self.unread.fetch_sub(bytes, Ordering::Relaxed);
        }
        // After the offer: whoever sees the position either finds the offer, or knows that it was dropped.
        self.committed.send_replace(through);
    }
}

impl Feed {
    /// Tells of a group commit with more events than an offer can hold: delivery reads them from the ledger.
    pub(crate) fn pass(&mut self, through: i64) {
        debug_assert!(through >= self.through, "positions only move forward");
        self.through = through;
        self.committed.send_replace(through);
    }
}

impl FeedReceiver {
    /// The last committed position that was told.
    pub(crate) fn committed(&self) -> i64 {
        *self.committed.borrow()
    }

    /// The last committed position, for others to follow.
    pub(crate) fn follow(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    /// The next news; waits for ever once the writer is gone. Safe to cancel.
    pub(crate) async fn next(&mut self) -> News {
        tokio::select! { biased;
            Some(offer) = self.offers.recv() => {
                self.unread.fetch_sub(offer.bytes, Ordering::Relaxed);
                News::Offer(offer)
            }
            Ok(()) = self.committed.changed() => News::Through(*self.committed.borrow_and_update()),
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(position: i64, size: usize) -> Committed {
        Committed {
            position,
            recorded_on: "2026-01-31".into(),
            id: format!("{position:016}").into(),
            event: "vote.created".into(),
            entity: format!("vote:{position}").into(),
            post: None,
            portal: None,
            routes: vec![(1, position)],
            body: Some(bytes::Bytes::from(vec![b'x'; size]).into()),
        }
    }

    #[tokio::test]
    async fn an_offer_that_does_not_fit_is_dropped_and_leaves_a_gap() {
        let (mut feed, mut receiver) = feed(10);
        feed.offer(vec![event(11, BYTES)], 11);
        feed.offer(vec![event(12, 1)], 12);
        assert!(matches!(receiver.next().await, News::Offer(Offer { after: 10, through: 11, .. })));
        assert!(matches!(receiver.next().await, News::Through(12)), "the dropped offer still moves the position");
        feed.offer(vec![event(13, 1)], 13);
        assert!(matches!(receiver.next().await, News::Offer(Offer { after: 12, through: 13, .. })));
    }
}
