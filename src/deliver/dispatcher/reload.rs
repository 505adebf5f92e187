//! Settings as they change: outlets open, adjust and close.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::{Answer, DUE_AT_ONCE, Dispatcher, IDLE_STEP, RELOAD_EVERY};
use crate::deliver::endpoint::{self, Endpoint};
use crate::deliver::lanes::MOST_RESTING;
use crate::deliver::outlet::Outlet;
use crate::ledger::backlog::Pending;
use crate::ledger::cancel;

impl Dispatcher {
    /// Reads settings, settles what deleted endpoints leave behind, and looks for deliveries that became due without our
    /// doing: redelivered, or moved by hand.
    pub(super) fn reload(&mut self, now: Instant) {
        self.reloading = true;
        self.reload_at = now + RELOAD_EVERY;
        self.secrets.forget();
        self.landed.retain(|_, known| !*known);
        self.absent.extend(self.strays.keys());
        let strays = std::mem::take(&mut self.strays);
        let busy: Vec<i64> = self.outlets.keys().chain(&self.opening).copied().collect();
        // An endpoint that is slow over a long replay has enough in memory.
        let hungry = |outlet: &Outlet| !outlet.closing && outlet.due() < DUE_AT_ONCE;
        let open: Vec<i64> = self.outlets.iter().filter(|(_, outlet)| hungry(outlet)).map(|(id, _)| *id).collect();
        let mut known = (Vec::new(), Vec::new());
        for (endpoint, outlet) in &self.outlets {
            for (position, _) in outlet.lane.awake().filter(|(_, delivery)| delivery.has_row) {
                known.0.push(*endpoint);
                known.1.push(position);
            }
        }
        let ledger = self.ledger.clone();
        self.ask(async move {
            cancel::deleted(ledger.client(), &busy, &strays).await?;
            let due = ledger.pending(&open, false, known, DUE_AT_ONCE).await?;
            let cursors = ledger.cursors(&open).await?;
            Ok(Answer::Reloaded(endpoint::load(ledger.client()).await?, due, cursors))
        });
        self.move_idle_cursors();
    }

    /// An endpoint that gets nothing must not read a long ledger after a restart.
    fn move_idle_cursors(&mut self) {
        for (endpoint, outlet) in &mut self.outlets {
            if let Some(cursor) = outlet.advance(IDLE_STEP) {
                self.batch.cursors.insert(*endpoint, cursor);
                self.flush_at.get_or_insert_with(Instant::now);
            }
        }
    }

    /// The settings as they are now: opens, adjusts and closes outlets.
    pub(super) fn reloaded(&mut self, endpoints: Vec<Endpoint>, due: &[Pending], cursors: &[(i64, i64)], now: Instant) {
        self.reloading = false;
        for (id, cursor) in cursors {
            // Opened again by the next reload, from that cursor.
            if self.outlets.get(id).is_some_and(|outlet| outlet.is_overtaken(*cursor)) {
                self.close(*id);
            }
        }
        let mut found: HashMap<i64, usize> = HashMap::new();
        for row in due {
            *found.entry(row.endpoint).or_default() += 1;
            let Some(outlet) = self.outlets.get_mut(&row.endpoint) else { continue };
            if !self.landed.contains_key(&(row.endpoint, row.event.position)) {
                outlet.pending(row, now);
            }
        }
        for (id, outlet) in &mut self.outlets {
            let full = found.get(id).is_some_and(|rows| *rows >= DUE_AT_ONCE);
            // One that was not asked about has as many as before.
            outlet.more_due = full || outlet.more_due && outlet.due() >= DUE_AT_ONCE;
        }
        let enabled: BTreeSet<i64> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        for endpoint in endpoints.into_iter().map(Arc::new) {
            match self.outlets.get_mut(&endpoint.id) {
                // Opened again by a later reload, from its cursor.
                Some(outlet) if outlet.closing => {}
                Some(outlet) => outlet.adjust(endpoint, self.settings.max_in_flight, now),
                None => self.open(endpoint),
            }
        }
        let all: Vec<i64> = self.outlets.keys().copied().collect();
        for id in all {
            if enabled.contains(&id) { self.pump(id, now) } else { self.close(id) }
        }
    }

    fn open(&mut self, endpoint: Arc<Endpoint>) {
        if self.draining.is_some() || !self.opening.insert(endpoint.id) {
            return;
        }
        self.absent.remove(&endpoint.id);
        let ledger = self.ledger.clone();
        self.ask(async move {
            let standing = ledger.standing(endpoint.id).await?;
            let pending = ledger.pending(&[endpoint.id], true, Default::default(), MOST_RESTING).await?;
            Ok(Answer::Opened(endpoint, standing, pending))
        });
    }

    pub(super) fn close(&mut self, id: i64) {
        let Some(outlet) = self.outlets.get_mut(&id) else { return };
        outlet.closing = true;
        if outlet.is_quiet() {
            self.outlets.remove(&id);
            // What was deleted is settled, and what was enabled meanwhile opens, at the next reload.
            self.reload_at = self.reload_at.min(Instant::now());
        }
    }
}
