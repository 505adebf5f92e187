//! The rows that a batch writes, evaluated before and after it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::Result;
use crate::event::shape::Entry;
use crate::mapping::plan::Entity;
use crate::mapping::select::Variant;
use crate::mirror::evaluate::{Answer, Request, Wanted, evaluate};
use crate::mirror::net::{Key, Net, Write};
use crate::mirror::prepared::Prepared;
use crate::mirror::room::Room;
use crate::mirror::select::{RowFailure, Select};

/// A row in one state.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) entry: Arc<Entry>,
    pub(crate) live: bool,
}

/// One entity's written rows, on one side of the batch.
#[derive(Default)]
pub(crate) struct Rows {
    live: HashMap<Key, Arc<Entry>>,
    /// Rows that exist but are not live; only for what bodies embed.
    dead: HashMap<Key, Arc<Entry>>,
    /// Rows of a table without a key that the batch takes away.
    pub(crate) gone: Vec<Row>,
}

impl Rows {
    pub(crate) fn live(&self, key: &Key) -> Option<Arc<Entry>> {
        self.live.get(key).cloned()
    }

    /// The row, whatever its state.
    pub(crate) fn row(&self, key: &Key) -> Option<Row> {
        let row = |entry: &Arc<Entry>, live| Row { entry: Arc::clone(entry), live };
        self.live.get(key).map(|entry| row(entry, true)).or_else(|| self.dead.get(key).map(|entry| row(entry, false)))
    }
}

/// One entity's written rows before and after.
#[derive(Default)]
pub(crate) struct States {
    pub(crate) before: Rows,
    pub(crate) after: Rows,
}

/// Evaluates, for every entity, the rows of the batch that were there before (or are there after). Of a table without a key
/// only those that it takes away; the others are found by id.
pub(crate) async fn evaluate_side(
    sql: &Prepared<'_>,
    selects: &[Select],
    nets: &[Net],
    there: fn(&Write) -> bool,
    room: &Room,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Rows>> {
    let wanted: Vec<Wanted<'_>> = selects.iter().map(|select| written(select, nets, there)).collect();
    let mut sides: Vec<Rows> = selects.iter().map(|_| Rows::default()).collect();
    let live = ask(sql, selects, &wanted, Variant::Live, room, failures).await?;
    let mut rest = Vec::with_capacity(wanted.len());
    for (((select, wanted), answer), side) in selects.iter().zip(&wanted).zip(live).zip(&mut sides) {
        let returned: HashSet<Key> = answer.entries.iter().map(|entry| entry.key.clone()).collect();
        side.take_live(select, answer.entries);
        let embedded = matches!(select.entity(), Entity::Posts | Entity::Users | Entity::Portals);
        rest.push(if embedded && select.has_dead_rows {
            not_returned(wanted, &returned, &answer.failed)
        } else {
            Wanted::Keys(Vec::new())
        });
    }
    let dead = ask(sql, selects, &rest, Variant::Any, room, failures).await?;
    for ((select, answer), side) in selects.iter().zip(dead).zip(&mut sides) {
        side.take_dead(select, answer.entries);
    }
    Ok(sides)
}

impl Rows {
    /// All of them.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = Row> {
        let row = |live| move |entry| Row { entry, live };
        self.live.into_values().map(row(true)).chain(self.dead.into_values().map(row(false))).chain(self.gone)
    }

    fn take_live(&mut self, select: &Select, entries: Vec<Entry>) {
        if select.is_keyless() {
            self.gone = entries.into_iter().map(|entry| Row { entry: Arc::new(entry), live: true }).collect();
        } else {
            self.live = entries.into_iter().map(|entry| (entry.key.clone(), Arc::new(entry))).collect();
        }
    }

    fn take_dead(&mut self, select: &Select, entries: Vec<Entry>) {
        if select.is_keyless() {
            let live: HashSet<Box<str>> = self.gone.iter().map(|row| row.entry.id.clone()).collect();
            let dead = entries.into_iter().filter(|entry| !live.contains(&entry.id));
            self.gone.extend(dead.map(|entry| Row { entry: Arc::new(entry), live: false }));
        } else {
            self.dead = entries.into_iter().map(|entry| (entry.key.clone(), Arc::new(entry))).collect();
        }
    }
}

/// What an entity's rows in a batch are found by.
fn written<'n>(select: &Select, nets: &'n [Net], there: fn(&Write) -> bool) -> Wanted<'n> {
    let writes =
        nets.iter().flat_map(|net| &net.writes).filter(|write| Some(write.table) == select.base() && there(write));
    if select.is_keyless() {
        Wanted::Images(writes.filter_map(|write| write.gone.as_ref()).collect())
    } else {
        Wanted::Keys(writes.map(|write| &write.key).collect())
    }
}

/// What the SELECT did not return although it could be evaluated: the WHERE keeps it out, or there is no such row.
fn not_returned<'n>(wanted: &Wanted<'n>, returned: &HashSet<Key>, failed: &[usize]) -> Wanted<'n> {
    match wanted {
        Wanted::Keys(keys) => Wanted::Keys(
            keys.iter()
                .enumerate()
                .filter(|(index, key)| !returned.contains(**key) && !failed.contains(index))
                .map(|(_, key)| *key)
                .collect(),
        ),
        Wanted::Images(rows) => Wanted::Images(
            rows.iter().enumerate().filter(|(index, _)| !failed.contains(index)).map(|(_, row)| *row).collect(),
        ),
        Wanted::Ids(_) | Wanted::All => wanted.clone(),
    }
}

/// One round trip for all entities of which something is wanted; an answer for each.
async fn ask(
    sql: &Prepared<'_>,
    selects: &[Select],
    wanted: &[Wanted<'_>],
    variant: Variant,
    room: &Room,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<Answer>> {
    let asked: Vec<usize> = (0..selects.len()).filter(|&index| wanted[index].len() > 0).collect();
    let requests: Vec<Request<'_>> = asked
        .iter()
        .map(|&index| Request { select: &selects[index], variant, wanted: wanted[index].clone() })
        .collect();
    let answers = evaluate(sql, &requests, room, failures).await?;
    let mut all: Vec<Answer> = selects.iter().map(|_| Answer::default()).collect();
    for (index, answer) in asked.into_iter().zip(answers) {
        all[index] = answer;
    }
    Ok(all)
}
