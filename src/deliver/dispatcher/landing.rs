//! What attempts come to: outcomes, retries, endpoints given up, and the batches that record it all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Answer, COUNT_AFTER, DUE_AT_ONCE, Dispatcher, FLUSH_AFTER};
use crate::deliver::flight::Landed;
use crate::deliver::health;
use crate::deliver::outcome::{Failure, Outcome};
use crate::deliver::retry::{self, Next};
use crate::error::Context as _;
use crate::failpoint;
use crate::ledger::finish::{Batch, Finished, Status, Success};

impl Dispatcher {
    /// An attempt came back: its delivery is settled, or rests until it is tried again. Gives the endpoint, which has room for
    /// another one.
    pub(super) fn landed(&mut self, landed: Landed) -> Option<i64> {
        let now = Instant::now();
        let Landed { endpoint: id, position, attempted_at, outcome } = landed;
        let outlet = self.outlets.get_mut(&id)?;
        let (attempts, delivery) = outlet.lane.get(position).map(|(made, entry)| (made, entry.clone()))?;
        self.landed.insert((id, position), false);
        self.count_at.get_or_insert(now + COUNT_AFTER);
        outlet.recorded(position);
        outlet.recording += 1;
        let mut row = Finished {
            endpoint: id,
            position,
            recorded_on: delivery.recorded_on,
            sequence: delivery.sequence,
            event_id: delivery.id,
            status: Status::Delivered,
            attempts: attempts + 1,
            attempted_at,
            http_status: None,
            error_class: None,
            error: None,
            duration: Duration::ZERO,
            response: None,
        };
        match outcome {
            Outcome::Delivered { status, duration } => {
                self.settings.tally.count_delivered();
                outlet.succeeded();
                if outlet.health.succeeded() {
                    tracing::info!(endpoint = id, url = health::shown(&outlet.endpoint.url), "endpoint recovered");
                }
                outlet.lane.delivered(position, now);
                if delivery.has_row {
                    self.batch.finished.push(Finished { http_status: Some(status), duration, ..row });
                } else {
                    let success = Success { endpoint: id, position, attempted_at, http_status: status, duration };
                    self.batch.successes.push(success);
                }
            }
            Outcome::Failed(failure) => {
                tracing::debug!(endpoint = id, position, attempt = attempts + 1, "failed: {}", failure.error);
                self.settings.tally.count_failed_attempt();
                row.status = self.judge(id, position, attempts + 1, &failure, now);
                if row.status == Status::Failed {
                    self.settings.tally.count_given_up();
                }
                row.http_status = failure.status;
                row.error_class = Some(failure.class.name());
                row.error = Some(failure.error);
                row.duration = failure.duration;
                row.response = failure.response;
                self.batch.finished.push(row);
            }
        }
        self.flush_at.get_or_insert(now + FLUSH_AFTER);
        Some(id)
    }

    /// What a failure means for the delivery and for its endpoint.
    fn judge(&mut self, id: i64, position: i64, attempt: u32, failure: &Failure, now: Instant) -> Status {
        let Some(outlet) = self.outlets.get_mut(&id) else { return Status::Failed };
        let policy = &self.settings.retries;
        let pauses = outlet.endpoint.pauses.as_deref();
        let next = policy.next(pauses, attempt, failure, retry::seed(id, position, attempt));
        if let Some(delivery) = outlet.lane.get_mut(position) {
            delivery.has_row = true;
        }
        if failure.class.is_final() {
            // It says nothing about the endpoint.
            outlet.lane.given_up(position, now);
            return Status::Failed;
        }
        let failing_for = outlet.failing_for(now);
        if outlet.health.failed(now) {
            let url = health::shown(&outlet.endpoint.url);
            tracing::warn!(endpoint = id, url, "endpoint is failing: {}", failure.error);
        }
        outlet.lane.failed(position, now);
        if next == Next::GiveUp {
            outlet.exhausted += 1;
            outlet.lane.given_up(position, now);
        }
        let verdict = policy.verdict(failure, outlet.exhausted, failing_for);
        if let Some(reason) = verdict.filter(|_| !outlet.closing) {
            self.disable(id, reason);
        }
        match next {
            Next::Retry(pause) => Status::Pending(pause),
            Next::GiveUp => Status::Failed,
        }
    }

    /// Gives an endpoint up. Its backlog stays where it is, in the ledger.
    fn disable(&mut self, id: i64, reason: String) {
        if let Some(outlet) = self.outlets.get_mut(&id) {
            let url = health::shown(&outlet.endpoint.url);
            tracing::warn!(endpoint = id, url, "endpoint disabled: {reason}");
            outlet.closing = true;
            outlet.recording += 1;
        }
        let ledger = self.ledger.clone();
        self.ask(async move {
            let sql = "UPDATE portalhook.endpoints SET enabled = false, disabled_reason = $2, disabled_at = now()
                       WHERE id = $1 AND enabled";
            ledger.client().execute(sql, &[&id, &reason]).await.context(format!("disable endpoint {id}"))?;
            Ok(Answer::Disabled(id))
        });
    }

    pub(super) fn flush(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        self.flush_at = None;
        let touched: BTreeSet<i64> = batch
            .successes
            .iter()
            .map(|success| success.endpoint)
            .chain(batch.finished.iter().map(|row| row.endpoint))
            .collect();
        for id in touched {
            if let Some(cursor) = self.outlets.get_mut(&id).and_then(|outlet| outlet.advance(1)) {
                batch.cursors.insert(id, cursor);
            }
        }
        if batch.is_empty() {
            return;
        }
        self.flushing = true;
        let recorder = self.recorder.clone();
        self.ask(async move {
            recorder.record(&batch).await?;
            Ok(Answer::Recorded(batch))
        });
    }

    /// The ledger knows: retries may become due, and closing outlets may go.
    pub(super) fn recorded(&mut self, batch: &Batch, now: Instant) {
        self.flushing = false;
        let mut touched = BTreeSet::new();
        for success in &batch.successes {
            failpoint::hit("recorded");
            touched.insert(success.endpoint);
            self.known(success.endpoint, success.position);
            if let Some(outlet) = self.outlets.get_mut(&success.endpoint) {
                outlet.recording -= 1;
            }
        }
        for row in &batch.finished {
            failpoint::hit("recorded");
            touched.insert(row.endpoint);
            self.known(row.endpoint, row.position);
            let Some(outlet) = self.outlets.get_mut(&row.endpoint) else { continue };
            outlet.recording -= 1;
            if let Status::Pending(pause) = row.status {
                outlet.lane.rest(row.position, now + pause);
            }
        }
        for id in touched {
            match self.outlets.get(&id) {
                Some(outlet) if outlet.closing => self.close(id),
                Some(outlet) if outlet.more_due && outlet.due() < DUE_AT_ONCE / 2 => {
                    self.reload_at = now;
                    self.pump(id, now);
                }
                _ => self.pump(id, now),
            }
        }
    }

    /// The ledger has the outcome of an attempt that came back: its next answer will.
    fn known(&mut self, endpoint: i64, position: i64) {
        if let Some(known) = self.landed.get_mut(&(endpoint, position)) {
            *known = true;
        }
    }
}
