//! The configuration as the parts take it.

use crate::config::{Cascades, Config};
use crate::figures::Figures;
use crate::{advance, deliver};

pub(super) fn advance(config: &Config) -> advance::Settings {
    advance::Settings {
        cache: size(config.mirror.cache),
        max_body: size(config.deliver.max_body),
        fold_cascades: config.mapping.cascades == Cascades::Fold,
    }
}

pub(super) fn deliver(config: &Config, figures: &Figures) -> deliver::Settings {
    deliver::Settings {
        timeout: config.deliver.timeout,
        retries: deliver::Policy {
            pauses: config.deliver.retries.clone(),
            disable_after: config.deliver.disable_after,
            ..deliver::Policy::default()
        },
        allow_networks: config.deliver.allow_networks.clone(),
        max_in_flight: config.deliver.max_in_flight,
        max_body: size(config.deliver.max_body),
        tally: figures.tally.clone(),
        ..deliver::Settings::default()
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
