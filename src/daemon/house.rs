//! Keeps the ledger in order: tomorrow's partitions made, old days dropped.

use std::time::Duration;

use crate::error::Result;
use crate::figures::{Figures, State};
use crate::ledger::prune::{Pruned, prune};
use crate::session::{self, Database};

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Something was in the way.
const SOON: Duration = Duration::from_secs(5 * 60);

/// Never ends; a fault is told and tried again, it stops nobody.
pub(super) async fn keep(database: &Database, figures: &Figures, retention: Duration) {
    drop(figures.follow().wait_for(|state| *state == State::Streaming).await);
    loop {
        let wait = match clean(database, retention).await {
            Ok(pruned) => {
                tell(&pruned);
                if pruned.put_off { SOON } else { EVERY }
            }
            Err(error) => {
                tracing::warn!("the ledger was not pruned: {error:?}; trying again in {SOON:?}");
                SOON
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn clean(database: &Database, retention: Duration) -> Result<Pruned> {
    let mut session = session::connect(database, "portalhook retention").await?;
    prune(&mut session, retention).await
}

fn tell(pruned: &Pruned) {
    if !pruned.days.is_empty() {
        tracing::info!("dropped from the ledger what is older than ledger.retention: {}", pruned.days.join(", "));
    }
    if pruned.expired > 0 {
        tracing::warn!(
            "{} deliveries older than ledger.retention were given up undelivered: SELECT * FROM portalhook.failures",
            pruned.expired
        );
    }
    if pruned.put_off {
        tracing::debug!("another session holds the ledger's tables: the rest is pruned in {SOON:?}");
    }
}
