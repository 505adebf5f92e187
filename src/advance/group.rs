//! Many batches, one commit: what a group collects, and how it is written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::switch::job::Kept;
use super::switch::turn::Turn;
use crate::error::Result;
use crate::event::shape::Entry;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::content::{Content, Parts};
use crate::ledger::record::{self, Recorded};
use crate::lsn::Lsn;
use crate::mapping::plan::{Entity, Plan};
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;
use crate::mirror::select::{RowFailure, key_text};

/// Bytes of bodies that a group keeps at a time: what is more goes to the ledger while it is made, and is not offered.
const KEPT: usize = 8 << 20;

/// What the batches of one group commit come to.
pub(super) struct Group {
    /// As it will be after the group.
    pub(super) checkpoint: Checkpoint,
    /// What is missing from the stream has a source of its own.
    gap_source: Option<String>,
    /// Those that are not written yet.
    pub(super) events: Vec<Recorded>,
    /// Bytes of their bodies.
    bytes: usize,
    /// Some are written already.
    pub(super) is_split: bool,
    /// The last sequence number that each endpoint got.
    pub(super) sequences: BTreeMap<i64, i64>,
    /// What bodies have in common with those before them.
    pub(super) parts: Parts,
    pub(super) failures: Vec<(Lsn, RowFailure)>,
    /// An endpoint was added, changed or removed.
    pub(super) routes_changed: bool,
    /// For a copy that is under way.
    pub(super) kept: Vec<Kept>,
    /// What changes the plan at its end.
    pub(super) turn: Option<Turn>,
    pub(super) transactions: usize,
    pub(super) batches: usize,
}

impl Group {
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            gap_source: None,
            events: Vec::new(),
            bytes: 0,
            is_split: false,
            sequences: BTreeMap::new(),
            parts: Parts::default(),
            failures: Vec::new(),
            routes_changed: false,
            kept: Vec::new(),
            turn: None,
            transactions: 0,
            batches: 0,
        }
    }

    /// The group that stands for all that the stream has not brought.
    pub(super) fn of_gap(checkpoint: Checkpoint) -> Self {
        let gap_source = Some(format!("{} gap", checkpoint.source));
        Self { gap_source, ..Self::new(checkpoint) }
    }

    /// What goes into the ids of a transaction's events.
    pub(super) fn source(&self, net: &Net) -> &str {
        self.gap_source.as_deref().unwrap_or_else(|| self.checkpoint.source_at(net.commit_lsn))
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
                event = &*event.event,
                id = &*event.id,
                lsn = %net.commit_lsn,
                "a body of {} bytes is over deliver.max_body and will not be delivered",
                body.len()
            ),
            Some((body, part)) => event.body = Some(self.parts.content(body, part, event.position)),
            None => {}
        }
        self.bytes += event.body.as_ref().map_or(0, Content::held);
        self.sequences.extend(event.routes.iter().copied());
        self.events.push(event);
    }

    /// It keeps more than it should.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > KEPT
    }

    /// It keeps as many events as are well written together.
    pub(super) fn has_page(&self, events: usize, bytes: usize) -> bool {
        self.bytes >= bytes || self.events.len() >= events
    }

    /// Writes what it keeps, within its transaction, and keeps it no longer.
    pub(super) async fn flush(&mut self, sql: &Prepared<'_>, plan: &Plan, day: &str) -> Result<()> {
        self.is_split = true;
        self.bytes = 0;
        // What was posted before is answered by now, mostly: no more than two parts are in memory.
        sql.settle().await?;
        record::events(sql, day, &std::mem::take(&mut self.events)).await?;
        record::failures(sql, plan, &std::mem::take(&mut self.failures)).await
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
