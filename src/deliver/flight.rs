//! Attempts in flight, each a task: it finds the keys, sends, and comes back with an outcome.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::outcome::{Class, Failure, Outcome};
use super::outlet::{Body, Delivery};
use super::secrets::Secrets;
use super::send::{Request, Sender};
use super::sign::Keys;
use crate::error::{Error, Result};
use crate::ledger::backlog::Ledger;

/// An attempt that came back.
pub(crate) struct Landed {
    pub(crate) endpoint: i64,
    pub(crate) position: i64,
    pub(crate) attempted_at: SystemTime,
    pub(crate) outcome: Outcome,
}

/// What every attempt shares.
pub(crate) struct Flights {
    sender: Sender,
    secrets: Arc<Secrets>,
    ledger: Arc<Ledger>,
    set: JoinSet<Result<Landed>>,
}

impl Flights {
    pub(crate) fn new(sender: Sender, secrets: Arc<Secrets>, ledger: Arc<Ledger>) -> Self {
        Self { sender, secrets, ledger, set: JoinSet::new() }
    }

    /// Starts attempt number `attempt` (from 1).
    pub(crate) fn start(&mut self, endpoint: Arc<Endpoint>, position: i64, attempt: u32, delivery: Delivery) {
        let (sender, secrets, ledger) = (self.sender.clone(), self.secrets.clone(), self.ledger.clone());
        self.set.spawn(async move {
            let attempted_at = SystemTime::now();
            let outcome = match delivery.body {
                Body::Here(content) => {
                    let keys = match &endpoint.secret {
                        Some(secret) => Arc::new(Keys { current: secret.clone(), previous: None }),
                        None => secrets.keys(ledger.client(), delivery.portal.as_deref().unwrap_or("")).await?,
                    };
                    let body = content.whole();
                    let (endpoint, id, sequence) = (&*endpoint, &*delivery.id, delivery.sequence);
                    sender.send(Request { endpoint, id, sequence, attempt, body, keys: &keys }).await
                }
                Body::InLedger | Body::Missing => {
                    let error = "the ledger holds no body for this event";
                    Outcome::Failed(Failure::without_answer(Class::BodyMissing, error, std::time::Duration::ZERO))
                }
            };
            Ok(Landed { endpoint: endpoint.id, position, attempted_at, outcome })
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The next attempt that comes back; `None` while there is none in flight. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Result<Landed>> {
        let landed = self.set.join_next().await?;
        Some(landed.unwrap_or_else(|panic| Err(Error::failed(format!("an attempt broke off: {panic}")))))
    }

    /// One that has come back already.
    pub(crate) fn try_next(&mut self) -> Option<Result<Landed>> {
        let landed = self.set.try_join_next()?;
        Some(landed.unwrap_or_else(|panic| Err(Error::failed(format!("an attempt broke off: {panic}")))))
    }

    /// Ends all attempts without an outcome: they count as never made.
    pub(crate) fn abort(&mut self) {
        self.set.abort_all();
        self.set.detach_all();
    }
}
