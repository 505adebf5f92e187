//! Rows that share a mapped id with one that the batch writes. Of live rows with one id the first counts (`diff::rank`), so
//! whoever looks at one of them has to know of the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::states::States;
use crate::error::Result;
use crate::event::diff::Located;
use crate::event::shape::Entry;
use crate::mapping::plan::Entity;
use crate::mapping::select::Variant;
use crate::mirror::evaluate::{Request, Wanted, evaluate};
use crate::mirror::net::{Key, Net};
use crate::mirror::prepared::Prepared;
use crate::mirror::room::Room;
use crate::mirror::select::{RowFailure, Select};

type Id = (Entity, Box<str>);

/// Rows by id, with whether they are live.
pub(super) type Others = HashMap<Id, Vec<(Arc<Entry>, bool)>>;

/// A written row's live states, and the number of the transaction that writes it.
struct Written {
    writer: usize,
    before: Option<Arc<Entry>>,
    after: Option<Arc<Entry>>,
}

/// Of entities whose ids need not be unique, the rows by id.
#[derive(Default)]
pub(super) struct Rivals {
    written: HashMap<Id, Vec<Arc<Written>>>,
    /// Rows that the batch does not write, with whether they are live.
    others: Others,
}

impl Rivals {
    /// Looks them up in the mirror, which has the batch applied. Where ids are unique, as they mostly are, this asks nothing.
    pub(super) async fn find(
        sql: &Prepared<'_>,
        selects: &[Select],
        nets: &[Net],
        states: &[States],
        room: &Room,
        failures: &mut Vec<RowFailure>,
    ) -> Result<Self> {
        let mut result = Self::default();
        for (select, states) in selects.iter().zip(states).filter(|(select, _)| select.may_have_rivals()) {
            let mut keys: HashSet<&Key> = HashSet::new();
            let mut ids: HashSet<Box<str>> = HashSet::new();
            for (writer, net) in nets.iter().enumerate() {
                for write in net.writes.iter().filter(|write| Some(write.table) == select.base()) {
                    keys.insert(&write.key);
                    for row in [&states.before, &states.after].into_iter().filter_map(|side| side.row(&write.key)) {
                        ids.insert(row.entry.id.clone());
                    }
                    let (before, after) = (states.before.live(&write.key), states.after.live(&write.key));
                    result.add(select.entity(), Written { writer, before, after });
                }
            }
            if ids.is_empty() {
                continue;
            }
            for (entry, live) in rows_by_id(sql, select, &ids, room, failures).await? {
                if !keys.contains(&entry.key) {
                    result.add_other(select.entity(), entry, live);
                }
            }
        }
        Ok(result)
    }

    /// Of one transaction alone: rows that it does not write, with whether they are live.
    pub(super) fn of(entity: Entity, others: Vec<(Entry, bool)>) -> Self {
        let mut result = Self::default();
        for (entry, live) in others {
            result.add_other(entity, entry, live);
        }
        result
    }

    fn add(&mut self, entity: Entity, written: Written) {
        let written = Arc::new(written);
        let ids: HashSet<&str> =
            [&written.before, &written.after].into_iter().flatten().map(|entry| &*entry.id).collect();
        for id in ids {
            self.written.entry((entity, id.into())).or_default().push(Arc::clone(&written));
        }
    }

    fn add_other(&mut self, entity: Entity, entry: Entry, live: bool) {
        let others = self.others.entry((entity, entry.id.clone())).or_default();
        if !others.iter().any(|(other, _)| other.key == entry.key) {
            others.push((Arc::new(entry), live));
        }
    }

    /// Adds to a transaction's written live rows those that share an id with one of them and that it does not write.
    pub(super) fn join(&self, entity: Entity, transaction: usize, before: &mut Vec<Located>, after: &mut Vec<Located>) {
        if self.written.is_empty() && self.others.is_empty() {
            return;
        }
        let mut places: HashMap<Box<str>, usize> = HashMap::new();
        for located in before.iter().chain(after.iter()) {
            let place = places.entry(located.entry.id.clone()).or_default();
            *place = located.place.max(*place);
        }
        for (id, place) in places {
            let at = (entity, id);
            let live = self.others.get(&at).into_iter().flatten().filter(|(_, live)| *live);
            let mut rivals: Vec<Arc<Entry>> = live.map(|(entry, _)| Arc::clone(entry)).collect();
            for written in self.written.get(&at).into_iter().flatten().filter(|other| other.writer != transaction) {
                let seen = if written.writer < transaction { &written.after } else { &written.before };
                rivals.extend(seen.as_ref().filter(|entry| entry.id == at.1).cloned());
            }
            for entry in rivals {
                before.push(Located { entry: Arc::clone(&entry), place });
                after.push(Located { entry, place });
            }
        }
    }

    /// The rows that the batch does not write, for those who look by id.
    pub(super) fn into_others(self) -> Others {
        self.others
    }
}

/// The mirror's rows with these ids, live ones first, with whether they are live: of posts, users and portals also others.
pub(super) async fn rows_by_id(
    sql: &Prepared<'_>,
    select: &Select,
    ids: &HashSet<Box<str>>,
    room: &Room,
    failures: &mut Vec<RowFailure>,
) -> Result<Vec<(Entry, bool)>> {
    let embedded = matches!(select.entity(), Entity::Posts | Entity::Users | Entity::Portals);
    let mut rows = Vec::new();
    for variant in [Variant::Live, Variant::Any] {
        if variant == Variant::Any && !(embedded && select.has_dead_rows) {
            continue;
        }
        let wanted = Wanted::Ids(ids.iter().map(AsRef::as_ref).collect());
        let answers = evaluate(sql, &[Request { select, variant, wanted }], room, failures).await?;
        let entries = answers.into_iter().flat_map(|answer| answer.entries);
        rows.extend(entries.map(|entry| (entry, variant == Variant::Live)));
    }
    Ok(rows)
}
