//! Many batches, one commit: what a group collects, and how it is written.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::shape::Entry;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::content::Parts;
use crate::ledger::record::Recorded;
use crate::lsn::Lsn;
use crate::mapping::plan::Entity;
use crate::mirror::evaluate::{RowFailure, key_text};
use crate::mirror::net::Net;

/// What the batches of one group commit come to.
pub(super) struct Group {
    /// As it will be after the group.
    pub(super) checkpoint: Checkpoint,
    pub(super) events: Vec<Recorded>,
    /// What bodies have in common with those before them.
    pub(super) parts: Parts,
    pub(super) failures: Vec<(Lsn, RowFailure)>,
    /// An endpoint was added, changed or removed.
    pub(super) routes_changed: bool,
    pub(super) transactions: usize,
    pub(super) batches: usize,
}

impl Group {
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            events: Vec::new(),
            parts: Parts::default(),
            failures: Vec::new(),
            routes_changed: false,
            transactions: 0,
            batches: 0,
        }
    }

    /// Gives the event its position and keeps it with this body, of which others may have the bytes in `part`; a body over
    /// `max_body` bytes is not kept, which its delivery will say.
    pub(super) fn push(
        &mut self,
        net: &Net,
        max_body: usize,
        mut event: Recorded,
        body: Option<(Bytes, Range<usize>)>,
    ) {
        self.checkpoint.position += 1;
        event.position = self.checkpoint.position;
        match body {
            Some((body, _)) if body.len() > max_body => tracing::warn!(
                event = event.event,
                id = event.id,
                lsn = %net.commit_lsn,
                "a body of {} bytes is over deliver.max_body and will not be delivered",
                body.len()
            ),
            Some((body, part)) => event.body = Some(self.parts.content(body, part, event.position)),
            None => {}
        }
        self.events.push(event);
    }

    /// Live rows that share an id with another one.
    pub(super) fn doubles(&mut self, lsn: Lsn, entity: Entity, doubles: &[Arc<Entry>]) {
        for entry in doubles {
            let failure = RowFailure {
                entity,
                key: key_text(&entry.key),
                sqlstate: "21000".to_owned(),
                message: format!("another live row has the id {}", entry.id),
            };
            self.failures.push((lsn, failure));
        }
    }
}
