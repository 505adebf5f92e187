//! Keeps the ledger in order: tomorrow's partitions made, old days dropped.

use std::time::Duration;

use super::met::Follower;
use crate::error::Result;
use crate::figures::Figures;
use crate::ledger::prune::{Pruned, prune};

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Something was in the way.
const SOON: Duration = Duration::from_secs(5 * 60);

/// Never ends; a fault is told and tried again, it stops nobody.
pub(super) async fn keep(server: &Follower, figures: &Figures, retention: Duration) {
    loop {
        figures.flow().await;
        let wait = match clean(server, retention).await {
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

async fn clean(server: &Follower, retention: Duration) -> Result<Pruned> {
    let mut session = server.connect("portalhook retention").await?;
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
