//! The rows that a batch writes, evaluated before and after it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::event::shape::Entry;
use crate::mapping::plan::Entity;
use crate::mapping::select::Variant;
use crate::mirror::evaluate::{Request, RowFailure, Select, Wanted, evaluate};
use crate::mirror::net::{Key, Net, Write};
use crate::mirror::prepared::Prepared;

/// One entity's written rows, on one side of the batch.
#[derive(Default)]
pub(crate) struct Rows {
    live: HashMap<Key, Arc<Entry>>,
    /// Rows that exist but are not live; only for what bodies embed.
    dead: HashMap<Key, Arc<Entry>>,
}

impl Rows {
    pub(crate) fn live(&self, key: &Key) -> Option<Arc<Entry>> {
        self.live.get(key).cloned()
    }

    /// The row, whatever its state.
    pub(crate) fn row(&self, key: &Key) -> Option<Arc<Entry>> {
        self.live.get(key).or_else(|| self.dead.get(key)).cloned()
    }
}

/// One entity's written rows before and after.
#[derive(Default)]
pub(crate) struct States {
    pub(crate) before: Rows,
    pub(crate) after: Rows,
}

/// Evaluates, for every entity, the rows of the batch that were there before (or are there after).
pub(crate) async fn evaluate_side(
    sql: &Prepared<'_>,
    selects: &[Select],
    nets: &[Net],
    there: fn(&Write) -> bool,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Rows>> {
    let keys: Vec<Vec<&Key>> = selects
        .iter()
        .map(|select| {
            nets.iter()
                .flat_map(|net| &net.writes)
                .filter(|write| Some(write.table) == select.base() && there(write))
                .map(|write| &write.key)
                .collect()
        })
        .collect();
    let mut sides: Vec<Rows> = selects.iter().map(|_| Rows::default()).collect();
    let live = ask(sql, selects, &keys, Variant::Live, failures).await?;
    for (side, rows) in sides.iter_mut().zip(live) {
        side.live = rows;
    }
    let dead_keys: Vec<Vec<&Key>> = selects
        .iter()
        .zip(&keys)
        .zip(&sides)
        .map(|((select, keys), side)| {
            let embedded = matches!(select.entity(), Entity::Posts | Entity::Users | Entity::Portals);
            if embedded && select.has_dead_rows {
                keys.iter().copied().filter(|key| !side.live.contains_key(*key)).collect()
            } else {
                Vec::new()
            }
        })
        .collect();
    let dead = ask(sql, selects, &dead_keys, Variant::Any, failures).await?;
    for (side, rows) in sides.iter_mut().zip(dead) {
        side.dead = rows;
    }
    Ok(sides)
}

/// One round trip for all entities that have keys.
async fn ask(
    sql: &Prepared<'_>,
    selects: &[Select],
    keys: &[Vec<&Key>],
    variant: Variant,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<HashMap<Key, Arc<Entry>>>> {
    let asked: Vec<usize> = (0..selects.len()).filter(|&index| !keys[index].is_empty()).collect();
    let requests: Vec<Request<'_>> = asked
        .iter()
        .map(|&index| Request { select: &selects[index], variant, wanted: Wanted::Keys(keys[index].clone()) })
        .collect();
    let answers = evaluate(sql, &requests, failures).await?;
    let mut all: Vec<HashMap<Key, Arc<Entry>>> = selects.iter().map(|_| HashMap::new()).collect();
    for (index, entries) in asked.into_iter().zip(answers) {
        all[index] = entries.into_iter().map(|entry| (entry.key.clone(), Arc::new(entry))).collect();
    }
    Ok(all)
}
